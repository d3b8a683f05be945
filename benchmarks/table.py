"""What was measured, as a table for people and as JSON: one row a figure, beside its limit.

Rules: every row has min, median and p99 of what was measured, and of its limit where there is one; a ratio is that of
the medians, said so that an aim can be read off it; a row without an aim is there to compare with.

What this module does not do: it measures nothing.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Figures:
    """Min, median and p99 (nearest rank) of `count` measurements."""

    min: float
    median: float
    p99: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float], *, scale: float = 1.0) -> Figures:
        """Of measurements, each multiplied by `scale`. Raises ValueError where there is none."""
        ordered = sorted(value * scale for value in values)
        if not ordered:
            raise ValueError("cannot sum up: nothing was measured")
        rank = math.ceil(len(ordered) * 0.99) - 1
        return cls(ordered[0], statistics.median(ordered), ordered[rank], len(ordered))

    def __str__(self) -> str:
        return " / ".join(map(_number, (self.min, self.median, self.p99)))


@dataclass(frozen=True, slots=True)
class Aim:
    """An aim for a row's ratio, or with `is_value` for its median."""

    text: str
    at_most: float = math.inf
    at_least: float = -math.inf
    is_value: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `is_rate`: less time is more, so the ratio is that of rates (limit's time over ours)."""

    key: str
    what: str
    unit: str
    measured: Figures
    limit: Figures | None = None
    limit_what: str = ""
    aim: Aim | None = None
    is_rate: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """To the limit, by the medians."""
        if self.limit is None:
            return None
        over, under = (self.limit, self.measured) if self.is_rate else (self.measured, self.limit)
        return over.median / under.median if under.median else math.inf

    @property
    def is_met(self) -> bool | None:
        """Whether the aim is met; None without one."""
        if self.aim is None:
            return None
        value = self.measured.median if self.aim.is_value else self.ratio
        return value is not None and self.aim.at_least <= value <= self.aim.at_most

    def json(self) -> Json:
        """All of it as plain values."""
        return {
            "key": self.key,
            "what": self.what,
            "unit": self.unit,
            "measured": _json(self.measured),
            "limit": _json(self.limit) if self.limit else None,
            "limit_what": self.limit_what,
            "ratio": self.ratio,
            "aim": self.aim.text if self.aim else None,
            "is_met": self.is_met,
            "note": self.note,
        }


def render(head: Sequence[str], rows: Sequence[Row]) -> str:
    """The table, with notes below."""
    titles = ("", "what", "unit", "min / median / p99", "limit: min / median / p99", "ratio", "aim", "met")
    cells = [titles, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes = [f"{row.key:<{widths[0]}}  {text}" for row in rows if (text := _note(row))]
    return "\n".join([*head, "", *lines, "", *notes]) + "\n"


def to_json(machine: dict[str, Json], rows: Sequence[Row]) -> str:
    """The same for programs."""
    return json.dumps({"machine": machine, "rows": [row.json() for row in rows]}, indent=1, allow_nan=False) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    met = {None: "", True: "yes", False: "NO"}[row.is_met]
    limit = "" if row.limit is None else str(row.limit)
    return (row.key, row.what, row.unit, str(row.measured), limit, ratio, row.aim.text if row.aim else "", met)


def _note(row: Row) -> str:
    limit = f"limit: {row.limit_what}" if row.limit_what else ""
    return "; ".join(each for each in (limit, row.note) if each)


def _json(figures: Figures) -> Json:
    return {"min": figures.min, "median": figures.median, "p99": figures.p99, "count": figures.count}


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
