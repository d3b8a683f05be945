"""What a recording says was written and announced by when: the chain of states, and the state that each cut must keep.

Rules:
- a state is one EVENT record that was whole on the disk at some time, replayed by the real code onto the state before
  it; the first one is what the image held at the beginning. All of them, not only those that last: after a failed sync
  the daemon may have gone back, and then the chain has a dead branch;
- an announcement means: of the states from which the newest written one descends, the newest that agrees with it was
  durable, or one right before it that agrees as well. So the *first* state of that run of agreeing ones must be there
  after a cut, or one that descends from it;
- an announcement that no written state agrees with was made too early or of nothing: a failure as well;
- no grant of a seat goes beyond the capacity.

What this module does not do: it cuts nothing and recovers nothing but the image at the beginning (`power_cut`).
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crash.recorded_disk import Event, Mark, Write
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.entitlement import capacity
from smartserver_licensed.domain.ledger_state import Event as LedgerEvent
from smartserver_licensed.domain.ledger_state import LedgerState, SeatGiven
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot
from smartserver_licensed.store.log import Ledger
from smartserver_licensed.store.record import MAGIC, SECRET_BYTES, SLOT_BYTES, Kind, Record, read
from smartserver_licensed.store.recovery import Recovered

_USABLE = {"ok", "degraded"}
decoded = functools.lru_cache(maxsize=None)(decode_events)  # the same records are read in every crash state


def replayed(recovered: Recovered) -> LedgerState:
    """The state that a ledger held, as the daemon's keeper makes it."""
    return _copy(_replayed(recovered.snapshot, recovered.events))


@functools.lru_cache(maxsize=16)  # cuts that are near to each other leave the same bytes to replay
def _replayed(snapshot: bytes, events: tuple[bytes, ...]) -> LedgerState:
    state = decode_snapshot(snapshot)
    for body in events:
        for event in decoded(body):
            state.apply(event)
    return state


def _copy(state: LedgerState) -> LedgerState:
    return dataclasses.replace(
        state, seats=dict(state.seats), evicted=dict(state.evicted), internal=set(state.internal)
    )


# -- states ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """One state of the chain, and the one before it; None: what the image held."""

    seq: int
    head: bytes
    before: State | None
    value: LedgerState = field(repr=False)

    @property
    def totals(self) -> Totals:
        """What there is to count."""
        installed = self.value.installed
        seats = capacity(installed.grant.licenses, self.value.mark_s) if installed else 0
        return Totals(seats, self.value.provisioned, self.value.reserved, 0)

    @property
    def grant_seq(self) -> int:
        """The sequence of the installed grant; 0 where there is none."""
        return self.value.installed.grant.seq if self.value.installed else 0

    def descends_from(self, other: State) -> bool:
        """Whether the other one lies before it, or is it."""
        each: State | None = self
        while each is not None and each.seq > other.seq:
            each = each.before
        return each is other


# -- announcements -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A device heard whether it is licensed, or the event of it was published."""

    unit: UnitId
    is_licensed: bool

    def __str__(self) -> str:
        return f"{self.unit[:40]} was told {self.is_licensed}"

    def agrees(self, state: State) -> bool:
        """Whether it is so in this state."""
        return (self.unit in state.value.seats) is self.is_licensed


@dataclass(frozen=True, slots=True)
class Counted:
    """`fb/lic` showed these numbers."""

    capacity: int
    used: int
    reserved: int

    def agrees(self, state: State) -> bool:
        """Whether it is so in this state."""
        totals = state.totals
        return (totals.capacity, totals.used, totals.reserved) == (self.capacity, self.used, self.reserved)


@dataclass(frozen=True, slots=True)
class Installed:
    """`licensectl install` said that a grant is installed."""

    grant_seq: int

    def agrees(self, state: State) -> bool:
        """Whether it is so in this state."""
        return state.grant_seq == self.grant_seq


Announcement = Answered | Counted | Installed


def announcement(text: str) -> Announcement | None:
    """What a mark says of the state, if anything: a topic and its payload, or `installed` and the sequence."""
    topic, _, payload = text.partition(" ")
    if topic == "installed":
        return Installed(int(payload))
    value = json.loads(payload)
    match topic.split("/")[3:]:
        case ["fb", "lic"] if value["storage"] in _USABLE and value["state"] != "starting":
            return Counted(value["capacity"], value["used"], value["reserved"])
        case ["fb", "dev", protocol, handle, "lic"]:
            return Answered(UnitId(f"{protocol}/{handle}"), value["licensed"])
        case ["ev", "lic"] if value["event"] in {"admission", "release"}:
            return Answered(UnitId(value["unit"]), value["event"] == "admission")
    return None


