from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as ReferenceEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey  # type: ignore[attr-defined]

from smartserver_licensed.documents.envelope import (
    MAX_DOCUMENT_BYTES,
    attach_roots,
    pae,
    parse_envelope,
    seal,
    verify,
    without_roots,
)
from smartserver_licensed.documents.keys import PublicKey, SigningKey
from smartserver_licensed.domain.errors import (
    DocumentError,
    DocumentTooLargeError,
    EnvelopeError,
    PayloadTypeError,
    SignatureError,
)
from support.documents import GRANT_KEY, SECOND_GRANT_KEY, STRANGER

TYPE = "http://example.com/HelloWorld"
PAYLOAD = b"hello world"
KEYS = {key.public.key_id: key.public for key in (GRANT_KEY, SECOND_GRANT_KEY)}


def check(data: bytes, *, threshold: int = 1, payload_type: str = TYPE) -> bytes:
    return verify(data, payload_type=payload_type, keys=KEYS, threshold=threshold)


def changed(**members: object) -> bytes:
    value = json.loads(seal(TYPE, PAYLOAD, [GRANT_KEY]))
    return json.dumps({**value, **members}).encode()


def test_the_pae_of_the_specification() -> None:
    assert pae(TYPE, PAYLOAD) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_in_the_pae_are_of_bytes() -> None:
    assert pae("ü", "ä".encode()) == "DSSEv1 2 ü 2 ä".encode()
    assert pae("", b"") == b"DSSEv1 0  0 "


def test_a_sealed_payload_comes_back_byte_for_byte() -> None:
    assert check(seal(TYPE, PAYLOAD, [GRANT_KEY])) == PAYLOAD
    assert check(seal(TYPE, b"\x00\xff", [GRANT_KEY])) == b"\x00\xff"


def test_sealing_again_gives_identical_bytes() -> None:
    assert seal(TYPE, PAYLOAD, [GRANT_KEY]) == seal(TYPE, PAYLOAD, [GRANT_KEY])


def test_the_reference_implementation_verifies_what_we_seal() -> None:
    reference = ReferenceEnvelope.from_dict(json.loads(seal(TYPE, PAYLOAD, [GRANT_KEY, SECOND_GRANT_KEY])))
    keys: list[Key] = [SSlibKey(name, "ed25519", "ed25519", {"public": key.raw.hex()}) for name, key in KEYS.items()]
    assert reference.pae() == pae(TYPE, PAYLOAD)
    assert set(reference.verify(keys, 2)) == set(KEYS)
    with pytest.raises(VerificationError):
        ReferenceEnvelope.from_dict(json.loads(seal(TYPE, PAYLOAD, [STRANGER]))).verify(keys, 1)


def test_we_verify_what_the_reference_implementation_signs() -> None:
    signer = CryptoSigner.generate_ed25519()
    reference = ReferenceEnvelope(PAYLOAD, TYPE, {})
    reference.sign(signer)
    data = json.dumps(reference.to_dict()).encode()
    key = PublicKey(bytes.fromhex(signer.public_key.keyval["public"]))
    assert verify(data, payload_type=TYPE, keys={signer.public_key.keyid: key}, threshold=1) == PAYLOAD
    with pytest.raises(SignatureError):
        check(data)


def test_one_key_counts_once_however_often_it_signs() -> None:
    with pytest.raises(SignatureError, match="1 valid signatures"):
        check(seal(TYPE, PAYLOAD, [GRANT_KEY, GRANT_KEY]), threshold=2)
    assert check(seal(TYPE, PAYLOAD, [GRANT_KEY, SECOND_GRANT_KEY]), threshold=2) == PAYLOAD


