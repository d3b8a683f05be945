from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from license_authority.authority import Authority
from license_authority.errors import ContactForkedError, EmergencyRefusedError, SmartServerUnknownError
from license_authority.issuing import Policy
from smartserver_licensed.documents.trust import seal_root
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW, ROOT_KEY, make_root
from support.vendor import PlainKeys, Vendor

CAP = 100  # of the root of the tests


def enrolled(vendor: Vendor) -> Device:
    device = Device()
    request = device.request(customer_id=CUSTOMER_ID)
    device.install(vendor.authority.activate(request, now=NOW, confirm=True), vendor.keys.trust)
    return device


def test_emergency_capacity_is_there_before_anything_is_bought(vendor: Vendor) -> None:
    device = enrolled(vendor)
    grant = device.install(vendor.authority.emergency(INSTALL_CODE, 50, 14, now=NOW))
    (license_,) = grant.licenses
    assert (license_.type, license_.granted_total, license_.grace_days) == (LicenseType.EMERGENCY, 50, 0)
    assert license_.expires_at == NOW + 14 * DAY_S
    assert [each.act for each in vendor.authority.audit()][-1] == "emergency"


@pytest.mark.parametrize(("devices", "days"), [(CAP + 1, 1), (0, 1), (-1, 1), (1, 15), (1, 0), (1, -1)])
def test_more_than_the_root_allows_or_longer_than_14_days_is_refused(vendor: Vendor, devices: int, days: int) -> None:
    enrolled(vendor)
    with pytest.raises(EmergencyRefusedError):
        vendor.authority.emergency(INSTALL_CODE, devices, days, now=NOW)
    assert vendor.authority.licenses() == ()


def test_what_runs_already_counts_until_it_has_ended(vendor: Vendor) -> None:
    enrolled(vendor)
    vendor.authority.emergency(INSTALL_CODE, 60, 10, now=NOW)
    with pytest.raises(EmergencyRefusedError, match="60 run already, the root allows 100"):
        vendor.authority.emergency(INSTALL_CODE, 41, 10, now=NOW + 10 * DAY_S - 1)
    vendor.authority.emergency(INSTALL_CODE, 41, 10, now=NOW + 10 * DAY_S)


def test_it_is_granted_as_often_as_the_policy_allows(vendor: Vendor) -> None:
    enrolled(vendor)
    vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW)
    vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW + DAY_S)
    with pytest.raises(EmergencyRefusedError, match=r"had 2 in the last 365 days, .* again from 2027-11-24"):
        vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW + 365 * DAY_S - 1)
    vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW + 365 * DAY_S)


def test_a_policy_may_forbid_it(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path, policy=Policy(emergencies_per_year=0))
    enrolled(vendor)
    with pytest.raises(EmergencyRefusedError, match=r"policy allows 0$"):
        vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW)
    vendor.close()


def test_only_an_enrolled_smartserver_gets_it(vendor: Vendor) -> None:
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW)
    vendor.sell(5, install_code=INSTALL_CODE)
    with pytest.raises(SmartServerUnknownError, match="made no request"):
        vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW)


def test_one_with_two_copies_gets_none(vendor: Vendor) -> None:
    device = enrolled(vendor)
    clone = device.copy()
    vendor.authority.activate(device.request(), now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.emergency(INSTALL_CODE, 1, 1, now=NOW)


def test_emergency_capacity_that_came_back_goes_to_nobody(vendor: Vendor) -> None:
    device = enrolled(vendor)
    grant = device.install(vendor.authority.emergency(INSTALL_CODE, 50, 14, now=NOW))
    emergency = grant.licenses[0].id
    vendor.authority.credit(device.give_back(emergency, 50), now=NOW)
    with pytest.raises(EmergencyRefusedError):
        vendor.authority.activate(device.request(emergency), now=NOW)
    vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW)
    assert vendor.at_authority(emergency) == 50


def test_emergency_capacity_is_not_transferred(vendor: Vendor) -> None:
    device = enrolled(vendor)
    emergency = device.install(vendor.authority.emergency(INSTALL_CODE, 50, 14, now=NOW)).licenses[0].id
    document = device.give_back(emergency, 50)
    with pytest.raises(EmergencyRefusedError, match="granted by itself"):
        vendor.authority.transfer(document, "17bbbbb", now=NOW)
    assert [each.install_code for each in vendor.authority.smartservers()] == [INSTALL_CODE]
    assert vendor.authority.credit(document, now=NOW).devices_credited == 50


def test_a_clock_that_was_set_back_makes_no_grant_that_is_refused(vendor: Vendor) -> None:
    device = enrolled(vendor)
    device.install(vendor.authority.emergency(INSTALL_CODE, 50, 14, now=NOW))
    assert device.install(vendor.authority.activate(device.request(), now=NOW - DAY_S)).issued_at == NOW
    later = NOW + 14 * DAY_S
    assert device.install(vendor.authority.activate(device.request(), now=later)).issued_at == later


def test_more_than_a_lowered_cap_leaves_in_no_grant_until_it_has_ended(vendor: Vendor) -> None:
    device = enrolled(vendor)
    device.install(vendor.authority.emergency(INSTALL_CODE, 50, 14, now=NOW))
    lowered = seal_root(replace(make_root(version=2), emergency_max_devices=10), [ROOT_KEY])
    keys = PlainKeys(vendor.keys.trust.extended([lowered]))
    authority = Authority(vendor.register, keys)
    request = device.request()
    with pytest.raises(EmergencyRefusedError, match=r"50 emergency devices run there until 2026-12-08.* allows 10 "):
        authority.activate(request, now=NOW)
    assert vendor.authority.smartservers()[0].last_contact == 1
    device.install(authority.activate(request, now=NOW + 14 * DAY_S))
    assert device.trust == keys.trust
