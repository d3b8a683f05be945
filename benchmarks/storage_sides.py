"""Who takes part: each store on a loop device of its own.

Rules: all devices are of 16 MiB and on the same disk; the first two are our ledger as it is on a SmartServer, called
bare and through its thread.

What this module does not do: it measures nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.loop_device import Device, ext4, loop_device
from benchmarks.other_stores import LmdbRows, LmdbTable, SqliteRows, SqliteTable
from benchmarks.stores import OurLedger, OurWriter, Store, a_commit


@dataclass(slots=True)
class Side:
    """One store on its device; `path` is the device, or a directory on it. `devices` change in each commit."""

    key: str
    what: str
    store: Store
    device: Device
    path: Path
    devices: int = 1
    commits: int = 0

    def commit(self) -> float:
        """One; the seconds it took."""
        self.commits += 1
        return self.store.commit(a_commit(self.devices))

    @property
    def is_raw(self) -> bool:
        """Whether it is the ledger as it is on a SmartServer."""
        return self.path == self.device.path


@contextlib.contextmanager
def sides(directory: Path) -> Iterator[list[Side]]:
    """All of them, ours first."""
    with contextlib.ExitStack() as stack:

        def side(key: str, what: str, make: Callable[[Path], Store], *, devices: int = 1, is_raw: bool = False) -> Side:
            name = key or "ledger"
            device = stack.enter_context(loop_device(directory / f"{name}.img"))
            path = device.path if is_raw else stack.enter_context(ext4(device, directory / name))
            store = make(path)
            stack.callback(store.close)
            return Side(key, what, store, device, path, devices)

        yield [
            side("", "the ledger on a raw device", OurLedger, is_raw=True),
            side("writer", "  through its thread", OurWriter, is_raw=True),
            side("10", "  10 devices a commit", OurLedger, devices=10, is_raw=True),
            side("100", "  100 devices a commit", OurLedger, devices=100, is_raw=True),
            side("ext4", "  two files on ext4", OurLedger),
            side("sqlite", "SQLite, a new row a commit", SqliteRows),
            side("sqlite.10", "  10 devices a commit, in place", SqliteTable, devices=10),
            side("lmdb", "LMDB, a new pair a commit", LmdbRows),
            side("lmdb.10", "  10 devices a commit, in place", LmdbTable, devices=10),
        ]
