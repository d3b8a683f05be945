"""What a recording says was written and announced by when: the chain of states, and the state that each cut must keep.

Rules:
- a state is one EVENT record that was whole on the disk at some time, replayed by the real code onto the state before
  it; the first one is what the image held at the beginning. All of them, not only those that last: after a failed sync
  the daemon may have gone back, and then the chain has a dead branch;
- the first start makes the device key, and binds: that is in its SNAPSHOTs alone, and a state of its own;
- an announcement means: of the states from which the newest written one descends, the newest that agrees with it was
  durable, or one right before it that agrees as well. So the *first* state of that run of agreeing ones must be there
  after a cut, or one that descends from it;
- an announcement that no written state agrees with was made too early or of nothing: a failure as well;
- no grant of a seat goes beyond the capacity;
- what returned and consumed add up to never falls, and no number of a document is used twice;
- a request or return that left is kept as `Signed` says, by every state from then on.

What this module does not do: it cuts nothing and recovers nothing but the image at the beginning (`power_cut`).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from crash.recorded_disk import Event, Mark, Write
from smartserver_licensed.controller.contacting import sealed
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.contacts import Contact
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.entitlement import capacity
from smartserver_licensed.domain.ledger_state import Bound, ContactMade, Enrolled, LedgerState, SeatGiven
from smartserver_licensed.domain.ledger_state import Event as LedgerEvent
from smartserver_licensed.domain.licenses import ContactMark
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
    """Its own in every container; without what is not durable."""
    copied = copy.copy(state)
    for each in dataclasses.fields(state):
        value = getattr(state, each.name)
        if isinstance(value, (dict, set)):
            setattr(copied, each.name, value.copy())
    copied.license_revision = 0
    return copied


def seats_of(state: LedgerState) -> int:
    """The capacity, with what was returned."""
    return capacity(state.installed.grant.licenses, state.mark_s, state.returned) if state.installed else 0


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
        return Totals(seats_of(self.value), self.value.provisioned, self.value.reserved, 0)

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


@dataclass(frozen=True, slots=True)
class Signed:
    """A request or return left, with these bytes."""

    envelope: bytes = field(repr=False)
    contact: Contact = field(repr=False)
    mark: ContactMark

    def __str__(self) -> str:
        return f"{self.contact.kind.value} {self.mark.number} left"

    def agrees(self, state: State) -> bool:
        """Whether it was made already and not acknowledged yet."""
        return state.value.contacts.get(self.mark.number) == self.mark.sha256

    def loss(self, state: LedgerState) -> str:
        """What a state that comes after it lacks; nothing where it is kept.

        It is known until a grant acknowledges it, its number is not given again while the device key is the same, what
        it returned is returned, and while it can be exported it is the same bytes.
        """
        returned = next((each for each in self.contact.totals if each.id == self.contact.license_id), None)
        if returned is not None and state.returned.get(returned.id, 0) < returned.returned_total:
            return f"{self}, but {returned} is undone"
        if not state.device_seed or _public(state.device_seed) != self.contact.device_key:
            return "" if state.device_seed else f"{self}, but there is no device key"
        number, made = self.mark.number, (state.request, *state.returns.values())
        if state.next_contact <= number or state.contacts.get(number, self.mark.sha256) != self.mark.sha256:
            return f"{self}, but its number is free or another's"
        again = next((each for each in made if each is not None and each.number == number), None)
        if again is not None and _sealed(state.device_seed, again) != self.envelope:
            return f"{self}, but exported again it is something else"
        return ""


@functools.cache
def _public(seed: bytes) -> bytes:
    return SigningKey(seed).public.raw


@functools.cache
def _sealed(seed: bytes, made: ContactMade) -> bytes:
    return sealed(LedgerState("", 0, device_seed=seed), made)


def left(envelope: bytes) -> str:
    """The text of a mark: this request or return left."""
    return f"signed {envelope.decode()}"


Announcement = Answered | Counted | Installed | Signed


def announcement(text: str) -> Announcement | None:
    """What a mark says of the state, if anything: a topic and its payload, `installed` and the sequence, or `left`."""
    topic, _, payload = text.partition(" ")
    if topic == "installed":
        return Installed(int(payload))
    if topic == "signed":
        return Signed(payload.encode(), *open_contact(payload.encode()))
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
        self.signed: list[tuple[int, Signed]] = []  # with the number of the event
        self._snapshots: set[tuple[int, int]] = set()
        self._newest = State(ledger.seq, ledger.head, None, replayed(ledger.recovered))
        self.states = {ledger.head: self._newest}
        self._keyless: State | None = None  # what the first start found
        records = _Records(image)
        required: tuple[Requirement, ...] = ()
        for number, event in enumerate(events):
            match event:
                case Write(offset, data):
                    for slot, record in records.written(offset, data):
                        if record.kind == Kind.SNAPSHOT:
                            self._snapshots.add((slot, record.seq))
                            self._look_for_key(number, record)
                        else:
                            self._add(number, record)
                case Mark(text):
                    required = self._require(number, text, required)
            self.required.append(required)

    @property
    def rewrites(self) -> int:
        """How often a log was rewritten."""
        return len(self._snapshots)

    def state_of(self, head: bytes, seq: int, value: LedgerState) -> State | None:
        """The state of the chain that was recovered; None where it is none."""
        state = self.states.get(head)
        if state is not None and state.before is self._keyless is not None and not value.device_seed:
            state = self._keyless
        return state if state is not None and seq >= state.seq and state.value == value else None

    def _look_for_key(self, number: int, record: Record) -> None:
        known = self.states.get(record.prev)
        if known is None or known.value.device_seed:
            return
        value = decode_snapshot(record.body[SECRET_BYTES:])
        bound = Bound(Identity(value.install_code, value.factors))
        expected = _copy(known.value)
        for event in (bound, Enrolled(value.device_seed)):
            self._apply(number, expected, event)
        if value != expected:
            self.violations.append(("doubled", f"event {number}: a first start made more than a key and a binding"))
        self._keyless, self._newest = known, State(record.seq, record.prev, known, value)
        self.states[record.prev] = self._newest

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
            self._compare_totals(number, before.value, value)
            known = self.states[record.head] = State(record.seq, record.head, before, value)
        self._newest = known

    def _apply(self, number: int, value: LedgerState, event: LedgerEvent) -> None:
        is_new = isinstance(event, SeatGiven) and event.unit not in value.seats
        value.apply(event)
        value.license_revision = 0
        if is_new and value.installed is not None:
            totals = Totals(seats_of(value), value.provisioned, value.reserved, 0)
            if totals.free < 0:
                self.violations.append(("doubled", f"event {number}: {event} goes beyond the capacity: {totals}"))

    def _compare_totals(self, number: int, before: LedgerState, after: LedgerState) -> None:
        for name, old, new in (
            ("returned", before.returned, after.returned),
            ("consumed", before.consumed, after.consumed),
        ):
            if any(new.get(each, 0) < total for each, total in old.items()):
                self.violations.append(("lost", f"event {number}: {name} fell from {old} to {new}"))
        is_same_key = before.device_seed == after.device_seed
        if is_same_key and any(after.contacts.get(each, mark) != mark for each, mark in before.contacts.items()):
            self.violations.append(("doubled", f"event {number}: the number of a document was used twice"))

    def _require(self, number: int, text: str, required: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
        said = announcement(text)
        if said is None:
            return required
        self.marks += 1
        if isinstance(said, Signed):
            self.signed.append((number, said))
            if loss := said.loss(self._newest.value):
                self.violations.append(("lost", f"event {number}: {loss}"))
                return required
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
