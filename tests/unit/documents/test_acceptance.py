from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.acceptance import accept_grant, accept_root, inspect_document, verify_stored
from smartserver_licensed.documents.envelope import attach_roots, encode_base64, parse_envelope, seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, GRANT_TYPE, encode_grant, open_contact
from smartserver_licensed.documents.trust import ROOT_TYPE, Root, Trust, load_trust, seal_root
from smartserver_licensed.domain.contacts import ContactKind, Wanted
from smartserver_licensed.domain.errors import (
    ActivationRequiredError,
    CriticalFieldError,
    DocumentError,
    DocumentTooLargeError,
    EnvelopeError,
    PayloadError,
    PayloadTypeError,
    RootError,
    SignatureError,
    StaleGrantError,
    WrongSmartServerError,
)
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from support.devices import Device
from support.documents import (
    DEVICE_KEY,
    GRANT,
    GRANT_KEY,
    INSTALL_CODE,
    NOW,
    ROOT_KEY,
    SECOND_GRANT_KEY,
    STRANGER,
    grant_key,
    grant_of,
    make_root,
    make_trust,
    root_key,
    rotated_root,
    rotated_roots,
    sealed,
)

ROOT = make_root()
TRUST = make_trust()
SEALED = sealed(GRANT)
ROOTS = rotated_roots(7)
SHIPPED = load_trust(ROOTS[0])


def accept(
    data: bytes,
    *,
    root: Root = ROOT,
    install_code: str = INSTALL_CODE,
    last_seq: int = 0,
    device_key: bytes | None = None,
) -> Grant:
    trust = TRUST if root is ROOT else make_trust(root)
    return accept_grant(data, trust=trust, install_code=install_code, last_seq=last_seq, device_key=device_key).grant


def test_a_good_grant_is_accepted() -> None:
    assert accept(SEALED) == GRANT


def test_a_threshold_of_two_needs_two() -> None:
    root = make_root(threshold=2)
    assert accept(sealed(GRANT, GRANT_KEY, SECOND_GRANT_KEY), root=root) == GRANT
    with pytest.raises(SignatureError):
        accept(SEALED, root=root)


@pytest.mark.parametrize("signer", [STRANGER, ROOT_KEY])
def test_a_grant_by_a_key_that_is_not_trusted_for_grants_is_refused(signer: SigningKey) -> None:
    with pytest.raises(SignatureError):
        accept(sealed(GRANT, signer))


def test_a_grant_for_another_smartserver_is_refused() -> None:
    with pytest.raises(WrongSmartServerError, match=r"17qei61.*17aaaaa"):
        accept(SEALED, install_code="17aaaaa")


def test_a_grant_that_is_not_newer_than_the_last_one_is_refused() -> None:
    for last_seq in (1, 2, 1000):
        with pytest.raises(StaleGrantError, match=f"seq is 1, the last accepted one {last_seq}"):
            accept(SEALED, last_seq=last_seq)
    assert accept(sealed(replace(GRANT, seq=2)), last_seq=1).seq == 2


def test_a_grant_without_a_device_key_needs_a_root_that_allows_it() -> None:
    with pytest.raises(ActivationRequiredError):
        accept(SEALED, root=make_root(allow_unactivated=False))


def test_a_grant_with_a_device_key_is_for_that_key_only() -> None:
    data = sealed(replace(GRANT, device_key=DEVICE_KEY))
    with pytest.raises(WrongSmartServerError, match="none yet"):
        accept(data)
    with pytest.raises(WrongSmartServerError, match="not this SmartServer's"):
        accept(data, device_key=STRANGER.public.raw)
    assert accept(data, device_key=DEVICE_KEY).device_key == DEVICE_KEY
    assert accept(data, device_key=DEVICE_KEY, root=make_root(allow_unactivated=False)).seq == 1


def test_a_grant_made_under_another_root_is_refused() -> None:
    with pytest.raises(RootError, match="root version 2, the trusted one is 1"):
        accept(sealed(replace(GRANT, root_version=2)))


def test_emergency_devices_are_capped_by_the_root() -> None:
    def emergency(devices: int) -> License:
        return License(f"e-{devices}", LicenseType.EMERGENCY, devices, NOW + 86_400)

    assert len(accept(sealed(grant_of(emergency(60), emergency(40)))).licenses) == 2
    with pytest.raises(PayloadError, match="101 emergency devices, the root allows 100"):
        accept(sealed(grant_of(emergency(60), emergency(41))))


