from __future__ import annotations

from dataclasses import replace

import pytest

from license_authority.errors import (
    CustomerMismatchError,
    CustomerUnknownError,
    LicenseExhaustedError,
    LicenseNotFoundError,
    RequestAnsweredError,
    SmartServerUnknownError,
    TrialUsedError,
)
from license_authority.orders import Purchase
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.errors import PayloadTypeError, SignatureError
from smartserver_licensed.domain.licenses import Grant, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor


def activate(
    vendor: Vendor,
    device: Device,
    *wanted: str | Wanted,
    customer_id: str = "",
    now: int = NOW,
    confirm: bool = False,
) -> Grant:
    request = device.request(*wanted, customer_id=customer_id)
    document = vendor.authority.activate(request, now=now, confirm=confirm)
    return device.install(document, vendor.keys.trust)


def second_device() -> Device:
    return Device(install_code="17bbbbb", key=SigningKey(b"\x06" * 32))


def test_a_request_that_names_its_customer_gets_all_that_is_free(vendor: Vendor) -> None:
    ids = [vendor.sell(1_000), vendor.sell(200), vendor.sell(100, LicenseType.MAINTENANCE)]
    device = Device()
    grant = activate(vendor, device, customer_id=CUSTOMER_ID)
    assert sorted(each.id for each in grant.licenses) == sorted(ids)
    assert {each.id: each.granted_total for each in grant.licenses} == dict(zip(ids, [1_000, 200, 100], strict=True))
    assert (grant.seq, grant.device_key, grant.customer_id) == (1, device.key.public.raw, CUSTOMER_ID)
    assert grant.factors == device.factors
    assert [vendor.at_authority(each) for each in ids] == [0, 0, 0]


def test_a_request_that_names_licenses_gets_as_many_devices_as_it_says(vendor: Vendor) -> None:
    first, second, third = vendor.sell(1_000), vendor.sell(200), vendor.sell(50)
    grant = activate(vendor, Device(), Wanted(first, 300), second)
    assert {each.id: each.granted_total for each in grant.licenses} == {first: 300, second: 200}
    assert [vendor.at_authority(each) for each in (first, second, third)] == [700, 0, 50]


def test_capacity_has_30_days_of_grace_and_no_end(vendor: Vendor) -> None:
    vendor.sell()
    (license_,) = activate(vendor, Device(), customer_id=CUSTOMER_ID).licenses
    assert (license_.grace_days, license_.expires_at) == (30, None)


def test_a_request_without_wishes_gets_what_is_reserved_for_it_and_nothing_else(vendor: Vendor) -> None:
    reserved = vendor.sell(100, install_code=INSTALL_CODE)
    vendor.sell(1_000)
    grant = activate(vendor, Device())
    assert {each.id: each.granted_total for each in grant.licenses} == {reserved: 100}
    assert [each.reserved for each in vendor.authority.licenses()] == [0, 0]


def test_a_request_for_a_part_of_what_is_reserved_leaves_the_rest_reserved(vendor: Vendor) -> None:
    reserved = vendor.sell(100, install_code=INSTALL_CODE)
    grant = activate(vendor, Device(), Wanted(reserved, 30))
    assert [each.granted_total for each in grant.licenses] == [30]
    (row,) = vendor.authority.licenses()
    assert (row.at_authority, row.reserved) == (70, 70)


def test_what_is_reserved_for_one_is_not_given_to_another(vendor: Vendor) -> None:
    reserved = vendor.sell(100, install_code=INSTALL_CODE)
    other = second_device()
    assert activate(vendor, other, customer_id=CUSTOMER_ID, confirm=True).licenses == ()
    with pytest.raises(LicenseExhaustedError):
        vendor.authority.activate(other.request(reserved), now=NOW)
    assert len(activate(vendor, Device()).licenses) == 1


def test_an_empty_grant_is_a_grant(vendor: Vendor) -> None:
    device = Device()
    assert activate(vendor, device, customer_id=CUSTOMER_ID, confirm=True).licenses == ()
    assert activate(vendor, device).seq == 2


def test_one_that_nobody_has_heard_of_and_that_gets_nothing_stays_unknown(vendor: Vendor) -> None:
    squatter = vendor.authority.add_customer("B", now=NOW)
    with pytest.raises(LicenseExhaustedError, match="it is not known, and nothing is free for it"):
        vendor.authority.contact(second_device().request(customer_id=squatter), now=NOW)
    assert vendor.authority.smartservers() == ()
    mine = vendor.sell(10, install_code="17bbbbb")
    assert [each.id for each in activate(vendor, second_device()).licenses] == [mine]


def test_a_grant_is_the_complete_set(vendor: Vendor) -> None:
    device = Device()
    first = vendor.sell(100)
    before = activate(vendor, device, first)
    second = vendor.sell(200)
    after = activate(vendor, device, second)
    assert after.licenses[:1] == before.licenses
    assert [each.id for each in after.licenses] == [first, second]
    assert after.seq == 2


