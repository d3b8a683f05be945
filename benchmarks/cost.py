"""(c) what an event costs the daemon with many devices on the SmartServer, against ten.

Rules: the same traffic in both cases: an event touches one of ten devices, those of the many chosen anew for each
round; both daemons are up at once and take turns. CPU time, not time that passes.

What this module does not do: waiting is not measured here (`answer`).
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import process
from benchmarks.smartserver import Field, Measured, measured
from benchmarks.table import Aim, Figures, Row
from smartserver_licensed.domain.admission import Admission
from support.world import World

_US = 1e6
_AIM = Aim("<= 1.2x", at_most=1.2)
_ACTIVE = 10
_EVENTS = 500  # a round
_TURNS = 20  # a round: a device comes and goes
_FEW = 10
_SETTLE_S = 0.05  # for what the daemon does after its answer


@dataclass(frozen=True, slots=True)
class Amounts:
    """How often, and how many units are simulated."""

    many: int
    rounds: int
    simulated: int
    simulated_rounds: int

    @classmethod
    def of(cls, *, is_short: bool) -> Amounts:
        """As the form asks for."""
        return cls(1_000, 4, 10_000, 10) if is_short else cls(4_000, 40, 100_000, 60)


def measure(*, is_short: bool) -> list[Row]:
    """The rows of (c)."""
    amounts = Amounts.of(is_short=is_short)
    with (
        measured(capacity=amounts.many + 100, max_devices=2 * amounts.many) as many_box,
        measured(capacity=amounts.many + 100, max_devices=2 * amounts.many) as few_box,
    ):
        many, few = _Site(many_box, amounts.many), _Site(few_box, _FEW)
        status = _taking_turns(amounts.rounds, many.status_changes, few.status_changes)
        turnover = _taking_turns(amounts.rounds, many.turnover, few.turnover)
        for site in (many, few):
            site.field.close()
    limit_what = f"the same with {_FEW} devices"
    return [
        _row("c", f"CPU a changed sts, {amounts.many:,} devices", limit_what, status),
        _row("c.turnover", "  CPU a device that comes and goes", limit_what, turnover),
        _simulated(amounts),
    ]


def _row(key: str, what: str, limit_what: str, both: tuple[list[float], list[float]]) -> Row:
    ours, limit = (Figures.of(each, scale=_US) for each in both)
    return Row(key, what, "us", ours, limit, limit_what, _AIM)


def _taking_turns(
    rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """What each of the two gave, round by round."""
    first(), second()
    pairs = [(first(), second()) for _ in range(rounds)]
    return [one for one, _ in pairs], [other for _, other in pairs]


class _Site:
    """A SmartServer with so many running devices."""

    def __init__(self, box: Measured, devices: int) -> None:
        self._box = box
        self.field = Field(box.broker.port)
        self._handles = [f"c{number}" for number in range(devices)]
        self.field.bring(self._handles)

    def status_changes(self) -> float:
        """CPU seconds an event: ten devices leave `provisioned` and come back, again and again."""
        active = random.sample(self._handles, _ACTIVE)
        before = self._cpu_s()
        for _ in range(_EVENTS // (2 * _ACTIVE)):
            for state in ("unprovisioned", "provisioned"):
                self.field.say_all(active, state)
        self.field.fence()
        return (self._cpu_s() - before) / _EVENTS

    def turnover(self) -> float:
        """CPU seconds a device that is created, licensed, taken over and deleted; one at a time, two commits each."""
        before = self._cpu_s()
        for number in range(_TURNS):
            self.field.ask(f"t{number}")
            self.field.say(f"t{number}", "unprovisioned")
            self.field.ask(f"t{number}", "deleted")
        return (self._cpu_s() - before) / _TURNS

    def _cpu_s(self) -> float:
        time.sleep(_SETTLE_S)
        return process.cpu_s(self._box.pid)


# -- simulated: the pure core alone ------------------------------------------------------------------------------------


def _simulated(amounts: Amounts) -> Row:
    """Each event in a batch of its own: what comes in a burst costs less."""
    many, few = _world(amounts.simulated), _world(_FEW)
    both = _taking_turns(
        amounts.simulated_rounds,
        lambda: _core(many, random.sample(range(amounts.simulated), _ACTIVE)),
        lambda: _core(few, range(_FEW)),
    )
    what = f"  the core alone, simulated {amounts.simulated:,}"
    return _row("c.core", what, f"the same with {_FEW} devices", both)


def _world(devices: int) -> World:
    world = World(capacity=devices + 100)
    world.admission = Admission(max_devices=devices + 100, settle_s=15.0)
    world.admission.facts.begin_snapshot()
    for state in ("unlicensed", "unprovisioned", "provisioned"):
        for number in range(devices):
            world.sts(f"example/c{number}", state)
        while world.admission.is_due:
            world.batch()
    assert world.totals.provisioned == devices
    for grown in (world.events, world.history):
        grown.clear()
    gc.collect()
    return world


def _core(world: World, active: Sequence[int]) -> float:
    """CPU seconds an event."""
    names = [f"example/c{number}" for number in active]
    start = time.process_time()
    for _ in range(_EVENTS // (2 * len(names))):
        for state in ("unprovisioned", "provisioned"):
            for name in names:
                world.sts(name, state)
                world.batch()
    return (time.process_time() - start) / _EVENTS
