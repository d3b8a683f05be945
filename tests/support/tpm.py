"""A TPM for tests: swtpm as a process of its own, spoken to through its socket by the real tpm2-tools.

Rules: its memory lives in one temporary directory and survives `remove` and `insert`, as that of a chip does; `clear`
is what a BIOS does ("clear TPM"): counters are gone. It ends with its context.

What this module does not do: it knows no anchor and no ledger.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

_START_LIMIT_S = 10.0


class Tpm:
    """One TPM. A context manager: it is there, and works, inside."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tpm-"))  # short: a socket's path has 108 characters at most
        self._socket = self._directory / "socket"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def tcti(self) -> str:
        """How tpm2-tools find it."""
        return f"swtpm:path={self._socket}"

    def __enter__(self) -> Tpm:  # noqa: PYI034 - typing.Self is Python 3.11's
        try:
            self.insert()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
        shutil.rmtree(self._directory, ignore_errors=True)

    def insert(self) -> None:
        """Power it up, with all that it knew."""
        control = Path(f"{self._socket}.ctrl")  # where tpm2-tools look for it
        self._process = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--flags", "not-need-init,startup-clear"),
                *("--tpmstate", f"dir={self._directory}"),
                *("--server", f"type=unixio,path={self._socket}"),
                *("--ctrl", f"type=unixio,path={control}"),
            ],
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + _START_LIMIT_S
        while not (self._socket.exists() and control.exists()):
            assert self._process.poll() is None, "swtpm ended at once"
            assert time.monotonic() < end, f"swtpm has no socket after {_START_LIMIT_S} s"
            time.sleep(0.01)

    def remove(self) -> None:
        """Take it away: whoever asks finds nobody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for name in ("socket", "socket.ctrl"):
            (self._directory / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Clear it, as a BIOS does: all that its owner made in it is gone."""
        self.run("tpm2_clear", "-c", "p")

    def run(self, program: str, *arguments: str) -> bytes:
        """One of the tpm2-tools on it; what it prints."""
        done = subprocess.run(
            [program, *arguments],
            check=True,
            capture_output=True,
            env={**os.environ, "TPM2TOOLS_TCTI": self.tcti},
            timeout=60,
        )
        return done.stdout
