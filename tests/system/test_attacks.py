"""Each attack of `make attacks` as a test with the attack's sentence; and the suite itself, with a check removed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from attacks.attack import Attack, tried
from attacks.everything import ATTACKS
from attacks.scene import Scene
from smartserver_licensed.documents.payloads import encode_contact, parse_contact
from smartserver_licensed.domain.contacts import ContactKind

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(120)]
SECURITY = (Path(__file__).parents[2] / "docs/security.md").read_text("utf-8")
ANY_SIGNATURE = """
def check_signatures(envelope, *, keys, threshold):
    pass
from smartserver_licensed.documents import trust
trust.check_signatures = check_signatures
"""
ANY_SEQ = """
from smartserver_licensed.controller import licensing, keeper
accept = licensing.accept_grant
licensing.accept_grant = lambda data, **more: accept(data, **{**more, "last_seq": 0})
async def check_seq(self, events): pass
keeper.Keeper._check_seq = check_seq
"""
ANY_SMARTSERVER = """
from smartserver_licensed.controller import licensing
from smartserver_licensed.documents.acceptance import parse_envelope, parse_grant
accept = licensing.accept_grant
def for_whomever(data, **more):
    grant = parse_grant(parse_envelope(data).payload)
    return accept(data, **{**more, "install_code": grant.install_code, "device_key": grant.device_key})
licensing.accept_grant = for_whomever
"""

NO_CHAIN = """
from license_authority import contacts
contacts._check_chain = lambda *_: None
"""
NO_TOTALS = """
from license_authority import contacts
contacts._check_register = contacts._check_totals = lambda *_: None
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("attacks")) as running:
        yield running


@pytest.mark.parametrize("each", ATTACKS, ids=lambda each: each.name)
def test_attack(each: Attack, scene: Scene) -> None:
    assert each.run(scene)


def test_each_attack_has_a_sentence_of_its_own() -> None:
    assert len({each.name for each in ATTACKS}) == len(ATTACKS)
    assert {each.theme for each in ATTACKS if not each.is_control} == {
        "envelopes", "payloads", "grants", "roots", "returns", "contacts", "trials", "clocks", "courier",
    }  # fmt: skip


def test_the_page_names_for_each_promise_attacks_that_exist() -> None:
    named = set(re.findall(r"`(\w+_\w+_\w+_\w+)`", SECURITY))
    assert named - {each.name for each in ATTACKS} == set()
    assert {each.theme for each in ATTACKS if each.name in named} == {each.theme for each in ATTACKS}


def test_the_request_that_the_page_shows_is_one() -> None:
    shown = re.search(r"```json\n(.*?)```", SECURITY, re.DOTALL)
    assert shown is not None
    contact = parse_contact(shown[1].encode(), ContactKind.REQUEST)
    assert json.loads(shown[1]) == json.loads(encode_contact(contact))


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        (ANY_SIGNATURE, ("a_forged_grant_is_refused", "an_edited_grant_is_refused", "a_retired_key_signs_no_grant")),
        (ANY_SEQ, ("an_older_grant_after_a_newer_one_is_refused",)),
        (ANY_SMARTSERVER, ("a_license_of_another_smartserver_is_refused", "a_grant_for_another_device_key_is_refused")),
    ],
    ids=["no signature is checked", "no seq is checked", "nobody asks whose it is"],
)
def test_with_a_check_removed_the_attack_is_reported_as_got_through(
    patch: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    with Scene(tmp_path, program=launcher("smartserver_licensed.daemon", patch)) as weak:
        assert_got_through(weak, names)


@pytest.mark.parametrize(
    ("patch", "names"),
    [
        (NO_CHAIN, ("a_number_used_twice_is_found", "a_proof_without_the_return_is_seen")),
        (NO_TOTALS, ("totals_that_fall_are_seen",)),
    ],
    ids=["no chain is checked", "no total is checked"],
)
def test_with_a_check_of_the_authority_removed_too(patch: str, names: tuple[str, ...], tmp_path: Path) -> None:
    with Scene(tmp_path, authority_program=launcher("license_authority.main", patch)) as weak:
        assert_got_through(weak, names)


def launcher(module: str, patch: str) -> Sequence[str]:
    return [sys.executable, "-c", f"import sys\nfrom {module} import main\n{patch}\nsys.exit(main())"]


def assert_got_through(weak: Scene, names: tuple[str, ...]) -> None:
    rows = [tried(each, weak) for each in ATTACKS if each.name in names]
    assert len(rows) == len(names)
    assert [row.outcome.partition(":")[0] for row in rows] == ["GOT THROUGH"] * len(rows)
