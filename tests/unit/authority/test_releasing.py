from __future__ import annotations

import pytest

from license_authority.errors import (
    CustomerMismatchError,
    InstallCodeTakenError,
    KeyRetiredError,
    OverReturnedError,
    SmartServerUnknownError,
    TrialUsedError,
)
from license_authority.orders import Purchase
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.devices import Device
from support.documents import INSTALL_CODE, NOW
from support.vendor import Vendor


def enrolled(vendor: Vendor, *wanted: str | Wanted) -> Device:
    device = Device()
    device.install(vendor.authority.activate(device.request(*wanted), now=NOW), vendor.keys.trust)
    return device


def purchase(vendor: Vendor, type_: LicenseType = LicenseType.CAPACITY) -> Purchase:
    """Of another customer, for the same SmartServer."""
    other = vendor.authority.add_customer("B", now=NOW)
    return Purchase(other, type_, 5, install_code=INSTALL_CODE)


def test_a_released_install_code_goes_to_another_customer_with_nothing_of_the_first(vendor: Vendor) -> None:
    license_id = vendor.sell(100)
    device, second = enrolled(vendor, license_id), purchase(vendor)
    vendor.authority.credit(device.give_back(license_id, 100), now=NOW)
    with pytest.raises(CustomerMismatchError):
        vendor.authority.order(second, now=NOW)
    vendor.authority.release(INSTALL_CODE, now=NOW)
    theirs = vendor.authority.order(second, now=NOW)
    sold = Device(key=SigningKey.generate())
    grant = sold.install(vendor.authority.activate(sold.request(), now=NOW), vendor.keys.trust)
    assert [(each.id, each.granted_total) for each in grant.licenses] == [(theirs, 5)]
    with pytest.raises(KeyRetiredError):
        vendor.authority.activate(device.request(), now=NOW)
    device.renew_key()
    with pytest.raises(OverReturnedError):  # with the ledger of before
        vendor.authority.activate(device.request(), now=NOW, confirm=True)
    before, after = sorted(vendor.authority.smartservers(), key=lambda row: row.retired_at is None)
    assert (before.licenses[0].granted, before.retired_at, after.customer_id) == (100, NOW, second.customer_id)
    assert ("release", INSTALL_CODE) in {(each.act, each.detail.split()[0]) for each in vendor.authority.audit()}


def test_one_that_has_licenses_left_is_not_released(vendor: Vendor) -> None:
    license_id, waiting = vendor.sell(100), vendor.sell(5, install_code=INSTALL_CODE)
    device = enrolled(vendor, Wanted(license_id, 40), Wanted(waiting, 2))
    with pytest.raises(InstallCodeTakenError, match=rf"40 devices of {license_id}") as refused:
        vendor.authority.release(INSTALL_CODE, now=NOW)
    assert f"2 devices of {waiting}" in str(refused.value)
    device.install(vendor.authority.activate(device.request(), now=NOW))
    assert device.usable(waiting) == 5


def test_what_was_reserved_is_free_again(vendor: Vendor) -> None:
    license_id = vendor.sell(100, install_code=INSTALL_CODE)
    vendor.authority.release(INSTALL_CODE, now=NOW)
    assert (vendor.at_authority(license_id), vendor.authority.licenses()[0].reserved) == (100, 0)


def test_one_that_was_replaced_can_be_released_and_released_again(vendor: Vendor) -> None:
    license_id = vendor.sell(100)
    device = enrolled(vendor, license_id)
    vendor.authority.rma(INSTALL_CODE, "17bbbbb", now=NOW)
    vendor.authority.release(INSTALL_CODE, now=NOW + 1)
    vendor.sell(5, install_code=INSTALL_CODE)
    vendor.authority.release(INSTALL_CODE, now=NOW + 2)
    vendor.sell(5, install_code=INSTALL_CODE)
    assert device.install_code in {each.install_code for each in vendor.authority.smartservers()}
    assert len(vendor.authority.smartservers()) == 4


def test_a_trial_is_remembered_whoever_owns_the_install_code_and_wherever_it_began(vendor: Vendor) -> None:
    device = enrolled(vendor, vendor.sell(5, LicenseType.TRIAL))
    device.install_code = "17bbbbb"
    device.install(vendor.authority.activate(device.request(), now=NOW, confirm=True))
    vendor.authority.release("17bbbbb", now=NOW + 31 * DAY_S)
    for code in (INSTALL_CODE, "17bbbbb"):
        with pytest.raises(TrialUsedError):
            vendor.sell(5, LicenseType.TRIAL, install_code=code)


def test_a_former_install_code_that_was_released_needs_no_confirmation(vendor: Vendor) -> None:
    device = enrolled(vendor, vendor.sell(5))
    device.install_code = "17bbbbb"
    device.install(vendor.authority.activate(device.request(), now=NOW, confirm=True))
    vendor.sell(5, install_code=INSTALL_CODE)
    vendor.authority.release(INSTALL_CODE, now=NOW)
    vendor.sell(7, install_code=INSTALL_CODE)
    fresh = Device(key=SigningKey.generate())
    grant = fresh.install(vendor.authority.activate(fresh.request(), now=NOW), vendor.keys.trust)
    assert [each.granted_total for each in grant.licenses] == [7]


def test_an_unknown_install_code_is_not_released(vendor: Vendor) -> None:
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.release(INSTALL_CODE, now=NOW)
