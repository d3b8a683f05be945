"""What may be issued: the next grant of a SmartServer, from its last one and what is asked for.

Rules (LICENSING §1, §4):
- a grant is the complete set: what the SmartServer has stays, and one license is added; `seq` rises by one;
- a trial once per install code, also when it ended long ago: the issuer remembers;
- a SmartServer belongs to one customer; another one's license is refused, not moved.

What this module does not do: no file, no clock, no key. Activation, returns and maintenance are not built.
"""

from __future__ import annotations

import dataclasses

from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S, Timestamp

from .errors import CustomerMismatchError, TrialUsedError

TRIAL_DAYS = 30
TRIAL_GRACE_DAYS = 7


def new_license(type_: LicenseType, *, license_id: str, devices: int, days: int, note: str, now: Timestamp) -> License:
    """A license as sold now. `days` counts for a trial only. Raises ArgumentError."""
    if type_ is LicenseType.TRIAL:
        return License(license_id, type_, devices, now + days * DAY_S, TRIAL_GRACE_DAYS, note)
    return License(license_id, type_, devices, note=note)


def next_grant(
    last: Grant | None,
    added: License,
    *,
    customer_id: str,
    install_code: str,
    root_version: int,
    now: Timestamp,
) -> Grant:
    """The grant that follows `last` (None: the first one) and adds one license.

    Raises TrialUsedError, CustomerMismatchError, ArgumentError.
    """
    if last is None:
        return Grant(1, now, customer_id, install_code, None, (added,), root_version)
    if last.customer_id != customer_id:
        raise CustomerMismatchError(
            f"cannot issue to {install_code}: it belongs to the customer {last.customer_id}, not to {customer_id}"
        )
    trial = next((each for each in last.licenses if each.type is LicenseType.TRIAL), None)
    if trial and added.type is LicenseType.TRIAL:
        raise TrialUsedError(f"cannot issue a trial to {install_code}: it has had one, {trial.id}")
    return dataclasses.replace(
        last, seq=last.seq + 1, issued_at=now, licenses=(*last.licenses, added), root_version=root_version
    )
