"""Where it is made durable: two logs, each complete by itself, chained record by record.

Rules (docs/storage.md):
- a log is a SNAPSHOT in its first slots, then EVENTs; a slot that holds something durable is only overwritten by a
  rewrite, and a log is only rewritten while the other one is synced and complete;
- commit: one EVENT to both logs, both synced; only then is it true;
- recovery: sync both, read both past the page cache, begin at the highest valid SNAPSHOT, take seq + 1 from either log
  while its `prev` is the head; a valid record beyond the end means damage in the middle: corrupt, never guessed;
- a rewrite first makes the first sector durable: by what it claims, an interrupted one is told from damage; where
  damage is repaired it comes last;
- a failed write or sync is final (a retry says OK while the data are gone): this object is dead, the caller opens anew.

Stale records behind the end do no harm: a record with a higher seq than the head was either adopted by a recovery (then
the head is at least its seq), or was torn with a legible header (then the next snapshot takes its number), or with none
(then no later write at its place can make it whole), or on a page that could not be read (which is cleared, durably,
before anything else is written; where no log shows that nothing followed, it is an error and tried again).

What this module does not do: it knows nothing of what bodies mean.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
        self.unreadable = frozenset(area.unreadable)
        self.first = read(self.content, 0, secret=None)
        self.run: list[Record] = []
        self.rest: list[Record] = []
        self.reach, self.head, self.end = -1, FIRST_HEAD, 0
        if self.first is not None:
            self.reach, self.head, self.end = self.first.seq, self.first.prev, self.first.size_bytes
        self.newest, self.last = self.reach, self.end  # the highest seq, and where that record ends

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
            if record.seq > self.newest:
                self.newest, self.last = record.seq, offset
            is_unbroken = is_unbroken and (record.seq, record.prev) == (self.reach + 1, self.head)
            if is_unbroken:
                self.run.append(record)
                self.reach, self.head, self.end = record.seq, record.head, offset
            else:
                self.rest.append(record)

    def hides_more(self) -> bool:
        """Whether a record behind the newest one may stand on a page that cannot be read."""
        claim = claimed(self.content, self.last)
        span = range(self.last, self.last + (claim.size_bytes if claim else SLOT_BYTES), SLOT_BYTES)
        return not self.unreadable.isdisjoint(span)


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
        if all(log.hides_more() for log in logs):
            raise StorageError(f"cannot read the ledger: no log shows whether a record follows {self.seq}")
        self._worse_first = sorted((0, 1), key=lambda place: logs[place].reach)
        told = [self._judge(log) for log in logs]
        repairs = tuple(text for is_damage, text in told if text and is_damage)
        notes = tuple(text for is_damage, text in told if text and not is_damage)
        self._is_even = not (repairs or notes) and logs[0].end == logs[1].end
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
        elif (begun := _last_begun(logs)) > self.seq + 1:
            why = f"record {begun} was begun in both logs, but record {self.seq + 1} is not whole"
        if why:
            raise LedgerCorruptError(
                f"cannot read the ledger: {why}", snapshot=start.body[SECRET_BYTES:], events=tuple(events)
            )
        return tuple(events)

    def _judge(self, log: _Log) -> tuple[bool, str]:
        """What is to be said of a log, and whether it is damage; "" where it is as it should be."""
        claim = claimed(log.content, log.end)
        if log.unreadable:
            return True, f"log {log.name} had {len(log.unreadable)} pages that cannot be read"
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
        takes a number of its own: cut in the middle, the next recovery knows which one is newer, and no number of a
        torn record is used again. What is damaged does not look like an interrupted rewrite before it is repaired.
        """
        self._is_dead = False
        if self._is_even and not is_changed:
            return
        self.seq += 1
        with self._fail_stop():
            for area in self._areas:
                while area.unreadable:
                    area.write(area.unreadable.pop(), bytes(SLOT_BYTES))
            for device in self._devices:
                device.sync()
        self._rewrite(self._worse_first, self._framed(snapshot), is_repair=bool(self.recovered.repairs))
        self.recovered = replace(self.recovered, snapshot=b"", events=())  # megabytes that nobody needs any more

    def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable in both logs. `snapshot` gives the state *before* it, should a log be full.

        Raises WriteFailedError: then nothing is true of the event, and this object is dead.
        """
        record = frame(Kind.EVENT, self.seq + 1, self.head, body, secret=self._secret)
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
        record = _first_record(self.seq, self.head, snapshot, self._secret)
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
        record = _first_record(0, FIRST_HEAD, snapshot, os.urandom(SECRET_BYTES))
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


def _first_record(seq: int, head: bytes, snapshot: bytes, secret: bytes) -> bytes:
    return frame(Kind.SNAPSHOT, seq, head, secret + snapshot, secret=secret)


def _write_snapshot(area: Area, record: bytes, *, is_repair: bool = False) -> None:
    """The first sector ahead, durably; in a repair last."""
    parts = [(0, record[:_SECTOR_BYTES]), (_SECTOR_BYTES, record[_SECTOR_BYTES:])]
    for offset, part in reversed(parts) if is_repair else parts:
        area.write(offset, part)
        area.sync()


def _last_begun(logs: Sequence[_Log]) -> int:
    """The highest EVENT whose header both logs show alike, whole or not: a cut leaves one behind the head at most."""
    slots = range(0, min(len(log.content) for log in logs), SLOT_BYTES)
    both = ((claimed(logs[0].content, slot), claimed(logs[1].content, slot)) for slot in slots)
    return max((a.seq for a, b in both if a and a == b and a.kind == Kind.EVENT), default=0)


def _no_snapshot(logs: Sequence[_Log]) -> StorageError:
    """Why there is no ledger to read. A creation that was cut leaves the beginning of its snapshot, and no more."""
    if any(log.unreadable for log in logs):
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
