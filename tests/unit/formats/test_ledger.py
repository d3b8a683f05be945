"""Ledger events and snapshots: what is written is read again, and nothing else is."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.errors import LedgerCorruptError
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Cause,
    Event,
    EvictionForgotten,
    GrantInstalled,
    InternalChanged,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
)
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_events, encode_snapshot

UNITS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(UnitId)
SEATS = st.builds(Seat, st.sampled_from(SeatKind), st.booleans(), st.integers(1, 2**40))
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(SeatGiven, UNITS, SEATS),
    st.builds(SeatLost, UNITS, st.sampled_from(Cause)),
    st.builds(EvictionForgotten, UNITS),
    st.builds(InternalChanged, st.builds(DeviceId, st.text(max_size=5), st.text(max_size=5)), st.booleans()),
    st.just(AdoptionChanged(is_adopting=False)),
)
GRACE = st.builds(Grace, st.integers(0, 2**31), st.integers(0, 2**31), st.integers(0, 2**31))


def a_grant() -> GrantInstalled:
    license_ = License("lic-1", LicenseType.CAPACITY, 5)
    grant = Grant(1, 1_795_500_000, "11111111-2222-4333-8444-555555555555", "17qtest", None, (license_,), 1)
    return GrantInstalled(grant, seal(GRANT_TYPE, encode_grant(grant), [SigningKey.generate()]), 1_795_500_001)


@given(st.lists(EVENTS, max_size=20), st.integers(0, 2**40), GRACE)
def test_events_are_read_as_they_were_written(events: list[Event], mark_s: int, grace: Grace) -> None:
    mark = TimeMarked(mark_s, grace)
    assert decode_events(encode_events(events, mark)) == [*events, mark]


@given(st.lists(EVENTS, max_size=30))
def test_a_snapshot_holds_the_whole_state(events: list[Event]) -> None:
    state = LedgerState(install_code="17qtest", mark_s=7)
    for event in [*events, a_grant()]:
        state.apply(event)
    assert decode_snapshot(encode_snapshot(state)) == state


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
    body = b'{"e":[["frobnicated",1,2],["adopted"]],"t":5,"g":[0,0,0],"w":0}'
    assert decode_events(body) == [AdoptionChanged(is_adopting=False), TimeMarked(5, Grace())]


@pytest.mark.parametrize(
    "event", ['["-","u","taken",1]', '["forget",5]', '["+","u","r",0]', '["adopted",1]', "[]", "7"]
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
