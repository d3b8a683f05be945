"""What a SmartServer signs, from a durable state: pure, without a ledger."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartserver_licensed.controller.contacting import (
    Asked,
    Facts,
    Return,
    acknowledged,
    outlook,
    request_events,
    return_events,
    sealed,
)
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.contacts import MAX_CHAIN, ContactKind, Wanted
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.errors import (
    ContactError,
    ContactsExhaustedError,
    NotReturnableError,
    ReturnLeavesExcessError,
    ReturnPendingError,
    UnknownLicenseError,
)
from smartserver_licensed.domain.ledger_state import (
    Cause,
    ContactMade,
    Event,
    GrantInstalled,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
)
from smartserver_licensed.domain.licenses import ContactMark, Grant, License, LicenseType
from support.documents import GRANT, INSTALL_CODE, NOW, TRIAL
from support.documents import sealed as sealed_grant

SEED = b"\x07" * 32
NONCE, OTHER_NONCE = "0" * 32, "1" * 32
FACTORS = Factors("soc-1", "emmc-1", "02:00:00:00:00:01")
FACTS = Facts(Identity(INSTALL_CODE, FACTORS), NOW, 1, 1, "none")
ANYTHING = Asked()
TEN = License("cap-1", LicenseType.CAPACITY, 10, grace_days=30)


def a_state(*licenses: License, running: int = 0) -> LedgerState:
    state = LedgerState(install_code=INSTALL_CODE, mark_s=NOW, device_seed=SEED)
    install(state, replace(GRANT, licenses=licenses or (TEN,)))
    for number in range(1, running + 1):
        state.apply(SeatGiven(UnitId(f"modbus/{number}"), Seat(SeatKind.PROVISIONED, has_run=True, number=number)))
    return state


def install(state: LedgerState, grant: Grant) -> None:
    state.apply(GrantInstalled(grant, sealed_grant(grant), NOW))


def apply(state: LedgerState, events: list[Event]) -> list[Event]:
    for event in events:
        state.apply(event)
    return events


def requested(state: LedgerState, asked: Asked = ANYTHING, facts: Facts = FACTS, nonce: str = NONCE) -> list[Event]:
    return apply(state, request_events(state, asked, facts, nonce=nonce, seed=b"\x08" * 32))


def returned(state: LedgerState, wanted: Return, nonce: str = NONCE) -> list[Event]:
    return apply(state, return_events(state, wanted, FACTS, nonce=nonce))


def mark_of(events: list[Event]) -> ContactMark:
    return next(each.mark for each in events if isinstance(each, ContactMade))


def test_a_request_says_who_asks_for_what_and_all_totals() -> None:
    state = a_state(TEN, TRIAL)
    state.returned["cap-1"] = 4
    requested(state, Asked(wanted=(Wanted("cap-9", 5),)))
    assert state.request is not None
    contact, mark = open_contact(sealed(state, state.request))
    assert (contact.kind, contact.number, contact.chain) == (ContactKind.REQUEST, 1, ())
    assert (contact.install_code, contact.factors) == (INSTALL_CODE, FACTORS)
    assert contact.device_key == SigningKey(SEED).public.raw
    assert contact.wanted == (Wanted("cap-9", 5),)
    assert [(each.id, each.granted_total, each.returned_total) for each in contact.totals] == [
        ("cap-1", 10, 4),
        ("trial-1", 5, 0),
    ]
    assert state.contacts == {1: mark.sha256}


def test_the_same_request_again_is_the_one_that_waits_for_an_answer() -> None:
    state = a_state()
    requested(state)
    assert state.request is not None
    first = sealed(state, state.request)
    assert requested(state, nonce=OTHER_NONCE) == []
    assert sealed(state, state.request) == first
    assert requested(state, Asked(is_fresh=True), nonce=OTHER_NONCE) != []
    assert state.next_contact == 3


@pytest.mark.parametrize(
    ("asked", "facts"),
    [
        (Asked(customer_id="another"), FACTS),
        (Asked(), replace(FACTS, identity=Identity(INSTALL_CODE, replace(FACTORS, soc="soc-2")))),
        (Asked(), replace(FACTS, root_version=2)),
        (Asked(), replace(FACTS, least_seq=5)),
    ],
)
def test_a_request_that_would_say_something_else_is_a_new_one(asked: Asked, facts: Facts) -> None:
    state = a_state()
    requested(state)
    assert len(requested(state, asked, facts, OTHER_NONCE)) == 1


def test_a_request_after_a_return_is_a_new_one() -> None:
    state = a_state()
    requested(state)
    returned(state, Return("cap-1", 1))
    assert len(requested(state, nonce=OTHER_NONCE)) == 1
    assert state.next_contact == 4


def test_each_contact_lists_the_earlier_ones_back_to_the_one_that_a_grant_acknowledged() -> None:
    state = a_state()
    marks = [mark_of(requested(state, Asked(is_fresh=True), nonce=f"{number:032x}")) for number in range(3)]
    install(state, replace(GRANT, seq=2, contact=marks[1], licenses=(TEN,)))
    assert acknowledged(state) == 2
    requested(state, Asked(is_fresh=True), nonce=OTHER_NONCE)
    assert state.request is not None
    contact, _ = open_contact(sealed(state, state.request))
    assert contact.earlier == (marks[1], marks[2])


def test_a_grant_that_acknowledges_what_was_never_made_changes_nothing_in_the_chain() -> None:
    state = a_state()
    made = mark_of(requested(state))
    install(state, replace(GRANT, seq=2, contact=ContactMark(1, "f" * 64), licenses=(TEN,)))
    assert state.contacts == {1: made.sha256}
    assert state.request is not None
    assert acknowledged(state) == 0


def test_a_new_key_begins_a_new_chain() -> None:
    state = a_state()
    requested(state)
    requested(state, Asked(is_new_key=True), nonce=OTHER_NONCE)
    assert state.request is not None
    contact, _ = open_contact(sealed(state, state.request))
    assert (contact.number, contact.chain) == (1, ())
    assert contact.device_key == SigningKey(b"\x08" * 32).public.raw
    assert state.next_contact == 2


def test_a_new_key_on_a_board_that_nobody_has_confirmed_is_refused() -> None:
    state = a_state()
    elsewhere = replace(FACTS, identity=Identity("17new", FACTORS))
    with pytest.raises(ContactError, match="17new"):
        request_events(state, Asked(is_new_key=True), elsewhere, nonce=NONCE, seed=SEED)
    assert requested(state, ANYTHING, elsewhere)


def test_too_many_unanswered_contacts_are_refused_and_change_nothing() -> None:
    state = a_state()
    for number in range(MAX_CHAIN + 1):
        requested(state, Asked(is_fresh=True), nonce=f"{number:032x}")
    with pytest.raises(ContactsExhaustedError):
        request_events(state, Asked(is_fresh=True), FACTS, nonce=NONCE, seed=SEED)
    assert request_events(state, Asked(), FACTS, nonce=NONCE, seed=SEED) == []
    with pytest.raises(ContactsExhaustedError):
        return_events(state, Return("cap-1", 1), FACTS, nonce=NONCE)


def test_a_return_in_part_is_one_event_that_holds_its_proof() -> None:
    state = a_state()
    events = returned(state, Return("cap-1", 3))
    assert len(events) == 1
    made = events[0]
    assert isinstance(made, ContactMade)
    assert made.returned == ("cap-1", 3)
    contact, _ = open_contact(sealed(state, made))
    assert (contact.license_id, contact.devices, contact.totals[0].returned_total) == ("cap-1", 3, 3)
    assert state.returned["cap-1"] == 3
    assert sealed(state, state.returns[made.number]) == sealed(state, made)


def test_a_return_without_a_number_is_all_that_is_left() -> None:
    state = a_state()
    returned(state, Return("cap-1", 3))
    returned(state, Return("cap-1"))
    assert state.returned["cap-1"] == 10
    with pytest.raises(NotReturnableError):
        return_events(state, Return("cap-1", 1), FACTS, nonce=NONCE)


@pytest.mark.parametrize("license_id", ["trial-1", "cap-9"])
def test_what_cannot_be_returned_is_refused(license_id: str) -> None:
    with pytest.raises((NotReturnableError, UnknownLicenseError)):
        return_events(a_state(TEN, TRIAL), Return(license_id, 1), FACTS, nonce=NONCE)


def test_the_same_return_again_has_to_be_meant() -> None:
    state = a_state()
    mark = mark_of(returned(state, Return("cap-1", 3)))
    with pytest.raises(ReturnPendingError):
        return_events(state, Return("cap-1", 3), FACTS, nonce=OTHER_NONCE)
    assert return_events(state, Return("cap-1", 3, is_another=True), FACTS, nonce=OTHER_NONCE)
    install(state, replace(GRANT, seq=2, contact=mark, licenses=(replace(TEN, returned_total=3),)))
    assert return_events(state, Return("cap-1", 3), FACTS, nonce=OTHER_NONCE)


def test_a_return_that_leaves_devices_beyond_the_capacity_names_them_and_has_to_be_told_what_to_do() -> None:
    state = a_state(running=8)
    with pytest.raises(ReturnLeavesExcessError, match="modbus/8, modbus/7") as refused:
        return_events(state, Return("cap-1", 3), FACTS, nonce=NONCE)
    assert "30 days" in str(refused.value)
    assert outlook(state, Return("cap-1", 3), NOW).excess == (UnitId("modbus/8"), UnitId("modbus/7"))
    kept = return_events(state, Return("cap-1", 3, may_exceed=True), FACTS, nonce=NONCE)
    assert [type(each) for each in kept] == [ContactMade]
    revoked = returned(state, Return("cap-1", 3, revokes_excess=True))
    assert revoked[1:] == [SeatLost(UnitId(f"modbus/{number}"), Cause.REVOKED) for number in (8, 7)]
    assert state.provisioned == 6


def test_a_return_of_maintenance_takes_nobodys_seat() -> None:
    maintenance = License("care-1", LicenseType.MAINTENANCE, 4, NOW + 86_400)
    state = a_state(replace(TEN, granted_total=5), maintenance, running=8)
    events = return_events(state, Return("care-1", 2), FACTS, nonce=NONCE)
    assert [type(each) for each in events] == [ContactMade]
