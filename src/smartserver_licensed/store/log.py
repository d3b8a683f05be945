"""Where it is made durable: two logs, each complete by itself, chained record by record.

Rules (docs/storage.md):
- a log is a SNAPSHOT in its first slots, then EVENTs; a slot that holds something durable is only overwritten by a
  rewrite, and a log is only rewritten while the other one is synced and complete;
- commit: one EVENT to both logs, both synced; only then is it true;
- recovery: sync both, read both past the page cache, begin at the highest valid SNAPSHOT, take seq + 1 from either log
  while its `prev` is the head; a valid record beyond the end means damage in the middle: corrupt, never guessed;
- a rewrite first makes the first sector durable: by what it claims, an interrupted one is told from damage;
- a failed write or sync is final (a retry says OK while the data are gone): this object is dead, the caller opens anew.

Stale records behind the end do no harm: a record with a higher seq than the head was either adopted by a recovery
(then the head is at least its seq), never whole, or on a page that could not be read, which is cleared before anything
else is written. So the seq of a torn record may be used again; should a later torn write make it whole after all, it
lies behind a record of its number that continues its log, and that one counts.

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

from .area import AREA_BYTES, Area, Place
from .record import (
    FIRST_HEAD,
    FORMAT,
    SECRET_BYTES,
    SLOT_BYTES,
    Kind,
    Record,
    claimed,
    claimed_format,
    frame,
    newer,
    next_head,
    read,
    size_on_disk,
)

_SECTOR_BYTES = 512  # what a disk writes as a whole


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a ledger held: the caller replays the events over the snapshot, then calls `Ledger.settle`.

    `repairs`: sentences about damage; `notes`: about what a power cut leaves.
    """

    snapshot: bytes
    events: tuple[bytes, ...]
    repairs: tuple[str, ...]
    notes: tuple[str, ...]


class _UnfinishedError(LedgerMissingError):
    """A creation was cut; it may be done again."""


class _Log:
    """One log as it was found: `run` continues its snapshot without a gap up to `reach`, `rest` are other EVENTs."""

    def __init__(self, name: str, area: Area) -> None:
        self.name = name
        self.content = area.read()
        self.bad_pages = len(area.unreadable)
        self.first = read(self.content, 0, secret=None)
        self.run: list[Record] = []
        self.rest: list[Record] = []
        self.reach, self.head, self.end = -1, FIRST_HEAD, 0
        if self.first is not None:
            self.reach, self.head, self.end = self.first.seq, self.first.prev, self.first.size_bytes

    def is_complete_to(self, seq: int) -> bool:
        """Whether it is whole by itself up to this record."""
        return self.first is not None and self.reach == seq and not self.bad_pages

    def look(self, secret: bytes) -> None:
        """Find all whole EVENTs, wherever they stand: damage before them must not hide them."""
        offset, is_unbroken = self.end or SLOT_BYTES, self.first is not None
        while offset < len(self.content):
            record = read(self.content, offset, secret=secret)
            if record is None or record.kind != Kind.EVENT:
                is_unbroken = False
                offset += SLOT_BYTES
                continue
            offset += record.size_bytes
            is_unbroken = is_unbroken and (record.seq, record.prev) == (self.reach + 1, self.head)
            if is_unbroken:
                self.run.append(record)
                self.reach, self.head, self.end = record.seq, record.head, offset
            else:
                self.rest.append(record)


