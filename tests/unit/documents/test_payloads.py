from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.envelope import parse_envelope, seal
from smartserver_licensed.documents.payloads import (
    CONTACT_TYPES,
    encode_contact,
    encode_grant,
    open_contact,
    parse_contact,
    parse_grant,
)
from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.contacts import Contact, ContactKind, LicenseTotals, Wanted
from smartserver_licensed.domain.errors import (
    CriticalFieldError,
    DocumentError,
    KeyRejectedError,
    PayloadError,
    PayloadTypeError,
    SignatureError,
)
from smartserver_licensed.domain.licenses import ContactMark, Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import LATEST
from support.devices import FACTORS, Device
from support.documents import CAPACITY, DEVICE_KEY, GRANT, STRANGER, TRIAL, grant_of, sealed

PAYLOAD = encode_grant(GRANT)
MARK = ContactMark(3, "0123456789abcdef" * 4)


def edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(PAYLOAD)
    edit(value)
    return json.dumps(value).encode()


def test_the_payload_of_a_grant_has_exactly_this_form() -> None:
    assert json.loads(PAYLOAD) == {
        "seq": 1,
        "issued_at": "2026-11-24T03:22:42Z",
        "customer_id": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11",
        "smartserver": {
            "install_code": "17qei61",
            "device_key": None,
            "factors": {"soc": "", "emmc": "", "mac": ""},
        },
        "licenses": [
            {
                "id": "cap-1",
                "type": "capacity",
                "granted_total": 1000,
                "expires_at": None,
                "grace_days": 0,
                "note": "Plant 3, 2. OG – Süd",
                "returned_total": 0,
                "consumed_total": 0,
                "replaces": "",
                "release": "",
                "host": "",
            },
            {
                "id": "trial-1",
                "type": "trial",
                "granted_total": 5,
                "expires_at": "2026-12-24T03:22:42Z",
                "grace_days": 7,
                "note": "",
                "returned_total": 0,
                "consumed_total": 0,
                "replaces": "",
                "release": "",
                "host": "",
            },
        ],
        "contact": None,
        "root_version": 1,
        "critical": [],
    }


@pytest.mark.parametrize(
    "grant", [GRANT, grant_of(), replace(GRANT, device_key=DEVICE_KEY, contact=MARK, factors=FACTORS)]
)
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
        (server(factors=[]), "smartserver.factors"),
        (server(factors={"soc": "", "emmc": ""}), "smartserver.factors.mac"),
        (server(factors={"soc": " a", "emmc": "", "mac": ""}), "hardware factor"),
        (top(contact=[]), "contact"),
        (top(contact={"number": 1}), "contact.sha256"),
        (top(contact={"number": 0, "sha256": "0" * 64}), "contact number"),
        (top(contact={"number": 1, "sha256": "0" * 63}), "SHA-256"),
        (without("contact"), "contact"),
        (first(returned_total=1001), "licenses[0]"),
        (first(returned_total=-1), "licenses[0]"),
        (first(consumed_total=1, returned_total=1000), "licenses[0]"),
        (first(consumed_total=None), "licenses[0].consumed_total"),
        (first(release="4.0"), "an upgrade, and nothing else"),
        (first(type="upgrade"), "an upgrade, and nothing else"),
        (first(type="upgrade", release="4"), "4.0"),
        (first(replaces="\x1b[2J"), "licenses[0]"),
        (first(host=1), "licenses[0].host"),
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


def texts(least: int = 0) -> st.SearchStrategy[str]:
    return st.text(min_size=least, max_size=30).filter(lambda text: text.isprintable() and text == text.strip())


marks = st.builds(ContactMark, st.integers(1, 2**53), st.text("0123456789abcdef", min_size=64, max_size=64))
factors = st.builds(Factors, soc=texts(), emmc=texts(), mac=texts())
times = st.integers(0, LATEST)


@st.composite
def licenses(draw: st.DrawFn) -> License:
    type_ = draw(st.sampled_from(LicenseType))
    granted = draw(st.integers(0, 1_000_000))
    returned = draw(st.integers(0, granted))
    ends: st.SearchStrategy[int | None] = st.none() if type_ is LicenseType.CAPACITY else times
    if type_ in {LicenseType.MAINTENANCE, LicenseType.UPGRADE, LicenseType.REMOTE_CMS}:
        ends = st.none() | ends
    return License(
        id=draw(st.uuids().map(str) | texts(1)),
        type=type_,
        granted_total=granted,
        expires_at=draw(ends),
        grace_days=draw(st.integers(0, 365)),
        note=draw(texts()),
        returned_total=returned,
        consumed_total=draw(st.integers(0, granted - returned)),
        replaces=draw(texts()),
        release=draw(st.sampled_from(["4.0", "9999.12"])) if type_ is LicenseType.UPGRADE else "",
        host=draw(texts()),
    )


