"""(a) one new device at a time, (b) 1,000 at once, (g) a freed seat; beside a bare echo, a bare disk, a naive loop.

Rules: everybody answers on the same broker and is asked in turn by the same two clients, the others idle meanwhile;
between two questions lies a random pause, as devices are made one at a time by people and not by a loop.

What this module does not do: it looks at no CPU time and no memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.reference import Disk
from benchmarks.smartserver import ECHO_SID, NAIVE_SID, NEW_NAIVE_SID, Field, Measured, beside, measured
from benchmarks.table import Aim, Figures, Row

_MS = 1e3
_AIM = Aim("<= 1.5x", at_most=1.5)
_BURST = 1_000
_RETAINED = 2_000
_LIMIT = "a bare paho echo, and the same bytes written and synced bare, twice"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How often."""

    single: int
    bursts: int
    freed: int

    @classmethod
    def of(cls, *, is_short: bool) -> Amounts:
        """As the form asks for."""
        return cls(40, 2, 20) if is_short else cls(500, 20, 300)


def measure(*, is_short: bool) -> list[Row]:
    """The rows of (a), (b) and (g)."""
    amounts = Amounts.of(is_short=is_short)
    with ExitStack() as stack:
        box = stack.enter_context(measured(capacity=3_900))
        stack.enter_context(beside("reference", "echo", str(box.broker.port), ECHO_SID))
        with beside(*_naive(box, NAIVE_SID)):
            sides = _Sides(box)
            rows = [*_single(sides, amounts.single), *_bursts(sides, amounts.bursts)]
        rows += _starts(sides)
        sides.close()
    with measured(capacity=12) as box, beside("reference", "echo", str(box.broker.port), ECHO_SID):
        rows += _freed(box, amounts.freed)
    return rows


def _naive(box: Measured, sid: str) -> tuple[str, ...]:
    return ("baseline_naive", str(box.broker.port), sid, str(box.directory / f"{sid}.db"), "3900")


class _Sides:
    """Whoever answers, each with a pair of clients of the same make."""

    def __init__(self, box: Measured) -> None:
        self.box = box
        self.daemon = Field(box.broker.port)
        self.echo = Field(box.broker.port, ECHO_SID)
        self.naive = Field(box.broker.port, NAIVE_SID)
        self.disk = Disk(box.directory)

    def close(self) -> None:
        for side in (self.daemon, self.echo, self.naive, self.disk):
            side.close()


def _pause() -> None:
    time.sleep(random.uniform(0.005, 0.02))


# -- (a) ---------------------------------------------------------------------------------------------------------------


def _single(sides: _Sides, count: int) -> list[Row]:
    times: dict[str, list[float]] = {name: [] for name in ("daemon", "echo", "disk", "naive")}
    for number in range(count):
        handle = f"a{number}"
        _pause()
        times["daemon"].append(sides.daemon.ask(handle))
        sides.daemon.say(handle, "unprovisioned")
        _pause()
        times["echo"].append(sides.echo.ask(handle))
        _pause()
        times["disk"].append(sides.disk.commit())
        _pause()
        times["naive"].append(sides.naive.ask(handle))
    limit = [echo + disk for echo, disk in zip(times["echo"], times["disk"], strict=True)]
    for side in (sides.daemon, sides.naive):
        side.ask_all([f"a{number}" for number in range(count)], "deleted")
    both = Figures.of(limit, scale=_MS)
    return [
        Row("a", "answer to a new device", "ms", Figures.of(times["daemon"], scale=_MS), both, _LIMIT, _AIM),
        Row("a.echo", "  of the limit: the echo", "ms", Figures.of(times["echo"], scale=_MS)),
        Row("a.disk", "  of the limit: the disk", "ms", Figures.of(times["disk"], scale=_MS)),
        Row("a.naive", "  the naive loop", "ms", Figures.of(times["naive"], scale=_MS), both, _LIMIT),
    ]


# -- (b) ---------------------------------------------------------------------------------------------------------------