def test_a_document_of_one_kind_sent_as_another_is_refused() -> None:
    with pytest.raises(PayloadTypeError):
        accept(seal_root(ROOT, [ROOT_KEY]))
    with pytest.raises(PayloadTypeError):
        accept(seal(ROOT_TYPE, encode_grant(GRANT), [GRANT_KEY]))
    relabelled = json.loads(seal(ROOT_TYPE, encode_grant(GRANT), [GRANT_KEY])) | {"payloadType": GRANT_TYPE}
    with pytest.raises(SignatureError):
        accept(json.dumps(relabelled).encode())


def test_checks_come_in_the_one_order() -> None:
    """From a document in which everything is wrong, faults are mended one by one; the next one in order is told."""
    strict = make_root(allow_unactivated=False)

    def refused(data: bytes, error: type[DocumentError], *, root: Root = strict, install_code: str = "other") -> None:
        with pytest.raises(error) as caught:
            accept(data, root=root, install_code=install_code, last_seq=99)
        assert type(caught.value) is error

    wrong = replace(GRANT, root_version=2)
    malformed = json.dumps(json.loads(encode_grant(wrong)) | {"seq": "1"}).encode()
    critical = json.dumps(json.loads(malformed) | {"critical": ["x"]}).encode()
    refused(b"{" * 70_000, DocumentTooLargeError)
    refused(b"{" * 60_000, EnvelopeError)
    refused(seal("other", critical, [STRANGER]), PayloadTypeError)
    refused(attach_roots(seal(GRANT_TYPE, critical, [STRANGER]), [ROOTS[3]]), RootError)
    refused(seal(GRANT_TYPE, critical, [STRANGER]), SignatureError)
    refused(seal(GRANT_TYPE, critical, [GRANT_KEY]), CriticalFieldError)
    refused(seal(GRANT_TYPE, malformed, [GRANT_KEY]), PayloadError)
    refused(sealed(wrong), RootError)
    refused(sealed(GRANT), WrongSmartServerError)
    refused(sealed(GRANT), ActivationRequiredError, install_code=INSTALL_CODE)
    refused(sealed(GRANT), StaleGrantError, install_code=INSTALL_CODE, root=ROOT)


def test_a_grant_cut_at_any_byte_is_refused() -> None:
    for length in range(len(SEALED)):
        with pytest.raises(DocumentError):
            accept(SEALED[:length])


@pytest.mark.parametrize("flip", [lambda byte: byte ^ 1, lambda byte: byte ^ 0x20, lambda byte: byte ^ 0xFF])
def test_a_grant_with_any_byte_changed_is_refused(flip: Callable[[int], int]) -> None:
    for at in range(len(SEALED)):
        with pytest.raises(DocumentError):
            accept(SEALED[:at] + bytes([flip(SEALED[at])]) + SEALED[at + 1 :])