grants = st.builds(
    Grant,
    seq=st.integers(1, 2**53),
    issued_at=times,
    customer_id=texts(1),
    install_code=texts(1),
    device_key=st.none() | st.just(DEVICE_KEY),
    licenses=st.lists(licenses(), max_size=5, unique_by=lambda each: each.id).map(tuple),
    root_version=st.integers(1, 2**31 - 1),
    factors=factors,
    contact=st.none() | marks,
)


@given(grants)
@settings(max_examples=300)
def test_every_grant_comes_back(grant: Grant) -> None:
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


# -- requests and returns ----------------------------------------------------------------------------------------

DEVICE = Device(grant=GRANT)
REQUEST = DEVICE.request(Wanted("cap-1", 300), customer_id="acme")
RETURN = DEVICE.give_back("cap-1", 250)


def test_the_payload_of_a_request_has_exactly_this_form() -> None:
    payload = json.loads(parse_envelope(REQUEST).payload)
    assert re.fullmatch("[0-9a-f]{32}", payload.pop("nonce"))
    assert payload == {
        "number": 1,
        "chain": [],
        "made_at": "2026-11-24T03:22:42Z",
        "smartserver": {
            "install_code": "17qei61",
            "device_key": base64.b64encode(DEVICE_KEY).decode(),
            "factors": {"soc": FACTORS.soc, "emmc": FACTORS.emmc, "mac": FACTORS.mac},
        },
        "grant_seq": 1,
        "least_seq": 0,
        "root_version": 1,
        "anchor": "none",
        "totals": [
            {"id": "cap-1", "granted_total": 1000, "returned_total": 0, "consumed_total": 0},
            {"id": "trial-1", "granted_total": 5, "returned_total": 0, "consumed_total": 0},
        ],
        "request": {"customer_id": "acme", "licenses": [{"id": "cap-1", "devices": 300}]},
        "critical": [],
    }


def test_a_return_names_the_license_the_devices_and_all_totals() -> None:
    payload = json.loads(parse_envelope(RETURN).payload)
    assert payload["return"] == {"license": "cap-1", "devices": 250}
    assert payload["totals"][0]["returned_total"] == 250
    assert payload["chain"] == [hashlib.sha256(parse_envelope(REQUEST).payload).hexdigest()]


def test_a_contact_that_its_own_key_signed_is_opened() -> None:
    request, first_mark = open_contact(REQUEST)
    assert (request.kind, request.number, request.wanted) == (ContactKind.REQUEST, 1, (Wanted("cap-1", 300),))
    returned, mark = open_contact(RETURN)
    assert (returned.kind, returned.license_id, returned.devices) == (ContactKind.RETURN, "cap-1", 250)
    assert returned.earlier == (first_mark,)
    assert mark == ContactMark(2, hashlib.sha256(parse_envelope(RETURN).payload).hexdigest())


def test_the_same_contact_sealed_again_is_the_same_to_the_byte() -> None:
    payload = parse_envelope(RETURN).payload
    assert seal(CONTACT_TYPES[ContactKind.RETURN], payload, [DEVICE.key]) == RETURN


@pytest.mark.parametrize("kind", ContactKind)
def test_a_contact_that_another_key_signed_is_refused(kind: ContactKind) -> None:
    payload = parse_envelope(REQUEST if kind is ContactKind.REQUEST else RETURN).payload
    with pytest.raises(SignatureError):
        open_contact(seal(CONTACT_TYPES[kind], payload, [STRANGER]))


def test_a_contact_whose_key_was_exchanged_is_refused() -> None:
    payload = json.loads(parse_envelope(REQUEST).payload)
    payload["smartserver"]["device_key"] = base64.b64encode(STRANGER.public.raw).decode()
    with pytest.raises(SignatureError):
        open_contact(seal(CONTACT_TYPES[ContactKind.REQUEST], json.dumps(payload).encode(), [DEVICE.key]))


def test_a_request_sent_as_a_return_is_refused() -> None:
    payload = parse_envelope(REQUEST).payload
    with pytest.raises(PayloadError, match="return is missing"):
        open_contact(seal(CONTACT_TYPES[ContactKind.RETURN], payload, [DEVICE.key]))
    relabelled = json.loads(RETURN) | {"payloadType": CONTACT_TYPES[ContactKind.REQUEST]}
    with pytest.raises(PayloadError, match="request is missing"):
        open_contact(json.dumps(relabelled).encode())


def test_a_payload_of_both_kinds_relabelled_is_refused_by_its_signature() -> None:
    both = json.loads(parse_envelope(RETURN).payload) | {"request": {"customer_id": "", "licenses": []}}
    data = seal(CONTACT_TYPES[ContactKind.RETURN], json.dumps(both).encode(), [DEVICE.key])
    assert open_contact(data)[0].kind is ContactKind.RETURN
    with pytest.raises(SignatureError):
        open_contact(json.dumps(json.loads(data) | {"payloadType": CONTACT_TYPES[ContactKind.REQUEST]}).encode())


