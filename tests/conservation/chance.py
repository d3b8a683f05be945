"""Chance, as a rule asks for it: by Hypothesis or by a seed; and where the power goes.

What this module does not do: it knows no rule (`acts`, `mishaps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from .vendor import Cut

_MOST_STEPS = 17  # of the disk, for one document: a cut may come at each of them, or at none

_T = TypeVar("_T")


class Choice(Protocol):
    """Chance."""

    def below(self, limit: int) -> int:
        """A number from 0 to limit − 1."""


def one(choice: Choice, of: Sequence[_T]) -> _T:
    """One of them; None where there are none."""
    return of[choice.below(len(of))] if of else None  # type: ignore[return-value]


def happens(choice: Choice, percent: int) -> bool:
    """Whether something happens that does so in so many of a hundred cases."""
    return choice.below(100) < percent


def disk_cut(choice: Choice) -> int:
    """At which of the disk's steps the power goes; 0: at none, which is more likely."""
    return 1 + choice.below(_MOST_STEPS) if happens(choice, 35) else 0


def authority_cut(choice: Choice) -> Cut:
    """What the power takes; mostly nothing."""
    return one(choice, (Cut.NONE,) * 8 + (Cut.TRANSACTION, Cut.ANSWER))