def test_one_key_under_two_ids_counts_once() -> None:
    (signature,) = json.loads(seal(TYPE, PAYLOAD, [GRANT_KEY]))["signatures"]
    data = changed(signatures=[{**signature, "keyid": "a"}, {**signature, "keyid": "b"}])
    keys = {"a": GRANT_KEY.public, "b": GRANT_KEY.public}
    with pytest.raises(SignatureError, match="1 valid signatures"):
        verify(data, payload_type=TYPE, keys=keys, threshold=2)


def test_a_signature_without_the_keyid_of_its_key_does_not_count() -> None:
    (signature,) = json.loads(seal(TYPE, PAYLOAD, [GRANT_KEY]))["signatures"]
    for keyid in ("", "nobody", SECOND_GRANT_KEY.public.key_id):
        with pytest.raises(SignatureError):
            check(changed(signatures=[{**signature, "keyid": keyid}]))
    with pytest.raises(EnvelopeError, match="keyid is missing"):
        check(changed(signatures=[{"sig": signature["sig"]}]))


def test_a_trusted_keyid_on_a_strangers_signature_is_worth_nothing() -> None:
    (signature,) = json.loads(seal(TYPE, PAYLOAD, [STRANGER]))["signatures"]
    with pytest.raises(SignatureError, match="0 valid signatures"):
        check(changed(signatures=[{**signature, "keyid": GRANT_KEY.public.key_id}]))


def test_a_strangers_signature_beside_a_good_one_does_no_harm() -> None:
    assert check(seal(TYPE, PAYLOAD, [STRANGER, GRANT_KEY])) == PAYLOAD


@pytest.mark.parametrize("threshold", [0, -1])
def test_no_threshold_is_ever_met_by_nobody(threshold: int) -> None:
    with pytest.raises(SignatureError):
        check(seal(TYPE, PAYLOAD, [STRANGER]), threshold=threshold)


def test_without_a_trusted_key_nothing_verifies() -> None:
    with pytest.raises(SignatureError):
        verify(seal(TYPE, PAYLOAD, [GRANT_KEY]), payload_type=TYPE, keys={}, threshold=1)


@pytest.mark.parametrize(
    "members",
    [
        {"payload": "aGVsbG8gd29ybGQ"},  # no padding
        {"payload": "aGVsbG8gd29ybGQ=="},
        {"payload": "aGVsbG8gd29ybGR="},  # spare bits
        {"payload": "aGVs bG8gd29ybGQ="},
        {"payload": "aGVsbG8gd29ybGQ=\n"},
        {"payload": "_-__"},  # the URL-safe alphabet
        {"payload": "aGVsbG8gd29ybGQ\u00fc"},
        {"payload": None},
        {"payload": ["aGVsbG8gd29ybGQ="]},
        {"payloadType": 1},
        {"signatures": []},
        {"signatures": {}},
        {"signatures": None},
        {"signatures": [[]]},
        {"signatures": [{}]},
        {"signatures": [{"sig": 1}]},
        {"signatures": [{"sig": "AA==", "keyid": 1}]},
        {"signatures": [{"sig": "A"}]},
        {"signatures": [{"sig": ""}] * 17},
        {"more": 1.5},
        {"roots": None},
        {"roots": {}},
        {"roots": [1]},
        {"roots": [{}, "root"]},
        {"roots": [{}] * 65},
    ],
)
def test_an_envelope_that_is_not_strict_is_refused(members: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="cannot read"):
        parse_envelope(changed(**members))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"payload":"","payload":""}', b"\xff", b"[" * 60_000])
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        parse_envelope(data)


def test_roots_travel_beside_the_signatures_and_change_nothing_that_is_signed() -> None:
    sealed = seal(TYPE, PAYLOAD, [GRANT_KEY])
    roots = [seal(TYPE, b"root %d" % number, [SECOND_GRANT_KEY]) for number in (1, 2)]
    data = attach_roots(sealed, roots)
    assert parse_envelope(data).roots == tuple(roots)
    assert check(data) == PAYLOAD
    assert attach_roots(data, roots[:1]) == attach_roots(sealed, roots[:1])
    assert attach_roots(data, []) == without_roots(data) == sealed


