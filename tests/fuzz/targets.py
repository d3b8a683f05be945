"""What is fuzzed: each parser with good inputs to begin with, and what has to hold of whatever it accepts.

Rules:
- an input that is no envelope is a payload: it is parsed as it is, and every fourth one is signed by the right key and
  goes the whole way, so that a parser is not hidden behind its signature;
- a document that was not signed here may be accepted only where it says what a good one says: anything else is forged;
- a target raises DocumentError for a refusal. Whatever else it raises is a failure.

What this module does not do: it makes no inputs (`mutator`) and counts nothing (`main`).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from smartserver_licensed.documents.acceptance import accept_grant, accept_root, inspect_document
from smartserver_licensed.documents.armor import unwrap, wrap
from smartserver_licensed.documents.envelope import attach_roots, parse_envelope, seal, verify, without_roots
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import (
    CONTACT_TYPES,
    GRANT_TYPE,
    encode_contact,
    encode_grant,
    open_contact,
    parse_contact,
    parse_grant,
)
from smartserver_licensed.documents.trust import ROOT_TYPE, load_root, load_trust, seal_root
from smartserver_licensed.domain.contacts import ContactKind, Wanted
from smartserver_licensed.domain.licenses import ContactMark, Grant, License, LicenseType
from support.devices import FACTORS, Device
from support.documents import (
    DEVICE_KEY,
    GRANT,
    INSTALL_CODE,
    NOW,
    grant_key,
    root_key,
    rotated_root,
    rotated_roots,
)


@dataclass(frozen=True, slots=True)
class Target:
    """`run` raises DocumentError for a refusal; AssertionError where something was accepted that must not be."""

    name: str
    seeds: Sequence[bytes]
    run: Callable[[bytes], None]


class _Cached:
    """A signer whose public half is not computed again for each of a million signatures."""

    def __init__(self, key: SigningKey) -> None:
        self.public, self.sign = key.public, key.sign


_ROOTS = rotated_roots(3)
_TRUST = load_trust(_ROOTS[0])
_KEY = _Cached(grant_key(3))
_FULL = replace(
    GRANT,
    device_key=DEVICE_KEY,
    factors=FACTORS,
    contact=ContactMark(3, "0f" * 32),
    root_version=3,
    licenses=(
        *GRANT.licenses,
        License("up-1", LicenseType.UPGRADE, 1, release="4.0"),
        License("mnt-2", LicenseType.MAINTENANCE, 1000, NOW, replaces="mnt-1"),
        License("e-1", LicenseType.EMERGENCY, 50, NOW + 86_400),
    ),
)
_PLAIN = replace(GRANT, root_version=3)
_GRANTS = (_FULL, _PLAIN)
_SEALED = [attach_roots(seal(GRANT_TYPE, encode_grant(each), [_KEY]), _ROOTS) for each in _GRANTS]
_DEVICE = Device(grant=_FULL)
_REQUESTS = [_DEVICE.request(Wanted("cap-1", 300), "trial-1", customer_id="acme"), _DEVICE.request()]
_RETURNS = [_DEVICE.give_back("cap-1", 250), _DEVICE.give_back("cap-1", 50)]
_ROOT_KEYS = [_Cached(root_key(each)) for each in (1, 2, 3)]
_DEVICE_SIGNER = _Cached(_DEVICE.key)
_KEYS = {key.public.key_id: key.public for key in (_KEY, _DEVICE_SIGNER, *_ROOT_KEYS)}
_DOCUMENTS = [*_SEALED, *_ROOTS, attach_roots(_ROOTS[2], _ROOTS[:2]), *_REQUESTS, *_RETURNS]
_PAYLOADS = {parse_envelope(each).payload for each in _DOCUMENTS}


def _is_document(data: bytes) -> bool:
    return b'"payloadType"' in data


def _is_signed(data: bytes) -> bool:
    return zlib.crc32(data) % 4 == 0


def _accepted(data: bytes) -> Grant:
    return accept_grant(data, trust=_TRUST, install_code=INSTALL_CODE, last_seq=0, device_key=DEVICE_KEY).grant


def _envelope(data: bytes) -> None:
    envelope = parse_envelope(data)
    plain = without_roots(data)
    assert parse_envelope(plain) == replace(envelope, roots=()), "its normal form says something else"
    assert without_roots(plain) == plain, "its normal form is none"
    payload = verify(data, payload_type=envelope.payload_type, keys=_KEYS, threshold=1)
    assert payload in _PAYLOADS, "forged"


def _root(data: bytes) -> None:
    if _is_document(data):
        assert parse_envelope(load_trust(data).envelopes[-1]).payload in _PAYLOADS, "forged"
        accept_root(data, _TRUST)
    else:
        sealed = seal(ROOT_TYPE, data, _ROOT_KEYS if _is_signed(data) else _ROOT_KEYS[:1])
        root = load_root(sealed)
        assert load_root(seal_root(root, _ROOT_KEYS)) == root, "it does not come back"
        accept_root(attach_roots(sealed, _ROOTS), _TRUST)


def _grant(data: bytes) -> None:
    if _is_document(data):
        assert _accepted(data) in _GRANTS, "forged"
    else:
        grant = parse_grant(data)
        assert parse_grant(encode_grant(grant)) == grant, "it does not come back"
        if _is_signed(data):
            _accepted(attach_roots(seal(GRANT_TYPE, data, [_KEY]), _ROOTS))


def _contact(kind: ContactKind) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        if _is_document(data):
            open_contact(data)
            assert parse_envelope(data).payload in _PAYLOADS, "forged"
        else:
            contact = parse_contact(data, kind)
            assert parse_contact(encode_contact(contact), kind) == contact, "it does not come back"
            if _is_signed(data):
                open_contact(seal(CONTACT_TYPES[kind], data, [_DEVICE_SIGNER]))

    return run


def _armor(data: bytes) -> None:
    document = unwrap(data)
    if document is not data:
        assert document in _DOCUMENTS, "a block says something else than was written"


def _acceptance(data: bytes) -> None:
    """As the daemon does it: a block or a document, shown and then accepted."""
    document = unwrap(data)
    if not _is_document(document):
        document = unwrap(wrap(attach_roots(seal(GRANT_TYPE, document, [_KEY]), _ROOTS)).encode())
    found = inspect_document(document, _TRUST)
    assert all(str(each).isprintable() for each in found.values()), "something that moves a cursor is shown"
    match found["kind"]:
        case "grant":
            _accepted(document)
            assert found["verified"], "accepted, and shown as not verified"
        case "root":
            accept_root(document, _TRUST)
            assert found["verified"], "accepted, and shown as not verified"
        case _:
            open_contact(document)


def _payloads(documents: Sequence[bytes]) -> list[bytes]:
    return [parse_envelope(each).payload for each in documents]


_BLOCKS = [wrap(each).encode() for each in _DOCUMENTS]
_ROOT_PAYLOADS = _payloads([_ROOTS[0], _ROOTS[2], seal_root(rotated_root(2), [root_key(2)])])
TARGETS = (
    Target("envelope", _DOCUMENTS, _envelope),
    Target("root", [*_ROOT_PAYLOADS, *_ROOTS, _DOCUMENTS[5]], _root),
    Target("grant", [*_payloads(_SEALED), *_payloads(_SEALED), *_SEALED], _grant),
    Target("request", [*_payloads(_REQUESTS), *_REQUESTS], _contact(ContactKind.REQUEST)),
    Target("return", [*_payloads(_RETURNS), *_RETURNS], _contact(ContactKind.RETURN)),
    Target("armor", [*_BLOCKS, *(b"> " + each.replace(b"\n", b"\r\n> ") for each in _BLOCKS[:2])], _armor),
    Target("acceptance", [*_DOCUMENTS, *_payloads(_SEALED), *_BLOCKS[:3]], _acceptance),
)
