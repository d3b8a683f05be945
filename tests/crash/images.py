"""Ledgers to spoil: a SmartServer's life in memory, by the real store and the real state, and images of its times.

Rules:
- only real code writes: `Ledger` appends, compacts and rewrites, `formats.ledger` encodes, `LedgerState.apply` applies;
- a life is the same at every run with the same seed, its secret too, so that a failure can be reproduced;
- the areas are smaller than the product's (`Life.AREA_BYTES`), so that logs fill and a sweep takes minutes, not hours.

What this module does not do: it spoils nothing and judges nothing.
"""

from __future__ import annotations

import random
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Cause,
    Event,
    GrantInstalled,
    InternalChanged,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
    as_provisioned,
    as_reserved,
)
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.formats import ledger as ledger_format
from smartserver_licensed.store.log import Ledger
from smartserver_licensed.store.record import FIRST_HEAD, MAGIC, OVERHEAD_BYTES, SECRET_BYTES, SLOT_BYTES, Kind, frame
from support.documents import GRANT, NOW, sealed

PAGE_BYTES = 4096
CAPACITY = 400
_SEQ_AND_LENGTH = struct.Struct("<QI")  # of a record, behind magic, format and kind
_HOUR_S = 3_600
_STATES_KEPT = 8


class Memory:
    """An area in memory; implements `store.area.Area`. `undo` brings back the content that it was made with."""

    def __init__(self, content: bytes) -> None:
        self._original = content
        self.content = bytearray(content)
        self.lost: set[int] = set()  # pages that cannot be read; writing over one heals it, as on a real disk
        self.unreadable: list[int] = []
        self._touched: list[tuple[int, int]] = []
        self.writes = 0

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def device(self) -> object:
        return self

    def read(self) -> memoryview:
        self.unreadable = sorted(self.lost)
        return memoryview(self.content).toreadonly()

    def write(self, offset: int, data: bytes) -> None:
        self.writes += 1
        self.put(offset, data)
        self.lost = {page for page in self.lost if not offset <= page <= offset + len(data) - PAGE_BYTES}

    def sync(self) -> None:
        """There is nothing behind the memory."""

    def put(self, offset: int, data: bytes) -> None:
        """Change bytes beneath the ledger."""
        self.content[offset : offset + len(data)] = data
        self._touched.append((offset, offset + len(data)))

    def lose(self, page: int) -> None:
        """Make a page unreadable: reading gives zeros."""
        self.put(page, bytes(PAGE_BYTES))
        self.lost.add(page)

    def undo(self) -> None:
        """Put back what was changed, by whomever."""
        for start, end in self._touched:
            self.content[start:end] = self._original[start:end]
        self._touched.clear()
        self.lost.clear()
        self.writes = 0


@dataclass(frozen=True, slots=True)
class Span:
    """Where a record means something in a log: from its first byte to the last of its body."""

    seq: int
    start: int
    end: int