class Ledger:
    """An open ledger. Not for more than one thread at a time."""

    def __init__(self, areas: Sequence[Area]) -> None:
        """Recover what the areas hold. Raises LedgerMissing-, LedgerCorrupt-, LedgerNewer- or another StorageError."""
        self._areas = tuple(areas)
        self._devices = tuple({area.device: area for area in areas}.values())  # one sync each is enough
        self.size_bytes = min(area.size_bytes for area in areas)
        self.bytes_written = 0  # to both logs
        self._is_settled = self._is_dead = False
        for device in self._devices:
            device.sync()
        logs = [_Log(name, area) for name, area in zip("ab", areas, strict=True)]
        start = max((log.first for log in logs if log.first), key=lambda first: first.seq, default=None)
        if start is None:
            raise _no_snapshot(logs)
        self._secret = start.body[:SECRET_BYTES]
        if any(log.first and log.first.body[:SECRET_BYTES] != self._secret for log in logs):
            raise LedgerCorruptError("cannot read the ledger: its two logs are of two different ledgers")
        for log in logs:
            log.look(self._secret)
        self.fill_bytes = logs[0].end  # of each log
        events = self._follow(start, logs)
        self._worse_first = sorted((0, 1), key=lambda place: logs[place].reach)
        self._is_even = logs[0].end == logs[1].end and all(log.is_complete_to(self.seq) for log in logs)
        told = [self._judge(log) for log in logs]
        repairs = tuple(text for is_damage, text in told if text and is_damage)
        notes = tuple(text for is_damage, text in told if text and not is_damage)
        self.recovered = Recovered(start.body[SECRET_BYTES:], events, repairs, notes)

    def _follow(self, start: Record, logs: Sequence[_Log]) -> tuple[bytes, ...]:
        """The bodies of the EVENTs after a snapshot; that does not move the chain: it holds the head it was made at."""
        known: dict[tuple[int, bytes], Record] = {}
        for each in (*logs[0].run, *logs[1].run, *logs[0].rest, *logs[1].rest):
            known.setdefault((each.seq, each.prev), each)
        self.seq, self.head = start.seq, start.prev
        heads, events = {self.seq: self.head}, []
        while (record := known.get((self.seq + 1, self.head))) is not None:
            events.append(record.body)
            self.seq, self.head = record.seq, record.head
            heads[self.seq] = self.head
        why = ""
        if (last := max((seq for seq, _ in known), default=0)) > self.seq:
            why = f"record {last} is whole, but record {self.seq + 1} is not"
        elif any(heads.get(log.reach, log.head) != log.head for log in logs):
            why = "its two logs hold two different histories"
        if why:
            raise LedgerCorruptError(
                f"cannot read the ledger: {why}", snapshot=start.body[SECRET_BYTES:], events=tuple(events)
            )
        return tuple(events)

    def _judge(self, log: _Log) -> tuple[bool, str]:
        """What is to be said of a log, and whether it is damage; "" where it is as it should be."""
        claim = claimed(log.content, log.end)
        if log.bad_pages:
            return True, f"log {log.name} had {log.bad_pages} pages that cannot be read"
        if log.first is None:
            is_cut = self.seq == 0 or (
                claim is not None
                and (claim.kind, claim.prev) == (Kind.SNAPSHOT, self.head)
                and claim.seq - self.seq in {0, 1}
            )
            return not is_cut, f"log {log.name} had no whole snapshot" + ": a rewrite was interrupted" * is_cut
        if log.reach < self.seq:  # one behind is what a cut during a commit leaves
            return log.reach < self.seq - 1, f"log {log.name} was whole up to record {log.reach} of {self.seq}"
        is_torn = claim is not None and (claim.kind, claim.seq) == (Kind.EVENT, self.seq + 1)
        return False, f"record {self.seq + 1} in log {log.name} was not whole and is discarded" * is_torn

    # -- writing -----------------------------------------------------------------------------------------------------

    def settle(self, snapshot: bytes, *, is_changed: bool = False) -> None:
        """Bring both logs to the recovered state, the worse one first; `snapshot` is the state after the replay.

        Two logs that are whole and equal are left as they are, unless more has changed than the replay says. A snapshot
        takes a number of its own: cut in the middle, the next recovery knows which one is newer.
        """
        if is_changed or not self._is_even:
            self.seq += 1
            with self._fail_stop():
                for area in self._areas:
                    while area.unreadable:
                        area.write(area.unreadable.pop(), bytes(SLOT_BYTES))
            self._rewrite(self._worse_first, snapshot)
        self._is_settled = True

    def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable in both logs. `snapshot` gives the state *before* it, should a log be full.

        Raises WriteFailedError: then nothing is true of the event, and this object is dead.
        """
        self._check_settled()
        record = frame(Kind.EVENT, self.seq + 1, self.head, body, secret=self._secret)
        if self.fill_bytes + len(record) > self.size_bytes:
            self._make_room(snapshot(), len(record))
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
        self._check_settled()
        self._rewrite((0, 1), snapshot)

    def _check_settled(self) -> None:
        if not self._is_settled:
            raise StorageError("cannot write to the ledger: it is not settled")

    def _make_room(self, snapshot: bytes, record_bytes: int) -> None:
        room = self.size_bytes - size_on_disk(SECRET_BYTES + len(snapshot))
        if record_bytes > room:
            raise SnapshotTooLargeError(
                f"cannot write {record_bytes} bytes to the ledger: there is room for {room} beside the state"
            )
        self.rewrite(snapshot)

    def _rewrite(self, places: Sequence[int], snapshot: bytes) -> None:
        record = _snapshot(self.seq, self.head, snapshot, self._secret, self.size_bytes)
        with self._fail_stop():
            for place in places:
                _write_snapshot(self._areas[place], record)
        self.bytes_written += 2 * (SLOT_BYTES + len(record))
        self.fill_bytes = len(record)

    @contextlib.contextmanager
    def _fail_stop(self) -> Iterator[None]:
        """Whatever goes wrong inside ends the ledger."""
        if self._is_dead:
            raise WriteFailedError("cannot write to the ledger: an earlier write or sync failed, which is final")
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
        record = _snapshot(0, FIRST_HEAD, snapshot, os.urandom(SECRET_BYTES), AREA_BYTES)
        try:
            Ledger(place.areas())
            return False
        except _UnfinishedError:
            pass
        except LedgerMissingError:
            place.make_room()
        for area in place.areas():
            _write_snapshot(area, record)
        return True
    finally:
        place.close()


def _snapshot(seq: int, head: bytes, snapshot: bytes, secret: bytes, area_bytes: int) -> bytes:
    record = frame(Kind.SNAPSHOT, seq, head, secret + snapshot, secret=secret)
    if len(record) > area_bytes // 2:
        raise SnapshotTooLargeError(f"cannot keep the state: {len(record)} bytes, the limit is {area_bytes // 2} bytes")
    return record


def _write_snapshot(area: Area, record: bytes) -> None:
    area.write(0, record[:_SECTOR_BYTES])
    area.sync()
    area.write(0, record)
    area.sync()


def _no_snapshot(logs: Sequence[_Log]) -> StorageError:
    """Why there is no ledger to read. A creation that was cut leaves the beginning of its snapshot, and no more."""
    if any(log.bad_pages for log in logs):
        return StorageError("cannot read the ledger: pages cannot be read, and no whole snapshot is left")
    if (version := max(claimed_format(log.content) for log in logs)) > FORMAT:
        return newer(version)
    first = claimed(logs[0].content, 0)
    is_begun = first is not None and (first.kind, first.seq, first.prev) == (Kind.SNAPSHOT, 0, FIRST_HEAD)
    if first and is_begun and not any(logs[0].content[first.size_bytes :]) and not any(logs[1].content):
        return _UnfinishedError("cannot read the ledger: making it was interrupted; make it again")
    if any(claimed(log.content, offset) for log in logs for offset in range(0, len(log.content), SLOT_BYTES)):
        return LedgerCorruptError("cannot read the ledger: neither log begins with a whole snapshot")
    return LedgerMissingError("cannot read the ledger: there is none")