def test_a_grant_is_no_contact() -> None:
    with pytest.raises(PayloadTypeError, match="neither a request nor a return"):
        open_contact(sealed(GRANT))


def of_contact(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(parse_envelope(RETURN).payload)
    edit(value)
    return seal(CONTACT_TYPES[ContactKind.RETURN], json.dumps(value).encode(), [DEVICE.key])


def total(**members: object) -> Callable[[dict[str, Any]], object]:
    return lambda value: value["totals"][0].update(members)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (top(number="2"), "number"),
        (top(number=1), "chain"),
        (top(number=3, chain=[]), "without a chain"),
        (top(number=2**53 + 1), "number"),
        (top(chain={}), "chain"),
        (top(chain=[1]), "chain"),
        (top(chain=["x"]), "SHA-256"),
        (top(number=130, chain=["0" * 64] * 129), "chain of 129"),
        (top(nonce="x"), "nonce"),
        (top(made_at=0), "made_at"),
        (server(install_code=""), "install code"),
        (server(install_code="\x1b[2J"), "install code"),
        (server(device_key=None), "smartserver.device_key"),
        (server(factors=[]), "smartserver.factors"),
        (top(grant_seq=None), "grant_seq"),
        (top(root_version=True), "root_version"),
        (top(anchor=""), "anchor"),
        (top(totals=None), "totals"),
        (total(returned_total=1_001), "more returned or consumed than granted"),
        (total(consumed_total=751), "more returned or consumed than granted"),
        (total(granted_total=1_000_001), "totals[0].granted_total"),
        (total(returned_total=-1), "totals[0].returned_total"),
        (total(id="a\n"), "license"),
        (top(**{"return": None}), "return"),
        (top(**{"return": {"license": "", "devices": 1}}), "license"),
        (top(**{"return": {"license": "cap-1", "devices": 0}}), "devices"),
        (top(**{"return": {"license": "cap-1", "devices": "300"}}), "return.devices"),
        (without("totals"), "totals"),
        (without("critical"), "critical"),
    ],
)
def test_a_contact_of_the_wrong_form_is_refused_by_field(edit: Callable[[dict[str, Any]], object], field: str) -> None:
    with pytest.raises(PayloadError) as caught:
        open_contact(of_contact(edit))
    assert field in str(caught.value)


def test_a_contact_with_an_unknown_critical_field_is_refused() -> None:
    assert open_contact(of_contact(top(more=1)))[0].devices == 250
    with pytest.raises(CriticalFieldError, match="more"):
        open_contact(of_contact(top(more=1, critical=["more"])))


def test_a_contact_under_a_weak_key_is_refused() -> None:
    with pytest.raises(KeyRejectedError):
        open_contact(of_contact(server(device_key=base64.b64encode(bytes([1]) + bytes(31)).decode())))


@st.composite
def totals(draw: st.DrawFn) -> LicenseTotals:
    granted = draw(st.integers(0, 1_000_000))
    returned = draw(st.integers(0, granted))
    return LicenseTotals(draw(texts(1)), granted, returned, draw(st.integers(0, granted - returned)))


@st.composite
def contacts(draw: st.DrawFn) -> Contact:
    kind = draw(st.sampled_from(ContactKind))
    chain = tuple(each.sha256 for each in draw(st.lists(marks, max_size=4)))
    is_return = kind is ContactKind.RETURN
    wanted = st.lists(st.builds(Wanted, texts(1), st.integers(0, 1_000_000)), max_size=4).map(tuple)
    return Contact(
        kind=kind,
        number=len(chain) + 1 + (draw(st.integers(0, 2**52)) if chain else 0),
        chain=chain,
        nonce=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        made_at=draw(times),
        install_code=draw(texts(1)),
        device_key=DEVICE_KEY,
        factors=draw(factors),
        grant_seq=draw(st.integers(0, 2**53)),
        root_version=draw(st.integers(1, 2**31 - 1)),
        anchor=draw(texts(1)),
        totals=tuple(draw(st.lists(totals(), max_size=4))),
        customer_id="" if is_return else draw(texts()),
        wanted=() if is_return else draw(wanted),
        license_id=draw(texts(1)) if is_return else "",
        devices=draw(st.integers(1, 1_000_000)) if is_return else 0,
    )


@given(contacts())
@settings(max_examples=300)
def test_every_contact_comes_back(contact: Contact) -> None:
    payload = encode_contact(contact)
    assert parse_contact(payload, contact.kind) == contact
    assert open_contact(seal(CONTACT_TYPES[contact.kind], payload, [DEVICE.key]))[0] == contact


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_contact_that_is_signed_gives_a_contact_or_the_error_tree(data: st.DataObject) -> None:
    payload = parse_envelope(data.draw(st.sampled_from([REQUEST, RETURN]))).payload
    at = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(DocumentError):
        open_contact(seal(CONTACT_TYPES[data.draw(st.sampled_from(ContactKind))], mutated, [DEVICE.key]))
