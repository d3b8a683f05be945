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

from smartserver_licensed.documents.envelope import parse_envelope, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, load_root, seal_root
from smartserver_licensed.domain.errors import (
    CriticalFieldError,
    DocumentError,
    KeyRejectedError,
    PayloadError,
    PayloadTypeError,
    RootError,
)
from support.documents import GRANT, GRANT_KEY, ROOT_KEY, SECOND_GRANT_KEY, STRANGER, make_root, sealed

ROOT = make_root()
SEALED = seal_root(ROOT, [ROOT_KEY])


def edited(edit: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(parse_envelope(SEALED).payload)
    edit(value)
    return seal(ROOT_TYPE, json.dumps(value).encode(), [ROOT_KEY])


def test_a_root_comes_back_as_it_was_made() -> None:
    assert load_root(SEALED) == ROOT


def test_a_root_gives_keys_and_threshold_by_payload_type() -> None:
    root = make_root(threshold=2)
    assert set(root.keys_for(GRANT_TYPE)) == {GRANT_KEY.public.key_id, SECOND_GRANT_KEY.public.key_id}
    assert root.threshold_for(GRANT_TYPE) == 2
    assert root.keys_for("application/x-other") == {}
    assert root.threshold_for("application/x-other") == 1


@pytest.mark.parametrize("keys", [[STRANGER], [GRANT_KEY], [GRANT_KEY, SECOND_GRANT_KEY]])
def test_a_root_that_its_own_root_role_did_not_sign_is_refused(keys: list[Any]) -> None:
    with pytest.raises(RootError, match="own root role"):
        load_root(seal_root(ROOT, keys))


def test_a_root_needs_its_whole_threshold() -> None:
    both = Role((ROOT_KEY.public.key_id, GRANT_KEY.public.key_id), 2)
    root = replace(ROOT, roles={**ROOT.roles, ROOT_TYPE: both})
    with pytest.raises(RootError):
        load_root(seal_root(root, [ROOT_KEY, ROOT_KEY]))
    assert load_root(seal_root(root, [ROOT_KEY, GRANT_KEY])) == root


def test_a_grant_is_no_root() -> None:
    with pytest.raises(PayloadTypeError):
        load_root(sealed(GRANT))


def role(value: dict[str, Any], **members: object) -> None:
    value["roles"][GRANT_TYPE].update(members)


@pytest.mark.parametrize(
    "edit",
    [
        lambda v: role(v, threshold=0),
        lambda v: role(v, threshold=-1),
        lambda v: role(v, threshold=3),
        lambda v: role(v, keyids=[]),
        lambda v: role(v, keyids=["nobody"]),
        lambda v: role(v, keyids=[GRANT_KEY.public.key_id] * 2, threshold=2),
        lambda v: v["roles"].pop(ROOT_TYPE),
        lambda v: v.update(version=0),
        lambda v: v.update(version=2**31),
        lambda v: v.update(emergency_max_devices=-1),
        lambda v: v["keys"].update(nobody=v["keys"][GRANT_KEY.public.key_id]),
    ],
)
def test_an_inconsistent_root_is_refused(edit: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(RootError, match="cannot trust the root"):
        load_root(edited(edit))


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda v: v.update(version="1"), "version"),
        (lambda v: v.update(version=True), "version"),
        (lambda v: v.update(version=1.0), "1.0"),
        (lambda v: v.pop("issued_at"), "issued_at"),
        (lambda v: v.update(issued_at="2026-11-24"), "issued_at"),
        (lambda v: v.update(allow_unactivated=1), "allow_unactivated"),
        (lambda v: v.update(keys=[]), "keys"),
        (lambda v: v.update(roles={"x": 1}), "roles.'x'"),
        (lambda v: role(v, keyids="x"), "keyids"),
        (lambda v: role(v, keyids=[1]), "keyids"),
        (lambda v: role(v, threshold=None), "threshold"),
        (lambda v: v["keys"][GRANT_KEY.public.key_id].update(keytype="rsa"), "keytype"),
        (lambda v: v["keys"][GRANT_KEY.public.key_id].update(public="A"), "public"),
        (lambda v: v.pop("critical"), "critical"),
    ],
)
def test_a_root_of_the_wrong_form_is_refused_by_field(edit: Callable[[dict[str, Any]], object], field: str) -> None:
    with pytest.raises(PayloadError) as caught:
        load_root(edited(edit))
    assert field in str(caught.value)


def test_unknown_fields_are_ignored_unless_they_are_critical() -> None:
    assert load_root(edited(lambda v: v.update(more=1))) == ROOT
    assert load_root(edited(lambda v: v.update(critical=["version"]))) == ROOT
    with pytest.raises(CriticalFieldError, match="more"):
        load_root(edited(lambda v: v.update(more=1, critical=["more"])))


def test_a_weak_key_in_a_root_is_refused() -> None:
    weak = base64.b64encode(bytes([1]) + bytes(31)).decode()
    with pytest.raises(KeyRejectedError):
        load_root(edited(lambda v: v["keys"][GRANT_KEY.public.key_id].update(public=weak)))


def test_names_from_anybody_are_escaped_in_messages() -> None:
    with pytest.raises(DocumentError) as caught:
        load_root(edited(lambda v: v["roles"].update({"\x1b[2J": 1})))
    assert str(caught.value).isprintable()


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_root_gives_nothing_but_the_error_tree_or_the_root(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(SEALED) - 1))
    mutated = SEALED[:at] + data.draw(st.binary(max_size=2)) + SEALED[at + data.draw(st.integers(0, 2)) :]
    with contextlib.suppress(DocumentError):
        assert load_root(mutated) == ROOT


@given(st.data())
@settings(max_examples=2_000)
def test_a_mutated_payload_under_a_good_signature_gives_nothing_but_the_error_tree(data: st.DataObject) -> None:
    payload = parse_envelope(SEALED).payload
    at = data.draw(st.integers(0, len(payload) - 1))
    mutated = payload[:at] + data.draw(st.binary(max_size=3)) + payload[at + data.draw(st.integers(0, 2)) :]
    with contextlib.suppress(DocumentError):
        load_root(seal(ROOT_TYPE, mutated, [ROOT_KEY]))
