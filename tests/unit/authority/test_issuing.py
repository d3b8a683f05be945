from __future__ import annotations

import pytest

from license_authority.errors import CustomerMismatchError, TrialUsedError
from license_authority.issuing import new_license, next_grant
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW


def make(type_: LicenseType, license_id: str, devices: int = 5) -> License:
    return new_license(type_, license_id=license_id, devices=devices, days=30, note="", now=NOW)


def follow(last: Grant | None, added: License, *, customer_id: str = CUSTOMER_ID, now: int = NOW) -> Grant:
    return next_grant(last, added, customer_id=customer_id, install_code=INSTALL_CODE, root_version=1, now=now)


FIRST = follow(None, make(LicenseType.TRIAL, "t"))


def test_a_trial_ends_after_its_days_and_has_a_week_of_grace() -> None:
    (trial,) = FIRST.licenses
    assert (trial.expires_at, trial.grace_days) == (NOW + 30 * DAY_S, 7)


def test_capacity_never_ends() -> None:
    capacity = make(LicenseType.CAPACITY, "c")
    assert (capacity.expires_at, capacity.grace_days) == (None, 0)


def test_a_grant_keeps_what_there_is_and_adds() -> None:
    second = follow(FIRST, make(LicenseType.CAPACITY, "c1", 100), now=NOW + 5)
    third = follow(second, make(LicenseType.CAPACITY, "c2", 200), now=NOW + 6)
    assert [each.id for each in third.licenses] == ["t", "c1", "c2"]
    assert (FIRST.seq, second.seq, third.seq) == (1, 2, 3)
    assert third.issued_at == NOW + 6


def test_a_second_trial_is_refused_also_when_the_first_ended_long_ago() -> None:
    with pytest.raises(TrialUsedError, match="has had one, t"):
        follow(FIRST, make(LicenseType.TRIAL, "t2"), now=NOW + 10**9)


def test_another_customers_smartserver_is_refused() -> None:
    with pytest.raises(CustomerMismatchError, match=f"belongs to the customer {CUSTOMER_ID}, not to other"):
        follow(FIRST, make(LicenseType.CAPACITY, "c"), customer_id="other")


def test_a_license_id_is_used_once() -> None:
    with pytest.raises(ArgumentError, match="same id"):
        follow(FIRST, make(LicenseType.CAPACITY, "t"))