def test_more_of_the_same_license_raises_its_total(vendor: Vendor) -> None:
    license_id, device = vendor.sell(1_000), Device()
    activate(vendor, device, Wanted(license_id, 300))
    assert activate(vendor, device, Wanted(license_id, 100)).licenses[0].granted_total == 400
    assert activate(vendor, device, license_id).licenses[0].granted_total == 1_000
    assert activate(vendor, device, license_id).licenses[0].granted_total == 1_000


def test_the_same_request_gets_the_same_answer_also_when_more_was_bought_since(vendor: Vendor) -> None:
    vendor.sell(100)
    device = Device()
    request = device.request(customer_id=CUSTOMER_ID)
    answer = vendor.authority.activate(request, now=NOW)
    vendor.sell(200)
    assert vendor.authority.activate(request, now=NOW + 1_000) == answer
    assert vendor.authority.contact(request, now=NOW + 2_000).document == answer
    assert vendor.authority.last_grant(INSTALL_CODE) == answer


def test_more_than_is_free_is_refused_and_nothing_changes(vendor: Vendor) -> None:
    license_id, device = vendor.sell(100), Device()
    request = device.request(Wanted(license_id, 101))
    with pytest.raises(LicenseExhaustedError, match=r"101 devices .* 100 are free"):
        vendor.authority.activate(request, now=NOW)
    assert vendor.authority.smartservers() == ()
    more = vendor.sell(5)
    assert len(activate(vendor, device, license_id, more).licenses) == 2


def test_a_license_that_is_all_elsewhere_is_refused(vendor: Vendor) -> None:
    license_id = vendor.sell(100)
    activate(vendor, Device(), license_id)
    with pytest.raises(LicenseExhaustedError, match="100 devices are elsewhere"):
        vendor.authority.activate(second_device().request(license_id), now=NOW)


def test_a_late_request_is_answered_like_any_other(vendor: Vendor) -> None:
    license_id, device = vendor.sell(1_000), Device()
    late = device.request(Wanted(license_id, 100))
    activate(vendor, device, Wanted(license_id, 200))
    grant = device.install(vendor.authority.activate(late, now=NOW))
    assert (grant.seq, grant.licenses[0].granted_total) == (2, 300)
    assert grant.contact is not None
    assert grant.contact.number == 2


def test_what_the_operator_adds_is_given_and_noted(vendor: Vendor) -> None:
    license_id, device = vendor.sell(1_000), Device()
    request = device.request()
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.activate(request, now=NOW)
    add = [Wanted(license_id, 300)]
    answer = vendor.authority.activate(request, now=NOW, add=add)
    assert device.install(answer, vendor.keys.trust).licenses[0].granted_total == 300
    assert vendor.authority.activate(request, now=NOW, add=add) == answer
    assert vendor.authority.activate(request, now=NOW) == answer
    with pytest.raises(RequestAnsweredError, match="same answer"):
        vendor.authority.activate(request, now=NOW, add=[Wanted(license_id, 400)])
    assert [each.act for each in vendor.authority.audit()] == ["customer", "order", "activate"]


def test_nobody_gets_anothers_licenses(vendor: Vendor) -> None:
    other = vendor.authority.add_customer("B", now=NOW)
    theirs = vendor.authority.order(Purchase(other, LicenseType.CAPACITY, 100), now=NOW)
    mine, device = vendor.sell(), Device()
    with pytest.raises(CustomerMismatchError):
        vendor.authority.activate(device.request(mine, theirs), now=NOW)
    activate(vendor, device, mine)
    for request in (device.request(theirs), device.request(customer_id=other)):
        with pytest.raises(CustomerMismatchError):
            vendor.authority.activate(request, now=NOW)
    assert vendor.at_authority(theirs) == 100


def test_names_that_nobody_knows_are_refused(vendor: Vendor) -> None:
    with pytest.raises(LicenseNotFoundError):
        vendor.authority.activate(Device().request("none"), now=NOW)
    with pytest.raises(CustomerUnknownError):
        vendor.authority.activate(Device().request(customer_id="nobody"), now=NOW)
    with pytest.raises(SmartServerUnknownError, match="no license was ever meant for it"):
        vendor.authority.activate(Device().request(), now=NOW)


def test_a_return_is_no_request_and_a_request_no_return(vendor: Vendor) -> None:
    license_id, device = vendor.sell(), Device()
    activate(vendor, device, license_id)
    with pytest.raises(PayloadTypeError, match="is a return, not a request"):
        vendor.authority.activate(device.give_back(license_id, 10), now=NOW)
    with pytest.raises(PayloadTypeError, match="is a request, not a return"):
        vendor.authority.credit(device.request(), now=NOW)
    with pytest.raises(PayloadTypeError, match="is a request, not a return"):
        vendor.authority.transfer(device.request(), "17bbbbb", now=NOW)


