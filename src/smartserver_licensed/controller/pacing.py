"""How fast `lic` may leave: a burst that a subscriber's queue at the broker holds, then a steady pace.

Rules (measured, ADR 0013): mosquitto keeps 1,000 messages for a subscriber that is slower than we are and drops the
rest without a word. A burst of 900 fits; 1,500 a second is less than an engine takes.

What this module does not do: it keeps no message; what may not leave yet waits with its sender.
"""

from __future__ import annotations

BURST = 900
PER_SECOND = 1_500
_WORTHWHILE = 15  # messages; to be woken for each one would cost more than it brings


class Pace:
    """A token bucket. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at_s = 0.0

    def left(self, now_s: float) -> int:
        """How many messages may leave now."""
        self._left = min(BURST, self._left + (now_s - self._at_s) * PER_SECOND)
        self._at_s = now_s
        return int(self._left)

    def spend(self) -> None:
        """One message leaves."""
        self._left -= 1

    def more_at(self) -> float:
        """When some more may leave."""
        return self._at_s + max(0.0, _WORTHWHILE - self._left) / PER_SECOND
