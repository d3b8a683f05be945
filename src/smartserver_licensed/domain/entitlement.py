"""What the installed grant entitles to, now: the capacity, the grace of what has ended, and the maintenance cover.

Rules (LICENSING §1, §4):
- usable is what was granted and not returned, whoever knows of the return; a license with nothing usable has no say;
- capacity licenses add up and never expire; trial and emergency add to the capacity until their absolute end;
- maintenance covers when the devices of all current maintenance are at least those of all capacity licenses, and there
  is some; trial and emergency need no cover; a renewal replaces its predecessor from the day it is granted, also where
  the renewal itself was returned: nothing counts twice.
No grant means no capacity; nothing is wrong with that.

What this module does not do: it verifies nothing (`documents`) and gives no seat (`seats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .licenses import License, LicenseType, license_status
from .status import Maintenance
from .timekeeping import Timestamp, to_iso_date

LEAST_GRACE_DAYS = 1

_CAPACITY_TYPES = frozenset({LicenseType.CAPACITY, LicenseType.TRIAL, LicenseType.EMERGENCY})


def usable(license_: License, returned: Mapping[str, int]) -> int:
    """Devices (of an upgrade: upgrades) that were granted and not returned; never negative.

    `returned` is the SmartServer's `returned_total` by license id; the larger of it and the grant's counts.
    """
    return max(0, license_.granted_total - max(returned.get(license_.id, 0), license_.returned_total))


def unused(license_: License, returned: Mapping[str, int], consumed: Mapping[str, int]) -> int:
    """Of what is usable, what has not been consumed either; `consumed` as `returned`. Only upgrades are consumed."""
    return max(0, usable(license_, returned) - max(consumed.get(license_.id, 0), license_.consumed_total))


def capacity(licenses: Sequence[License], now: Timestamp, returned: Mapping[str, int]) -> int:
    """Seats that the licenses give at `now`, the SmartServer's own included."""
    return sum(usable(each, returned) for each in _counting(licenses, returned) if each.is_current(now))


def next_end(licenses: Sequence[License], now: Timestamp, returned: Mapping[str, int]) -> Timestamp | None:
    """When the capacity shrinks next by an end, or None."""
    ends = [each.expires_at for each in _counting(licenses, returned) if each.expires_at is not None]
    return min((end for end in ends if end > now), default=None)


def ended_grace_days(licenses: Sequence[License], now: Timestamp, returned: Mapping[str, int]) -> int | None:
    """Days of grace that the license which ended last says; of several that ended together, the most. None: none.

    At least one day of running: an end is told by a clock, and a wrong one must not stop a plant before anybody can
    mend it (ADR 19).
    """
    ended = [each for each in _counting(licenses, returned) if not each.is_current(now)]
    days = max(((each.expires_at or 0, each.grace_days) for each in ended), default=(0, None))[1]
    return None if days is None else max(days, LEAST_GRACE_DAYS)


@dataclass(frozen=True, slots=True)
class Cover:
    """Maintenance against capacity, in devices. `devices`: of all current maintenance; `needed`: of all capacity.

    `falls_short_at`: the first second at which it does not cover; None where it never ends, or never covered.
    `ends_at`: the same, but of what never covered the last end of any; None where it never ends or there is none.
    """

    devices: int
    needed: int
    falls_short_at: Timestamp | None
    ends_at: Timestamp | None

    @property
    def missing(self) -> int:
        """Devices of capacity without maintenance."""
        return max(0, self.needed - self.devices)

    @property
    def is_covered(self) -> bool:
        """Whether there is maintenance and it covers the capacity."""
        return self.devices >= max(1, self.needed)


def cover(licenses: Sequence[License], now: Timestamp, returned: Mapping[str, int]) -> Cover:
    """How maintenance covers the capacity licenses at `now`, and until when; what was never bought covers nothing."""
    needed = sum(usable(each, returned) for each in licenses if each.type is LicenseType.CAPACITY)
    counted = _maintenance(licenses, returned)
    ends = sorted({each.expires_at for each in counted if each.expires_at is not None})

    def devices(moment: Timestamp) -> int:
        return sum(usable(each, returned) for each in counted if each.is_current(moment))

    # All of it counts from the beginning, so that the cover only falls, and only at an end.
    has_covered = devices(-1) >= max(1, needed)
    falls_short_at = next((end for end in ends if devices(end) < max(1, needed)), None) if has_covered else None
    has_last_end = not has_covered and all(each.expires_at is not None for each in counted)
    return Cover(devices(now), needed, falls_short_at, max(ends, default=None) if has_last_end else falls_short_at)


def maintenance(licenses: Sequence[License], now: Timestamp, returned: Mapping[str, int]) -> Maintenance:
    """The maintenance as the status shows it: its end is the day on which it covers the capacity no longer."""
    counted = _maintenance(licenses, returned)
    if not counted:
        return Maintenance()
    covered = cover(licenses, now, returned)
    end = covered.ends_at
    status = license_status(replace(counted[0], expires_at=end), now)
    return Maintenance(status, "" if end is None else to_iso_date(end), covered.devices)


def _counting(licenses: Sequence[License], returned: Mapping[str, int]) -> list[License]:
    return [each for each in licenses if each.type in _CAPACITY_TYPES and usable(each, returned)]


def _maintenance(licenses: Sequence[License], returned: Mapping[str, int]) -> list[License]:
    """All maintenance that has a say, ended or not."""
    every = [each for each in licenses if each.type is LicenseType.MAINTENANCE]
    replaced = {each.replaces for each in every if each.replaces != each.id}
    return [each for each in every if each.id not in replaced and usable(each, returned)]