@dataclass(frozen=True)
class Image:
    """Both logs of a ledger at one time, and what they say. `states`: after the last commits, the newest last."""

    logs: tuple[bytes, bytes]
    seq: int
    states: tuple[bytes, ...]
    license_events: int = 0

    @property
    def state(self) -> bytes:
        """What the ledger says, as a snapshot of it would."""
        return self.states[-1]

    def spans(self, log: int) -> list[Span]:
        """The records of a log that count; stale ones behind them do not. An own walk, not the store's."""
        content = self.logs[log]
        spans: list[Span] = []
        offset = 0
        while content[offset : offset + len(MAGIC)] == MAGIC:
            seq, length = _SEQ_AND_LENGTH.unpack_from(content, offset + len(MAGIC) + 2)
            if spans and seq != spans[-1].seq + 1:
                break
            spans.append(Span(seq, offset, offset + OVERHEAD_BYTES + length))
            offset = -(-spans[-1].end // SLOT_BYTES) * SLOT_BYTES
        return spans

    def used_bytes(self, log: int) -> int:
        """Up to where a log is used, in whole slots."""
        return -(-self.spans(log)[-1].end // SLOT_BYTES) * SLOT_BYTES


class Life:
    """A SmartServer that lives: seats come and go, licenses are granted, logs fill and are rewritten."""

    AREA_BYTES = 64 * SLOT_BYTES

    def __init__(self, install_code: str, *, seed: int, area_bytes: int = AREA_BYTES) -> None:
        self._chance = random.Random(f"{install_code} {seed}")
        self._units = 0
        self.license_events = 0
        self.state = LedgerState(install_code=install_code, mark_s=NOW)
        secret = self._chance.randbytes(SECRET_BYTES)
        body = secret + ledger_format.encode_snapshot(self.state)
        first = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, body, secret=secret)
        self._take_up(first + bytes(area_bytes - len(first)), first + bytes(area_bytes - len(first)))

    def _take_up(self, *logs: bytes) -> None:
        self._areas = [Memory(log) for log in logs]
        self._ledger = Ledger(self._areas)
        self.state = replayed(self._ledger.recovered.snapshot, self._ledger.recovered.events)
        self._states = deque([self._now()], maxlen=_STATES_KEPT)
        self._ledger.settle(self._now())
        self.commit()

    def _now(self) -> bytes:
        return ledger_format.encode_snapshot(self.state)

    def commit(self, *events: Event) -> None:
        """One commit, as the keeper does it; without events it marks the time, behind each start and each rewrite."""
        mark_s = self.state.mark_s + self._chance.randrange(_HOUR_S)
        mark = TimeMarked(mark_s, self.state.grace, self._ledger.bytes_written)
        self._ledger.append(ledger_format.encode_events(events, mark), self._now)
        for event in (*events, mark):
            self.state.apply(event)
        self._states.append(self._now())

    def license(self, devices: int = CAPACITY) -> None:
        """A new grant, and no earlier copy left."""
        self.license_events += 1
        seq = self.state.installed.grant.seq + 1 if self.state.installed else 1
        grant = replace(
            GRANT,
            seq=seq,
            install_code=self.state.install_code,
            issued_at=self.state.mark_s + 1,
            licenses=(License("cap-1", LicenseType.CAPACITY, devices),),
        )
        self.commit(GrantInstalled(grant, sealed(grant), self.state.mark_s))
        self.rewrite()
        self.commit()

    def rewrite(self) -> None:
        """Both logs hold a snapshot and nothing behind it that counts, as for a moment after a license event."""
        self._ledger.rewrite(self._now())

    def live(self, commits: int, *, at_once: int = 4) -> None:
        """So many commits of up to `at_once` events each, with a large one now and then."""
        for _ in range(commits):
            count = 120 if self._chance.random() < 0.05 else self._chance.randint(1, at_once)  # 120: two slots
            self.commit(*(event for _ in range(count) for event in self._anything()))

    def _anything(self) -> Iterator[Event]:
        seats = self.state.seats
        what = self._chance.random()
        if what < 0.5 or len(seats) < 10:
            if len(seats) < CAPACITY // 2:
                self._units += 1
                kind = self._chance.choice(list(SeatKind))
                seat = Seat(kind, has_run=kind is SeatKind.PROVISIONED, number=self._units)
                yield SeatGiven(UnitId(f"modbus/{self._chance.randrange(10**6)}"), seat)
        elif what < 0.8:
            unit = self._chance.choice(list(seats))
            is_reserved = seats[unit].kind is SeatKind.RESERVED
            yield SeatGiven(
                unit, as_provisioned(seats[unit]) if is_reserved else as_reserved(seats[unit], has_run=True)
            )
        elif what < 0.95:
            yield SeatLost(self._chance.choice(list(seats)), self._chance.choice([Cause.RELEASED, Cause.EVICTED]))
        else:
            yield InternalChanged(DeviceId("lon", str(self._chance.randrange(9))), is_internal=True)

    def image(self) -> Image:
        """The ledger as it is now."""
        a, b = (bytes(area.content) for area in self._areas)
        return Image((a, b), self._ledger.seq, tuple(self._states), self.license_events)

    def back_to(self, image: Image) -> None:
        """Go on from an earlier image: its own history from here, with other chances."""
        self.license_events = image.license_events
        self._take_up(*image.logs)


def replayed(snapshot: bytes, events: tuple[bytes, ...]) -> LedgerState:
    """The state of a recovered ledger, as the keeper makes it. Raises LedgerCorruptError."""
    state = ledger_format.decode_snapshot(snapshot)
    for body in events:
        for event in ledger_format.decode_events(body):
            state.apply(event)
    return state


def grown(install_code: str, *, seed: int, commits: int, area_bytes: int = Life.AREA_BYTES) -> Life:
    """A life with a grant, the adoption closed and so many commits behind it."""
    life = Life(install_code, seed=seed, area_bytes=area_bytes)
    life.license()
    life.commit(AdoptionChanged(is_adopting=False))
    life.live(commits)
    return life