@dataclass(frozen=True, slots=True)
class Requirement:
    """From some event on `state`, or one that descends from it, must be there after a cut; `why`: what announced it."""

    state: State
    why: object


# -- the whole ---------------------------------------------------------------------------------------------------------


class History:
    """What a recording wrote and announced. `violations`: what is wrong before anything is cut, as (kind, sentence)."""

    def __init__(self, image: bytes, events: Sequence[Event], ledger: Ledger) -> None:
        """`ledger`: opened on what the image holds."""
        self.violations: list[tuple[str, str]] = []
        self.required: list[tuple[Requirement, ...]] = []  # by the number of the event
        self.marks = 0
        self._snapshots: set[tuple[int, int]] = set()
        self._newest = State(ledger.seq, ledger.head, None, replayed(ledger.recovered))
        self.states = {ledger.head: self._newest}
        records = _Records(image)
        required: tuple[Requirement, ...] = ()
        for number, event in enumerate(events):
            match event:
                case Write(offset, data):
                    for slot, record in records.written(offset, data):
                        if record.kind == Kind.SNAPSHOT:
                            self._snapshots.add((slot, record.seq))
                        else:
                            self._add(number, record)
                case Mark(text):
                    required = self._require(number, text, required)
            self.required.append(required)

    @property
    def rewrites(self) -> int:
        """How often a log was rewritten."""
        return len(self._snapshots)

    def _add(self, number: int, record: Record) -> None:
        known = self.states.get(record.head)
        if known is None:
            before = self.states.get(record.prev)
            if before is None or record.seq <= before.seq:  # a start takes a number of its own
                self.violations.append(
                    ("doubled", f"event {number}: record {record.seq} follows none that was written")
                )
                return
            value = _copy(before.value)
            for event in decoded(record.body):
                self._apply(number, value, event)
            known = self.states[record.head] = State(record.seq, record.head, before, value)
        self._newest = known

    def _apply(self, number: int, value: LedgerState, event: LedgerEvent) -> None:
        is_new = isinstance(event, SeatGiven) and event.unit not in value.seats
        value.apply(event)
        if is_new and value.installed is not None:
            seats = capacity(value.installed.grant.licenses, value.mark_s)
            totals = Totals(seats, value.provisioned, value.reserved, 0)
            if totals.free < 0:
                self.violations.append(("doubled", f"event {number}: {event} goes beyond the capacity: {totals}"))

    def _require(self, number: int, text: str, required: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
        said = announcement(text)
        if said is None:
            return required
        self.marks += 1
        state: State | None = self._newest
        while state is not None and not said.agrees(state):
            state = state.before
        if state is None:
            self.violations.append(("lost", f"event {number}: no state that was written agrees with {said}"))
            return required
        while state.before is not None and said.agrees(state.before):
            state = state.before
        if any(each.state.descends_from(state) for each in required):
            return required
        return (*(each for each in required if not state.descends_from(each.state)), Requirement(state, said))


class _Records:
    """Every whole EVENT record that comes to be on a disk, wherever on it the logs are."""

    def __init__(self, image: bytes) -> None:
        self._content = bytearray(image)
        self._torn: set[int] = set()  # where a record begins that is not whole yet
        self._secret = next(self._secrets())

    def _secrets(self) -> Iterator[bytes]:
        view = memoryview(self._content)
        for offset in range(0, len(view), SLOT_BYTES):
            if bytes(view[offset : offset + len(MAGIC)]) == MAGIC:
                snapshot = read(view, offset, secret=None)
                if snapshot is not None:
                    yield snapshot.body[:SECRET_BYTES]

    def written(self, offset: int, data: bytes) -> list[tuple[int, Record]]:
        """The records that this write makes whole, with their places."""
        self._content[offset : offset + len(data)] = data
        with memoryview(self._content) as view:
            for slot in range(offset // SLOT_BYTES * SLOT_BYTES, offset + len(data), SLOT_BYTES):
                begins = bytes(view[slot : slot + len(MAGIC)]) == MAGIC
                (self._torn.add if begins else self._torn.discard)(slot)
            whole = {slot: record for slot in self._torn if (record := read(view, slot, secret=self._secret))}
        self._torn -= whole.keys()
        return sorted(whole.items(), key=lambda each: each[1].seq)
