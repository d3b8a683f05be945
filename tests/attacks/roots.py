"""Roots and keys: skipped, rolled back, replaced, retired; keys of small order; signatures that are not canonical.

Rules: the SmartServer was shipped with root 1 and has learned root 2 from its grant; root 2 retired all grant keys of
root 1.

What this module does not do: it loads no key from a file; who holds the vendor's root keys is the vendor.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attacks.attack import GotThroughError, attack
from attacks.envelopes import changed, coded
from attacks.scene import Scene
from smartserver_licensed.documents.envelope import attach_roots, encode_base64, seal
from smartserver_licensed.documents.keys import PublicKey, SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, load_root, seal_root
from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.errors import KeyRejectedError

_VECTORS = Path(__file__).parents[1] / "vectors/ed25519_test.json"
_ORDER = 2**252 + 27742317777372353535851937790883648493
_SMALL_ORDER = bytes([1]) + bytes(31)  # the neutral element: under it (R, S) = (the same, 0) signs every message
_NOT_CANONICAL = (2**255 - 19 + 2).to_bytes(32, "little")


def _newest(scene: Scene) -> Root:
    return load_root((scene.vendor.directory / "roots/2.json").read_bytes())


def _next(scene: Scene, version: int, signers: Sequence[SigningKey] = (), **changes: Any) -> bytes:  # noqa: ANN401 - Root's
    """The envelope of a root like the newest one, signed by two genuine root keys where nobody else is named."""
    return seal_root(replace(_newest(scene), version=version, **changes), signers or scene.vendor.root_keys[:2])


def _with_roots(scene: Scene, version: int, *roots: bytes) -> bytes:
    grant = seal(GRANT_TYPE, scene.payload_with(root_version=version), scene.vendor.grant_keys[:2])
    return attach_roots(grant, roots)


@attack("the vendor's root 2, once more", is_control=True)
def the_newest_root_is_accepted(scene: Scene) -> str:
    return scene.accepted((scene.vendor.directory / "roots/2.json").read_bytes())


@attack("root 1, with which it was shipped")
def a_root_never_goes_backwards(scene: Scene) -> str:
    return scene.daemon_refuses(scene.vendor.first_root.read_bytes(), "root-invalid")


@attack("root 4 alone; a grant under root 4 that brings it without root 3")
def a_skipped_root_is_refused(scene: Scene) -> str:
    fourth = _next(scene, 4)
    return scene.daemon_refuses_all([fourth, _with_roots(scene, 4, fourth)], "root-invalid")


@attack("a grant that brings roots 4 and 3, in this order")
def roots_in_another_order_are_refused(scene: Scene) -> str:
    return scene.daemon_refuses(_with_roots(scene, 4, _next(scene, 4), _next(scene, 3)), "root-invalid")


@attack("root 3 with keys of a stranger, signed by him; by him and one root key of the vendor")
def a_root_that_its_predecessor_has_not_signed_is_refused(scene: Scene) -> str:
    own = [SigningKey.generate(), SigningKey.generate()]
    named = {each.public.key_id: each.public for each in own}
    ids = tuple(named)
    roles = {ROOT_TYPE: Role(ids, 2), GRANT_TYPE: Role(ids, 2)}
    sets = (own, [*own, scene.vendor.root_keys[0]])
    return scene.daemon_refuses_all(
        [_next(scene, 3, signers, keys=named, roles=roles) for signers in sets], "root-invalid"
    )


@attack("root 3 signed by one of three root keys, where two are needed")
def a_root_one_signature_short_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(_next(scene, 3, scene.vendor.root_keys[:1]), "root-invalid")


@attack("root 3 signed by two grant keys")
def a_grant_key_signs_no_root(scene: Scene) -> str:
    return scene.daemon_refuses(_next(scene, 3, scene.vendor.grant_keys[:2]), "root-invalid")


@attack("another root 2, signed by two genuine root keys")
def a_second_root_of_one_version_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(_next(scene, 2, emergency_max_devices=50_000), "root-invalid")


@attack("a grant signed by two keys that root 2 retired, which says root 2; one that says root 1")
def a_retired_key_signs_no_grant(scene: Scene) -> str:
    payloads = [scene.payload_with(root_version=version) for version in (2, 1)]
    retired = scene.vendor.retired_keys[:2]
    return scene.daemon_refuses_all([seal(GRANT_TYPE, each, retired) for each in payloads], "signature-invalid")


@attack("a grant of the new keys that says root 1; one that says root 3, which nobody has seen")
def a_grant_under_another_root_is_refused(scene: Scene) -> str:
    payloads = [scene.payload_with(root_version=version) for version in (1, 3)]
    keys = scene.vendor.grant_keys[:2]
    return scene.daemon_refuses_all([seal(GRANT_TYPE, each, keys) for each in payloads], "root-invalid")


@attack("a small-order and a non-canonical device key in a grant, signed by the vendor")
def a_weak_device_key_in_a_grant_is_refused(scene: Scene) -> str:
    key = scene.value().device_key
    assert key is not None
    old = encode_base64(key).encode()
    keys = (_SMALL_ORDER, _NOT_CANONICAL, bytes(32), b"\xff" * 32, key[:31])
    documents = [scene.signed(scene.payload().replace(old, encode_base64(each).encode())) for each in keys]
    return scene.daemon_refuses_all(documents, "key-rejected")


@attack("a root whose grant key is of small order, signed by two genuine root keys")
def a_weak_key_in_a_root_is_refused(scene: Scene) -> str:
    documents = []
    for weak in (_SMALL_ORDER, _NOT_CANONICAL):
        members = json.loads(scene.payload_of((scene.vendor.directory / "roots/2.json").read_bytes()))
        name = members["roles"][GRANT_TYPE]["keyids"][0]
        members["keys"][name]["public"] = encode_base64(weak)
        members["version"] = 3
        documents.append(seal(ROOT_TYPE, json.dumps(members).encode(), scene.vendor.root_keys[:2]))
    return scene.daemon_refuses_all(documents, "key-rejected")


@attack("a request under a device key of small order, with the signature that holds for every message")
def a_weak_device_key_enrolls_nobody(scene: Scene) -> str:
    request = scene.server.request(is_fresh=False)
    key = coded(scene.value().device_key or b"")
    kind = CONTACT_TYPES[ContactKind.REQUEST]
    payload = scene.payload_of(request).replace(key.encode(), encode_base64(_SMALL_ORDER).encode())
    weak = seal(kind, payload, [SigningKey.generate()])
    forged = changed(weak, lambda each: each["signatures"][0].update(sig=coded(_SMALL_ORDER + bytes(32))))
    return scene.authority_refuses(forged, "key-rejected", "activate", "-", "-o", str(scene.directory / "weak.json"))


@attack("the genuine signatures with the group's order added to S; cut; with a byte more; of zeros")
def a_signature_in_another_encoding_is_refused(scene: Scene) -> str:
    documents = []
    for form in (_with_larger_s, lambda raw: raw[:63], lambda raw: raw + b"\0", lambda _: bytes(64)):
        members = json.loads(scene.grant())
        for each in members["signatures"]:
            each["sig"] = coded(form(scene.decoded(each["sig"])))
        documents.append(json.dumps(members).encode())
    return scene.daemon_refuses_all(documents, "signature-invalid")


@attack("Project Wycheproof's classic file for Ed25519, valid and invalid; its 8 keys of small order")
def wycheproof_vectors_agree_151_of_151(_: Scene) -> str:
    vectors = json.loads(_VECTORS.read_text())
    classic, weak = vectors[:151], [each for each in vectors if each["flags"] == ["SmallOrderPublicKey"]]
    agree = sum(_holds(each) is (each["result"] == "valid") for each in classic)
    refused = sum(_holds(each) is None for each in weak)
    if (agree, len(classic), refused, len(weak)) != (151, 151, 8, 8):
        raise GotThroughError(f"{agree} of {len(classic)} agree, {refused} of {len(weak)} weak keys are refused")
    return "151 of 151 agree, 8 of 8 key-rejected"


def _holds(vector: dict[str, Any]) -> bool | None:
    public, signature, message = (bytes.fromhex(vector[each]) for each in ("pk", "sig", "msg"))
    try:
        return PublicKey(public).verify(signature, message)
    except KeyRejectedError:
        return None


def _with_larger_s(raw: bytes) -> bytes:
    return raw[:32] + (int.from_bytes(raw[32:], "little") + _ORDER).to_bytes(32, "little")
