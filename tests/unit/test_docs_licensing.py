"""docs/licensing.md is held to the truth: its commands are what the programs take, its codes and tests are there."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import license_authority.errors
from license_authority import options
from smartserver_licensed.cli import authority, courier
from smartserver_licensed.cli import main as licensectl
from smartserver_licensed.domain import errors
from smartserver_licensed.domain.notices import NoticeKind
from smartserver_licensed.domain.status import State
from smartserver_licensed.domain.updates import UpdateCode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/licensing.md").read_text()
PARSERS: dict[str, Callable[[list[str]], object]] = {
    "licensectl": licensectl._parser().parse_args,
    "license-courier": courier._parser().parse_args,
    "license-authority": options.parse,
}
# What stands for what somebody has to fill in.
PLACEHOLDERS = {
    "$ACME": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11",
    "UUID": "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11",
    "$CAP": "8ef45233-0d0d-4323-afc8-6fe96cea77dd",
    "$CARE": "50a6b47c-819e-4875-b43b-fcc211bccba1",
    "ID=N": "8ef45233-0d0d-4323-afc8-6fe96cea77dd=5",
    "N": "5",
}
ENDS = {";", "|", "&", "&&", ">", "2>&1", "→"}
# Every subcommand that is a story of its own.
TOLD = {
    "licensectl": {"request", "install", "return", "returns", "verify", "status", "notices"}
    | {"check-update", "confirm-update"},
    "license-authority": {"init", "trust", "customer", "order", "activate", "return", "transfer", "rma", "emergency"}
    | {"rotate", "show", "token", "serve"},
}


def commands(text: str) -> Iterator[list[str]]:
    """The commands of ours in what somebody types: in pipes, in sequences, and in `$(…)`."""
    for line in text.splitlines():
        words = shlex.split(re.sub(r"\$\((.*)\)$", r" \1 ", line).replace(";", " ; "))
        while words:
            end = next((at for at, word in enumerate(words) if word in ENDS), len(words))
            start = next((at for at, word in enumerate(words[:end]) if word in PARSERS), end)
            if start < end:
                yield words[start:end]
            words = words[end + 1 :]


def typed() -> list[list[str]]:
    """What is typed on the page: after a prompt, in an indented line, or in backquotes."""
    texts = re.findall(r"^(?:vendor|plant|spare)\$ (.*)$", PAGE, re.MULTILINE)
    texts += re.findall(r"^    (licen.*)$", PAGE, re.MULTILINE)
    texts += re.findall(r"`((?:licensectl|license-authority|license-courier) [^`]*)`", prose())
    return [command for text in texts for command in commands(text)]


def prose() -> str:
    """The page without what was typed and shown."""
    return re.sub(r"^```$.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("command", typed(), ids=" ".join)
def test_every_command_is_one_that_its_program_takes(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LICENSE_AUTHORITY_DIR", "authority")
    program, *arguments = command
    PARSERS[program]([PLACEHOLDERS.get(each, each) for each in arguments])


@pytest.mark.parametrize(("program", "told"), TOLD.items(), ids=TOLD)
def test_every_story_is_told(program: str, told: set[str]) -> None:
    assert {command[1] for command in typed() if command[0] == program} >= told
    assert any(command[0] == "license-courier" for command in typed())


def test_a_command_that_a_program_does_not_take_would_be_found() -> None:
    (command,) = commands("X=$(license-authority order --kind capacity)")
    with pytest.raises(SystemExit):
        PARSERS[command[0]](command[1:])
    (command,) = commands("licensectl retrun ID | tail -1")
    with pytest.raises(SystemExit):
        PARSERS[command[0]](command[1:])


def codes() -> set[str]:
    classes = [each for module in (errors, license_authority.errors, authority) for each in vars(module).values()]
    found = {each.code for each in classes if inspect.isclass(each) and issubclass(each, errors.LicensedError)}
    return found | {each.value for kind in (State, UpdateCode, NoticeKind) for each in kind}


def test_every_code_that_the_page_names_exists() -> None:
    shown = set(re.findall(r"\[([a-z]+(?:-[a-z]+)+)\]$", PAGE, re.MULTILINE))
    shown |= set(re.findall(r"^Not allowed \(([a-z-]+)\)", PAGE, re.MULTILINE))
    told = set(re.findall(r"`([a-z]+-(?:retired|needed|forked|capacity|stale|fallen))`", prose()))
    assert {"confirmation-needed", "contact-forked", "smartserver-retired", "trial-used"} <= shown
    assert "key-retired" in told
    assert shown | told <= codes()


@pytest.mark.parametrize(("path", "name"), re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))
def test_every_test_that_the_page_names_exists(path: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / path).read_text()


def test_every_place_on_the_page_that_it_links_to_exists() -> None:
    titles = re.findall(r"^#+ (.*)$", PAGE, re.MULTILINE)
    heads = {re.sub(r"[^a-z -]", "", each.lower()).replace(" ", "-") for each in titles}
    targets = re.findall(r"\]\(#([a-z-]+)\)", PAGE)
    assert targets
    assert set(targets) <= heads
