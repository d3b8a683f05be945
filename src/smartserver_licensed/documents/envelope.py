"""DSSE v1 envelopes: the bytes of a document and the signatures over them.

Rules (LICENSING §4; DSSE v1, protocol.md and envelope.md):
- the signature is over the PAE of the payload type and the exact payload bytes; nothing is ever re-encoded;
- order of checks: size, strict envelope, payload type, signatures. Only then does the caller see the payload;
- `keyid` only says which key to try, and is required: a document with any byte changed is refused. It is no identity:
  what counts is how many different trusted keys have signed;
- base64 is the standard alphabet with padding and without spare bits: one encoding for one payload. (DSSE would allow
  the URL-safe alphabet too.) Unknown members of the envelope are ignored, as DSSE demands;
- later roots travel in one such member, `roots`: it is not signed, each envelope in it is (`trust`).

What this module does not do: it parses no payload (`payloads`, `trust`) and knows no key by itself.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from smartserver_licensed.domain.errors import (
    DocumentTooLargeError,
    EnvelopeError,
    PayloadTypeError,
    SignatureError,
    StrictJsonError,
)

from . import strict_json
from .keys import PublicKey
from .strict_json import JsonValue

MAX_DOCUMENT_BYTES = 64 * 1024
MAX_SIGNATURES = 16  # each one costs a verification with every trusted key
MAX_ROOTS = 64
_MAX_DEPTH = 8


class Signer(Protocol):
    """What signs: a key in memory, or one that a token keeps."""

    @property
    def public(self) -> PublicKey:
        """The key that verifies what it signs."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of the message, 64 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of an envelope; `key_id` is what the envelope claims, or ""."""

    key_id: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds. Nothing in it is trusted. `roots`: envelopes that came with it, empty where none did."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]
    roots: tuple[bytes, ...] = ()


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def parse_envelope(data: bytes) -> Envelope:
    """The parts of an envelope, unverified. Raises DocumentTooLargeError or EnvelopeError."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLargeError(
            f"cannot read the document: {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES} bytes"
        )
    try:
        value = strict_json.parse(data, max_bytes=MAX_DOCUMENT_BYTES, max_depth=_MAX_DEPTH)
    except StrictJsonError as error:
        raise EnvelopeError(f"cannot read the envelope: {error}") from error
    signatures = value.get("signatures") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(signatures, list):
        raise EnvelopeError("cannot read the envelope: it is no object with a list of signatures")
    if not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise EnvelopeError(f"cannot read the envelope: {len(signatures)} signatures, the limit is {MAX_SIGNATURES}")
    return Envelope(
        _text(value, "payloadType"),
        decode_base64(_text(value, "payload"), "payload"),
        tuple(_signature(each) for each in signatures),
        _roots(value),
    )


def verify(data: bytes, *, payload_type: str, keys: Mapping[str, PublicKey], threshold: int) -> bytes:
    """The payload of an envelope of this type that at least `threshold` different ones of `keys` have signed.

    Raises DocumentTooLargeError, EnvelopeError, PayloadTypeError or SignatureError, in this order of checks.
    """
    envelope = parse_envelope(data)
    check_type(envelope, payload_type)
    check_signatures(envelope, keys=keys, threshold=threshold)
    return envelope.payload


def check_type(envelope: Envelope, payload_type: str) -> None:
    """Raise PayloadTypeError unless it is a document of this type."""
    if envelope.payload_type != payload_type:
        raise PayloadTypeError(
            f"cannot accept the document: it is a {envelope.payload_type[:80]!r}, not a {payload_type!r}"
        )


def check_signatures(envelope: Envelope, *, keys: Mapping[str, PublicKey], threshold: int) -> None:
    """Raise SignatureError unless at least `threshold` different ones of `keys` have signed."""
    message = pae(envelope.payload_type, envelope.payload)
    signers: set[PublicKey] = set()
    for signature in envelope.signatures:
        key = keys.get(signature.key_id)
        if key is not None and key.verify(signature.sig, message):
            signers.add(key)
    if len(signers) < max(1, threshold):
        raise SignatureError(
            f"cannot accept the document: {len(signers)} valid signatures by the {len(keys)} keys trusted for "
            f"{envelope.payload_type[:80]!r}, {threshold} needed"
        )


def seal(payload_type: str, payload: bytes, signers: Sequence[Signer]) -> bytes:
    """The envelope of a payload, signed by each signer in turn; the same input always gives the same bytes.

    Raises DocumentTooLargeError where nobody could read the result.
    """
    message = pae(payload_type, payload)
    return _dump(
        Envelope(payload_type, payload, tuple(Signature(each.public.key_id, each.sign(message)) for each in signers))
    )


def attach_roots(data: bytes, roots: Sequence[bytes]) -> bytes:
    """The same envelope with these envelopes of roots, oldest first, instead of those that it had.

    Raises DocumentTooLargeError where nobody could read the result, EnvelopeError for what is no envelope or for more
    than 64 roots.
    """
    if len(roots) > MAX_ROOTS:
        raise EnvelopeError(f"cannot write the envelope: {len(roots)} roots, the limit is {MAX_ROOTS}")
    return _dump(replace(parse_envelope(data), roots=tuple(without_roots(each) for each in roots)))


def without_roots(data: bytes) -> bytes:
    """The same envelope in the form that `seal` gives it, with nothing that is not signed beside it.

    Raises DocumentTooLargeError or EnvelopeError.
    """
    return _dump(replace(parse_envelope(data), roots=()))


def encode_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode()


def decode_base64(text: str, name: str) -> bytes:
    """The bytes of the one valid encoding. `name` is for the message. Raises EnvelopeError."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise EnvelopeError(f"cannot read {name}: no strict base64: {error}") from error
    if encode_base64(data) != text:  # spare bits that are not zero, or too much padding
        raise EnvelopeError(f"cannot read {name}: base64 in another form than the one it should have")
    return data


def _dump(envelope: Envelope) -> bytes:
    value: dict[str, JsonValue] = {
        "payload": encode_base64(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [{"keyid": each.key_id, "sig": encode_base64(each.sig)} for each in envelope.signatures],
    }
    if envelope.roots:
        value["roots"] = [
            strict_json.parse(each, max_bytes=MAX_DOCUMENT_BYTES, max_depth=_MAX_DEPTH) for each in envelope.roots
        ]
    data = strict_json.dump(value)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLargeError(
            f"cannot write the document: {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES} bytes"
        )
    return data


def _roots(value: dict[str, JsonValue]) -> tuple[bytes, ...]:
    roots = value.get("roots", [])
    if not isinstance(roots, list) or not all(isinstance(each, dict) for each in roots):
        raise EnvelopeError("cannot read the envelope: its roots are no list of objects")
    if len(roots) > MAX_ROOTS:
        raise EnvelopeError(f"cannot read the envelope: {len(roots)} roots, the limit is {MAX_ROOTS}")
    return tuple(strict_json.dump(each) for each in roots)


def _signature(value: JsonValue) -> Signature:
    if not isinstance(value, dict):
        raise EnvelopeError("cannot read the envelope: a signature is no object")
    return Signature(_text(value, "keyid"), decode_base64(_text(value, "sig"), "sig"))


def _text(value: dict[str, JsonValue], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str):
        raise EnvelopeError(f"cannot read the envelope: {name} is missing or no text")
    return text