@given(st.binary(max_size=200))
@settings(max_examples=2_000)
def test_random_bytes_are_refused_by_the_error_tree(data: bytes) -> None:
    with pytest.raises(DocumentError):
        accept(data)
    with pytest.raises(DocumentError):
        inspect_document(data, TRUST)


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_document_is_refused_or_says_the_same(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SEALED) - 1))
    mutated = SEALED[:at] + data.draw(st.binary(max_size=3)) + SEALED[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(DocumentError):
        assert accept(mutated) == GRANT
    with contextlib.suppress(DocumentError):
        inspect_document(mutated, TRUST)


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_payload_that_is_signed_gives_a_grant_or_the_error_tree(data: st.DataObject) -> None:
    payload = parse_envelope(SEALED).payload
    at = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(DocumentError):
        accept(seal(GRANT_TYPE, mutated, [GRANT_KEY]))


# -- roots that travel with a grant ------------------------------------------------------------------------------


def late_grant(grant: Grant = GRANT, *, version: int = 7, brings: list[bytes] | None = None) -> bytes:
    """A grant under root `version` with the roots that it brings, all where no other are named."""
    data = sealed(replace(grant, root_version=version), grant_key(version))
    return attach_roots(data, ROOTS[:version] if brings is None else brings)


def arrives(data: bytes, trust: Trust = SHIPPED, *, last_seq: int = 0) -> Trust:
    return accept_grant(data, trust=trust, install_code=INSTALL_CODE, last_seq=last_seq, device_key=None).trust


def test_a_smartserver_at_root_1_catches_up_with_root_7_from_one_grant() -> None:
    trust = arrives(late_grant())
    assert [each.version for each in trust.roots] == [1, 2, 3, 4, 5, 6, 7]
    assert list(trust.envelopes) == ROOTS
    assert arrives(late_grant(replace(GRANT, seq=2)), trust, last_seq=1) == trust


def test_a_grant_brings_as_many_roots_as_are_missing() -> None:
    assert arrives(late_grant(brings=ROOTS[1:])).current.version == 7
    assert arrives(late_grant(brings=ROOTS[4:]), arrives(late_grant(version=4))).current.version == 7


@pytest.mark.parametrize("brings", [ROOTS[2:], [*ROOTS[:3], *ROOTS[4:]], ROOTS[:0:-1]], ids=["1", "4", "backwards"])
def test_a_grant_that_skips_a_root_is_refused(brings: list[bytes]) -> None:
    with pytest.raises(RootError, match="none may be skipped"):
        arrives(late_grant(brings=brings))


def test_a_grant_whose_roots_were_cut_off_is_refused() -> None:
    with pytest.raises(SignatureError):
        arrives(late_grant(brings=[]))


def test_a_grant_under_an_older_root_than_it_brings_is_refused() -> None:
    old = sealed(replace(GRANT, root_version=6), grant_key(7))
    with pytest.raises(RootError, match="root version 6, the trusted one is 7"):
        arrives(attach_roots(old, ROOTS))


def test_a_late_grant_under_an_older_root_than_the_trusted_one_is_refused() -> None:
    trust = arrives(late_grant())
    with pytest.raises(SignatureError):
        arrives(late_grant(version=2), trust)
    with pytest.raises(RootError, match="root version 1, the trusted one is 2"):
        accept(SEALED, root=make_root(version=2))


def test_a_refused_grant_brings_no_root() -> None:
    stale = late_grant()
    with pytest.raises(StaleGrantError):
        arrives(stale, last_seq=1)
    assert [each.version for each in SHIPPED.roots] == [1]


def test_forged_roots_beside_a_good_grant_are_told_before_its_signatures() -> None:
    forged = seal_root(rotated_root(2), [root_key(2), STRANGER])
    with pytest.raises(RootError, match="not signed by version 1"):
        arrives(late_grant(version=2, brings=[forged]))


def test_a_root_alone_is_accepted_where_it_follows() -> None:
    assert accept_root(ROOTS[1], SHIPPED).current.version == 2
    assert accept_root(attach_roots(ROOTS[6], ROOTS[:6]), SHIPPED).current.version == 7
    assert accept_root(ROOTS[0], SHIPPED) == SHIPPED


def test_a_root_alone_is_refused_where_it_does_not_follow() -> None:
    trust = accept_root(ROOTS[1], SHIPPED)
    with pytest.raises(RootError, match="none goes backwards"):
        accept_root(ROOTS[0], trust)
    with pytest.raises(RootError, match="none may be skipped"):
        accept_root(ROOTS[3], trust)
    with pytest.raises(RootError, match="none goes backwards"):
        accept_root(attach_roots(ROOTS[1], ROOTS[:4]), trust)
    with pytest.raises(PayloadTypeError):
        accept_root(SEALED, trust)


def test_a_stored_grant_is_verified_under_the_root_that_it_was_accepted_under() -> None:
    stored = late_grant(version=2)
    trust = arrives(late_grant(replace(GRANT, seq=2)), arrives(stored))
    verify_stored(stored, 2, trust)
    assert not trust.signs_still(GRANT_TYPE, stored)
    for version in (1, 7):
        with pytest.raises(SignatureError):
            verify_stored(stored, version, trust)
    with pytest.raises(RootError, match="root version 8, which is not kept"):
        verify_stored(stored, 8, trust)
    with pytest.raises(PayloadTypeError):
        verify_stored(ROOTS[0], 1, trust)


def test_a_request_is_no_grant() -> None:
    with pytest.raises(PayloadTypeError):
        accept(Device().request())
    with pytest.raises(PayloadTypeError):
        open_contact(SEALED)


# -- inspection --------------------------------------------------------------------------------------------------


def test_a_grant_is_shown_with_its_licenses() -> None:
    found = inspect_document(SEALED, TRUST)
    assert found == {
        "kind": "grant",
        "verified": True,
        "reason": "",
        "code": "",
        "summary": "grant 1 for SmartServer 17qei61: 1000-device capacity, 5-device trial",
        "seq": 1,
        "issued_at": "2026-11-24T03:22:42Z",
        "customer_id": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11",
        "install_code": "17qei61",
        "root_version": 1,
        "licenses": [
            "cap-1: 1000-device capacity (Plant 3, 2. OG – Süd)",
            "trial-1: 5-device trial until 2026-12-24",
        ],
    }


@pytest.mark.parametrize(("data", "trust"), [(SEALED, None), (sealed(GRANT, STRANGER), TRUST)])
def test_a_grant_that_does_not_verify_is_shown_and_said_not_to(data: bytes, trust: Trust | None) -> None:
    found = inspect_document(data, trust)
    assert (found["verified"], found["code"], found["seq"]) == (False, "signature-invalid", 1)
    assert "cannot" in str(found["reason"])


@pytest.mark.parametrize(
    ("trust", "verified"), [(TRUST, True), (None, False), (make_trust(make_root(threshold=2)), False), (SHIPPED, False)]
)
def test_a_root_verifies_only_as_a_trusted_one(trust: Trust | None, verified: bool) -> None:
    found = inspect_document(seal_root(ROOT, [ROOT_KEY]), trust)
    assert (found["kind"], found["verified"], found["version"]) == ("root", verified, 1)
    assert found["code"] == ("" if verified else "root-invalid")


def test_a_root_that_follows_the_trusted_ones_verifies() -> None:
    assert inspect_document(ROOTS[1], SHIPPED)["verified"] is True
    assert inspect_document(attach_roots(ROOTS[6], ROOTS[:6]), SHIPPED)["verified"] is True
    assert inspect_document(ROOTS[2], SHIPPED)["code"] == "root-invalid"
    assert inspect_document(ROOTS[0], load_trust(ROOTS[1]))["code"] == "root-invalid"


def test_a_grant_verifies_with_the_roots_that_it_brings() -> None:
    assert inspect_document(late_grant(), SHIPPED)["verified"] is True
    assert inspect_document(late_grant(), TRUST)["code"] == "root-invalid"
    assert inspect_document(sealed(GRANT), make_trust(make_root(version=2)))["code"] == "root-invalid"


def test_a_request_is_shown_and_said_to_prove_nothing_but_its_maker() -> None:
    device = Device()
    data = device.request(Wanted("cap-1", 300), "trial-1")
    found = inspect_document(data, None)
    assert found["summary"] == (
        "request 1 of SmartServer 17qei61: cap-1 (300 devices), trial-1 (all devices), "
        "signed by its own device key; the authority decides"
    )
    assert (found["kind"], found["verified"], found["number"]) == ("request", True, 1)
    assert found["device_key"] == device.key.public.key_id
    assert "for customer acme" not in str(inspect_document(device.request(), None)["summary"])
    assert "licenses of customer acme" in str(inspect_document(device.request(customer_id="acme"), None)["summary"])


def test_a_return_is_shown_with_all_totals() -> None:
    device = Device(grant=GRANT)
    found = inspect_document(device.give_back("cap-1", 300), TRUST)
    assert (found["kind"], found["verified"]) == ("return", True)
    assert "300 devices of cap-1, signed by its own device key" in str(found["summary"])
    assert found["totals"] == [
        "cap-1: 1000 granted, 300 returned, 0 consumed",
        "trial-1: 5 granted, 0 returned, 0 consumed",
    ]


def test_a_request_that_another_key_signed_is_shown_and_said_not_to_verify() -> None:
    payload = parse_envelope(Device().request()).payload
    found = inspect_document(seal(CONTACT_TYPES[ContactKind.REQUEST], payload, [STRANGER]), TRUST)
    assert (found["verified"], found["code"]) == (False, "signature-invalid")
    assert "not signed by its own device key" in str(found["summary"])


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EnvelopeError),
        (seal("application/x-other", b"{}", [GRANT_KEY]), PayloadTypeError),
        (seal(GRANT_TYPE, b"{}", [GRANT_KEY]), PayloadError),
        (seal_root(ROOT, [STRANGER]), RootError),
    ],
)
def test_what_is_no_known_document_cannot_be_inspected(data: bytes, error: type[DocumentError]) -> None:
    with pytest.raises(error):
        inspect_document(data, TRUST)


def test_nothing_shown_can_move_a_cursor() -> None:
    """An unverified document comes from anybody, and its texts reach terminals."""
    payload: dict[str, Any] = json.loads(encode_grant(GRANT))
    payload["licenses"][0]["note"] = "\x1b[2J"
    with pytest.raises(PayloadError) as caught:
        inspect_document(seal(GRANT_TYPE, json.dumps(payload).encode(), [STRANGER]), TRUST)
    assert str(caught.value).isprintable()


def test_the_base64_of_a_payload_has_one_form_so_a_document_has_one_meaning() -> None:
    envelope = json.loads(SEALED)
    assert envelope["payload"] == encode_base64(encode_grant(GRANT))
