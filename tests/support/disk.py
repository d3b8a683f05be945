"""A disk in memory that notes every write and sync, and what a power cut may leave of it.

Rules: what is written reaches the disk with the next sync at the latest; before it, any subset of its 512-byte sectors
may have arrived, and the 4 KiB page in flight may be lost as a whole (old content gone). `Disk.is_honest` False: syncs
do nothing, for negative controls.

What this module does not do: it knows no records.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

SECTOR_BYTES, PAGE_BYTES = 512, 4096


@dataclass
class Disk:
    """One area; implements `store.area.Area`."""

    content: bytearray  # as a reader sees it now
    durable: bytearray = field(init=False)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    is_honest: bool = True
    written: list[tuple[int, bytes]] = field(default_factory=list)  # ever
    unreadable: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.durable = bytearray(self.content)

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def device(self) -> object:
        return id(self)

    def read(self) -> memoryview:
        return memoryview(bytes(self.content))

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        self.pending.append((offset, data))
        self.written.append((offset, data))

    def sync(self) -> None:
        if self.is_honest:
            for offset, data in self.pending:
                self.durable[offset : offset + len(data)] = data
            self.pending.clear()

    def close(self) -> None:
        """Nothing to give back."""


def after_power_cut(disk: Disk, chance: random.Random, mode: str) -> bytearray:
    """The content of a disk after a cut: `none`, `all` or a `part` of what was not synced; `torn`: a page is gone."""
    left = bytearray(disk.durable)
    for offset, data in disk.pending:
        for start in range(0, len(data), SECTOR_BYTES):
            if mode == "all" or (mode in {"part", "torn"} and chance.random() < 0.5):
                left[offset + start : offset + start + SECTOR_BYTES] = data[start : start + SECTOR_BYTES]
    if mode == "torn" and disk.pending:
        offset, data = chance.choice(disk.pending)
        page = offset // PAGE_BYTES * PAGE_BYTES + chance.randrange(-(-len(data) // PAGE_BYTES)) * PAGE_BYTES
        left[page : page + PAGE_BYTES] = chance.randbytes(PAGE_BYTES)
    return left


MODES = ("none", "all", "part", "torn")


def every_cut(disks: list[Disk], chance: random.Random) -> Iterator[list[bytearray]]:
    """States that a cut at this instant may leave, one for each mode."""
    for mode in MODES:
        yield [after_power_cut(disk, chance, mode) for disk in disks]
