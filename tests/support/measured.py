"""The real daemon with its loop under a stopwatch: how long each callback keeps everything else waiting.

    python tests/support/measured.py REPORT --config FILE

Rules:
- it is the daemon's own `main`, in a process of its own; only `asyncio`'s call of a callback is timed, in wall time and
  in CPU time of its thread: on a busy machine only the latter says what the daemon itself does;
- SIGUSR1 and the end write REPORT as JSON (a whole file or none) and begin a new count;
- a second thread looks where a callback is that lasts; what it sees is the place to look at, and measures nothing.

What this module does not do: it judges no figure; a test does. It sees no time between callbacks (the selector).
"""

from __future__ import annotations

import asyncio.events
import gc
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any

LONG_S = 0.05
_LOOK_INTERVAL_S = 0.01
_LOOK_AFTER_S = 0.03
_SHOWN_FRAMES = 8


@dataclass
class Report:
    """What was measured since the last one. Seconds; `slowest` and `where` belong to `longest_cpu_s`."""

    callbacks: int = 0
    cpu_s: float = 0.0
    longest_cpu_s: float = 0.0
    longest_wall_s: float = 0.0
    long_by_cpu: int = 0  # callbacks over LONG_S
    long_by_wall: int = 0
    longest_collection_s: float = 0.0  # of garbage, in CPU time; within some callback
    slowest: str = ""
    where: list[str] = field(default_factory=list)  # places in the code, outermost first

    @classmethod
    def read(cls, path: Path) -> Report:
        """The last report written."""
        return cls(**json.loads(path.read_text()))

    def __str__(self) -> str:
        places = "".join(f"\n    {each}" for each in self.where)
        return (
            f"{self.callbacks:,} callbacks, {self.cpu_s:.1f} s of CPU; the longest {self.longest_cpu_s * 1e3:.1f} ms"
            f" of CPU ({self.longest_wall_s * 1e3:.1f} ms by the clock), over {LONG_S * 1e3:.0f} ms: {self.long_by_cpu}"
            f" ({self.long_by_wall}); garbage: {self.longest_collection_s * 1e3:.1f} ms; {self.slowest}{places}"
        )


def program(report: Path) -> tuple[str, ...]:
    """What to start in place of the installed program."""
    return (sys.executable, str(Path(__file__)), str(report))


def take(pid: int, report: Path, *, timeout_s: float = 20.0) -> Report:
    """What was measured since the last time; the daemon `pid` begins a new count. Raises TimeoutError."""
    report.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + timeout_s
    while not report.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"cannot take a report: the daemon wrote none within {timeout_s} s")
        time.sleep(0.01)
    return Report.read(report)


class Stopwatch:
    """Times every callback of every loop in this process; `install` once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._report = Report()
        self._thread = threading.get_ident()
        self._began_at: float | None = None  # of the callback that runs now, as far as another thread may look
        self._seen: tuple[float, list[str]] = (0.0, [])  # which callback was looked at, and where it was
        self._collection_at = 0.0

    def install(self) -> None:
        """From now on."""
        run = asyncio.events.Handle._run
        asyncio.events.Handle._run = lambda handle: self._time(handle, run)  # type: ignore[assignment,method-assign]
        gc.callbacks.append(self._on_collection)
        signal.signal(signal.SIGUSR1, lambda *_: self.write())
        threading.Thread(target=self._look, name="look", daemon=True).start()

    def write(self) -> None:
        """Write the report and begin a new one."""
        done, self._report = self._report, Report()
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({each.name: getattr(done, each.name) for each in fields(done)}))
        fresh.replace(self._path)

    def _time(self, handle: asyncio.Handle, run: Callable[[Any], None]) -> None:
        name = _name(handle)  # before: it may be gone afterwards
        began_at, cpu_before = time.perf_counter(), time.thread_time()
        self._began_at = began_at
        try:
            run(handle)
        finally:
            cpu_s, wall_s = time.thread_time() - cpu_before, time.perf_counter() - began_at
            self._began_at = None
            self._note(name, began_at, cpu_s, wall_s)

    def _note(self, name: Callable[[], str], began_at: float, cpu_s: float, wall_s: float) -> None:
        report = self._report
        report.callbacks += 1
        report.cpu_s += cpu_s
        report.longest_wall_s = max(report.longest_wall_s, wall_s)
        report.long_by_wall += wall_s > LONG_S
        report.long_by_cpu += cpu_s > LONG_S
        if cpu_s > report.longest_cpu_s:
            report.longest_cpu_s, report.slowest = cpu_s, name()
            seen_at, where = self._seen
            report.where = where if seen_at == began_at else []

    def _on_collection(self, phase: str, _info: dict[str, int]) -> None:
        now_s = time.thread_time()
        if phase == "start":
            self._collection_at = now_s
        else:
            self._report.longest_collection_s = max(self._report.longest_collection_s, now_s - self._collection_at)

    def _look(self) -> None:
        """Where a callback is that lasts, once for each; in a thread of its own."""
        while True:
            time.sleep(_LOOK_INTERVAL_S)
            began_at = self._began_at
            if began_at is None or self._seen[0] == began_at or time.perf_counter() - began_at < _LOOK_AFTER_S:
                continue
            frame = sys._current_frames().get(self._thread)
            if frame is not None and self._began_at == began_at:
                self._seen = (began_at, _places(frame))


def _name(handle: asyncio.Handle) -> Callable[[], str]:
    """How to call what the handle calls; asked for the slowest only."""
    callback = handle._callback  # type: ignore[attr-defined]

    def name() -> str:
        task = getattr(callback, "__self__", None)
        if isinstance(task, asyncio.Task):
            return f"task {getattr(task.get_coro(), '__qualname__', task.get_name())}"
        return str(getattr(callback, "__qualname__", repr(callback)))

    return name


def _places(frame: FrameType) -> list[str]:
    stack = traceback.extract_stack(frame)[-_SHOWN_FRAMES:]
    return [f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in stack]


def main() -> int:
    """The daemon, measured; its exit code."""
    from smartserver_licensed import daemon  # noqa: PLC0415 - the tests that read reports need no daemon

    watch = Stopwatch(Path(sys.argv[1]))
    watch.install()
    try:
        return daemon.main(sys.argv[2:])
    finally:
        watch.write()


if __name__ == "__main__":
    sys.exit(main())
