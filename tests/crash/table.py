"""What a sweep of faults found: one row a fault, printed as a table and kept as JSON beside it.

Rules:
- `lost`: something announced or acknowledged is not there; `doubled`: more seats than capacity, or a state that never
  was; `silent`: damage that changed the outcome and was not reported;
- a row is good when all three are 0 *and* something was tried.

What this module does not do: it tries nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_SHOWN_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is tried: CI's short form, or the long one of the night."""

    is_short: bool

    def pick(self, short: int, long: int) -> int:
        """The number for this scale."""
        return short if self.is_short else long


@dataclass(slots=True)
class Row:
    """What was tried of one fault and what came of it. `failures`: sentences with what reproduces each."""

    fault: str
    what: str
    states: int = 0
    lost: int = 0
    doubled: int = 0
    silent: int = 0
    seconds: float = 0.0
    figures: dict[str, float | int | str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether something was tried and nothing went wrong; a limit that was missed is among the failures too."""
        return self.states > 0 and not (self.lost or self.doubled or self.silent or self.failures)

    def fail(self, kind: str, sentence: str) -> None:
        """Count a failure; `kind` is lost, doubled or silent."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(self.failures) < _SHOWN_FAILURES:
            self.failures.append(f"{kind}: {sentence}")


def show(rows: Sequence[Row]) -> str:
    """The table, as a person reads it."""
    width = max((len(row.what) for row in rows), default=4)
    lines = [f"{'fault':<5} {'what':<{width}} {'states':>8} {'lost':>5} {'doubled':>8} {'silent':>7} {'s':>7}"]
    for row in rows:
        lines.append(
            f"{row.fault:<5} {row.what:<{width}} {row.states:>8,} {row.lost:>5} {row.doubled:>8} {row.silent:>7} "
            f"{row.seconds:>7.1f}{'' if row.is_good else '  FAIL'}"
        )
        lines += [f"      {name}: {value}" for name, value in row.figures.items()]
        lines += [f"      {failure}" for failure in row.failures]
    return "\n".join(lines)


def keep(rows: Sequence[Row], path: Path) -> None:
    """The same as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) | {"good": row.is_good} for row in rows], indent=2) + "\n", "utf-8")
