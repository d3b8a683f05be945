from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from license_authority.errors import (
    CustomerMismatchError,
    CustomerUnknownError,
    LicenseNotFoundError,
    MaintenanceLapsedError,
    TrialUsedError,
)
from license_authority.orders import Purchase, years_after
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso, to_iso
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor

YEAR_LATER = from_iso("2027-11-24T03:22:42Z")
MAINTENANCE = Purchase(CUSTOMER_ID, LicenseType.MAINTENANCE, 100, years=1)


def end_of(vendor: Vendor, license_id: str) -> str:
    (row,) = (each for each in vendor.authority.licenses() if each.id == license_id)
    assert row.expires_at is not None
    return to_iso(row.expires_at)


@pytest.mark.parametrize(
    ("moment", "years", "later"),
    [
        ("2026-11-24T03:22:42Z", 1, "2027-11-24T03:22:42Z"),
        ("2028-02-29T12:00:00Z", 1, "2029-02-28T12:00:00Z"),
        ("2028-02-29T12:00:00Z", 4, "2032-02-29T12:00:00Z"),
        ("2096-02-29T00:00:00Z", 4, "2100-02-28T00:00:00Z"),
        ("1996-02-29T00:00:00Z", 4, "2000-02-29T00:00:00Z"),
        ("2035-12-31T23:59:59Z", 3, "2038-12-31T23:59:59Z"),
        ("2027-02-28T00:00:00Z", 1, "2028-02-28T00:00:00Z"),
    ],
)
def test_a_year_is_a_calendar_year(moment: str, years: int, later: str) -> None:
    assert to_iso(years_after(from_iso(moment), years)) == later


def test_there_is_no_end_after_the_year_9999() -> None:
    with pytest.raises(ArgumentError):
        years_after(from_iso("9998-01-01T00:00:00Z"), 3)


def test_a_customer_gets_an_id_or_brings_it(vendor: Vendor) -> None:
    made = vendor.authority.add_customer("B", now=NOW)
    assert str(uuid.UUID(made)) == made
    given = "{AAAAAAAA-51A9-4AC9-9C36-6D1C3A2C6A11}"
    assert vendor.authority.add_customer("C", now=NOW, customer_id=given) == given.strip("{}").lower()
    assert [each.name for each in vendor.authority.customers()] == ["ACME", "B", "C"]


@pytest.mark.parametrize(("name", "customer_id"), [("", ""), ("a\nb", ""), ("x", "ACME"), ("x", CUSTOMER_ID)])
def test_a_customer_needs_a_name_and_an_id_of_its_own(vendor: Vendor, name: str, customer_id: str) -> None:
    with pytest.raises(ArgumentError):
        vendor.authority.add_customer(name, now=NOW, customer_id=customer_id)
    assert len(vendor.authority.customers()) == 1


def test_what_is_bought_is_at_the_authority(vendor: Vendor) -> None:
    license_id = vendor.sell(1_000)
    assert str(uuid.UUID(license_id)) == license_id
    assert vendor.at_authority(license_id) == 1_000
    (order,) = vendor.authority.orders()
    assert (order.license_id, order.what, order.customer_id) == (license_id, "1000 capacity", CUSTOMER_ID)
    assert vendor.authority.orders("nobody") == ()


def test_nobody_unknown_buys(vendor: Vendor) -> None:
    with pytest.raises(CustomerUnknownError, match="no customer"):
        vendor.authority.order(replace(MAINTENANCE, customer_id="nobody"), now=NOW)
    assert vendor.authority.orders() == ()


