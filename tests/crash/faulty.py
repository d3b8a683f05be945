"""Run a Python program some of whose calls on one device fail in ways that strace cannot do honestly.

Rules: `short`: the n-th `pwrite` really writes the first 512 bytes only; `close`: the n-th `close` really closes and
then fails, as Linux does it; `nosync`: the n-th `fdatasync` says that it is done and does nothing, for controls; each
strike is noted in a trace, in strace's form; they end when the flag is gone.

What this module does not do: it fails no call on anything else than the device.

Usage: faulty.py DEVICE TRACE FLAG short|close|nosync N[+] PROGRAM ARGUMENT…
"""

from __future__ import annotations

import errno
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

_SHORT_BYTES = 512
_close, _fdatasync, _pwrite = os.close, os.fdatasync, os.pwrite


class Strikes:
    """Counts the calls on the device and says which of them fails."""

    def __init__(self, device: str, trace: Path, flag: Path, when: str) -> None:
        self._device = device
        self._trace = trace
        self._flag = flag
        self._nth = int(when.rstrip("+"))
        self._is_lasting = when.endswith("+")
        self._count = 0

    def now(self, fd: int, call: str) -> bool:
        """Whether this call is to fail."""
        try:
            if os.readlink(f"/proc/self/fd/{fd}") != self._device:
                return False
        except OSError:
            return False
        self._count += 1
        is_due = self._count >= self._nth if self._is_lasting else self._count == self._nth
        if not is_due or not self._flag.exists():
            return False
        with self._trace.open("a") as trace:
            trace.write(f"{os.getpid()} {time.time():.6f} {call}({fd}) (INJECTED)\n")
        return True


def main(device: str, trace: str, flag: str, call: str, when: str, *program: str) -> None:
    """Patch the call and run the program in this process."""
    strikes = Strikes(device, Path(trace), Path(flag), when)

    def close(fd: int) -> None:
        is_due = strikes.now(fd, "close")
        _close(fd)
        if is_due:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def pwrite(fd: int, data: Any, offset: int) -> int:  # noqa: ANN401 - any buffer, as os.pwrite
        return _pwrite(fd, memoryview(data)[:_SHORT_BYTES] if strikes.now(fd, "pwrite") else data, offset)

    def fdatasync(fd: int) -> None:
        if not strikes.now(fd, "fdatasync"):
            _fdatasync(fd)

    name, patched = {"close": ("close", close), "short": ("pwrite", pwrite), "nosync": ("fdatasync", fdatasync)}[call]
    setattr(os, name, patched)
    sys.argv = list(program)
    runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
