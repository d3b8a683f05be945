from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from license_authority.errors import (
    ConfirmationNeededError,
    ContactForkedError,
    CustomerMismatchError,
    InstallCodeTakenError,
    KeyRetiredError,
    OverReturnedError,
    RegisterBehindError,
    SmartServerUnknownError,
    TotalsFallenError,
)
from license_authority.moving import Credit
from smartserver_licensed.documents.envelope import parse_envelope, seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES
from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.contacts import Contact, ContactKind, LicenseTotals, Wanted
from smartserver_licensed.domain.errors import PayloadError
from smartserver_licensed.domain.licenses import Grant, LicenseType
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor


def exchange(vendor: Vendor, device: Device, *wanted: str | Wanted, confirm: bool = False) -> Grant:
    document = vendor.authority.activate(device.request(*wanted), now=NOW, confirm=confirm)
    return device.install(document, vendor.keys.trust)


def enrolled(vendor: Vendor, devices: int = 1_000) -> tuple[Device, str]:
    license_id, device = vendor.sell(devices), Device()
    exchange(vendor, device, license_id)
    return device, license_id


# -- the chain ---------------------------------------------------------------------------------------------------------


def test_a_grant_acknowledges_the_last_contact_seen(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    device.give_back(license_id, 10)
    lost = device.marks[-1]
    grant = exchange(vendor, device)
    assert grant.contact == device.marks[0]
    assert (grant.contact.number, len(device.marks)) == (3, 1)
    assert lost.number == 2


def test_a_contact_whose_answer_got_lost_is_part_of_the_next_one(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    for _ in range(3):
        vendor.authority.activate(device.request(), now=NOW)
    assert exchange(vendor, device).seq == 5
    assert vendor.authority.smartservers()[0].last_contact == 5


def test_a_number_that_is_used_twice_is_found_and_both_hashes_are_kept(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    clone = device.copy()
    vendor.authority.activate(device.request(), now=NOW + 5)
    with pytest.raises(ContactForkedError, match=r"two copies of this SmartServer; number 2 .* since"):
        vendor.authority.activate(clone.request(), now=NOW + 9)
    (row,) = vendor.authority.smartservers()
    (fork,) = row.forks
    assert (fork.code, fork.number, fork.known_at, fork.found_at) == ("contact-forked", 2, NOW + 5, NOW + 9)
    assert (fork.known_sha256, fork.other_sha256) == (device.marks[-1].sha256, clone.marks[-1].sha256)
    assert fork.key_id == row.key_id == device.key.public.key_id


def test_once_forked_both_copies_are_refused_until_there_is_a_new_key(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    clone = device.copy()
    answered = device.request()
    vendor.authority.activate(answered, now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW)
    for document in (answered, device.request(), clone.request()):
        with pytest.raises(ContactForkedError, match="--new-key"):
            vendor.authority.activate(document, now=NOW)
        with pytest.raises(ContactForkedError):
            vendor.authority.contact(document, now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.credit(device.give_back(license_id, 1), now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.regrant(INSTALL_CODE, now=NOW)
    assert len(vendor.authority.smartservers()[0].forks) == 1

    device.renew_key()
    assert exchange(vendor, device, confirm=True).licenses[0].granted_total == 1_000
    with pytest.raises(KeyRetiredError):
        vendor.authority.activate(clone.request(), now=NOW)
    assert len(vendor.authority.smartservers()[0].forks) == 1


def test_a_restored_image_is_found_by_any_kind_of_contact(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    image = device.copy()
    vendor.authority.credit(device.give_back(license_id, 300), now=NOW)
    with pytest.raises(ContactForkedError):
        vendor.authority.credit(image.give_back(license_id, 300), now=NOW)
    assert vendor.at_authority(license_id) == 300


def test_a_number_that_was_only_listed_is_known_too(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    clone = device.copy()
    device.request()
    exchange(vendor, device)
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW)
    assert vendor.authority.smartservers()[0].forks[0].number == 2


def test_a_chain_that_lists_another_hash_is_found(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    clone = device.copy()
    vendor.authority.activate(device.request(), now=NOW)
    clone.request()
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW)


def test_a_chain_without_the_last_contact_seen_is_found(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    exchange(vendor, device)
    device.request()
    device.marks = device.marks[-1:]
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(device.request(), now=NOW)


def test_a_first_contact_that_speaks_of_an_unknown_answer_tells_that_the_register_is_old(vendor: Vendor) -> None:
    device = Device()
    device.request()
    device.request()
    device.marks = device.marks[-1:]
    with pytest.raises(RegisterBehindError, match="may be an old copy"):
        vendor.authority.activate(device.request(customer_id=CUSTOMER_ID), now=NOW)
    assert vendor.authority.smartservers() == ()


@pytest.mark.parametrize(
    "said",
    [
        lambda contact: replace(contact, grant_seq=2),
        lambda contact: replace(contact, totals=(LicenseTotals("unknown", 5, 0, 0),)),
        lambda contact: replace(contact, totals=(replace(contact.totals[0], granted_total=1_001),)),
    ],
)
def test_what_the_register_has_never_given_tells_that_it_is_old(
    vendor: Vendor, said: Callable[[Contact], Contact]
) -> None:
    device, _ = enrolled(vendor)
    with pytest.raises(RegisterBehindError):
        vendor.authority.activate(device.request(edit=said), now=NOW)
    assert vendor.authority.smartservers()[0].last_contact == 1


@pytest.mark.parametrize(
    "totals", [(600, 300, 0), (1_000, 299, 0), (1_000, 300, 9), None], ids=["granted", "returned", "consumed", "gone"]
)
def test_totals_below_those_said_before_are_found(vendor: Vendor, totals: tuple[int, int, int] | None) -> None:
    device, license_id = enrolled(vendor)
    device.returned[license_id], device.consumed[license_id] = 300, 10
    exchange(vendor, device)
    fallen = (LicenseTotals(license_id, *totals),) if totals else ()
    with pytest.raises(TotalsFallenError):
        vendor.authority.activate(device.request(edit=lambda contact: replace(contact, totals=fallen)), now=NOW)
    with pytest.raises(TotalsFallenError):
        vendor.authority.activate(device.request(), now=NOW)
    assert [each.code for each in vendor.authority.smartservers()[0].forks] == ["totals-fallen"]


def test_a_late_contact_may_say_less(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    late = device.request()
    device.give_back(license_id, 300)
    exchange(vendor, device)
    assert vendor.authority.activate(late, now=NOW)
    assert vendor.at_authority(license_id) == 300


# -- crediting ---------------------------------------------------------------------------------------------------------


def test_a_return_given_twice_credits_once_and_says_so(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    document = device.give_back(license_id, 300)
    first, second = (vendor.authority.credit(document, now=NOW) for _ in range(2))
    assert first == Credit(license_id, 300, is_known=False, at_authority=300)
    assert second == Credit(license_id, 0, is_known=True, at_authority=300)


def test_a_lost_return_is_credited_by_the_next_contact_and_credits_nothing_when_it_turns_up(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    lost = device.give_back(license_id, 300)
    grant = exchange(vendor, device)
    assert vendor.at_authority(license_id) == 300
    assert (grant.licenses[0].granted_total, grant.licenses[0].returned_total) == (1_000, 300)
    late = vendor.authority.credit(lost, now=NOW)
    assert (late.devices_credited, late.is_known, late.at_authority) == (0, False, 300)


def test_a_return_tells_an_earlier_one_too(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    earlier = device.give_back(license_id, 100)
    assert vendor.authority.credit(device.give_back(license_id, 200), now=NOW).devices_credited == 300
    assert vendor.authority.credit(earlier, now=NOW).devices_credited == 0


def test_credited_devices_are_free_again_for_the_customer(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    vendor.authority.credit(device.give_back(license_id, 300), now=NOW)
    other = Device(install_code="17bbbbb", key=SigningKey.generate())
    assert exchange(vendor, other, license_id).licenses[0].granted_total == 300
    assert exchange(vendor, device).licenses[0].granted_total == 1_000
    assert device.usable(license_id) == 700


def test_what_came_back_may_go_out_to_the_same_smartserver_again(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    vendor.authority.credit(device.give_back(license_id, 300), now=NOW)
    grant = exchange(vendor, device, license_id)
    assert (grant.licenses[0].granted_total, grant.licenses[0].returned_total) == (1_300, 300)
    assert device.usable(license_id) == 1_000


def test_more_returned_than_granted_is_refused(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)

    def lie(contact: Contact) -> Contact:
        return replace(contact, totals=(LicenseTotals(license_id, 2_000, 1_500, 0),))

    with pytest.raises(OverReturnedError, match=r"1500 devices .* are returned, it says; 1000 were granted"):
        vendor.authority.credit(device.give_back(license_id, 1_500, edit=lie), now=NOW)
    assert vendor.at_authority(license_id) == 0


def test_what_was_used_up_cannot_be_returned_too(vendor: Vendor) -> None:
    device, license_id = Device(), vendor.sell(1, LicenseType.UPGRADE)
    exchange(vendor, device, license_id)
    device.consume(license_id)
    exchange(vendor, device)
    device.renew_key()
    device.consumed.clear()
    with pytest.raises(ConfirmationNeededError):
        vendor.authority.credit(device.give_back(license_id, 1), now=NOW)
    vendor.authority.activate(device.request(), now=NOW, confirm=True)
    assert vendor.at_authority(license_id) == 0
    assert "returned-after-use" in {each.act for each in vendor.authority.audit()}


def test_only_an_upgrade_can_be_used_up(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    device.consumed[license_id] = 1_000
    assert exchange(vendor, device).licenses[0].consumed_total == 0
    assert [(each.in_field, each.consumed) for each in vendor.check()] == [(1_000, 0)]


def test_totals_that_are_said_twice_are_no_contact(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    payload = json.loads(parse_envelope(device.request()).payload)
    payload["totals"] *= 2
    document = seal(CONTACT_TYPES[ContactKind.REQUEST], json.dumps(payload).encode(), [device.key])
    with pytest.raises(PayloadError, match="twice"):
        vendor.authority.contact(document, now=NOW)
    assert vendor.authority.smartservers()[0].last_contact == 1


def test_whoever_carries_for_one_customer_carries_nothing_of_another(vendor: Vendor) -> None:
    other = vendor.authority.add_customer("B", now=NOW)
    device, license_id = enrolled(vendor)
    unknown = Device(install_code="17bbbbb", key=SigningKey.generate())
    moved = device.copy()
    moved.install_code = "17ccccc"
    documents = [
        device.copy().request(),
        device.copy().give_back(license_id, 1),
        moved.request(),
        unknown.copy().request(license_id),
        unknown.copy().request("never-sold"),
        unknown.copy().request(customer_id=CUSTOMER_ID),
    ]
    for document in documents:
        with pytest.raises(CustomerMismatchError, match="not of the token's customer"):
            vendor.authority.contact(document, now=NOW, customer_id=other)
    (row,) = vendor.authority.smartservers()
    assert (row.install_code, row.last_contact, row.forks) == (INSTALL_CODE, 1, ())
    answer = vendor.authority.contact(device.request(), now=NOW, customer_id=CUSTOMER_ID)
    assert device.install(answer.document).seq == 2


def test_a_smartserver_that_sends_a_return_itself_gets_a_fresh_grant(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    document = device.give_back(license_id, 300)
    answer = vendor.authority.contact(document, now=NOW)
    grant = device.install(answer.document)
    assert grant.contact == device.marks[-1]
    assert answer.credit is not None
    assert answer.credit.devices_credited == 300
    again = vendor.authority.contact(document, now=NOW)
    assert again.document == answer.document
    assert again.credit is not None
    assert (again.credit.devices_credited, again.credit.is_known) == (0, True)


def test_a_return_that_was_credited_by_hand_still_gets_its_grant(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    document = device.give_back(license_id, 300)
    vendor.authority.credit(document, now=NOW)
    answer = vendor.authority.contact(document, now=NOW)
    assert device.install(answer.document).licenses[0].returned_total == 300


# -- whose key it is ---------------------------------------------------------------------------------------------------


def test_a_return_of_nobody_is_refused(vendor: Vendor) -> None:
    with pytest.raises(SmartServerUnknownError):
        vendor.authority.credit(Device().give_back("x", 1), now=NOW)


def test_a_new_device_key_needs_the_operator_and_brings_nothing_twice(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    vendor.authority.credit(device.give_back(license_id, 300), now=NOW)
    wiped = Device(key=SigningKey.generate())
    request = wiped.request()
    with pytest.raises(ConfirmationNeededError, match="activate --confirm"):
        vendor.authority.activate(request, now=NOW)
    with pytest.raises(ConfirmationNeededError):
        vendor.authority.contact(request, now=NOW)
    grant = wiped.install(vendor.authority.activate(request, now=NOW, confirm=True), vendor.keys.trust)
    assert (grant.seq, wiped.usable(license_id)) == (2, 700)
    assert vendor.at_authority(license_id) == 300
    assert grant.contact is not None
    assert grant.contact.number == 1
    with pytest.raises(KeyRetiredError, match="this device key was replaced on 2026-11-24"):
        vendor.authority.activate(device.request(), now=NOW)


def test_a_changed_mainboard_needs_the_operator_and_renames_the_smartserver(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    device.install_code, device.factors = "17bbbbb", Factors("a", "b", "c")
    request = device.request()
    with pytest.raises(ConfirmationNeededError, match=f"its device key is that of {INSTALL_CODE}"):
        vendor.authority.activate(request, now=NOW)
    grant = device.install(vendor.authority.activate(request, now=NOW, confirm=True))
    assert (grant.install_code, grant.seq, grant.factors) == ("17bbbbb", 2, Factors("a", "b", "c"))
    assert device.usable(license_id) == 1_000
    assert [each.install_code for each in vendor.authority.smartservers()] == ["17bbbbb"]


def test_a_late_document_from_before_the_change_of_the_mainboard_renames_nothing(vendor: Vendor) -> None:
    device, license_id = enrolled(vendor)
    late = device.give_back(license_id, 100)
    device.install_code = "17bbbbb"
    exchange(vendor, device, confirm=True)
    assert vendor.authority.credit(late, now=NOW).at_authority == 100
    assert [each.install_code for each in vendor.authority.smartservers()] == ["17bbbbb"]


def test_a_mainboard_that_was_bought_for_brings_what_is_reserved_for_it(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    reserved = vendor.sell(50, install_code="17bbbbb")
    device.install_code = "17bbbbb"
    exchange(vendor, device, confirm=True)
    assert device.usable(reserved) == 50


def test_the_install_code_of_a_mainboard_that_was_changed_needs_the_operator(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    device.install_code = "17bbbbb"
    exchange(vendor, device, confirm=True)
    more = vendor.sell(5)
    stranger = Device(key=SigningKey.generate())
    with pytest.raises(ConfirmationNeededError):
        vendor.authority.contact(stranger.request(more), now=NOW)
    assert [each.install_code for each in vendor.authority.smartservers()] == ["17bbbbb"]
    exchange(vendor, stranger, more, confirm=True)
    assert stranger.usable(more) == 5


def test_a_mainboard_of_another_smartserver_is_refused(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    exchange(vendor, Device(install_code="17bbbbb", key=SigningKey.generate()), vendor.sell(5))
    device.install_code = "17bbbbb"
    with pytest.raises(InstallCodeTakenError, match="rma"):
        vendor.authority.activate(device.request(), now=NOW, confirm=True)
    assert [each.install_code for each in vendor.authority.smartservers()] == ["17bbbbb", INSTALL_CODE]


def test_a_clone_in_another_box_is_found_although_it_would_need_confirmation(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    clone = device.copy()
    clone.install_code = "17bbbbb"
    exchange(vendor, device)
    with pytest.raises(ContactForkedError):
        vendor.authority.activate(clone.request(), now=NOW, confirm=True)
    assert [each.install_code for each in vendor.authority.smartservers()] == [INSTALL_CODE]


def test_changed_factors_are_noted_without_a_question(vendor: Vendor) -> None:
    device, _ = enrolled(vendor)
    device.factors = Factors("10000000aabbccdd", "", "00:00:00:00:00:01")
    assert exchange(vendor, device).factors == device.factors