def test_an_envelope_without_roots_has_none() -> None:
    assert parse_envelope(seal(TYPE, PAYLOAD, [GRANT_KEY])).roots == ()
    assert len(parse_envelope(changed(roots=[{}] * 64)).roots) == 64


def test_roots_within_roots_are_dropped() -> None:
    sealed = seal(TYPE, PAYLOAD, [GRANT_KEY])
    assert attach_roots(sealed, [attach_roots(sealed, [sealed])]) == attach_roots(sealed, [sealed])


def test_roots_that_do_not_fit_are_refused() -> None:
    sealed = seal(TYPE, PAYLOAD, [GRANT_KEY])
    with pytest.raises(DocumentTooLargeError, match="cannot write"):
        attach_roots(sealed, [seal(TYPE, bytes(10_000), [GRANT_KEY])] * 6)
    with pytest.raises(EnvelopeError, match="65 roots, the limit is 64"):
        attach_roots(sealed, [sealed] * 65)
    with pytest.raises(EnvelopeError):
        attach_roots(sealed, [b"{}"])


class Token:
    """A signer whose seed is not to be had, as a PKCS#11 token is."""

    def __init__(self) -> None:
        self._key = SigningKey(b"\x02" * 32)

    @property
    def public(self) -> PublicKey:
        return self._key.public

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)


def test_whatever_signs_can_seal() -> None:
    assert seal(TYPE, PAYLOAD, [Token()]) == seal(TYPE, PAYLOAD, [GRANT_KEY])


def test_unknown_members_are_ignored() -> None:
    assert check(changed(more={"a": [1]})) == PAYLOAD


def test_the_limit_of_size_holds_for_reading_and_for_sealing() -> None:
    padded = seal(TYPE, PAYLOAD, [GRANT_KEY]).ljust(MAX_DOCUMENT_BYTES)
    assert check(padded) == PAYLOAD
    with pytest.raises(DocumentTooLargeError, match="65537 bytes, the limit is 65536"):
        check(padded + b" ")
    with pytest.raises(DocumentTooLargeError, match="10000000 bytes"):
        check(b"[" * 10_000_000)
    with pytest.raises(DocumentTooLargeError, match="cannot write"):
        seal(TYPE, bytes(60_000), [GRANT_KEY])


def test_checks_come_in_order_size_envelope_type_signatures() -> None:
    other = "application/x-other"
    unsigned = changed(signatures=[{"keyid": "nobody", "sig": "AA=="}])
    with pytest.raises(SignatureError):
        check(unsigned)
    with pytest.raises(PayloadTypeError):
        check(unsigned, payload_type=other)
    with pytest.raises(EnvelopeError):
        check(changed(signatures=[{"sig": "A"}]), payload_type=other)
    with pytest.raises(DocumentTooLargeError):
        check(b"{" * (MAX_DOCUMENT_BYTES + 1), payload_type=other)


def test_a_document_of_one_kind_relabelled_as_another_is_refused() -> None:
    with pytest.raises(SignatureError):
        check(changed(payloadType="other"), payload_type="other")


@given(st.binary(max_size=300))
@settings(max_examples=2_000)
def test_random_bytes_give_nothing_but_the_error_tree(data: bytes) -> None:
    with pytest.raises(DocumentError):
        check(data)


@given(st.binary(max_size=200), st.text(max_size=30).filter(str.isprintable))
@settings(max_examples=200)
def test_any_payload_and_type_agree_with_the_reference(payload: bytes, payload_type: str) -> None:
    data = seal(payload_type, payload, [SigningKey(b"\x09" * 32)])
    reference = ReferenceEnvelope.from_dict(json.loads(data))
    assert reference.pae() == pae(payload_type, payload)
    assert reference.payload == payload == base64.b64decode(json.loads(data)["payload"])
