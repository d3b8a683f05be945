"""What the installed grant entitles to, now: the capacity and the grace of what has ended.

Rules (LICENSING §1): capacity licenses add up and never expire; trial and emergency add to the capacity until their
absolute end. No grant means no capacity; nothing is wrong with that.

What this module does not do: it verifies nothing (`documents`) and gives no seat (`seats`).
"""

from __future__ import annotations

from collections.abc import Sequence

from .licenses import License, LicenseType

_CAPACITY_TYPES = frozenset({LicenseType.CAPACITY, LicenseType.TRIAL, LicenseType.EMERGENCY})


def capacity(licenses: Sequence[License], now_s: int) -> int:
    """Seats that the licenses give at `now_s` (seconds since 1970 UTC), the SmartServer's own included."""
    return sum(each.granted_total for each in _counting(licenses) if each.is_current(now_s))


def next_end(licenses: Sequence[License], now_s: int) -> int | None:
    """When the capacity shrinks next (seconds since 1970 UTC), or None."""
    return min(
        (each.expires_at for each in _counting(licenses) if each.expires_at and each.expires_at > now_s), default=None
    )


def ended_grace_days(licenses: Sequence[License], now_s: int) -> int | None:
    """Days of grace that the license which ended last says; None where none has ended."""
    ended = [each for each in _counting(licenses) if not each.is_current(now_s)]
    return max(ended, key=lambda each: each.expires_at or 0).grace_days if ended else None


def _counting(licenses: Sequence[License]) -> list[License]:
    return [each for each in licenses if each.type in _CAPACITY_TYPES]