def _bursts(sides: _Sides, count: int) -> list[Row]:
    daemon, echo, naive = [], [], []
    commits, unanswered = [], {"daemon": 0, "naive": 0}
    handles = [f"b{device}" for device in range(_BURST)]  # the same each time: a deleted one stays retained for ever
    for number in range(count):
        before = sides.box.seq
        daemon.append(_burst(sides.daemon, handles, lambda missing: _add(unanswered, "daemon", missing)))
        commits.append(sides.box.seq - before)
        sides.daemon.say_all(handles, "unprovisioned")
        echo.append(_burst(sides.echo, handles))
        if number < max(1, count // 4):  # it is slow
            naive.append(_burst(sides.naive, handles, lambda missing: _add(unanswered, "naive", missing)))
            sides.naive.ask_all(handles, "deleted", timeout_s=5)
        sides.daemon.ask_all(handles, "deleted", timeout_s=5)
        time.sleep(0.5)
    aim, limit = Aim(">= 0.6x", at_least=0.6), Figures.of(echo, scale=_MS)
    what = f"{_BURST:,} devices at once"
    limit_what = f"a bare paho echo of as many, {_rate(echo)}; 64 in flight"
    commit = Figures.of(commits)
    note = f"{_rate(daemon)}, {commit.median:.0f} commits ({min(commits)} to {max(commits)})"
    note += f", {unanswered['daemon']} unanswered"
    naive_note = f"{_rate(naive)}, {_BURST:,} commits, {unanswered['naive']} unanswered"
    ours, theirs = Figures.of(daemon, scale=_MS), Figures.of(naive, scale=_MS)
    return [
        Row("b", what, "ms", ours, limit, limit_what, aim, is_rate=True, note=note),
        Row("b.naive", "  the naive loop", "ms", theirs, limit, limit_what, is_rate=True, note=naive_note),
    ]


def _burst(side: Field, handles: list[str], report: Callable[[int], None] = lambda _: None) -> float:
    """Seconds until the last of them was answered."""
    answered = side.ask_all(handles, timeout_s=5)
    report(len(handles) - len(answered))
    return max(answered.values())


def _add(counts: dict[str, int], name: str, number: int) -> None:
    counts[name] += number


def _rate(seconds: list[float]) -> str:
    return f"{_BURST / Figures.of(seconds).median:,.0f} devices/s"


# -- what a start sees -------------------------------------------------------------------------------------------------


def _starts(sides: _Sides) -> list[Row]:
    """Devices that were there before the start: how many of them are answered."""
    handles = [f"s{number}" for number in range(_RETAINED)]
    box, naive = sides.box, Field(sides.box.broker.port, NEW_NAIVE_SID)
    box.stop()
    for side in (sides.daemon, naive):
        side.say_all(handles, "unlicensed")
        side.hears.drain()
    box.start()
    ours = _answered(sides.daemon, handles)
    with beside(*_naive(box, NEW_NAIVE_SID)):
        theirs = _answered(naive, handles)
    naive.close()
    all_of_them = Figures.of([_RETAINED])
    what = f"{_RETAINED:,} devices there before the start"
    aim = Aim("all", at_least=1.0)
    limit_what = "all of them"
    note = "mosquitto hands a QoS 1 subscriber 1,020 retained messages and drops the rest"
    return [
        Row("b.start", what, "seen", Figures.of([ours]), all_of_them, limit_what, aim),
        Row("b.start.naive", "  the naive loop", "seen", Figures.of([theirs]), all_of_them, limit_what, note=note),
    ]


def _answered(side: Field, handles: list[str]) -> int:
    expected, answered = set(handles), set[str]()
    while answered != expected and side.hears.read(1.5 if answered else 20.0):
        answered |= {message.topic.split("/")[6] for message in side.hears.heard} & expected
        side.hears.heard.clear()
    return len(answered)


# -- (g) ---------------------------------------------------------------------------------------------------------------


def _freed(box: Measured, count: int) -> list[Row]:
    """Eleven seats, all taken, one device waits; one that has a seat is deleted, again and again."""
    daemon, echo, disk = Field(box.broker.port), Field(box.broker.port, ECHO_SID), Disk(box.directory)
    seated = [f"g{number}" for number in range(11)]
    for handle in seated:
        daemon.ask(handle)
        daemon.say(handle, "unprovisioned")
    ours, limit = [], []
    for number in range(11, count + 11):
        waiting = f"g{number}"
        daemon.ask(waiting)
        _pause()
        ours.append(daemon.ask(seated.pop(0), "deleted", answer_of=waiting))
        daemon.say(waiting, "unprovisioned")
        seated.append(waiting)
        _pause()
        limit.append(echo.ask(waiting))
        _pause()
        limit[-1] += disk.commit()
    for side in (daemon, echo, disk):
        side.close()
    note = "a peer recounts every 10 s, another every 5 minutes"
    ours_ms, limit_ms = Figures.of(ours, scale=_MS), Figures.of(limit, scale=_MS)
    return [Row("g", "a freed seat goes to who waits", "ms", ours_ms, limit_ms, _LIMIT, _AIM, note=note)]
