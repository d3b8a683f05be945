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

from smartserver_licensed.documents.envelope import attach_roots, parse_envelope, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, Trust, joined, load_root, load_trust, seal_root
from smartserver_licensed.domain.errors import (
    CriticalFieldError,
    DocumentError,
    KeyRejectedError,
    PayloadError,
    PayloadTypeError,
    RootError,
)
from support.documents import (
    GRANT,
    GRANT_KEY,
    ROOT_KEY,
    SECOND_GRANT_KEY,
    STRANGER,
    grant_key,
    make_root,
    root_key,
    rotated_root,
    rotated_roots,
    sealed,
)

ROOT = make_root()
SEALED = seal_root(ROOT, [ROOT_KEY])
ROOTS = rotated_roots(7)
FIRST = load_trust(ROOTS[0])


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


# -- the chain ---------------------------------------------------------------------------------------------------


def versions(trust: Trust) -> list[int]:
    return [each.version for each in trust.roots]


def test_a_chain_grows_by_roots_that_old_and_new_keys_signed() -> None:
    trust = FIRST.extended(ROOTS[1:])
    assert versions(trust) == [1, 2, 3, 4, 5, 6, 7]
    assert trust.current == rotated_root(7)
    assert trust.under(3) == rotated_root(3)
    assert trust.under(8) is None
    assert list(trust.envelopes) == ROOTS


def test_known_roots_among_them_change_nothing_in_any_order() -> None:
    trust = FIRST.extended(ROOTS[1:3])
    assert trust.extended(ROOTS[2::-1]) == trust
    assert trust.extended([ROOTS[1], ROOTS[0], *ROOTS[2:]]) == FIRST.extended(ROOTS[1:])


def test_roots_kept_are_free_of_what_came_beside_them() -> None:
    assert FIRST.extended([attach_roots(ROOTS[1], ROOTS)]).envelopes == (ROOTS[0], ROOTS[1])


def test_no_root_is_skipped() -> None:
    for envelopes in (ROOTS[2:], [ROOTS[1], ROOTS[3]], ROOTS[6:0:-1]):
        with pytest.raises(RootError, match="none may be skipped"):
            FIRST.extended(envelopes)
    assert versions(FIRST) == [1]


@pytest.mark.parametrize("keys", [[root_key(2)], [root_key(2), STRANGER], [root_key(2), grant_key(1)]])
def test_a_root_that_its_predecessor_did_not_sign_is_refused(keys: list[Any]) -> None:
    with pytest.raises(RootError, match="not signed by version 1 before it"):
        FIRST.extended([seal_root(rotated_root(2), keys)])


def test_a_root_that_only_its_predecessor_signed_is_refused() -> None:
    with pytest.raises(RootError, match="own root role"):
        FIRST.extended([seal_root(rotated_root(2), [root_key(1)])])


def test_signed_by_the_root_before_last_is_not_enough() -> None:
    with pytest.raises(RootError, match="not signed by version 2"):
        FIRST.extended([ROOTS[1], seal_root(rotated_root(3), [root_key(1), root_key(3)])])


def two_of_three(version: int, first: int) -> Root:
    """A root whose root role is 2 of the keys `first`, `first` + 1, `first` + 2."""
    keys = {each.public.key_id: each.public for each in map(root_key, range(first, first + 3))}
    base = rotated_root(version)
    return replace(base, keys={**base.keys, **keys}, roles={**base.roles, ROOT_TYPE: Role(tuple(keys), 2)})


@pytest.mark.parametrize(
    ("signers", "is_trusted"),
    [
        ([10, 11, 20, 21], True),
        ([11, 12, 20, 22], True),
        ([10, 20, 21], False),
        ([10, 11, 20], False),
        ([10, 10, 20, 21], False),
        ([20, 21, 22], False),
        ([10, 11, 12], False),
    ],
)
def test_both_thresholds_count(signers: list[int], is_trusted: bool) -> None:
    trust = load_trust(seal_root(two_of_three(1, 10), [root_key(10), root_key(11)]))
    following = seal_root(two_of_three(2, 20), [root_key(each) for each in signers])
    if is_trusted:
        assert versions(trust.extended([following])) == [1, 2]
    else:
        with pytest.raises(RootError, match="not signed by"):
            trust.extended([following])


def test_a_key_of_both_roots_counts_for_both() -> None:
    trust = load_trust(seal_root(two_of_three(1, 10), [root_key(10), root_key(11)]))
    assert versions(trust.extended([seal_root(two_of_three(2, 11), [root_key(11), root_key(12)])])) == [1, 2]


