"""Where it is made durable: two logs, each complete by itself, chained record by record.

Rules (docs/storage.md):
- a log is a SNAPSHOT in its first slots, then EVENTs; a slot that holds something durable is only overwritten by a
  rewrite, and a log is only rewritten while the other one is synced and complete;
- commit: one EVENT to both logs, both synced; only then is it true;
- a rewrite first makes the first sector durable: by what it claims, an interrupted one is told from damage; where
  damage is repaired it comes last;
- a failed write or sync is final (a retry says OK while the data are gone): this object is dead, the caller opens anew.

What this module does not do: it reads nothing (`recovery`) and knows nothing of what bodies mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from smartserver_licensed.domain.errors import LedgerMissingError, SnapshotTooLargeError, WriteFailedError

from .area import Area, Place
from .record import FIRST_HEAD, SECRET_BYTES, SLOT_BYTES, Kind, frame, next_head
from .recovery import UnfinishedError, recover

_SECTOR_BYTES = 512  # what a disk writes as a whole


class Ledger:
    """An open ledger. Not for more than one thread at a time."""

    def __init__(self, areas: Sequence[Area]) -> None:
        """Recover what the areas hold. Raises LedgerMissing-, LedgerCorrupt-, LedgerNewer- or another StorageError."""
        self._areas = tuple(areas)
        self._devices = tuple({area.device: area for area in areas}.values())  # one sync each is enough
        self.size_bytes = min(area.size_bytes for area in areas)
        self.bytes_written = 0  # to both logs
        self._is_dead = True  # until it is settled
        for device in self._devices:
            device.sync()
        self.recovered = found = recover(areas)
        self.seq, self.head, self.fill_bytes = found.seq, found.head, found.fill_bytes

    def settle(self, snapshot: bytes, *, is_changed: bool = False) -> None:
        """Bring both logs to the recovered state, the worse one first; `snapshot` is the state after the replay.

        Two logs that are whole and equal are left as they are, unless more has changed than the replay says. A snapshot
        takes a number of its own: cut in the middle, the next recovery knows which one is newer, and no number of a
        torn record is used again. What is damaged does not look like an interrupted rewrite before it is repaired.
        """
        self._is_dead = False
        found = self.recovered
        self.recovered = replace(found, snapshot=b"", events=())  # megabytes that nobody needs any more
        if found.is_even and not is_changed:
            return
        self.seq += 1
        with self._fail_stop():
            for area in self._areas:
                while area.unreadable:
                    area.write(area.unreadable.pop(), bytes(SLOT_BYTES))
            for device in self._devices:
                device.sync()
        self._rewrite(found.worse_first, self._framed(snapshot), is_repair=bool(found.repairs))

    def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable in both logs. `snapshot` gives the state *before* it, should a log be full.

        Raises WriteFailedError: then nothing is true of the event, and this object is dead.
        """
        record = frame(Kind.EVENT, self.seq + 1, self.head, body, secret=self.recovered.secret)
        if self.fill_bytes + len(record) > self.size_bytes:
            self._rewrite((0, 1), self._framed(snapshot(), room=len(record)))
        with self._fail_stop():
            for area in self._areas:
                area.write(self.fill_bytes, record)
            for device in self._devices:
                device.sync()
        self.bytes_written += 2 * len(record)
        self.fill_bytes += len(record)
        self.head = next_head(self.head, self.seq + 1, body)
        self.seq += 1

    def rewrite(self, snapshot: bytes) -> None:
        """Rewrite both logs, one after the other, so that no earlier copy is left."""
        self._rewrite((0, 1), self._framed(snapshot))

    def _framed(self, snapshot: bytes, *, room: int = SLOT_BYTES) -> bytes:
        """The record of a snapshot that leaves room for an event. Raises SnapshotTooLargeError; nothing is written."""
        record = _snapshot_record(self.seq, self.head, snapshot, self.recovered.secret)
        if len(record) + room > self.size_bytes:
            raise SnapshotTooLargeError(
                f"cannot write to the ledger: the state has {len(record)} bytes, the event {room}; "
                f"the limit for both is {self.size_bytes}"
            )
        return record

    def _rewrite(self, places: Sequence[int], record: bytes, *, is_repair: bool = False) -> None:
        with self._fail_stop():
            for place in places:
                _write_snapshot(self._areas[place], record, is_repair=is_repair)
        self.bytes_written += 2 * (SLOT_BYTES + len(record))
        self.fill_bytes = len(record)

    @contextlib.contextmanager
    def _fail_stop(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the ledger."""
        if self._is_dead:
            raise WriteFailedError(
                "cannot write to the ledger: it is not settled, or an earlier write or sync failed, which is final"
            )
        self._is_dead = True
        yield
        self._is_dead = False


def create(path: Path, snapshot: bytes) -> bool:
    """Make a ledger; False where one is there already, which is left alone.

    What a power cut left of an earlier call is taken up, unless the page in flight was lost as a whole: refused.
    Raises LedgerOccupiedError where something else is, and what opening raises (LedgerCorruptError, LedgerNewerError)
    where a ledger is that cannot be read: nothing is touched.
    """
    place = Place(path)
    try:
        record = _snapshot_record(0, FIRST_HEAD, snapshot, os.urandom(SECRET_BYTES))
        try:
            Ledger(place.areas())
            return False
        except UnfinishedError:
            pass
        except LedgerMissingError:
            place.make_room()
        for area in place.areas():
            _write_snapshot(area, record)
        return True
    finally:
        place.close()


def _snapshot_record(seq: int, head: bytes, snapshot: bytes, secret: bytes) -> bytes:
    return frame(Kind.SNAPSHOT, seq, head, secret + snapshot, secret=secret)


def _write_snapshot(area: Area, record: bytes, *, is_repair: bool = False) -> None:
    """The first sector ahead, durably; in a repair last."""
    parts = [(0, record[:_SECTOR_BYTES]), (_SECTOR_BYTES, record[_SECTOR_BYTES:])]
    for offset, part in reversed(parts) if is_repair else parts:
        area.write(offset, part)
        area.sync()
