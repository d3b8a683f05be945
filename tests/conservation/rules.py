"""What may happen, and how often.

Rules: a rule changes the field by one act; a sequence of them can be driven by Hypothesis as well as by a seed.

What this module does not do: it has no rule of its own (`acts`, `mishaps`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from . import acts, mishaps
from .chance import Choice
from .field import Field

Rule: TypeAlias = Callable[[Field, Choice], None]

RULES: tuple[tuple[Rule, int], ...] = (
    (acts.buys, 7),
    (acts.asks, 14),
    (acts.is_served, 18),
    (acts.gets_a_new_key, 4),
    (acts.returns, 18),
    (acts.exports_again, 5),
    (acts.is_delivered, 34),
    (acts.installs, 24),
    (mishaps.is_copied, 7),
    (mishaps.is_put_back, 6),
    (mishaps.is_cloned, 4),
    (mishaps.is_wiped, 2),
    (mishaps.gets_a_board, 2),
    (mishaps.is_replaced, 3),
    (acts.has_an_emergency, 4),
    (acts.is_updated, 5),
    (acts.time_passes, 3),
)
"""Each rule, and how often it is taken."""
