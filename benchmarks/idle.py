"""(h) what the daemon costs while nothing happens: CPU time and wake-ups in 60 s with 1,000 devices.

Rules: beside it, over the same seconds, a bare paho client that waits on the same broker (it wakes up for its keepalive
too); the figures are of windows, each scaled to 60 s.

What this module does not do: it sends nothing.
"""

from __future__ import annotations

import time

from benchmarks import process
from benchmarks.smartserver import ECHO_SID, Measured, beside
from benchmarks.table import Figures, Row

_WINDOWS = 6
_FOR_S = 60.0
_LIMIT_WHAT = "a bare paho client, waiting"


def measure(box: Measured, *, is_short: bool) -> list[Row]:
    """The rows of (h)."""
    window_s = 1.0 if is_short else 10.0
    with beside("reference", "echo", str(box.broker.port), ECHO_SID) as bare:
        time.sleep(1.0)
        windows = [_window((box.pid, bare.pid), window_s) for _ in range(_WINDOWS)]
    cpu, bare_cpu, wakes, bare_wakes = (
        Figures.of(each, scale=_FOR_S / window_s) for each in zip(*windows, strict=True)
    )
    note = f"{_WINDOWS} windows of {window_s:.0f} s, scaled to 60 s"
    return [
        Row("h", "idle 60 s, 1,000 devices: CPU", "ms", cpu, bare_cpu, _LIMIT_WHAT, note=note),
        Row("h.wake", "  wake-ups", "times", wakes, bare_wakes, _LIMIT_WHAT),
    ]


def _window(pids: tuple[int, int], window_s: float) -> tuple[float, ...]:
    """CPU milliseconds of each, then wake-ups of each."""
    before = [1e3 * process.cpu_s(pid) for pid in pids] + [process.wakeups(pid) for pid in pids]
    time.sleep(window_s)
    after = [1e3 * process.cpu_s(pid) for pid in pids] + [process.wakeups(pid) for pid in pids]
    return tuple(new - old for old, new in zip(before, after, strict=True))
