from __future__ import annotations

from dataclasses import replace

import pytest

from license_authority.errors import (
    ConfirmationNeededError,
    ContactForkedError,
    CustomerMismatchError,
    LicenseExhaustedError,
    ReturnReservedError,
    SmartServerRetiredError,
    SmartServerUnknownError,
    TrialUsedError,
)
from license_authority.orders import Purchase
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.domain.contacts import Contact, Wanted
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import Grant, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor

NEW = "17bbbbb"


def exchange(vendor: Vendor, device: Device, *wanted: str | Wanted, confirm: bool = False) -> Grant:
    document = vendor.authority.activate(device.request(*wanted), now=NOW, confirm=confirm)
    return device.install(document, vendor.keys.trust)


def enrolled(vendor: Vendor, devices: int = 1_000) -> tuple[Device, str]:
    license_id, device = vendor.sell(devices), Device()
    exchange(vendor, device, license_id)
    return device, license_id


def new_device() -> Device:
    return Device(install_code=NEW, key=SigningKey(b"\x06" * 32))


# -- transfer ----------------------------------------------------------------------------------------------------------


def test_a_transfer_credits_a_return_and_reserves_it_for_the_other_one(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    moved = vendor.authority.transfer(device.give_back(license_id, 300), NEW, now=NOW)
    assert (moved.devices_credited, moved.is_known, moved.at_authority) == (300, False, 300)
    assert vendor.authority.licenses()[0].reserved == 300
    with pytest.raises(LicenseExhaustedError):
        vendor.authority.activate(device.request(license_id, Wanted(license_id, 1)), now=NOW)
    new = new_device()
    exchange(vendor, new)
    assert (new.usable(license_id), device.usable(license_id)) == (300, 700)
    assert vendor.at_authority(license_id) == 0


def test_a_transfer_given_twice_moves_once(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    document = device.give_back(license_id, 300)
    vendor.authority.transfer(document, NEW, now=NOW)
    again = vendor.authority.transfer(document, NEW, now=NOW)
    assert (again.devices_credited, again.is_known) == (0, True)
    assert vendor.authority.licenses()[0].reserved == 300
    with pytest.raises(ReturnReservedError, match=f"reserved for {NEW}"):
        vendor.authority.transfer(document, "17ccccc", now=NOW)


def test_a_return_that_was_credited_can_be_transferred_while_its_devices_are_free(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    document = device.give_back(license_id, 300)
    vendor.authority.credit(document, now=NOW)
    vendor.authority.transfer(document, NEW, now=NOW)
    assert vendor.authority.licenses()[0].reserved == 300

    second = device.give_back(license_id, 300)
    vendor.authority.credit(second, now=NOW)
    exchange(vendor, device, license_id)
    with pytest.raises(LicenseExhaustedError, match=r"300 devices .* 0 are free"):
        vendor.authority.transfer(second, NEW, now=NOW)


def test_a_lost_return_that_turns_up_can_be_transferred(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    lost = device.give_back(license_id, 300)
    exchange(vendor, device)
    vendor.authority.transfer(lost, NEW, now=NOW)
    assert vendor.authority.licenses()[0].reserved == 300


@pytest.mark.parametrize("really", [1, 300])
def test_a_return_that_says_more_than_came_back_moves_what_came_back(vendor: Vendor, really: int) -> None:
    license_id, device = vendor.sell(), Device()
    exchange(vendor, device, Wanted(license_id, 400))
    boast = device.give_back(license_id, really, edit=lambda contact: replace(contact, devices=350))
    assert vendor.authority.transfer(boast, NEW, now=NOW).devices_credited == really
    assert vendor.authority.licenses()[0].reserved == really


def test_a_return_of_nothing_moves_nothing(vendor: Vendor) -> None:
    license_id, device = vendor.sell(), Device()
    exchange(vendor, device, Wanted(license_id, 400))

    def boast(contact: Contact) -> Contact:
        return replace(contact, totals=(replace(contact.totals[0], returned_total=0),))

    with pytest.raises(LicenseExhaustedError, match="nothing of it came back"):
        vendor.authority.transfer(device.give_back(license_id, 350, edit=boast), NEW, now=NOW)
    assert vendor.authority.licenses()[0].reserved == 0


def test_a_transfer_to_another_customer_or_to_itself_is_refused(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    other = vendor.authority.add_customer("B", now=NOW)
    vendor.authority.order(Purchase(other, LicenseType.CAPACITY, 5, install_code="17ccccc"), now=NOW)
    document = device.give_back(license_id, 300)
    with pytest.raises(CustomerMismatchError):
        vendor.authority.transfer(document, "17ccccc", now=NOW)
    with pytest.raises(ArgumentError, match="to itself"):
        vendor.authority.transfer(document, INSTALL_CODE, now=NOW)
    assert vendor.at_authority(license_id) == 0


# -- RMA ---------------------------------------------------------------------------------------------------------------


def test_an_rma_moves_all_that_the_dead_one_had(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    more, waiting = vendor.sell(50), vendor.sell(20, install_code=INSTALL_CODE)
    exchange(vendor, device, more, Wanted(waiting, 5))
    vendor.authority.credit(device.give_back(license_id, 300), now=NOW)
    result = vendor.authority.rma(INSTALL_CODE, NEW, now=NOW)
    assert dict(result.moved) == {license_id: 700, more: 50, waiting: 20}
    assert result.grant is None
    new = new_device()
    exchange(vendor, new)
    assert [new.usable(each) for each in (license_id, more, waiting)] == [700, 50, 20]
    assert vendor.at_authority(license_id) == 300
    dead = vendor.authority.smartservers(INSTALL_CODE)[0]
    assert (dead.retired_at, dead.replaced_by, dead.key_id) == (NOW, NEW, "")
    assert [each.written_off for each in dead.licenses] == [700, 50, 5]


def test_a_new_one_that_is_enrolled_gets_its_grant_at_once(vendor: Vendor) -> None:
    _, license_id = enrolled(vendor)
    new, own = new_device(), vendor.sell(5)
    exchange(vendor, new, own)
    result = vendor.authority.rma(INSTALL_CODE, NEW, now=NOW)
    assert result.grant is not None
    new.install(result.grant)
    assert (new.usable(license_id), new.usable(own)) == (1_000, 5)


def test_the_dead_one_is_refused_when_it_comes_back(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    late = device.give_back(license_id, 100)
    answered = device.request()
    vendor.authority.rma(INSTALL_CODE, NEW, now=NOW)
    for document in (device.request(), answered):
        with pytest.raises(SmartServerRetiredError, match="what it had is written off"):
            vendor.authority.activate(document, now=NOW)
    with pytest.raises(SmartServerRetiredError):
        vendor.authority.credit(late, now=NOW)
    with pytest.raises(SmartServerRetiredError):
        vendor.authority.regrant(INSTALL_CODE, now=NOW)
    with pytest.raises(SmartServerRetiredError, match=f"replaced by {NEW} already"):
        vendor.authority.rma(INSTALL_CODE, "17ccccc", now=NOW)
    assert vendor.authority.licenses()[0].reserved == 1_000


def test_a_dead_one_that_was_mended_begins_with_a_new_key_and_nothing(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    vendor.authority.rma(INSTALL_CODE, NEW, now=NOW)
    device.renew_key()
    with pytest.raises(ConfirmationNeededError):
        vendor.authority.activate(device.request(), now=NOW)
    grant = exchange(vendor, device, confirm=True)
    assert (grant.licenses[0].granted_total, grant.licenses[0].returned_total) == (1_000, 1_000)
    exchange(vendor, device)  # which says that it returned what was written off
    assert device.usable(license_id) == 0
    assert vendor.authority.licenses()[0].reserved == vendor.at_authority(license_id) == 1_000


def test_nothing_moves_to_another_customer_or_to_one_that_was_replaced(vendor: Vendor) -> None:
    _, license_id = enrolled(vendor)
    other = vendor.authority.add_customer("B", now=NOW)
    vendor.authority.order(Purchase(other, LicenseType.CAPACITY, 5, install_code="17ccccc"), now=NOW)
    with pytest.raises(CustomerMismatchError):
        vendor.authority.rma(INSTALL_CODE, "17ccccc", now=NOW)
    with pytest.raises(ArgumentError):
        vendor.authority.rma(INSTALL_CODE, INSTALL_CODE, now=NOW)
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.rma("17ddddd", NEW, now=NOW)
    vendor.sell(1, install_code="17eeeee")
    vendor.authority.rma("17eeeee", NEW, now=NOW)
    with pytest.raises(SmartServerRetiredError):
        vendor.authority.rma(INSTALL_CODE, "17eeeee", now=NOW)
    assert vendor.at_authority(license_id) == 0


def test_an_rma_to_one_with_two_copies_changes_nothing(vendor: Vendor) -> None:
    _, license_id = enrolled(vendor)
    new, own = new_device(), vendor.sell(5)
    exchange(vendor, new, own)
    clone = new.copy()
    exchange(vendor, new)
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.rma(INSTALL_CODE, NEW, now=NOW)
    assert vendor.at_authority(license_id) == 0
    assert vendor.authority.smartservers(INSTALL_CODE)[0].retired_at is None


def test_a_used_upgrade_does_not_move(vendor: Vendor) -> None:
    device = Device()
    used, unused = vendor.sell(1, LicenseType.UPGRADE), vendor.sell(1, LicenseType.UPGRADE)
    exchange(vendor, device, used, unused)
    device.consume(used)
    exchange(vendor, device)
    assert dict(vendor.authority.rma(INSTALL_CODE, NEW, now=NOW).moved) == {unused: 1}
    assert [each.consumed for each in vendor.authority.balance() if each.license_id == used] == [1]


def test_a_running_trial_moves_with_its_end_and_is_the_new_ones_only_trial(vendor: Vendor) -> None:
    trial = vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)
    exchange(vendor, Device())
    vendor.authority.rma(INSTALL_CODE, NEW, now=NOW + DAY_S)
    (license_,) = exchange(vendor, new_device()).licenses
    assert (license_.id, license_.expires_at) == (trial, NOW + 30 * DAY_S)
    with pytest.raises(TrialUsedError):
        vendor.sell(5, LicenseType.TRIAL, install_code=NEW)
    with pytest.raises(TrialUsedError):
        vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)


def test_a_trial_does_not_move_to_one_that_has_had_its_own_nor_after_its_end(vendor: Vendor) -> None:
    vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)
    vendor.sell(5, LicenseType.TRIAL, install_code=NEW)
    exchange(vendor, Device())
    exchange(vendor, new_device())
    assert vendor.authority.rma(INSTALL_CODE, NEW, now=NOW).moved == ()
    assert vendor.authority.rma(NEW, "17ccccc", now=NOW + 31 * DAY_S).moved == ()


def test_emergency_capacity_moves_as_far_as_the_root_allows(vendor: Vendor) -> None:
    vendor.sell(5)
    for device in (Device(), new_device()):
        document = vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW, confirm=True)
        device.install(document, vendor.keys.trust)
    vendor.authority.emergency(INSTALL_CODE, 60, 14, now=NOW)
    vendor.authority.emergency(INSTALL_CODE, 40, 14, now=NOW)
    vendor.authority.emergency(NEW, 50, 14, now=NOW)
    moved = [devices for _, devices in vendor.authority.rma(INSTALL_CODE, NEW, now=NOW).moved]
    assert sorted(moved) == [5, 40]  # the root of the tests allows 100
