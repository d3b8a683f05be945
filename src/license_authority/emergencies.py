"""Emergency capacity: short, capped, at once, before anything is bought.

Rules (LICENSING §1): for an enrolled SmartServer, at most 14 days; with what runs of it already at most what the root
allows; and as often as the vendor's policy does.

What this module does not do: it takes nothing back: what has ended has ended.
"""

from __future__ import annotations

import uuid

from sqlalchemy.orm import Session

from smartserver_licensed.domain.licenses import MAX_EMERGENCY_DAYS, License, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S, Timestamp, to_iso_date

from .auditing import note_act
from .contacts import check_fork
from .enrolling import current_key, find_smartserver
from .errors import EmergencyRefusedError, SmartServerUnknownError
from .issuing import Keys, Policy, next_grant
from .stock import allocations_of, give, has_ended, reservations_of, usable
from .tables import SmartServer, SoldLicense

_YEAR_DAYS = 365


def emergency(
    session: Session, keys: Keys, policy: Policy, install_code: str, devices: int, days: int, now: Timestamp
) -> bytes:
    """A grant with emergency capacity. Raises EmergencyRefusedError, SmartServerUnknownError, ForkFoundError."""
    smartserver = find_smartserver(session, install_code)
    where = f"cannot grant {devices} emergency devices for {days} days to {install_code}"
    key = current_key(session, smartserver)
    if key is None:
        raise SmartServerUnknownError(f"{where}: it has made no request")
    check_fork(key)
    if not 1 <= days <= MAX_EMERGENCY_DAYS:
        raise EmergencyRefusedError(f"{where}: at most {MAX_EMERGENCY_DAYS} days")
    running, cap = running_emergency(session, smartserver, now), keys.trust.current.emergency_max_devices
    if devices < 1 or running + devices > cap:
        raise EmergencyRefusedError(f"{where}: {running} run already, the root allows {cap}")
    _check_policy(session, smartserver, policy, where, now)
    license_ = _make(session, smartserver, devices, days, now)
    give(session, license_, smartserver, devices)
    note_act(session, now, "emergency", f"{devices} devices for {days} days to {install_code}: {license_.id}")
    return next_grant(session, keys, smartserver, now)


def running_emergency(session: Session, smartserver: SmartServer, now: Timestamp) -> int:
    """How many emergency devices a SmartServer has, or is about to get, that have not ended."""
    has = [(each.license, usable(each)) for each in allocations_of(session, smartserver)]
    gets = [(each.license, each.devices) for each in reservations_of(session, smartserver)]
    return sum(
        devices
        for license_, devices in (*has, *gets)
        if license_.type == LicenseType.EMERGENCY.value and not has_ended(license_, now)
    )


def _check_policy(session: Session, smartserver: SmartServer, policy: Policy, where: str, now: Timestamp) -> None:
    made = [
        each.license.made_at
        for each in allocations_of(session, smartserver)
        if each.license.type == LicenseType.EMERGENCY.value and each.license.made_at > now - _YEAR_DAYS * DAY_S
    ]
    if len(made) >= policy.emergencies_per_year:
        again = f"; again from {to_iso_date(min(made) + _YEAR_DAYS * DAY_S)}" if made else ""
        raise EmergencyRefusedError(
            f"{where}: it had {len(made)} in the last {_YEAR_DAYS} days, the policy allows "
            f"{policy.emergencies_per_year}{again}"
        )


def _make(session: Session, smartserver: SmartServer, devices: int, days: int, now: Timestamp) -> SoldLicense:
    value = License(str(uuid.uuid4()), LicenseType.EMERGENCY, devices, now + days * DAY_S)
    license_ = SoldLicense(
        id=value.id,
        customer_id=smartserver.customer_id,
        type=value.type.value,
        sold=devices,
        days=days,
        expires_at=value.expires_at,
        grace_days=value.grace_days,
        note="",
        replaces="",
        release="",
        host="",
        made_at=now,
    )
    session.add(license_)
    session.flush()
    return license_
