"""The clocks; the one place where time is read.

Rules (LICENSING §5): the wall clock counts only where the kernel says that it is synchronised; CLOCK_BOOTTIME goes on
during suspend. What time to believe is decided in `domain.trusted_time`.

What this module does not do: it sets no clock and asks no service about time: `timedatectl` is a process and a bus call
for one bit that the kernel has.
"""

from __future__ import annotations

import ctypes
import time

from smartserver_licensed.domain.trusted_time import Reading

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)) and room for the rest; the same on 32 and 64 bits."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


class SystemClocks:
    """The kernel's clocks."""

    def __init__(self) -> None:
        self._adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex

    def monotonic(self) -> float:
        """Seconds that never go back; for pauses and lifetimes."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, for people to read; no rule does."""
        return time.time_ns() // 1_000_000

    def reading(self) -> Reading:
        """All that rules need to know of the time, read at one instant."""
        return Reading(
            wall_s=int(time.time()),
            boottime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            is_synchronised=self._is_synchronised(),
        )

    def _is_synchronised(self) -> bool:
        """What adjtimex(2) says; `modes` is 0, so it only reads. False where a sandbox forbids the call."""
        timex = _Timex()
        state = self._adjtimex(ctypes.byref(timex))
        return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC
