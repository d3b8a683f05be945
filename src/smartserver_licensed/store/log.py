"""Where it is made durable: two logs, each complete by itself, chained record by record.

Rules (STATE.md):
- a log is a SNAPSHOT in its first slots, then EVENTs; a slot that holds something durable is only overwritten by a
  rewrite, and a log is only rewritten while the other one is synced and complete;
- commit: one EVENT to both logs, both synced; only then is it true;
- recovery: sync both, read both past the page cache, begin at the highest valid SNAPSHOT, take seq + 1 from either log
  while its `prev` is the head; a valid record beyond the end means damage in the middle: corrupt, never guessed;
- a failed write or sync is final: this object is dead, the caller opens anew.

Stale records behind the end do no harm: a record with a higher seq than the head was either adopted by a recovery
(then the head is at least its seq) or never whole, so the seq of a torn record may be used again. Should a later torn
write at its place make it whole after all, it lies behind every acknowledged record, and the first one counts. A log
that cannot be *read* is an error, not an empty log: its twin would go on alone, and it might be believed later.

What this module does not do: it knows nothing of what bodies mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smartserver_licensed.domain.errors import (
    LedgerCorruptError,
    LedgerMissingError,
    SnapshotTooLargeError,
    StorageError,
    WriteFailedError,
)

from .area import Area, Place
from .record import (
    FIRST_HEAD,
    FORMAT,
    MAGIC,
    SECRET_BYTES,
    SLOT_BYTES,
    Kind,
    Record,
    claimed_format,
    first_snapshot_bytes,
    frame,
    newer,
    next_head,
    read,
    size_on_disk,
)

MAX_SNAPSHOT_BYTES = 1 << 20
_SECTOR_BYTES = 512  # what a disk writes as a whole


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a ledger held: the caller replays the events over the snapshot, then calls `Ledger.settle`."""

    snapshot: bytes
    events: tuple[bytes, ...]
    repairs: tuple[str, ...]  # sentences; empty when both logs were whole


class Ledger:
    """An open ledger. Not for more than one thread at a time."""

    def __init__(self, areas: Sequence[Area]) -> None:
        """Recover what the areas hold. Raises LedgerMissing-, LedgerCorrupt-, LedgerNewer- or another StorageError."""
        self._areas = tuple(areas)
        self._ends = [0, 0]
        self._is_settled = self.is_dead = False
        self.bytes_written = 0
        for area in self._areas:
            area.sync()
        buffers = [area.read() for area in self._areas]
        firsts = [read(buffer, 0, secret=None) for buffer in buffers]
        found = [first for first in firsts if first is not None]
        if not found:
            raise _no_snapshot(buffers)
        if len({first.body[:SECRET_BYTES] for first in found}) > 1:
            raise LedgerCorruptError("cannot read the ledger: its two logs are of two different ledgers")
        start = max(found, key=lambda record: record.seq)
        self._secret = start.body[:SECRET_BYTES]
        pools = [_events(buffer, first, self._secret) for buffer, first in zip(buffers, firsts, strict=True)]
        events = self._follow(start, pools)
        self._reach = [self._how_far(first, pool) for first, pool in zip(firsts, pools, strict=True)]
        self.recovered = Recovered(start.body[SECRET_BYTES:], tuple(each.body for each in events), self._repairs())

    def _follow(self, start: Record, pools: list[list[Record]]) -> list[Record]:
        # A snapshot does not move the chain: it holds the head it was made at.
        self.seq, self.head = start.seq, start.prev
        by_seq: dict[int, list[Record]] = {}
        for record in (*pools[0], *pools[1]):
            by_seq.setdefault(record.seq, []).append(record)
        events = []
        while following := next((each for each in by_seq.get(self.seq + 1, ()) if each.prev == self.head), None):
            events.append(following)
            self.seq, self.head = following.seq, following.head
        if by_seq and max(by_seq) > self.seq:
            raise LedgerCorruptError(
                f"cannot read the ledger: record {max(by_seq)} is whole, but record {self.seq + 1} is not"
            )
        return events

    def _how_far(self, first: Record | None, pool: list[Record]) -> int:
        """The seq up to which a log is complete by itself; -1 without a whole snapshot."""
        if first is None:
            return -1
        reach, head = first.seq, first.prev
        known = {record.seq: record for record in pool}
        while (record := known.get(reach + 1)) is not None and record.prev == head:
            reach, head = record.seq, record.head
        return reach

    def _repairs(self) -> tuple[str, ...]:
        """One commit behind is what a power cut leaves; anything more is damage."""
        return tuple(
            f"log {name} was whole up to record {reach} of {self.seq}"
            if reach >= 0
            else f"log {name} had no whole snapshot"
            for name, reach in zip("ab", self._reach, strict=True)
            if reach < self.seq - 1
        )

    # -- writing -----------------------------------------------------------------------------------------------------

    def settle(self, snapshot: bytes) -> None:
        """Bring both logs to the recovered state, the worse one first; `snapshot` is the state after the replay."""
        order = sorted((0, 1), key=lambda place: self._reach[place])
        for place in order:
            self._rewrite(place, snapshot)
        self._is_settled = True

    def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable in both logs. `snapshot` gives the state *before* it, should a log be full.

        Raises WriteFailedError: then nothing is true of the event, and this object is dead.
        """
        self._check_settled()
        record = frame(Kind.EVENT, self.seq + 1, self.head, body, secret=self._secret)
        if any(end + len(record) > area.size_bytes for end, area in zip(self._ends, self._areas, strict=True)):
            self._make_room(snapshot(), len(record))
        with self._fail_stop():
            for place, area in enumerate(self._areas):
                area.write(self._ends[place], record)
            for area in self._areas:
                area.sync()
        self.bytes_written += 2 * len(record)
        self._ends = [end + len(record) for end in self._ends]
        self.head = next_head(self.head, self.seq + 1, body)
        self.seq += 1

    def rewrite(self, snapshot: bytes) -> None:
        """Rewrite both logs, one after the other, so that no earlier copy is left."""
        self._check_settled()
        for place in (0, 1):
            self._rewrite(place, snapshot)

    def _check_settled(self) -> None:
        if not self._is_settled:
            raise StorageError("cannot write to the ledger: it is not settled")

    def _make_room(self, snapshot: bytes, record_bytes: int) -> None:
        room = min(area.size_bytes for area in self._areas) - size_on_disk(SECRET_BYTES + len(snapshot))
        if record_bytes > room:
            raise SnapshotTooLargeError(
                f"cannot write {record_bytes} bytes to the ledger: there is room for {room} beside the state"
            )
        self.rewrite(snapshot)

    def _rewrite(self, place: int, snapshot: bytes) -> None:
        _check_size(snapshot)
        record = frame(Kind.SNAPSHOT, self.seq, self.head, self._secret + snapshot, secret=self._secret)
        with self._fail_stop():
            self._areas[place].write(0, record)
            self._areas[place].sync()
        self.bytes_written += len(record)
        self._ends[place] = len(record)

    @contextlib.contextmanager
    def _fail_stop(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the ledger."""
        if self.is_dead:
            raise WriteFailedError("cannot write to the ledger: an earlier write or sync failed, which is final")
        self.is_dead = True
        yield
        self.is_dead = False

    def close(self) -> None:
        """Close both areas."""
        for area in self._areas:
            area.close()