def test_a_version_has_one_content_for_ever() -> None:
    other = seal_root(replace(rotated_root(2), emergency_max_devices=1_000_000), [root_key(1), root_key(2)])
    trust = FIRST.extended([ROOTS[1]])
    with pytest.raises(RootError, match="version 2 is known with another content"):
        trust.extended([other])
    with pytest.raises(RootError, match="version 2 is known with another content"):
        trust.extended([ROOTS[2], other])


def test_the_same_root_with_more_signatures_is_the_same() -> None:
    trust = FIRST.extended([ROOTS[1]])
    again = seal_root(rotated_root(2), [STRANGER, root_key(1), root_key(2)])
    assert trust.extended([again]) == trust


def test_a_root_older_than_all_that_is_known_is_passed_over() -> None:
    assert versions(load_trust(ROOTS[3]).extended(ROOTS)) == [4, 5, 6, 7]


def test_the_shipped_file_is_the_newest_root_with_earlier_ones() -> None:
    assert versions(load_trust(ROOTS[6])) == [7]
    assert load_trust(attach_roots(ROOTS[6], ROOTS[:6])) == FIRST.extended(ROOTS)
    assert versions(load_trust(attach_roots(ROOTS[6], ROOTS[4:6]))) == [5, 6, 7]
    with pytest.raises(RootError, match="a newer one among its earlier"):
        load_trust(attach_roots(ROOTS[0], ROOTS[:2]))
    with pytest.raises(RootError, match="skipped"):
        load_trust(attach_roots(ROOTS[6], ROOTS[:3]))
    with pytest.raises(PayloadTypeError):
        load_trust(sealed(GRANT))


@pytest.mark.parametrize(
    ("shipped", "stored", "found"),
    [
        ([1], [], [1]),
        ([1], [1], [1]),
        ([1], [1, 2, 3], [1, 2, 3]),
        ([1, 2, 3], [1], [1, 2, 3]),
        ([2, 3], [1, 2], [1, 2, 3]),
        ([1], [2, 3], [1, 2, 3]),
        ([3], [1, 2], [1, 2, 3]),
        ([5, 6], [1, 2], [1, 2, 5, 6]),
        ([5, 6], [1, 2, 5, 6, 7], [1, 2, 5, 6, 7]),
        ([7], [1, 2, 5], [1, 2, 5, 7]),
    ],
)
def test_shipped_and_stored_roots_become_one_chain(shipped: list[int], stored: list[int], found: list[int]) -> None:
    trust = chain(shipped)
    assert versions(joined(trust, [ROOTS[each - 1] for each in stored])) == found
    assert versions(joined(trust, [ROOTS[each - 1] for each in reversed(stored)])) == found


def chain(of: list[int]) -> Trust:
    return load_trust(attach_roots(ROOTS[of[-1] - 1], [ROOTS[each - 1] for each in of[:-1]]))


def test_a_stored_grant_is_verified_beyond_a_gap_and_nothing_grows_out_of_it() -> None:
    trust = joined(chain([5]), ROOTS[:2])
    assert trust.under(2) == rotated_root(2)
    assert trust.current == rotated_root(5)
    assert trust.extended(ROOTS[:4]) == trust
    assert versions(trust.extended(ROOTS)) == [1, 2, 5, 6, 7]


@pytest.mark.parametrize("stored", [[3], [1, 3], [1, 2, 4, 5]])
def test_a_newer_stored_root_that_no_shipped_one_leads_to_is_refused(stored: list[int]) -> None:
    with pytest.raises(RootError, match="the ledger has version"):
        joined(FIRST, [ROOTS[each - 1] for each in stored])


def test_a_stored_root_that_differs_from_the_shipped_one_is_refused() -> None:
    other = seal_root(replace(rotated_root(1), allow_unactivated=False), [root_key(1)])
    with pytest.raises(RootError, match="another content"):
        joined(FIRST, [other])
    forged = seal_root(rotated_root(2), [root_key(2), STRANGER])
    with pytest.raises(RootError, match="not signed by version 1"):
        joined(FIRST, [ROOTS[0], forged])


def test_whether_a_document_would_be_accepted_again() -> None:
    trust = FIRST.extended([ROOTS[1]])
    assert trust.signs_still(GRANT_TYPE, sealed(GRANT, grant_key(2)))
    assert not trust.signs_still(GRANT_TYPE, sealed(GRANT, grant_key(1)))
    assert not trust.signs_still(GRANT_TYPE, ROOTS[1])
    assert not trust.signs_still(GRANT_TYPE, b"")
