"""What a process costs, as the kernel counts it: CPU time, memory, wake-ups; and what machine this is.

What this module does not do: it starts and ends nothing.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.table import Json


def cpu_s(pid: int) -> float:
    """Seconds on a processor so far, user and system, all threads; counted in nanoseconds (schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def wakeups(pid: int) -> int:
    """How often a thread of it went to sleep by itself, and so was woken."""
    statuses = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(_field(status, r"voluntary_ctxt_switches:\s+(\d+)") for status in statuses)


def rss_mb(pid: int) -> float:
    """Resident memory, MB of 10^6 bytes."""
    return _field(Path(f"/proc/{pid}/status").read_text(), r"VmRSS:\s+(\d+) kB") * 1024 / 1e6


def pss_mb(pid: int) -> float:
    """The same, with shared pages divided among those who share them."""
    return _field(Path(f"/proc/{pid}/smaps_rollup").read_text(), r"Pss:\s+(\d+) kB") * 1024 / 1e6


def machine(directory: Path) -> dict[str, Json]:
    """Where this runs, and on what file system the state lies."""
    df = subprocess.run(["df", "-PT", str(directory)], check=True, capture_output=True, text=True)
    device, kind = df.stdout.splitlines()[1].split()[:2]
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    load: list[Json] = list(os.getloadavg())
    return {
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model.group(1) if model else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "mosquitto": _mosquitto(),
        "file_system": kind,
        "device": device,
        "load_before": load,
    }


def _mosquitto() -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    said = subprocess.run(
        ["mosquitto", "-h"], check=False, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    return said.stdout.partition("\n")[0].removeprefix("mosquitto version ")


def _field(text: str, pattern: str) -> int:
    found = re.search(rf"^{pattern}", text, re.MULTILINE)
    assert found is not None, pattern
    return int(found.group(1))