def create(path: Path, snapshot: bytes) -> bool:
    """Make a ledger; False where one is there already, which is left alone.

    What a power cut left of an earlier call is taken up. Raises LedgerOccupiedError where something else is, and what
    opening raises (LedgerCorruptError, LedgerNewerError) where a ledger is that cannot be read: nothing is touched.
    """
    _check_size(snapshot)
    place = Place(path)
    try:
        is_there, is_begun = _look(place)
        if is_there:
            return False
        if not is_begun:
            place.make_room()
        with _opened(place) as areas:
            write_first(areas, snapshot)
        return True
    finally:
        place.close()


def write_first(areas: Sequence[Area], snapshot: bytes) -> None:
    """Write the first snapshot of a new ledger to its two empty areas.

    The first sector goes ahead: by it a creation that was cut is known (`_is_begun`) from something else's bytes.
    """
    secret = os.urandom(SECRET_BYTES)
    record = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, secret + snapshot, secret=secret)
    areas[0].write(0, record[:_SECTOR_BYTES])
    areas[0].sync()
    for area in areas:
        area.write(0, record)
        area.sync()


@contextlib.contextmanager
def _opened(place: Place) -> Iterator[Sequence[Area]]:
    areas = place.areas()
    try:
        yield areas
    finally:
        for area in areas:
            area.close()


def _look(place: Place) -> tuple[bool, bool]:
    """Whether a ledger is there, and whether one was begun."""
    try:
        with _opened(place) as areas:
            try:
                Ledger(areas)
            except LedgerMissingError:
                return False, _is_begun([area.read() for area in areas])
            return True, True
    except LedgerMissingError:  # a directory without the files
        return False, False


def _check_size(snapshot: bytes) -> None:
    if len(snapshot) > MAX_SNAPSHOT_BYTES:
        raise SnapshotTooLargeError(
            f"cannot keep the state: {len(snapshot)} bytes, the limit is {MAX_SNAPSHOT_BYTES} bytes"
        )


def _is_begun(buffers: Sequence[memoryview]) -> bool:
    """Whether a creation was cut: a first snapshot that is not whole, and nothing else in either log."""
    size = first_snapshot_bytes(buffers[0])
    return size > 0 and not any(buffers[0][size:]) and not any(buffers[1])


def _events(buffer: memoryview, first: Record | None, secret: bytes) -> list[Record]:
    """All whole EVENTs of a log, wherever they stand: damage before them must not hide them."""
    found = []
    offset = first.size_bytes if first is not None else SLOT_BYTES
    while offset < len(buffer):
        record = read(buffer, offset, secret=secret)
        if record is not None and record.kind is Kind.EVENT:
            found.append(record)
            offset += record.size_bytes
        else:
            offset += SLOT_BYTES
    return found


def _no_snapshot(buffers: list[memoryview]) -> StorageError:
    has_trace = any(
        bytes(buffer[offset : offset + len(MAGIC)]) == MAGIC
        for buffer in buffers
        for offset in range(0, len(buffer), SLOT_BYTES)
    )
    claimed = max((claimed_format(buffer, 0) for buffer in buffers if len(buffer) >= SLOT_BYTES), default=0)
    if claimed > FORMAT:
        return newer(claimed)
    if _is_begun(buffers):
        return LedgerMissingError("cannot read the ledger: making it was interrupted; make it again")
    if has_trace:
        return LedgerCorruptError("cannot read the ledger: neither log begins with a whole snapshot")
    return LedgerMissingError("cannot read the ledger: there is none")