@pytest.mark.parametrize(
    ("type_", "fields"),
    [
        (LicenseType.EMERGENCY, {"days": 7}),
        (LicenseType.CAPACITY, {"devices": 0}),
        (LicenseType.CAPACITY, {"devices": -5}),
        (LicenseType.CAPACITY, {"days": 30}),
        (LicenseType.CAPACITY, {"years": 1}),
        (LicenseType.CAPACITY, {"host": "cms"}),
        (LicenseType.CAPACITY, {"replaces": "x"}),
        (LicenseType.CAPACITY, {"install_code": " x"}),
        (LicenseType.MAINTENANCE, {}),
        (LicenseType.MAINTENANCE, {"years": 2}),
        (LicenseType.MAINTENANCE, {"years": 1, "days": 1}),
        (LicenseType.TRIAL, {"years": 1}),
        (LicenseType.TRIAL, {"days": -1}),
        (LicenseType.TRIAL, {"days": 10**9}),
        (LicenseType.UPGRADE, {"devices": 2, "release": "4.0"}),
        (LicenseType.REMOTE_CMS, {}),
    ],
)
def test_what_makes_no_sense_cannot_be_bought(type_: LicenseType, fields: dict[str, int | str]) -> None:
    with pytest.raises(ArgumentError, match="cannot"):
        Purchase(**{"customer_id": CUSTOMER_ID, "type": type_, "devices": 1, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "purchase",
    [
        Purchase(CUSTOMER_ID, LicenseType.UPGRADE, 1),
        Purchase(CUSTOMER_ID, LicenseType.UPGRADE, 1, release="four"),
        Purchase(CUSTOMER_ID, LicenseType.CAPACITY, 5, release="4.0"),
        Purchase(CUSTOMER_ID, LicenseType.CAPACITY, 1_000_001),
        Purchase(CUSTOMER_ID, LicenseType.CAPACITY, 5, note="a\x1b[2J"),
    ],
)
def test_what_could_not_stand_in_a_grant_is_not_sold(vendor: Vendor, purchase: Purchase) -> None:
    with pytest.raises(ArgumentError):
        vendor.authority.order(purchase, now=NOW)
    assert vendor.authority.orders() == ()


def test_a_remote_cms_license_ends_as_it_was_bought(vendor: Vendor) -> None:
    purchase = Purchase(CUSTOMER_ID, LicenseType.REMOTE_CMS, 1, host="cms.example")
    assert end_of(vendor, vendor.authority.order(replace(purchase, days=10), now=NOW)) == to_iso(NOW + 10 * DAY_S)
    assert end_of(vendor, vendor.authority.order(replace(purchase, years=2), now=NOW)) == "2028-11-24T03:22:42Z"
    vendor.authority.order(purchase, now=NOW)
    assert [each.expires_at for each in vendor.authority.licenses()].count(None) == 1


def test_the_first_maintenance_is_free_to_buy_and_runs_from_now(vendor: Vendor) -> None:
    assert end_of(vendor, vendor.authority.order(MAINTENANCE, now=NOW)) == "2027-11-24T03:22:42Z"
    other = vendor.authority.add_customer("B", now=NOW)
    three = replace(MAINTENANCE, customer_id=other, years=3)
    assert end_of(vendor, vendor.authority.order(three, now=NOW)) == "2029-11-24T03:22:42Z"


def test_a_renewal_before_the_lapse_begins_where_its_predecessor_ends(vendor: Vendor) -> None:
    first = vendor.authority.order(MAINTENANCE, now=NOW)
    second = vendor.authority.order(replace(MAINTENANCE, years=3, replaces=first), now=YEAR_LATER - 1)
    assert end_of(vendor, second) == "2030-11-24T03:22:42Z"


def test_more_maintenance_may_be_bought_while_one_is_current(vendor: Vendor) -> None:
    vendor.authority.order(MAINTENANCE, now=NOW)
    more = vendor.authority.order(MAINTENANCE, now=YEAR_LATER - 1)
    assert end_of(vendor, more) == to_iso(years_after(YEAR_LATER - 1, 1))


@pytest.mark.parametrize("is_renewal", [True, False])
def test_lapsed_maintenance_is_not_sold_again(vendor: Vendor, *, is_renewal: bool) -> None:
    first = vendor.authority.order(MAINTENANCE, now=NOW)
    with pytest.raises(MaintenanceLapsedError, match="lapsed on 2027-11-24"):
        vendor.authority.order(replace(MAINTENANCE, replaces=first if is_renewal else ""), now=YEAR_LATER)
    assert len(vendor.authority.orders()) == 1


@pytest.mark.parametrize("is_renewal", [True, False])
def test_within_30_days_of_an_upgrade_license_it_is_and_runs_from_now(vendor: Vendor, *, is_renewal: bool) -> None:
    first = vendor.authority.order(MAINTENANCE, now=NOW)
    bought = YEAR_LATER + 300 * DAY_S
    vendor.sell(1, LicenseType.UPGRADE, now=bought)
    late = bought + 30 * DAY_S
    again = replace(MAINTENANCE, replaces=first if is_renewal else "")
    with pytest.raises(MaintenanceLapsedError, match="last 30 days"):
        vendor.authority.order(again, now=late + 1)
    assert end_of(vendor, vendor.authority.order(again, now=late)) == to_iso(years_after(late, 1))


def test_another_customers_upgrade_license_opens_nothing(vendor: Vendor) -> None:
    vendor.authority.order(MAINTENANCE, now=NOW)
    other = vendor.authority.add_customer("B", now=NOW)
    vendor.authority.order(Purchase(other, LicenseType.UPGRADE, 1, release="4.0"), now=YEAR_LATER)
    with pytest.raises(MaintenanceLapsedError):
        vendor.authority.order(MAINTENANCE, now=YEAR_LATER)


def test_a_renewal_names_maintenance_of_the_same_customer_once(vendor: Vendor) -> None:
    first = vendor.authority.order(MAINTENANCE, now=NOW)
    capacity = vendor.sell()
    other = vendor.authority.add_customer("B", now=NOW)
    with pytest.raises(LicenseNotFoundError):
        vendor.authority.order(replace(MAINTENANCE, replaces="none"), now=NOW)
    with pytest.raises(ArgumentError, match="only maintenance"):
        vendor.authority.order(replace(MAINTENANCE, replaces=capacity), now=NOW)
    with pytest.raises(CustomerMismatchError):
        vendor.authority.order(replace(MAINTENANCE, customer_id=other, replaces=first), now=NOW)
    second = vendor.authority.order(replace(MAINTENANCE, replaces=first), now=NOW)
    with pytest.raises(ArgumentError, match=f"{second} renews it already"):
        vendor.authority.order(replace(MAINTENANCE, replaces=first), now=NOW)


def test_a_reserved_license_is_kept_for_its_smartserver(vendor: Vendor) -> None:
    license_id = vendor.sell(100, install_code=INSTALL_CODE)
    (row,) = vendor.authority.licenses()
    assert (row.id, row.at_authority, row.reserved) == (license_id, 100, 100)


def test_a_smartserver_belongs_to_the_customer_who_bought_for_it(vendor: Vendor) -> None:
    vendor.sell(100, install_code=INSTALL_CODE)
    other = vendor.authority.add_customer("B", now=NOW)
    with pytest.raises(CustomerMismatchError, match=f"belongs to the customer {CUSTOMER_ID}"):
        vendor.authority.order(Purchase(other, LicenseType.CAPACITY, 5, install_code=INSTALL_CODE), now=NOW)
    assert len(vendor.authority.licenses()) == 1


def test_a_second_trial_is_not_sold_for_a_smartserver_that_waits_for_one(vendor: Vendor) -> None:
    first = vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)
    with pytest.raises(TrialUsedError, match=first):
        vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)
