"""What an attack is, and what came of it: one row each, printed as a table and kept as JSON beside it.

Rules:
- an attack is a function whose name is the sentence that is promised; it returns the codes with which it was refused,
  or what was found;
- it raises GotThroughError when it succeeded, and when it was refused but something has changed, or with another code;
- a control is the same document untampered: it must be accepted, else a refusal would mean nothing.

What this module does not do: it knows no daemon and no authority (`scene`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from attacks.scene import Scene

Run: TypeAlias = "Callable[[Scene], str]"


class GotThroughError(AssertionError):
    """An attack has succeeded, or a control has not."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. `what` is tried; `is_control`: it must be accepted."""

    theme: str
    name: str
    what: str
    run: Run
    is_control: bool

    @property
    def sentence(self) -> str:
        """What is promised."""
        return self.name.replace("_", " ")


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one attack."""

    theme: str
    sentence: str
    what: str
    outcome: str
    is_control: bool
    is_ok: bool
    seconds: float


ATTACKS: list[Attack] = []


def attack(what: str, *, is_control: bool = False) -> Callable[[Run], Run]:
    """Make an attack known, in the order of the modules."""

    def known(run: Run) -> Run:
        theme = run.__module__.rpartition(".")[2].replace("_", " ")
        ATTACKS.append(Attack(theme, run.__name__, what, run, is_control))
        return run

    return known


def tried(each: Attack, scene: Scene) -> Row:
    """Run it; whatever is raised is a failure, and the next one is tried."""
    began_at = time.monotonic()
    try:
        outcome, is_ok = each.run(scene), True
    except GotThroughError as error:
        outcome, is_ok = f"GOT THROUGH: {error}", False
    except Exception as error:  # noqa: BLE001 - one that cannot be tried must not hide the others
        outcome, is_ok = f"COULD NOT BE TRIED: {type(error).__name__}: {error}", False
    seconds = time.monotonic() - began_at
    return Row(each.theme, each.sentence, each.what, outcome, each.is_control, is_ok, round(seconds, 2))


def show(rows: Sequence[Row]) -> str:
    """The table, as a person reads it."""
    sentences, whats = (max(len(getattr(row, name)) for row in rows) for name in ("sentence", "what"))
    lines, theme = [f"{'attack':<{sentences}}  {'what was tried':<{whats}}  outcome"], ""
    for row in rows:
        lines += [f"-- {row.theme}"] if row.theme != theme else []
        theme = row.theme
        verdict = "" if row.is_ok else "   FAIL"
        lines.append(f"{row.sentence:<{sentences}}  {row.what:<{whats}}  {row.outcome}{verdict}")
    failed, controls = sum(not row.is_ok for row in rows), sum(row.is_control for row in rows)
    attacks, seconds = len(rows) - controls, sum(row.seconds for row in rows)
    return "\n".join(
        [*lines, f"{attacks} attacks and {controls} controls in {len(rows)} rows, {failed} failed, {seconds:.0f} s"]
    )


def keep(rows: Sequence[Row], path: Path) -> None:
    """The same as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n", "utf-8")
