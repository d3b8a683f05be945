"""Starts a program of ours in a world whose clock is a file: `python simulated.py CLOCK daemon|authority ARGUMENTS…`.

Rules: the file holds how many seconds the world is ahead of this machine, as one double; it may change at any time.
Only what reads the kernel's clocks is replaced: the daemon's one adapter, and `time.time` for the authority. The
kernel's word that the clock is synchronised is taken as given.

What this module does not do: it changes nothing else of the programs.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path


def ahead_of(clock: Path) -> Callable[[], float]:
    """What reads from the file how far ahead the world is, in seconds."""
    with clock.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    return lambda: float(struct.unpack_from("<d", mapped)[0])


def _daemon(ahead_s: Callable[[], float], arguments: list[str]) -> int:
    from smartserver_licensed import daemon  # noqa: PLC0415 - each program loads its own parts only
    from smartserver_licensed.adapters import clock  # noqa: PLC0415
    from smartserver_licensed.domain.trusted_time import Reading  # noqa: PLC0415

    class WorldClocks(clock.SystemClocks):
        def monotonic(self) -> float:
            return super().monotonic() + ahead_s()

        def wall_ms(self) -> int:
            return super().wall_ms() + int(ahead_s() * 1_000)

        def reading(self) -> Reading:
            now, ahead = super().reading(), ahead_s()
            return Reading(now.wall_s + int(ahead), now.boottime_s + ahead, is_synchronised=True)

    clock.SystemClocks = WorldClocks  # type: ignore[misc]
    return daemon.main(arguments)


def _authority(ahead_s: Callable[[], float], arguments: list[str]) -> int:
    machine_time = time.time
    time.time = lambda: machine_time() + ahead_s()
    from license_authority.main import main  # noqa: PLC0415

    return main(arguments)


if __name__ == "__main__":
    _, clock_file, program, *rest = sys.argv
    sys.exit({"daemon": _daemon, "authority": _authority}[program](ahead_of(Path(clock_file)), rest))
