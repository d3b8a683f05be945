"""Envelopes: forged, edited, spliced, re-ordered, cut, and of another kind than they say.

What this module does not do: what is signed as it should be and wrong all the same is in `grants` and `payloads`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from attacks.attack import attack
from attacks.scene import Scene
from smartserver_licensed.documents import armor
from smartserver_licensed.documents.envelope import pae, parse_envelope, seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE
from smartserver_licensed.domain.contacts import ContactKind

Members = dict[str, Any]


def changed(document: bytes, change: Callable[[Members], object]) -> bytes:
    """The envelope with its members changed."""
    members: Members = json.loads(document)
    change(members)
    return json.dumps(members).encode()


def coded(data: bytes) -> str:
    """Base64, as in an envelope."""
    return base64.b64encode(data).decode()


@attack("the vendor's grant as it came", is_control=True)
def a_genuine_grant_is_accepted(scene: Scene) -> str:
    return scene.accepted(scene.grant())


@attack("the same payload, signed by two keys of a stranger")
def a_forged_grant_is_refused(scene: Scene) -> str:
    forged = seal(GRANT_TYPE, scene.payload(), [SigningKey.generate(), SigningKey.generate()])
    return scene.daemon_refuses(forged, "signature-invalid")


@attack("a stranger's signatures under the key ids of the vendor")
def a_key_id_proves_nothing(scene: Scene) -> str:
    stranger = SigningKey.generate().sign(pae(GRANT_TYPE, scene.payload()))
    forged = changed(scene.grant(), lambda each: [one.update(sig=coded(stranger)) for one in each["signatures"]])
    return scene.daemon_refuses(forged, "signature-invalid")


@attack("1,000 devices made 9,000, the signatures left")
def an_edited_grant_is_refused(scene: Scene) -> str:
    edited = scene.payload().replace(b'"granted_total":1000', b'"granted_total":9000')
    assert edited != scene.payload()
    return scene.daemon_refuses(
        changed(scene.grant(), lambda each: each.update(payload=coded(edited))), "signature-invalid"
    )


@attack("the payload of the new grant with the signatures of the one before")
def a_spliced_envelope_is_refused(scene: Scene) -> str:
    other = json.loads(scene.newest)["signatures"]
    return scene.daemon_refuses(changed(scene.grant(), lambda each: each.update(signatures=other)), "signature-invalid")


@attack("one signature of the new grant and one of the one before")
def signatures_of_two_grants_do_not_add_up(scene: Scene) -> str:
    other = json.loads(scene.newest)["signatures"]
    mixed = changed(scene.grant(), lambda each: each.update(signatures=[each["signatures"][0], other[1]]))
    return scene.daemon_refuses(mixed, "signature-invalid")


@attack("one of two signatures taken away")
def one_signature_short_of_the_threshold_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(changed(scene.grant(), lambda each: each["signatures"].pop()), "signature-invalid")


@attack("one signature twice, and once more under another key id")
def one_signature_twice_counts_once(scene: Scene) -> str:
    def double(each: Members) -> None:
        one, two = each["signatures"]
        each["signatures"] = [one, one, {**one, "keyid": two["keyid"]}]

    return scene.daemon_refuses(changed(scene.grant(), double), "signature-invalid")


@attack("the two signatures with their key ids exchanged")
def exchanged_key_ids_are_refused(scene: Scene) -> str:
    def exchange(each: Members) -> None:
        one, two = each["signatures"]
        one["keyid"], two["keyid"] = two["keyid"], one["keyid"]

    return scene.daemon_refuses(changed(scene.grant(), exchange), "signature-invalid")


@attack("no signatures, and an `alg` that says that none is needed")
def a_document_without_signatures_is_refused(scene: Scene) -> str:
    bare = changed(scene.grant(), lambda each: each.update(signatures=[], alg="none"))
    return scene.daemon_refuses(bare, "envelope-malformed")


@attack("the two genuine signatures behind 15 of a stranger")
def more_signatures_than_the_limit_are_refused_unread(scene: Scene) -> str:
    many = changed(scene.grant(), lambda each: each.update(signatures=each["signatures"][:1] * 15 + each["signatures"]))
    return scene.daemon_refuses(many, "envelope-malformed")


@attack("signed by two genuine root keys, which are no grant keys")
def a_root_key_signs_no_grant(scene: Scene) -> str:
    return scene.daemon_refuses(seal(GRANT_TYPE, scene.payload(), scene.vendor.root_keys[:2]), "signature-invalid")


@attack("a genuine request, given back as an answer")
def a_request_installs_nothing(scene: Scene) -> str:
    return scene.daemon_refuses(scene.server.request(is_fresh=False), "payload-type-unexpected")


@attack("a genuine grant whose type says return, to the daemon; whose type says request, to the authority")
def a_grant_sent_as_another_type_is_refused(scene: Scene) -> str:
    kind = CONTACT_TYPES[ContactKind.RETURN]
    at_daemon = scene.daemon_refuses(
        changed(scene.grant(), lambda each: each.update(payloadType=kind)), "payload-type-unexpected"
    )
    request = changed(scene.grant(), lambda each: each.update(payloadType=CONTACT_TYPES[ContactKind.REQUEST]))
    return f"{at_daemon}, {scene.authority_refuses(request, 'payload-malformed')}"


@attack("a genuine grant whose type says root")
def a_grant_sent_as_a_root_is_refused(scene: Scene) -> str:
    as_root = changed(scene.grant(), lambda each: each.update(payloadType=ROOT_TYPE))
    return scene.daemon_refuses(as_root, "payload-malformed")


@attack("a root's payload, signed by two grant keys as a grant")
def a_root_sent_as_a_grant_is_refused(scene: Scene) -> str:
    payload = parse_envelope(scene.vendor.first_root.read_bytes()).payload
    return scene.daemon_refuses(scene.signed(payload), "payload-malformed")


@attack("a genuine grant brought to the authority as if a SmartServer had made it")
def a_grant_is_no_contact(scene: Scene) -> str:
    return scene.authority_refuses(scene.grant(), "payload-type-unexpected", "return", "-")


@attack("a genuine request whose type says return")
def a_request_sent_as_a_return_is_refused(scene: Scene) -> str:
    request = scene.server.request(is_fresh=False)
    as_return = changed(request, lambda each: each.update(payloadType=CONTACT_TYPES[ContactKind.RETURN]))
    return scene.authority_refuses(as_return, "payload-malformed")


@attack("a genuine request as a return, by the authority's command")
def a_request_credits_nothing(scene: Scene) -> str:
    before, code = scene.vendor.books(), "payload-type-unexpected"
    assert scene.vendor.process("return", "-", stdin=scene.server.request(is_fresh=False), with_password=False) == code
    assert scene.vendor.books() == before
    return code


@attack("cut at 12 places; a bit changed at 24 places")
def a_cut_or_changed_document_is_refused(scene: Scene) -> str:
    document = scene.grant()
    damaged = [document[: len(document) * each // 12] for each in range(12)]
    for number in range(24):
        place = len(document) * number // 24
        damaged.append(document[:place] + bytes([document[place] ^ 1]) + document[place + 1 :])
    before = scene.server.shown()
    codes = [scene.server.refusal(lambda client, each=each: client.install(each)) for each in damaged]  # type: ignore[misc]
    assert all(codes), f"accepted: {codes}"
    assert scene.server.shown() == before
    return ", ".join(sorted(set(codes)))


@attack("64 KiB and a byte")
def a_document_beyond_the_limit_is_refused_unread(scene: Scene) -> str:
    large = changed(scene.grant(), lambda each: each.update(padding="x" * 65_536))
    return scene.daemon_refuses(large, "document-too-large")


@attack("two lines of an armored block exchanged; one doubled; one character changed")
def a_reordered_block_is_refused(scene: Scene) -> str:
    lines = armor.wrap(scene.grant()).splitlines(keepends=True)
    exchanged = [*lines[:2], lines[3], lines[2], *lines[4:]]
    doubled = [*lines[:3], *lines[2:]]
    wrong = [*lines[:4], lines[4].swapcase(), *lines[5:]]
    blocks = ["".join(each).encode() for each in (exchanged, doubled, wrong)]
    return scene.daemon_refuses_all(blocks, "armor-malformed")
