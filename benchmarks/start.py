"""(e) from the start to READY with 1,000 devices in the ledger, against a Python that imports the same libraries.

Rules: both say READY on a NOTIFY_SOCKET of ours, as to systemd, and take turns; the files are in the page cache.
"The same libraries" is whatever the daemon has imported that is not its own.

What this module does not do: the broker's retained facts come after READY.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import process
from benchmarks.smartserver import Measured
from benchmarks.table import Aim, Figures, Row
from support.box import BIN

_MS = 1e3
_LIMIT_S = 30.0
_IMPORTED = """
import sys
import smartserver_licensed.daemon
libraries = (each for each in sys.modules.items() if getattr(each[1], "__spec__", None))
print(*(name for name, _ in libraries if not name.startswith(("smartserver_licensed", "__"))))
"""
_REFERENCE = """
import os, signal, socket
for name in {names!r}.split():
    __import__(name)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


def measure(box: Measured, *, is_short: bool) -> list[Row]:
    """The row of (e); the box's daemon is down afterwards."""
    box.stop()
    program = [str(BIN / "smartserver-licensed"), "--config", str(box.config)]
    reference, modules = _import_only()
    ours, limit = [], []
    for command in (program, reference):
        _until_ready(command, box.directory)  # the first time modules may have to be compiled
    for _ in range(5 if is_short else 30):
        ours.append(_until_ready(program, box.directory))
        limit.append(_until_ready(reference, box.directory))
    aim = Aim("<= 2x", at_most=2.0)
    what = f"a Python that only imports the same {modules} modules"
    return [
        Row(
            "e",
            "start to READY, 1,000 devices",
            "ms",
            Figures.of(ours, scale=_MS),
            Figures.of(limit, scale=_MS),
            what,
            aim,
        )
    ]


def import_only_rss_mb(directory: Path) -> float:
    """Resident memory of a Python that only imports what the daemon imports."""
    with _ready(_import_only()[0], directory) as (program, _):
        return process.rss_mb(program.pid)


def _import_only() -> tuple[list[str], int]:
    """The reference's command, and the number of modules it imports."""
    names = subprocess.run([sys.executable, "-c", _IMPORTED], check=True, capture_output=True, text=True).stdout.strip()
    return [sys.executable, "-c", _REFERENCE.format(names=names)], len(names.split())


def _until_ready(command: Sequence[str], directory: Path) -> float:
    with _ready(command, directory) as (_, seconds):
        return seconds


@contextlib.contextmanager
def _ready(command: Sequence[str], directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], float]]:
    """The program once it has said READY, and the seconds until then; it is ended afterwards."""
    path = directory / "notify"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(_LIMIT_S)
        begin = time.perf_counter()
        environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
        program = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while b"READY=1" not in manager.recv(4_096).split(b"\n"):
                pass
            yield program, time.perf_counter() - begin
        finally:
            program.terminate()
            program.wait(_LIMIT_S)
