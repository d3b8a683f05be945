"""JSON, base64 and text: what two readers could understand differently, and what could cost too much.

Rules: where it says "signed", the vendor's own keys have signed it: nothing but the parser stands in the way.

What this module does not do: keys that are weak are in `roots`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Mapping

from attacks.attack import attack
from attacks.envelopes import changed
from attacks.scene import Scene
from support.box import INSTALL_CODE

_INSTALL_CODE = f'"install_code":"{INSTALL_CODE}"'.encode()


def _replaced(scene: Scene, old: bytes, new: bytes) -> bytes:
    """The genuine grant with other bytes in its payload, signed."""
    payload = scene.payload()
    assert old in payload
    return scene.signed(payload.replace(old, new, 1))


@attack("unknown members beside the signed ones: an older daemon can read what a newer vendor writes", is_control=True)
def what_nobody_has_to_understand_is_accepted(scene: Scene) -> str:
    return scene.accepted(_replaced(scene, b'"critical":[]', b'"critical":[],"later":{"a":1}'))


@attack("base64 of payload and signature with spaces, line ends, in the URL alphabet, without padding, with spare bits")
def base64_in_another_form_is_refused(scene: Scene) -> str:
    forms: Mapping[str, Callable[[str], str]] = {
        "spaces": lambda text: f"{text[:8]} {text[8:]}",
        "a space at the end": lambda text: f"{text} ",
        "line ends": lambda text: f"{text[:76]}\n{text[76:]}",
        "the URL alphabet": lambda text: f"{text[:-8]}-_{text[-6:]}",
        "no padding": lambda text: text.rstrip("="),
        "more padding": lambda text: f"{text}====",
        "spare bits": lambda text: text.rstrip("=")[:-1] + "B" + "=" * text.count("="),
    }
    documents = []
    for form in forms.values():
        members = json.loads(scene.grant())
        members["signatures"][0]["sig"] = form(members["signatures"][0]["sig"])
        documents.append(json.dumps(members).encode())
    spaced = json.loads(scene.grant())["payload"]
    documents.append(changed(scene.grant(), lambda each: each.update(payload=f"{spaced[:8]} {spaced[8:]}")))
    return scene.daemon_refuses_all(documents, "envelope-malformed")


@attack("a second `payload` and a second `signatures` in the envelope")
def a_key_twice_in_the_envelope_is_refused(scene: Scene) -> str:
    members = json.loads(scene.grant())
    documents = [
        b'{"%b":%b,%b' % (name.encode(), json.dumps(members[name]).encode(), scene.grant()[1:])
        for name in ("payload", "signatures", "payloadType")
    ]
    return scene.daemon_refuses_all(documents, "envelope-malformed")


@attack("a second `granted_total`, a second `seq`, and one spelled with an escape, signed")
def a_key_twice_in_the_payload_is_refused(scene: Scene) -> str:
    more = [b'"granted_total":1,', b'"granted\\u005ftotal":1,']
    documents = [_replaced(scene, b'"granted_total":', each + b'"granted_total":') for each in more]
    documents.append(_replaced(scene, b'"seq":', b'"seq":1,"seq":'))
    return scene.daemon_refuses_all(documents, "payload-malformed")


@attack("the install code in full-width letters, with a zero-width space, decomposed, with a Cyrillic letter, signed")
def an_install_code_that_looks_the_same_is_another_one(scene: Scene) -> str:
    wide = "".join(chr(ord(each) + 0xFEE0) for each in INSTALL_CODE)
    assert unicodedata.normalize("NFKC", wide) == INSTALL_CODE
    likes = [wide, INSTALL_CODE.replace("e", "е"), INSTALL_CODE.replace("e", "é"), INSTALL_CODE.upper()]
    documents = [_replaced(scene, _INSTALL_CODE, f'"install_code":"{each}"'.encode()) for each in likes]
    scene.daemon_refuses_all(documents, "wrong-smartserver")
    hidden = [f"{INSTALL_CODE}\u200b", f"{INSTALL_CODE} ", f"{INSTALL_CODE}\\u0000", f"\u202e{INSTALL_CODE}"]
    documents = [_replaced(scene, _INSTALL_CODE, f'"install_code":"{each}"'.encode()) for each in hidden]
    return f"wrong-smartserver, {scene.daemon_refuses_all(documents, 'payload-malformed')}"


@attack("a byte order mark, an overlong slash, half a surrogate pair, UTF-16, signed")
def text_that_is_no_strict_utf_8_is_refused(scene: Scene) -> str:
    payload = scene.payload()
    documents = [
        scene.signed(b"\xef\xbb\xbf" + payload),
        scene.signed(payload.decode().encode("utf-16")),
        _replaced(scene, b'"note":"', b'"note":"\xc0\xaf'),
        _replaced(scene, b'"note":"', b'"note":"\\ud800'),
    ]
    return scene.daemon_refuses_all(documents, "payload-malformed")


@attack("30,000 arrays within each other in the envelope; 9 objects in the payload, signed")
def deep_nesting_is_refused(scene: Scene) -> str:
    deep = scene.grant()[:-1] + b',"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    signed = _replaced(scene, b'"critical":[]', b'"critical":[],"x":' + b'{"x":' * 9 + b"1" + b"}" * 9)
    return f"{scene.daemon_refuses(deep, 'envelope-malformed')}, {scene.daemon_refuses(signed, 'payload-malformed')}"


@attack("a seq of 20,000 digits, 2^63, 2^53 and one, negative, a fraction, 1e9, NaN, Infinity, a text, true; signed")
def numbers_that_are_too_large_or_none_are_refused(scene: Scene) -> str:
    seq = b'"seq":%d' % scene.value().seq
    wrong = [
        b"9" * 20_000,
        b"%d" % 2**63,
        b"%d" % (2**53 + 1),
        b"-1",
        b"1.5",
        b"1e9",
        b"NaN",
        b"Infinity",
        b'"9"',
        b"true",
    ]
    return scene.daemon_refuses_all([_replaced(scene, seq, b'"seq":' + each) for each in wrong], "payload-malformed")


@attack("2^31 devices, -1 devices, more returned than granted, signed")
def totals_that_cannot_be_are_refused(scene: Scene) -> str:
    total = b'"granted_total":1000'
    documents = [_replaced(scene, total, b'"granted_total":' + each) for each in (b"%d" % 2**31, b"-1")]
    documents.append(_replaced(scene, b'"returned_total":', b'"returned_total":1001,"x":'))
    return scene.daemon_refuses_all(documents, "payload-malformed")


@attack("an end of capacity, an end on 31 February, in another time zone, a trial without an end, signed")
def ends_that_cannot_be_are_refused(scene: Scene) -> str:
    ends = [b'"2030-01-01T00:00:00Z"', b'"2030-02-31T00:00:00Z"', b'"2030-01-01T00:00:00+14:00"']
    documents = [_replaced(scene, b'"expires_at":null', b'"expires_at":' + each) for each in ends]
    documents.append(_replaced(scene, b'"type":"capacity"', b'"type":"trial"'))
    return scene.daemon_refuses_all(documents, "payload-malformed")


@attack("a critical field that this daemon does not know, signed")
def what_has_to_be_understood_and_is_not_is_refused(scene: Scene) -> str:
    return scene.daemon_refuses(
        _replaced(scene, b'"critical":[]', b'"critical":["only_on_sundays"],"only_on_sundays":true'),
        "critical-field-unknown",
    )


@attack("a note with escape sequences for the terminal and a line end for the journal, signed")
def control_characters_are_refused(scene: Scene) -> str:
    documents = [
        _replaced(scene, b'"note":"', b'"note":"' + each) for each in (b"\\u001b[2J", b"\\nCODE=fine", b"\\u0000")
    ]
    return scene.daemon_refuses_all(documents, "payload-malformed")
