"""Ledger events and snapshots: what is written is read again, and nothing else is."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.domain.binding import NO_FACTORS, Factors, Identity
from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.errors import LedgerCorruptError
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Anchored,
    Bound,
    Cause,
    ContactMade,
    Enrolled,
    Event,
    EvictionForgotten,
    GrantInstalled,
    InternalChanged,
    LedgerState,
    NoticeDaysSet,
    NoticesChanged,
    ReleaseSeen,
    RepairNoted,
    RootsTrusted,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
    UpgradeConsumed,
)
from smartserver_licensed.domain.licenses import ContactMark, Grant, License, LicenseType
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_events, encode_snapshot

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
UNITS = TEXTS.map(UnitId)
NUMBERS = st.integers(0, 2**40)
SEATS = st.builds(Seat, st.sampled_from(SeatKind), st.booleans(), st.integers(1, 2**40))
FACTORS = st.builds(Factors, *3 * [st.sampled_from(["", "70:b3:d5:00:00:01", "0x1a2b"])])
CONTACTS = st.integers(1, 40).flatmap(
    lambda number: st.one_of(
        st.builds(ContactMade, st.just(ContactKind.REQUEST), st.just(number), st.binary(max_size=30)),
        st.builds(
            ContactMade,
            st.just(ContactKind.RETURN),
            st.just(number),
            st.binary(max_size=30),
            st.tuples(TEXTS, NUMBERS),
            st.integers(0, 99),
        ),
    )
)
DEVICE_SEEDS = st.binary(min_size=32, max_size=32)


def a_grant(*licenses: License, contact: ContactMark | None = None, factors: Factors = NO_FACTORS) -> GrantInstalled:
    granted = licenses or (License("lic-1", LicenseType.CAPACITY, 5),)
    customer_id = "11111111-2222-4333-8444-555555555555"
    grant = Grant(1, 1_795_500_000, customer_id, "17qtest", None, granted, 1, factors, contact)
    return GrantInstalled(grant, seal(GRANT_TYPE, encode_grant(grant), [SigningKey(b"\7" * 32)]), 1_795_500_001)


GRANTS = st.builds(
    lambda returned, contact, factors: a_grant(
        License("lic-1", LicenseType.CAPACITY, 9, returned_total=returned),
        contact=contact.mark if contact else None,
        factors=factors,
    ),
    st.integers(0, 9),
    st.none() | CONTACTS,
    FACTORS,
)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(SeatGiven, UNITS, SEATS),
    st.builds(SeatLost, UNITS, st.sampled_from(Cause)),
    st.builds(EvictionForgotten, UNITS),
    st.builds(InternalChanged, st.builds(DeviceId, TEXTS, TEXTS), st.booleans()),
    st.builds(AdoptionChanged, st.booleans()),
    st.builds(RepairNoted, TEXTS),
    st.builds(Anchored, st.none() | NUMBERS),
    st.builds(Enrolled, DEVICE_SEEDS),
    st.builds(Bound, st.builds(Identity, TEXTS, FACTORS)),
    CONTACTS,
    st.builds(RootsTrusted, st.lists(st.binary(max_size=9), max_size=3).map(tuple)),
    st.builds(UpgradeConsumed, TEXTS, TEXTS),
    st.builds(ReleaseSeen, TEXTS),
    st.builds(NoticesChanged, st.dictionaries(TEXTS, st.integers(-1, 99), max_size=3).map(lambda x: tuple(x.items()))),
    st.builds(NoticeDaysSet, st.lists(st.integers(0, 999), max_size=4).map(tuple)),
    GRANTS,
)
GRACE = st.builds(Grace, st.integers(0, 2**31), st.integers(0, 2**31), st.integers(0, 2**31))


def durable(state: LedgerState) -> LedgerState:
    """Without what no snapshot holds."""
    return replace(state, license_revision=0)


@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**40), GRACE)
def test_events_are_read_as_they_were_written(events: list[Event], mark_s: int, grace: Grace) -> None:
    mark = TimeMarked(mark_s, grace)
    assert decode_events(encode_events(events, mark)) == [*events, mark]


@given(st.lists(EVENTS, max_size=30))
def test_a_snapshot_holds_the_whole_state(events: list[Event]) -> None:
    state = LedgerState(install_code="17qtest", mark_s=7)
    for event in events:
        state.apply(event)
    read = decode_snapshot(encode_snapshot(state))
    assert read == durable(state)
    assert encode_snapshot(read) == encode_snapshot(state), "the order too: the oldest goes first"


@given(st.lists(EVENTS, max_size=20), st.lists(EVENTS, max_size=20))
def test_events_do_to_a_snapshot_what_they_do_to_the_state_that_it_holds(
    before: list[Event], after: list[Event]
) -> None:
    state = LedgerState(install_code="17qtest", mark_s=7)
    for event in before:
        state.apply(event)
    read = decode_snapshot(encode_snapshot(state))
    for event in decode_events(encode_events(after, TimeMarked(9, Grace()))):
        read.apply(event)
    for event in [*after, TimeMarked(9, Grace())]:
        state.apply(event)
    assert durable(read) == durable(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("factors", ["a", "b", "c", "d"]),
        ("factors", ["a", "b", 3]),
        ("factors", [" a", "", ""]),
        ("key", None),
        ("key", "AAA"),
        ("next_contact", "1"),
        ("next_contact", True),
        ("contacts", [[1]]),
        ("contacts", [["1", "ab"]]),
        ("request", ["adopted"]),
        ("request", ["contact", "request", 1, "AAAA", None]),
        ("returns", [["contact", "request", 1, "AAAA", ["cap-1"], 0]]),
        ("returns", [["grant", "", 1]]),
        ("returned", [["cap-1", 1]]),
        ("returned", {"cap-1": "1"}),
        ("consumed", {"cap-1": None}),
        ("returned_grace", "7"),
        ("roots", ["?"]),
        ("roots", 7),
        ("release", 4.0),
        ("noticed", {"x": []}),
        ("notice_days", [None]),
    ],
)
def test_a_snapshot_with_a_value_of_another_form_is_corrupt(key: str, value: object) -> None:
    told = json.loads(encode_snapshot(LedgerState(install_code="17qtest", mark_s=7)))
    assert key in told
    with pytest.raises(LedgerCorruptError):
        decode_snapshot(json.dumps({**told, key: value}).encode())


def test_a_snapshot_in_which_a_key_is_missing_is_corrupt() -> None:
    told = json.loads(encode_snapshot(LedgerState(install_code="17qtest", mark_s=7)))
    for key in told:
        with pytest.raises(LedgerCorruptError):
            decode_snapshot(json.dumps({each: told[each] for each in told if each != key}).encode())


def test_the_grants_envelope_is_kept_byte_for_byte() -> None:
    installed = a_grant()
    (read, _) = decode_events(encode_events([installed], TimeMarked(0, Grace())))
    assert read == installed


def test_a_snapshot_of_4000_seats_is_far_below_a_mebibyte() -> None:
    state = LedgerState(install_code="17qtest", mark_s=0)
    for number in range(1, 4_001):
        seat = Seat(SeatKind.PROVISIONED, has_run=True, number=number)
        state.apply(SeatGiven(UnitId(f"modbus/acme-wm2000-with-a-long-name.d-{number}"), seat))
    assert len(encode_snapshot(state)) < (1 << 20) // 2


def test_an_event_of_a_newer_minor_version_is_ignored() -> None:
    body = b'{"e":[["frobnicated",1,2],["keys",{"a":[]}],["adopted"],["bounded"]],"t":5,"g":[0,0,0],"w":0}'
    assert decode_events(body) == [AdoptionChanged(is_adopting=False), TimeMarked(5, Grace())]


@pytest.mark.parametrize(
    "event",
    [
        '["-","u","taken",1]',
        '["forget",5]',
        '["+","u","r",0]',
        '["adopted",1]',
        '["key"]',
        '["key","?"]',
        '["key",null]',
        '["key","AAAA"]',
        '["bound","17qtest"]',
        '["bound","17qtest","a","b",null]',
        '["bound","17qtest"," a","",""]',
        '["contact","request",1,"AAAA",null]',
        '["contact","question",1,"AAAA",null,0]',
        '["contact","request","1","AAAA",null,0]',
        '["contact","request",1,"A",null,0]',
        '["contact","return",1,"AAAA",["cap-1"],0]',
        '["contact","return",1,"AAAA",["cap-1","1"],0]',
        '["roots","AAAA"]',
        '["roots",["A"]]',
        '["consumed","up-1"]',
        '["consumed","up-1",4]',
        '["release",4]',
        '["noticed",[["x"]]]',
        '["noticed",[["x",null]]]',
        '["notice-days",["30"]]',
        '["notice-days",30]',
        "[]",
        "7",
    ],
)
def test_a_known_event_that_is_not_as_it_should_be_is_corrupt_and_never_ignored(event: str) -> None:
    with pytest.raises(LedgerCorruptError):
        decode_events(f'{{"e":[{event}],"t":5,"g":[0,0,0],"w":0}}'.encode())


@given(st.binary(max_size=200))
def test_whatever_the_bytes_nothing_but_corrupt_is_said(body: bytes) -> None:
    for decode in (decode_events, decode_snapshot):
        with pytest.raises(LedgerCorruptError):
            decode(body)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_but_never_raises_anything_else(place: int, byte: int) -> None:
    body = bytearray(
        encode_events(
            [SeatGiven(UnitId("a/b"), Seat(SeatKind.RESERVED, has_run=False, number=1)), a_grant()],
            TimeMarked(1, Grace()),
        )
    )
    body[place % len(body)] = byte
    with contextlib.suppress(LedgerCorruptError):
        decode_events(bytes(body))
