"""The service manager: readiness, the status line, and the watchdog that the main loop feeds.

Rules (sd_notify(3)):
- without NOTIFY_SOCKET nothing is sent and nothing fails;
- the watchdog is fed only by progress of the main loop, never by a timer: a loop that hangs must be killed;
- it is fed at most four times a watchdog interval, so that no batch pays for it.

What this module does not do: it knows no other means of the service manager; units are in `systemd/`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from sdnotify import SystemdNotifier  # type: ignore[import-untyped]

_SEND_TIMEOUT_S = 1.0


class Notifier:
    """What is told to systemd. Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID once."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.watchdog_s = _watchdog_s(environment)
        self._fed_at: float | None = None
        # SystemdNotifier looks in os.environ itself, and leaves an open socket behind where it finds nothing.
        self._notifier = SystemdNotifier() if environment.get("NOTIFY_SOCKET") else None
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.settimeout(_SEND_TIMEOUT_S)  # a service manager that hangs must not hang us

    def ready(self) -> None:
        """Started, or reloaded."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is being read anew; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1_000}")

    def stopping(self) -> None:
        """The daemon is on its way out."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """The one line that `systemctl status` shows."""
        self._send("STATUS=" + " ".join(text.splitlines()))

    def progressed(self) -> None:
        """The main loop has finished a batch."""
        if self.watchdog_s is None:
            return
        now_s = time.monotonic()
        if self._fed_at is None or now_s - self._fed_at >= self.watchdog_s / 4:
            self._fed_at = now_s
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Nothing is sent afterwards."""
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
        self._notifier = None

    def _send(self, text: str) -> None:
        if self._notifier is not None:
            # sdnotify encodes as Latin-1 and drops what does not fit, systemd reads UTF-8: so hand it UTF-8 as Latin-1.
            self._notifier.notify(text.encode("utf-8", "replace").decode("latin-1"))


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    microseconds = environment.get("WATCHDOG_USEC", "")
    is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not is_ours or not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1_000_000
