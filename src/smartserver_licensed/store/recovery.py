"""What two logs hold together: the rules of recovery (docs/storage.md "Reading"), and what they say of damage.

Rules:
- sync both, read both past the page cache, begin at the highest valid SNAPSHOT, take seq + 1 from either log while its
  `prev` is the head; a valid record beyond the end means damage in the middle: corrupt, never guessed;
- what a power cut leaves is noted, anything else is a repair; a log that cannot be read is neither empty nor believed.

Stale records behind the end do no harm: a record with a higher seq than the head was either adopted by a recovery (then
the head is at least its seq), or was torn with a legible header (then the next snapshot takes its number), or with none
(then no later write at its place can make it whole), or on a page that could not be read (which is cleared, durably,
before anything else is written; where no log shows that nothing followed, it is an error and tried again).

What this module does not do: it writes nothing, and knows nothing of what bodies mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smartserver_licensed.domain.errors import LedgerCorruptError, LedgerMissingError, StorageError

from .area import Area
from .record import (
    FIRST_HEAD,
    FORMAT,
    SECRET_BYTES,
    SLOT_BYTES,
    Kind,
    Record,
    claimed,
    claimed_format,
    newer,
    read,
)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a ledger held. The caller replays the events over the snapshot, then calls `Ledger.settle`."""

    snapshot: bytes
    events: tuple[bytes, ...]
    repairs: tuple[str, ...]  # sentences about damage
    notes: tuple[str, ...]  # sentences about what a power cut leaves
    secret: bytes
    seq: int
    head: bytes
    fill_bytes: int  # of each log, where they are even
    worse_first: tuple[int, ...]
    is_even: bool  # two whole logs, nothing to be said of them, that end at the same place


class UnfinishedError(LedgerMissingError):
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
        if self.first is None:  # then nothing says where the newest one stands
            return bool(self.unreadable)
        claim = claimed(self.content, self.last)
        span = range(self.last, self.last + (claim.size_bytes if claim else SLOT_BYTES), SLOT_BYTES)
        return not self.unreadable.isdisjoint(span)


def recover(areas: Sequence[Area]) -> Recovered:
    """Read what the areas hold. Raises LedgerMissing-, LedgerCorrupt-, LedgerNewer- or another StorageError."""
    logs = [_Log(name, area) for name, area in zip("ab", areas, strict=True)]
    start = max((log.first for log in logs if log.first), key=lambda first: first.seq, default=None)
    if start is None:
        raise _no_snapshot(logs)
    secret = start.body[:SECRET_BYTES]
    if any(log.first and log.first.body[:SECRET_BYTES] != secret for log in logs):
        raise LedgerCorruptError("cannot read the ledger: its two logs are of two different ledgers")
    for log in logs:
        log.look(secret)
    try:
        events, seq, head = _follow(start, logs)
    except LedgerCorruptError as error:
        if all(log.unreadable for log in logs):
            raise StorageError(f"{error}; pages of both logs cannot be read") from error  # it may be there again
        raise
    if all(log.hides_more() for log in logs):
        raise StorageError(f"cannot read the ledger: no log shows whether a record follows {seq}")
    told = [_judge(log, seq, head) for log in logs]
    return Recovered(
        snapshot=start.body[SECRET_BYTES:],
        events=events,
        repairs=tuple(text for is_damage, text in told if text and is_damage),
        notes=tuple(text for is_damage, text in told if text and not is_damage),
        secret=secret,
        seq=seq,
        head=head,
        fill_bytes=logs[0].end,
        worse_first=tuple(sorted((0, 1), key=lambda place: logs[place].reach)),
        is_even=not any(text for _, text in told) and logs[0].end == logs[1].end,
    )


def _follow(start: Record, logs: Sequence[_Log]) -> tuple[tuple[bytes, ...], int, bytes]:
    """The bodies of the EVENTs after a snapshot, and where they end; a snapshot holds the head that it was made at."""
    known: dict[tuple[int, bytes], Record] = {}
    for each in (*logs[0].run, *logs[1].run, *logs[0].rest, *logs[1].rest):
        known.setdefault((each.seq, each.prev), each)
    seq, head = start.seq, start.prev
    heads, events = {seq: head}, []
    while (record := known.get((seq + 1, head))) is not None:
        events.append(record.body)
        seq, head = record.seq, record.head
        heads[seq] = head
    why = ""
    if (last := max((number for number, _ in known), default=0)) > seq:
        why = f"record {last} is whole, but record {seq + 1} is not"
    elif any(heads.get(log.reach, log.head) != log.head for log in logs):
        why = "its two logs hold two different histories"
    elif (begun := _last_begun(logs)) > seq + 1:
        why = f"record {begun} was begun in both logs, but record {seq + 1} is not whole"
    if why:
        raise LedgerCorruptError(
            f"cannot read the ledger: {why}", snapshot=start.body[SECRET_BYTES:], events=tuple(events)
        )
    return tuple(events), seq, head


def _judge(log: _Log, seq: int, head: bytes) -> tuple[bool, str]:
    """What is to be said of a log, and whether it is damage; "" where it is as it should be."""
    claim = claimed(log.content, log.end)
    if log.unreadable:
        return True, f"log {log.name} had {len(log.unreadable)} pages that cannot be read"
    if log.first is None:
        is_cut = seq == 0 or (
            claim is not None and (claim.kind, claim.prev) == (Kind.SNAPSHOT, head) and claim.seq - seq in {0, 1}
        )
        return not is_cut, f"log {log.name} had no whole snapshot" + ": a rewrite was interrupted" * is_cut
    if log.reach < seq:  # one behind is what a cut during a commit leaves
        return log.reach < seq - 1, f"log {log.name} was whole up to record {log.reach} of {seq}"
    is_torn = claim is not None and (claim.kind, claim.seq) == (Kind.EVENT, seq + 1)
    return False, f"record {seq + 1} in log {log.name} was not whole and is discarded" * is_torn


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
        return UnfinishedError("cannot read the ledger: making it was interrupted; make it again")
    if any(claimed(log.content, offset) for log in logs for offset in range(0, len(log.content), SLOT_BYTES)):
        return LedgerCorruptError("cannot read the ledger: neither log begins with a whole snapshot")
    return LedgerMissingError("cannot read the ledger: there is none")
