from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.payloads import encode_grant, parse_grant
from smartserver_licensed.domain.errors import CriticalFieldError, DocumentError, KeyRejectedError, PayloadError
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from support.documents import CAPACITY, DEVICE_KEY, GRANT, TRIAL, grant_of

PAYLOAD = encode_grant(GRANT)


def edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(PAYLOAD)
    edit(value)
    return json.dumps(value).encode()


def test_the_payload_of_a_grant_has_exactly_this_form() -> None:
    assert json.loads(PAYLOAD) == {
        "seq": 1,
        "issued_at": "2026-11-24T03:22:42Z",
        "customer_id": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11",
        "smartserver": {"install_code": "17qei61", "device_key": None, "factors": []},
        "licenses": [
            {
                "id": "cap-1",
                "type": "capacity",
                "granted_total": 1000,
                "expires_at": None,
                "grace_days": 0,
                "note": "Plant 3, 2. OG – Süd",
            },
            {
                "id": "trial-1",
                "type": "trial",
                "granted_total": 5,
                "expires_at": "2026-12-24T03:22:42Z",
                "grace_days": 7,
                "note": "",
            },
        ],
        "root_version": 1,
        "critical": [],
    }


@pytest.mark.parametrize("grant", [GRANT, grant_of(), replace(GRANT, device_key=DEVICE_KEY)])
def test_a_grant_comes_back_as_it_was_made(grant: Grant) -> None:
    assert parse_grant(encode_grant(grant)) == grant


def first(**members: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["licenses"][0].update(members)


def server(**members: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["smartserver"].update(members)


def top(**members: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.update(members)


def without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda value: value.pop(name)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (top(seq="1"), "seq"),
        (top(seq=True), "seq"),
        (top(seq=None), "seq"),
        (top(seq=0), "seq"),
        (top(seq=1.0), "1.0"),
        (top(seq=2**63), "63 bits"),
        (top(issued_at=1), "issued_at"),
        (top(issued_at="2026-11-24 03:22:42"), "issued_at"),
        (top(issued_at="2026-02-30T00:00:00Z"), "issued_at"),
        (top(customer_id=None), "customer_id"),
        (top(customer_id=""), "customer id"),
        (top(smartserver=[]), "smartserver"),
        (top(licenses={}), "licenses"),
        (top(licenses=[1]), "licenses[0]"),
        (top(root_version="1"), "root_version"),
        (top(root_version=0), "root version"),
        (top(critical=None), "critical"),
        (top(critical=[1]), "critical"),
        (without("seq"), "seq"),
        (without("critical"), "critical"),
        (without("licenses"), "licenses"),
        (server(install_code=1), "smartserver.install_code"),
        (server(install_code="a\n"), "install code"),
        (server(device_key=1), "smartserver.device_key"),
        (server(device_key="AA="), "smartserver.device_key"),
        (server(factors=None), "smartserver.factors"),
        (first(type="gift"), "licenses[0].type"),
        (first(type=1), "licenses[0].type"),
        (first(granted_total="5"), "licenses[0].granted_total"),
        (first(granted_total=-1), "licenses[0]"),
        (first(granted_total=1_000_001), "licenses[0]"),
        (first(expires_at=1), "licenses[0].expires_at"),
        (first(expires_at="2030-01-01T00:00:00Z"), "capacity never expires"),
        (first(type="trial"), "trial needs an end"),
        (first(grace_days=-1), "licenses[0]"),
        (first(note=None), "licenses[0].note"),
        (first(note="\x1b[2J"), "licenses[0]"),
        (first(id="trial-1"), "same id"),
        (first(id=""), "licenses[0]"),
    ],
)
def test_a_payload_of_the_wrong_form_is_refused_by_field(edit: Callable[[dict[str, Any]], object], field: str) -> None:
    with pytest.raises(PayloadError) as caught:
        parse_grant(edited(edit))
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"\xff", b'{"seq":1,"seq":1}', b'{"seq":NaN}', b"[" * 60_000, b"1" * 60_000, PAYLOAD + b"x"]
)
def test_a_payload_that_is_not_strict_json_is_refused(payload: bytes) -> None:
    with pytest.raises(PayloadError):
        parse_grant(payload)


def test_a_payload_deeper_than_eight_is_refused() -> None:
    assert parse_grant(edited(top(more=[[[[[[[]]]]]]]))) == GRANT
    with pytest.raises(PayloadError, match="deeper"):
        parse_grant(edited(top(more=[[[[[[[[]]]]]]]])))


def test_unknown_fields_are_ignored_unless_they_are_critical() -> None:
    assert parse_grant(edited(top(more={"a": 1}))) == GRANT
    assert parse_grant(edited(first(more=1))) == GRANT
    assert parse_grant(edited(top(critical=["licenses"]))) == GRANT
    with pytest.raises(CriticalFieldError, match="more"):
        parse_grant(edited(top(more=1, critical=["licenses", "more"])))


def test_a_critical_field_is_told_before_any_other_fault() -> None:
    with pytest.raises(CriticalFieldError):
        parse_grant(edited(top(seq="1", critical=["more"])))


def test_a_weak_device_key_is_refused() -> None:
    with pytest.raises(KeyRejectedError):
        parse_grant(edited(server(device_key=base64.b64encode(bytes(32)).decode())))


licenses = st.builds(
    License,
    id=st.uuids().map(str),
    type=st.just(LicenseType.CAPACITY),
    granted_total=st.integers(0, 1_000_000),
    grace_days=st.integers(0, 365),
    note=st.text(max_size=50).filter(str.isprintable),
) | st.builds(
    License,
    id=st.uuids().map(str),
    type=st.sampled_from([LicenseType.TRIAL, LicenseType.EMERGENCY, LicenseType.MAINTENANCE]),
    granted_total=st.integers(0, 1_000_000),
    expires_at=st.integers(0, 253_402_300_799),
)


@given(st.lists(licenses, max_size=20, unique_by=lambda each: each.id), st.integers(1, 2**53))
@settings(max_examples=300)
def test_every_grant_comes_back(given_licenses: list[License], seq: int) -> None:
    grant = grant_of(*given_licenses, seq=seq)
    assert parse_grant(encode_grant(grant)) == grant


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_payload_gives_a_grant_or_the_error_tree(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(PAYLOAD) - 1))
    mutated = PAYLOAD[:at] + data.draw(st.binary(max_size=3)) + PAYLOAD[at + data.draw(st.integers(0, 3)) :]
    try:
        grant = parse_grant(mutated)
    except DocumentError:
        return
    assert parse_grant(encode_grant(grant)) == grant


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([*json.loads(PAYLOAD)])


@given(st.lists(st.tuples(names, json_values), min_size=1, max_size=3))
@settings(max_examples=2_000)
def test_any_json_in_any_field_gives_a_grant_or_the_error_tree(members: list[tuple[str, Any]]) -> None:
    with contextlib.suppress(DocumentError):
        parse_grant(edited(top(**dict(members))))


def test_licenses_of_a_grant_keep_their_order() -> None:
    assert parse_grant(encode_grant(grant_of(TRIAL, CAPACITY))).licenses == (TRIAL, CAPACITY)
