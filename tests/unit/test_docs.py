"""The pages for people change with the code: no state, message, code or property without an entry, no dead link."""

from __future__ import annotations

import enum
import inspect
import re
from pathlib import Path

import pytest

import license_authority.errors
from smartserver_licensed.cli import authority, output_file
from smartserver_licensed.domain import errors, messages
from smartserver_licensed.domain.notices import NoticeKind
from smartserver_licensed.domain.refusal import RefusalCode
from smartserver_licensed.domain.status import Clock, State, Storage
from smartserver_licensed.domain.updates import UpdateCode
from smartserver_licensed.domain.withholding import Reason
from smartserver_licensed.formats.vocabulary import VOCABULARY

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text()
DBUS = (ROOT / "docs/dbus.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


KINDS: tuple[type[enum.Enum], ...] = (State, Storage, Clock, RefusalCode, Reason, NoticeKind, UpdateCode)


def codes(module: object) -> set[str]:
    classes = [each for each in vars(module).values() if inspect.isclass(each)]
    return {each.code for each in classes if issubclass(each, errors.LicensedError)}


@pytest.mark.parametrize("word", [each.value for kind in KINDS for each in kind])
def test_every_state_condition_and_reason_has_an_entry(word: str) -> None:
    assert f"| `{word}` |" in OPERATIONS


@pytest.mark.parametrize(
    "code", sorted(set().union(*map(codes, (errors, license_authority.errors, authority, output_file))))
)
def test_every_error_code_has_an_entry(code: str) -> None:
    assert f"| `{code}` |" in OPERATIONS


@pytest.mark.parametrize("message", messages.MESSAGES, ids=lambda message: message.name)
def test_every_journal_message_has_an_entry(message: messages.Message) -> None:
    assert f"| `{message.id}` | {message.name} | {message.sentence} |" in OPERATIONS


def test_the_table_of_properties_is_the_vocabulary() -> None:
    for word in VOCABULARY:
        if word.property:
            assert f"| {word.property} | {word.signature} | {word.lic or '–'} | {word.json} |" in DBUS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_link_is_dead(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_file_that_a_page_names_is_missing(page: Path) -> None:
    for target in re.findall(r"`((?:src|tests|docs|etc|systemd)/[\w./-]+)`", page.read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "path",
    re.findall(
        r"`((?:domain|controller|store|formats|documents)/[\w./]+\.py)`", (ROOT / "docs/architecture.md").read_text()
    ),
)
def test_no_module_that_the_architecture_names_is_missing(path: str) -> None:
    assert (ROOT / "src/smartserver_licensed" / path).exists()
