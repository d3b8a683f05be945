from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import Grant, License, LicenseType, describe, license_status
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso

END = from_iso("2028-10-23T12:00:00Z")
CAPACITY = License("c", LicenseType.CAPACITY, 1000)
TRIAL = License("t", LicenseType.TRIAL, 5, END, 7)
GRANT = Grant(1, 0, "customer", "17qei61", None, (CAPACITY, TRIAL), 1)


@pytest.mark.parametrize(
    ("license_", "changes"),
    [
        (CAPACITY, {"granted_total": -1}),
        (CAPACITY, {"granted_total": 1_000_001}),
        (CAPACITY, {"grace_days": -1}),
        (CAPACITY, {"expires_at": END}),
        (CAPACITY, {"id": ""}),
        (CAPACITY, {"id": " c"}),
        (CAPACITY, {"id": "c" * 201}),
        (CAPACITY, {"note": "two\nlines"}),
        (CAPACITY, {"note": "\ud800"}),
        (TRIAL, {"expires_at": None}),
        (TRIAL, {"expires_at": -1}),
        (TRIAL, {"type": LicenseType.EMERGENCY, "expires_at": None}),
    ],
)
def test_a_license_against_the_rules_cannot_be_made(license_: License, changes: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="cannot make"):
        replace(license_, **changes)


@pytest.mark.parametrize("devices", [0, 1, 1_000_000])
def test_totals_from_zero_to_a_million_are_fine(devices: int) -> None:
    assert replace(CAPACITY, granted_total=devices).granted_total == devices


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 0},
        {"seq": -1},
        {"root_version": 0},
        {"issued_at": -1},
        {"install_code": ""},
        {"customer_id": ""},
        {"licenses": (CAPACITY, replace(TRIAL, id="c"))},
    ],
)
def test_a_grant_against_the_rules_cannot_be_made(changes: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="cannot make"):
        replace(GRANT, **changes)


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CAPACITY.granted_total = 2000  # type: ignore[misc]


def test_a_license_ends_at_its_end_and_not_before() -> None:
    assert TRIAL.is_current(END - 1)
    assert not TRIAL.is_current(END)
    assert CAPACITY.is_current(10**10)


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (END - 90 * DAY_S - 1, "Active"),
        (END - 90 * DAY_S, "Expiring 2028-10-23"),
        (END - 1, "Expiring 2028-10-23"),
        (END, "Expired 2028-10-23"),
        (END + 10**9, "Expired 2028-10-23"),
    ],
)
def test_the_status_of_a_license_that_ends(now: int, text: str) -> None:
    assert license_status(TRIAL, now) == text


def test_capacity_is_always_active() -> None:
    assert license_status(CAPACITY, 2**33) == "Active"


@pytest.mark.parametrize(
    ("license_", "text"),
    [
        (CAPACITY, "1000-device capacity"),
        (TRIAL, "5-device trial"),
        (License("m", LicenseType.MAINTENANCE, 200, END), "200-device maintenance"),
        (License("e", LicenseType.EMERGENCY, 50, END), "50-device emergency"),
        (License("u", LicenseType.UPGRADE, 0, release="4.0"), "upgrade"),
        (License("r", LicenseType.REMOTE_CMS, 0), "remote-cms"),
    ],
)
def test_the_description_of_a_license(license_: License, text: str) -> None:
    assert describe(license_) == text
