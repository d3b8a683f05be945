"""What time it is, as far as rules may believe it.

Rules (LICENSING §5):
- `now` is the larger of (last durable mark + time since boot that passed meanwhile) and the wall clock where it is
  synchronised; the mark never falls but by a newer grant, which sets it;
- a synchronised clock that is ahead is believed while it is, and for good once something is made durable meanwhile;
- no time before the build's is believed: `keeper` begins with it, also after a grant;
- a clock set back changes nothing and is reported; grace is counted in time of running, not here.

What this module does not do: it reads no clock; a reading is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from .status import Clock

_TOLERANCE_S = 120


@dataclass(frozen=True, slots=True)
class Reading:
    """The clocks at one instant. `wall_s` since 1970 UTC, `boottime_s` since the kernel's start, suspend included."""

    wall_s: int
    boottime_s: float
    is_synchronised: bool


@dataclass(frozen=True, slots=True)
class TrustedTime:
    """A time that was believed, and the boot time of that instant."""

    mark_s: int
    at_boottime_s: float

    def now(self, reading: Reading) -> int:
        """Seconds since 1970 UTC, as rules may believe them."""
        carried = self.mark_s + max(0, int(reading.boottime_s - self.at_boottime_s))
        return max(carried, reading.wall_s) if reading.is_synchronised else carried

    def marked(self, reading: Reading) -> TrustedTime:
        """The same time, marked anew at this reading; fractions of a second are carried, however often it is marked."""
        now_s = self.now(reading)
        carried_s = max(0, int(reading.boottime_s - self.at_boottime_s))
        is_carried = now_s == self.mark_s + carried_s
        return TrustedTime(now_s, self.at_boottime_s + carried_s if is_carried else reading.boottime_s)

    def condition(self, reading: Reading) -> Clock:
        """What to report of the wall clock."""
        if not reading.is_synchronised:
            return Clock.UNSYNCHRONISED
        return Clock.SET_BACK if reading.wall_s + _TOLERANCE_S < self.now(reading) else Clock.OK
