"""The grace of units that run beyond the capacity: one counter of hours of running.

Rules (LICENSING §3 "When capacity shrinks", §5):
- grace is counted in time of running, never in wall time: no clock jump can end one;
- it lasts as long as the document that ended says; 30 days for units that were adopted;
- the counter resets only after 30 days within capacity, so that a grace cannot be had again and again.

What this module does not do: it revokes nothing (`seats`) and does not say who may hear it (`withholding`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

DAY_S = 86_400
ADOPTION_GRACE_DAYS = 30
RESET_AFTER_S = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class Grace:
    """`allowed_s` and `used_s` of the grace, and `within_s`: how long there has been no excess. Seconds of running."""

    allowed_s: int = 0
    used_s: int = 0
    within_s: int = 0

    @property
    def has_ended(self) -> bool:
        """Whether units beyond the capacity may be revoked now."""
        return self.used_s >= self.allowed_s

    @property
    def remaining_s(self) -> int:
        """Seconds of running left."""
        return max(0, self.allowed_s - self.used_s)


def advanced(grace: Grace, *, elapsed_s: int, has_excess: bool) -> Grace:
    """The grace after `elapsed_s` seconds of running."""
    if has_excess:
        return replace(grace, used_s=grace.used_s + elapsed_s, within_s=0)
    within_s = grace.within_s + elapsed_s
    return Grace() if within_s >= RESET_AFTER_S else replace(grace, within_s=within_s)


def begun(grace: Grace, *, days: int) -> Grace:
    """The grace once a cause of excess grants `days`.

    A grace is never shortened until the counter was reset, also where the excess was away for a moment; the counter of
    what was used goes on in every case.
    """
    return replace(grace, allowed_s=max(grace.allowed_s, days * DAY_S), within_s=0)
