from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.acceptance import accept_grant, inspect_document
from smartserver_licensed.documents.envelope import encode_base64, parse_envelope, seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.documents.trust import ROOT_TYPE, Root, seal_root
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
from support.documents import (
    DEVICE_KEY,
    GRANT,
    GRANT_KEY,
    INSTALL_CODE,
    NOW,
    ROOT_KEY,
    SECOND_GRANT_KEY,
    STRANGER,
    grant_of,
    make_root,
    sealed,
)

ROOT = make_root()
SEALED = sealed(GRANT)


def accept(
    data: bytes,
    *,
    root: Root = ROOT,
    install_code: str = INSTALL_CODE,
    last_seq: int = 0,
    device_key: bytes | None = None,
) -> Grant:
    return accept_grant(data, root=root, install_code=install_code, last_seq=last_seq, device_key=device_key)


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
        inspect_document(data, ROOT)


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_document_is_refused_or_says_the_same(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SEALED) - 1))
    mutated = SEALED[:at] + data.draw(st.binary(max_size=3)) + SEALED[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(DocumentError):
        assert accept(mutated) == GRANT
    with contextlib.suppress(DocumentError):
        inspect_document(mutated, ROOT)


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_payload_that_is_signed_gives_a_grant_or_the_error_tree(data: st.DataObject) -> None:
    payload = parse_envelope(SEALED).payload
    at = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 3)) :]
    with contextlib.suppress(DocumentError):
        accept(seal(GRANT_TYPE, mutated, [GRANT_KEY]))


# -- inspection --------------------------------------------------------------------------------------------------


def test_a_grant_is_shown_with_its_licenses() -> None:
    found = inspect_document(SEALED, ROOT)
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


@pytest.mark.parametrize(("data", "root"), [(SEALED, None), (sealed(GRANT, STRANGER), ROOT)])
def test_a_grant_that_does_not_verify_is_shown_and_said_not_to(data: bytes, root: Root | None) -> None:
    found = inspect_document(data, root)
    assert (found["verified"], found["code"], found["seq"]) == (False, "signature-invalid", 1)
    assert "cannot" in str(found["reason"])


@pytest.mark.parametrize(("root", "verified"), [(ROOT, True), (None, False), (make_root(threshold=2), False)])
def test_a_root_verifies_only_as_the_trusted_one(root: Root | None, verified: bool) -> None:
    found = inspect_document(seal_root(ROOT, [ROOT_KEY]), root)
    assert (found["kind"], found["verified"], found["version"]) == ("root", verified, 1)
    assert found["code"] == ("" if verified else "root-invalid")


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
        inspect_document(data, ROOT)


def test_nothing_shown_can_move_a_cursor() -> None:
    """An unverified document comes from anybody, and its texts reach terminals."""
    payload: dict[str, Any] = json.loads(encode_grant(GRANT))
    payload["licenses"][0]["note"] = "\x1b[2J"
    with pytest.raises(PayloadError) as caught:
        inspect_document(seal(GRANT_TYPE, json.dumps(payload).encode(), [STRANGER]), ROOT)
    assert str(caught.value).isprintable()


def test_the_base64_of_a_payload_has_one_form_so_a_document_has_one_meaning() -> None:
    envelope = json.loads(SEALED)
    assert envelope["payload"] == encode_base64(encode_grant(GRANT))
