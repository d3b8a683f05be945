"""Where the power goes in a recording, and what it leaves of the disk.

Rules:
- it goes after a write or a flush. Of what no flush covers *all* may have arrived (the prefix), *none*, a *part* (any
  512-byte sectors), or a part without one 4 KiB page in flight, of which *zeros* or *garbage* is left;
- the same recording, cut and seed give the same bytes at every run.

What this module does not do: it recovers nothing and knows no records.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from crash.recorded_disk import Event, Flush, Write
from support.disk import PAGE_BYTES, SECTOR_BYTES

LOSSES = ("all", "none", "part", "zeros", "garbage")


@dataclass(frozen=True, slots=True)
class Cut:
    """The power goes after the event of this number; `loss`: what becomes of that which no flush covers."""

    position: int
    loss: str
    seed: int

    def __str__(self) -> str:
        return f"cut after event {self.position} (loss {self.loss}, seed {self.seed})"

    @property
    def is_page_lost(self) -> bool:
        """Whether a page is damaged by it: a drive that tears within its own page."""
        return self.loss in {"zeros", "garbage"}

    @property
    def chance(self) -> random.Random:
        """The same at every run."""
        return random.Random(f"{self.seed} {self.position} {self.loss}")


def every_cut(events: Sequence[Event], seed: int) -> list[Cut]:
    """Each write and each flush with each loss that makes a difference."""
    cuts: list[Cut] = []
    unflushed: list[int] = []
    for position, event in enumerate(events):
        if isinstance(event, Write):
            unflushed.append(position)
        elif isinstance(event, Flush):
            unflushed = [each for each in unflushed if each >= event.began]
        else:
            continue
        cuts += [Cut(position, loss, seed) for loss in (LOSSES if unflushed else LOSSES[:1])]
    return cuts


def some_cuts(events: Sequence[Event], count: int, seed: int) -> list[Cut]:
    """So many, in the order of the recording; more than `every_cut` gives: again with other seeds."""
    cuts = every_cut(events, seed)
    chance = random.Random(seed)
    if len(cuts) >= count:
        return sorted(chance.sample(cuts, count), key=lambda cut: cut.position)
    random_ones = [cut for cut in cuts if cut.loss in LOSSES[2:]]
    for again in range(seed + 1, seed + count):
        missing = count - len(cuts)
        if not random_ones or missing <= 0:
            break
        more = [Cut(cut.position, cut.loss, again) for cut in random_ones]
        cuts += more if len(more) <= missing else chance.sample(more, missing)
    return sorted(cuts, key=lambda cut: cut.position)


def after(image: bytes | bytearray, events: Sequence[Event], cuts: Iterable[Cut]) -> Iterator[tuple[Cut, bytearray]]:
    """What each cut leaves on the disk; `cuts` in the order of their positions."""
    durable, unflushed, reached = bytearray(image), list[tuple[int, Write]](), 0
    for cut in cuts:
        for number in range(reached, cut.position + 1):
            event = events[number]
            if isinstance(event, Write):
                unflushed.append((number, event))
            elif isinstance(event, Flush):
                for _, write in (each for each in unflushed if each[0] < event.began):
                    _put(durable, write.offset, write.data)
                unflushed = [each for each in unflushed if each[0] >= event.began]
        reached = max(reached, cut.position + 1)
        yield cut, _left(durable, [write for _, write in unflushed], cut)


def _left(durable: bytearray, unflushed: Sequence[Write], cut: Cut) -> bytearray:
    left, chance = bytearray(durable), cut.chance
    share = chance.choice((0.1, 0.5, 0.9))
    for write in unflushed:
        for start in range(0, len(write.data), SECTOR_BYTES):
            if cut.loss == "all" or (cut.loss != "none" and chance.random() < share):
                _put(left, write.offset + start, write.data[start : start + SECTOR_BYTES])
    if cut.is_page_lost:
        write = chance.choice(unflushed)
        first, last = write.offset // PAGE_BYTES, (write.offset + len(write.data) - 1) // PAGE_BYTES
        page = chance.randint(first, last) * PAGE_BYTES
        _put(left, page, bytes(PAGE_BYTES) if cut.loss == "zeros" else chance.randbytes(PAGE_BYTES))
    return left


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content[offset : offset + len(data)] = data