def test_a_request_signed_by_somebody_else_is_refused(vendor: Vendor) -> None:
    vendor.sell()
    device = Device()
    stranger = SigningKey.generate().public.raw
    request = device.request(customer_id=CUSTOMER_ID)
    with pytest.raises(SignatureError):
        vendor.authority.activate(device.request(edit=lambda contact: replace(contact, device_key=stranger)), now=NOW)
    assert vendor.authority.smartservers() == ()
    vendor.authority.activate(request, now=NOW)


# -- trial -------------------------------------------------------------------------------------------------------------


def test_a_trial_ends_30_days_after_its_activation(vendor: Vendor) -> None:
    vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE)
    (trial,) = activate(vendor, Device(), now=NOW + 100 * DAY_S).licenses
    assert (trial.expires_at, trial.grace_days, trial.granted_total) == (NOW + 130 * DAY_S, 7, 5)


def test_a_trial_is_given_whole_whatever_part_is_asked_for(vendor: Vendor) -> None:
    trial, device = vendor.sell(5, LicenseType.TRIAL), Device()
    for part in (2, 3):
        assert [each.granted_total for each in activate(vendor, device, Wanted(trial, part)).licenses] == [5]
    assert vendor.at_authority(trial) == 0


def test_a_second_trial_is_refused_also_when_the_first_ended_long_ago(vendor: Vendor) -> None:
    device, late = Device(), NOW + 3_000 * DAY_S
    first, second = vendor.sell(5, LicenseType.TRIAL), vendor.sell(5, LicenseType.TRIAL)
    activate(vendor, device, first)
    with pytest.raises(TrialUsedError, match=first):
        vendor.authority.activate(device.request(second), now=late)
    with pytest.raises(TrialUsedError, match=first):
        vendor.sell(5, LicenseType.TRIAL, install_code=INSTALL_CODE, now=late)
    assert [each.id for each in activate(vendor, device, customer_id=CUSTOMER_ID, now=late).licenses] == [first]
    assert vendor.at_authority(second) == 5


def test_a_new_device_key_brings_no_second_trial(vendor: Vendor) -> None:
    device = Device()
    first, second = vendor.sell(5, LicenseType.TRIAL), vendor.sell(5, LicenseType.TRIAL)
    activate(vendor, device, first)
    wiped = Device(key=SigningKey.generate())
    with pytest.raises(TrialUsedError):
        vendor.authority.activate(wiped.request(second), now=NOW, confirm=True)


def test_a_changed_mainboard_brings_no_second_trial(vendor: Vendor) -> None:
    device = Device()
    first, second = vendor.sell(5, LicenseType.TRIAL), vendor.sell(5, LicenseType.TRIAL)
    activate(vendor, device, first)
    device.install_code = "17bbbbb"
    with pytest.raises(TrialUsedError):
        vendor.authority.activate(device.request(second), now=NOW, confirm=True)


def test_a_trial_that_came_back_is_over_for_its_smartserver(vendor: Vendor) -> None:
    device, trial = Device(), vendor.sell(5, LicenseType.TRIAL)
    activate(vendor, device, trial)
    vendor.authority.credit(device.give_back(trial, 5), now=NOW)
    with pytest.raises(TrialUsedError):
        vendor.authority.activate(device.request(trial), now=NOW)
    assert vendor.at_authority(trial) == 5


def test_what_has_ended_is_not_given(vendor: Vendor) -> None:
    maintenance, device = vendor.sell(100, LicenseType.MAINTENANCE), Device()
    late = NOW + 366 * DAY_S
    with pytest.raises(LicenseExhaustedError, match="it ended on 2027-11-24"):
        vendor.authority.activate(device.request(maintenance), now=late)
    assert activate(vendor, device, customer_id=CUSTOMER_ID, now=late, confirm=True).licenses == ()


def test_a_renewal_names_its_predecessor_in_the_grant(vendor: Vendor) -> None:
    device, first = Device(), vendor.sell(100, LicenseType.MAINTENANCE)
    purchase = Purchase(CUSTOMER_ID, LicenseType.MAINTENANCE, 100, years=1, replaces=first)
    second = vendor.authority.order(purchase, now=NOW)
    licenses = {each.id: each for each in activate(vendor, device, customer_id=CUSTOMER_ID).licenses}
    assert licenses[second].replaces == first
    assert licenses[second].expires_at == NOW + (365 + 366) * DAY_S


def test_an_upgrade_that_was_used_is_consumed(vendor: Vendor) -> None:
    device, upgrade = Device(), vendor.sell(1, LicenseType.UPGRADE)
    activate(vendor, device, upgrade)
    device.consume(upgrade)
    (license_,) = activate(vendor, device).licenses
    assert (license_.release, license_.granted_total, license_.consumed_total) == ("4.0", 1, 1)
    (row,) = vendor.authority.licenses()
    assert (row.at_authority, row.in_field, row.consumed) == (0, 0, 1)
