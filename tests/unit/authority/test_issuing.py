from __future__ import annotations

from pathlib import Path

import pytest

from license_authority.errors import (
    CustomerMismatchError,
    SmartServerUnknownError,
    TrialUsedError,
    UnactivatedRefusedError,
)
from license_authority.orders import Purchase
from smartserver_licensed.documents.acceptance import accept_grant
from smartserver_licensed.documents.envelope import parse_envelope
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import Grant, LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor, make_keys

OTHER_ID = "1b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11"


def issued(
    vendor: Vendor, type_: LicenseType, devices: int = 5, *, customer: str = CUSTOMER_ID, days: int = 0
) -> Grant:
    purchase = Purchase(customer, type_, devices, days=days, install_code=INSTALL_CODE, note="Süd")
    document = vendor.authority.issue_unactivated(purchase, now=NOW)
    return accept_grant(
        document, trust=vendor.keys.trust, install_code=INSTALL_CODE, last_seq=0, device_key=Device().key.public.raw
    ).grant


def test_without_a_request_a_grant_has_no_device_key_and_adds_to_what_there_is(vendor: Vendor) -> None:
    first = issued(vendor, LicenseType.CAPACITY, 100)
    second = issued(vendor, LicenseType.TRIAL, days=14)
    assert (first.device_key, first.seq, second.seq) == (None, 1, 2)
    assert second.licenses[0] == first.licenses[0]
    assert (second.licenses[0].note, second.licenses[0].granted_total) == ("Süd", 100)
    assert (second.licenses[1].expires_at, second.licenses[1].grace_days) == (NOW + 14 * DAY_S, 7)


def test_an_unknown_customer_is_made_and_another_one_is_refused(vendor: Vendor) -> None:
    issued(vendor, LicenseType.CAPACITY, customer=OTHER_ID)
    with pytest.raises(CustomerMismatchError, match=f"belongs to the customer {OTHER_ID}, not to {CUSTOMER_ID}"):
        issued(vendor, LicenseType.CAPACITY)
    assert len(vendor.authority.licenses()) == 1


def test_a_second_trial_is_refused_without_a_request_too(vendor: Vendor) -> None:
    (trial,) = issued(vendor, LicenseType.TRIAL).licenses
    with pytest.raises(TrialUsedError, match=trial.id):
        issued(vendor, LicenseType.TRIAL)
    assert len(vendor.authority.licenses()) == 1


def test_it_says_for_which_smartserver(vendor: Vendor) -> None:
    with pytest.raises(ArgumentError, match="no install code"):
        vendor.authority.issue_unactivated(Purchase(CUSTOMER_ID, LicenseType.CAPACITY, 5), now=NOW)


def test_a_real_authority_grants_nothing_without_a_request(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path, make_keys(allow_unactivated=False))
    purchase = Purchase(CUSTOMER_ID, LicenseType.CAPACITY, 5, install_code=INSTALL_CODE)
    with pytest.raises(UnactivatedRefusedError, match="does not allow licenses without activation"):
        vendor.authority.issue_unactivated(purchase, now=NOW)
    assert vendor.authority.licenses() == ()
    device = Device()
    document = vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW, confirm=True)
    device.install(document, vendor.keys.trust)
    device.install(vendor.authority.issue_unactivated(purchase, now=NOW))
    assert device.grant is not None
    assert [each.granted_total for each in device.grant.licenses] == [5]
    assert device.grant.device_key == device.key.public.raw
    vendor.close()


def test_a_first_request_binds_what_was_granted_without_one(vendor: Vendor) -> None:
    issued(vendor, LicenseType.CAPACITY, 100)
    device = Device()
    grant = device.install(vendor.authority.activate(device.request(), now=NOW), vendor.keys.trust)
    assert (grant.device_key, grant.seq, grant.licenses[0].granted_total) == (device.key.public.raw, 2, 100)


def test_the_last_grant_can_be_fetched_again_byte_for_byte(vendor: Vendor) -> None:
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.last_grant(INSTALL_CODE)
    vendor.sell(5, install_code=INSTALL_CODE)
    with pytest.raises(SmartServerUnknownError, match="there was none"):
        vendor.authority.last_grant(INSTALL_CODE)
    document = vendor.authority.activate(Device().request(), now=NOW)
    assert vendor.authority.last_grant(INSTALL_CODE) == document


def test_a_regrant_is_the_same_set_with_the_next_number(vendor: Vendor) -> None:
    vendor.sell(5)
    device = Device()
    before = device.install(
        vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW), vendor.keys.trust
    )
    vendor.sell(7)
    after = device.install(vendor.authority.regrant(INSTALL_CODE, now=NOW + 5))
    assert (after.seq, after.issued_at, after.licenses) == (2, NOW + 5, before.licenses)


def test_a_smartserver_that_missed_roots_gets_those_it_lacks(tmp_path: Path) -> None:
    vendor = Vendor(tmp_path, make_keys(versions=7))
    vendor.sell(5)
    device = Device()
    document = vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW)
    assert len(parse_envelope(document).roots) == 6
    grant = device.install(document, make_keys().trust)
    assert grant.root_version == 7
    assert device.trust is not None
    assert device.trust.current.version == 7
    document = vendor.authority.activate(device.request(), now=NOW)
    assert parse_envelope(document).roots == ()
    device.install(document)
    vendor.close()
