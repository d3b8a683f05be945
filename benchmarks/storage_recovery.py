"""How long a full ledger with 4,000 devices takes to come up, beside a bare read of the same bytes.

Rules: opened, replayed and settled as `controller.keeper` does it; before each time the full ledger is put back, and
read bare past the page cache (O_DIRECT) as the ledger is; what was recovered is checked, or fast would be easy.

What this module does not do: it starts no process (`start`).
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from benchmarks.loop_device import Device, loop_device, write_all
from benchmarks.stores import OurLedger, a_commit, full_state
from benchmarks.table import Aim, Figures, Row
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_snapshot
from smartserver_licensed.store.area import AREA_BYTES, Place
from smartserver_licensed.store.log import Ledger
from smartserver_licensed.store.record import SECRET_BYTES, SLOT_BYTES, size_on_disk
from smartserver_licensed.store.recovery import Recovered

_T = TypeVar("_T")
_MS = 1e3
_AIM = Aim("<= 1 s", at_most=1_000.0, is_value=True)
_FULL_AIM = Aim("<= 2 s", at_most=2_000.0, is_value=True)
_BYTES = 2 * AREA_BYTES
_IN_A_SLOT = 100  # events that fill a slot


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds of its parts, and the bytes that it wrote."""

    read_bare: float
    opened: float
    replayed: float
    settled: float
    written_bytes: int

    @property
    def whole(self) -> float:
        """All that the ledger does."""
        return self.opened + self.replayed + self.settled


def measure(directory: Path, *, is_short: bool) -> tuple[list[Row], float]:
    """The rows, with a log of single events and with one of full slots; and the KB that a repairing start writes."""
    with loop_device(directory / "recovery.img") as device:
        single = _recoveries(device, 1, 5 if is_short else 30)
        full = _recoveries(device, _IN_A_SLOT, 2 if is_short else 10)
    rows = [
        *_rows("recovery", "recovery of a full ledger", single, _AIM),
        *_rows("full", f"  {_IN_A_SLOT} events in each record", full, _FULL_AIM),
    ]
    return rows, single[0].written_bytes / 1e3


def _rows(key: str, what: str, each: Sequence[Recovery], aim: Aim) -> list[Row]:
    def row(part: str, what: str, seconds: Sequence[float]) -> Row:
        return Row(f"{key}.{part}", f"    {what}", "ms", Figures.of(seconds, scale=_MS))

    limit = Figures.of((one.read_bare for one in each), scale=_MS)
    return [
        Row(key, what, "ms", Figures.of((one.whole for one in each), scale=_MS), limit, aim=aim),
        row("open", "opened: read and verified", [one.opened for one in each]),
        row("replay", "replayed", [one.replayed for one in each]),
        row("settle", "both logs rewritten, as after damage", [one.settled for one in each]),
    ]


def _recoveries(device: Device, devices: int, count: int) -> list[Recovery]:
    content, commits = _full(device, devices)
    _recover(device, content, commits)  # the first time does not count
    return [_recover(device, content, commits) for _ in range(count)]


def _full(device: Device, devices: int) -> tuple[bytes, int]:
    """A ledger that has room for nothing more, as bytes, and the number of its commits."""
    _put(device, bytes(_BYTES))
    ledger = OurLedger(device.path)
    snapshot_bytes = size_on_disk(SECRET_BYTES + len(encode_snapshot(full_state())))
    commits = (AREA_BYTES - snapshot_bytes) // SLOT_BYTES
    for _ in range(commits):
        ledger.commit(a_commit(devices))
    ledger.close()
    return _read(device), commits


def _recover(device: Device, content: bytes, commits: int) -> Recovery:
    _put(device, content)
    read_bare, _ = _timed(lambda: _read(device))
    before = device.written
    place = Place(device.path)
    opened, ledger = _timed(lambda: Ledger(place.areas()))
    replayed, state = _timed(lambda: _replay(ledger.recovered))
    found = len(ledger.recovered.events)
    settled, _ = _timed(lambda: ledger.settle(encode_snapshot(state), is_changed=True))
    written = device.written - before
    assert found == commits, "the log was not full"
    assert state == full_state(), "what was recovered is not what was written"
    place.close()
    return Recovery(read_bare, opened, replayed, settled, written.bytes)


def _replay(recovered: Recovered) -> LedgerState:
    state = decode_snapshot(recovered.snapshot)
    for body in recovered.events:
        for event in decode_events(body):
            state.apply(event)
    return state


def _timed(call: Callable[[], _T]) -> tuple[float, _T]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def _put(device: Device, content: bytes) -> None:
    with device.path.open("r+b", buffering=0) as file:
        file.write(content)
    write_all(device.path)


def _read(device: Device) -> bytes:
    with mmap.mmap(-1, _BYTES) as buffer:  # O_DIRECT wants memory on a page's border
        fd = os.open(device.path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        try:
            assert os.readv(fd, [buffer]) == _BYTES
        finally:
            os.close(fd)
        return buffer[:]
