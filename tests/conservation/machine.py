"""The rules as a Hypothesis state machine: it finds short sequences where there are any, and shrinks them.

What this module does not do: it has no rule of its own (`rules`), and judges nothing (`field`).
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from .field import Field
from .rules import RULES
from .vendor import Vendor

_DRAWN = tuple(each for each, weight in RULES for _ in range(max(1, weight // 2)))


class Drawn:
    """Implements `rules.Choice`."""

    def __init__(self, data: Any) -> None:  # noqa: ANN401 - Hypothesis has no public type for it
        self._data = data

    def below(self, limit: int) -> int:
        return int(self._data.draw(st.integers(0, limit - 1)))


class ConservationMachine(RuleBasedStateMachine):
    """One sequence; `vendor` is set by whoever runs it, and serves all sequences."""

    vendor: ClassVar[Vendor]
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.field = Field(self.vendor, random.Random(0))

    @rule(act=st.sampled_from(_DRAWN), data=st.data())
    def something_happens(self, act: Any, data: Any) -> None:  # noqa: ANN401
        self.counts["steps"] += 1
        act(self.field, Drawn(data))

    @invariant()
    def nothing_is_licensed_twice(self) -> None:
        self.field.check()

    def teardown(self) -> None:
        self.field.settle()
        self.counts.update(self.field.counts)
        self.counts["sequences"] += 1
        self.counts["cuts"] += sum(body.server.cuts for body in self.field.bodies)
