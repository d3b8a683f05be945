"""Clocks that are wrong, set back, set forward or missing, against trusted time and grace (LICENSING §5).

The time of `domain.trusted_time` and the grace of `domain.overcapacity` are driven by the keeper, over power cuts and
faults of the ledger, so that what is durable is what is in the ledger; no disk and no real clock are needed for that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.domain import entitlement
from smartserver_licensed.domain.errors import WriteFailedError
from smartserver_licensed.domain.ledger_state import GrantInstalled, LedgerState
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.overcapacity import Grace, begun
from smartserver_licensed.domain.status import Clock
from smartserver_licensed.domain.timekeeping import DAY_S, LATEST, from_iso
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats.ledger import encode_snapshot
from support.documents import INSTALL_CODE, sealed
from support.ports import MemoryLedger, keeper_of

BUILT = from_iso("2026-11-01T00:00:00Z")
NOW = from_iso("2027-03-01T00:00:00Z")
SPOOFED = from_iso("2037-06-01T00:00:00Z")
TRIAL = License("t", LicenseType.TRIAL, 5, NOW + 20 * DAY_S, grace_days=7)
WEEK_S = 7 * DAY_S


@dataclass
class WrongClocks:
    """Implements `controller.ports.Clocks`: what a test wants them to show."""

    wall_s: int = 0
    boottime_s: float = 20.0
    is_synchronised: bool = False

    def monotonic(self) -> float:
        return self.boottime_s

    def reading(self) -> Reading:
        return Reading(self.wall_s, self.boottime_s, self.is_synchronised)

    def wall_ms(self) -> int:
        return self.wall_s * 1_000


@dataclass
class Box:
    """One SmartServer whose units run beyond the capacity all the time."""

    clocks: WrongClocks = field(default_factory=WrongClocks)
    ledger: MemoryLedger = field(
        default_factory=lambda: MemoryLedger(encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=NOW)))
    )
    seq: int = 0

    async def boot(self) -> None:
        """Also after a power cut: only what is in the ledger is left."""
        self.clocks.boottime_s = 20.0
        self.keeper = keeper_of(self.ledger, self.clocks, floor_s=BUILT)
        assert await self.keeper.open()
        self.keeper.has_excess = True

    def run(self, seconds: float) -> None:
        """It runs on; the wall clock with it."""
        self.clocks.boottime_s += seconds
        self.clocks.wall_s += int(seconds)

    async def commit(self, grace: Grace | None = None) -> None:
        assert await self.keeper.commit([], grace)

    async def install(self, issued_at: int, *licenses: License) -> None:
        self.seq += 1
        grant = Grant(self.seq, issued_at, "customer", INSTALL_CODE, None, licenses, 1)
        assert await self.keeper.commit_license([GrantInstalled(grant, sealed(grant), self.clocks.wall_s)])

    async def fail(self) -> None:
        """A write fails; the ledger is recovered by the same process, a minute later."""
        self.ledger.fails = WriteFailedError("injected")
        assert not await self.keeper.commit([])
        self.run(60)
        assert await self.keeper.open()

    @property
    def capacity(self) -> int:
        state = self.keeper.state
        assert state is not None
        licenses = state.installed.grant.licenses if state.installed else ()
        return entitlement.capacity(licenses, self.keeper.now(), state.returned)


async def a_box(*, wall_s: int = NOW, is_synchronised: bool = False) -> Box:
    box = Box(WrongClocks(wall_s, is_synchronised=is_synchronised))
    await box.boot()
    return box


# -- one attack each -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wall_s", [0, NOW - 1, NOW - 400 * DAY_S])
async def test_a_clock_set_back_changes_nothing_and_is_reported(wall_s: int) -> None:
    box = await a_box(wall_s=wall_s - 10_000, is_synchronised=True)
    box.run(10_000)
    assert box.keeper.now() == NOW + 10_000
    assert box.keeper.clock() is Clock.SET_BACK


@pytest.mark.parametrize("wall_s", [0, SPOOFED, 2**31, 2**32, LATEST])
async def test_an_unsynchronised_clock_is_not_believed_whatever_it_shows(wall_s: int) -> None:
    box = await a_box()
    await box.install(NOW, TRIAL)
    box.clocks.wall_s = wall_s
    box.run(3_600)
    assert box.keeper.now() == NOW + 3_600
    assert box.capacity == 5
    assert box.keeper.clock() is Clock.UNSYNCHRONISED


async def test_a_first_boot_in_1970_without_a_clock_begins_with_the_build() -> None:
    box = Box(WrongClocks(0), MemoryLedger(encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=0))))
    await box.boot()
    assert box.keeper.now() == BUILT
    await box.install(0, TRIAL)
    assert box.keeper.now() == BUILT


@pytest.mark.parametrize("moment", [2**31 - 2, 2**32 - 2])
async def test_time_runs_through_2038_and_2106(moment: int) -> None:
    trial = License("t", LicenseType.TRIAL, 5, moment + 10)
    box = await a_box(wall_s=moment, is_synchronised=True)
    await box.install(moment, trial)
    box.run(9)
    await box.commit()
    assert (box.keeper.now(), box.capacity) == (moment + 9, 5)
    box.run(1)
    await box.commit()
    box.clocks.is_synchronised = False
    await box.boot()
    assert (box.keeper.now(), box.capacity) == (moment + 10, 0)


async def test_weeks_without_power_and_clock_lengthen_nothing_that_was_used_and_end_nothing() -> None:
    box = await a_box()
    await box.install(NOW, TRIAL)
    box.run(WEEK_S)
    await box.commit(begun(box.keeper.grace(), days=30))
    used_s = box.keeper.grace().used_s
    for wall_s in (0, NOW, SPOOFED):
        box.clocks.wall_s = wall_s
        await box.boot()
    assert box.keeper.now() == NOW + WEEK_S
    assert (box.capacity, box.keeper.grace().used_s) == (5, used_s)
    box.clocks.wall_s, box.clocks.is_synchronised = NOW + 9 * WEEK_S, True
    assert (box.capacity, box.keeper.grace().used_s) == (0, used_s), "the time is known again, and the trial is over"


async def test_spoofed_time_stops_nobody_who_runs_and_the_next_grant_mends_it_offline() -> None:
    box = await a_box()
    await box.install(NOW, TRIAL)
    box.clocks.wall_s, box.clocks.is_synchronised = SPOOFED, True
    assert box.capacity == 0
    await box.commit(begun(box.keeper.grace(), days=7))
    box.clocks.wall_s, box.clocks.is_synchronised = NOW, False
    box.run(6 * DAY_S)
    await box.commit()
    await box.boot()
    assert box.keeper.now() > SPOOFED
    assert not box.keeper.grace().has_ended
    await box.install(NOW + 6 * DAY_S, TRIAL)
    assert (box.keeper.now(), box.capacity) == (NOW + 6 * DAY_S, 5)
    await box.boot()
    assert (box.keeper.now(), box.capacity) == (NOW + 6 * DAY_S, 5)


async def test_a_grant_mends_time_also_where_the_ledger_fails_in_the_same_breath() -> None:
    box = await a_box(wall_s=SPOOFED, is_synchronised=True)
    await box.commit()
    box.clocks.is_synchronised = False
    await box.install(NOW, TRIAL)
    await box.fail()
    assert (box.keeper.now(), box.capacity) == (NOW + 60, 5)


async def test_no_clock_ends_a_grace_or_lengthens_it() -> None:
    box = await a_box()
    await box.commit(begun(box.keeper.grace(), days=7))
    for hour in range(7 * 24):
        assert not box.keeper.grace().has_ended
        box.clocks.wall_s = [0, NOW, SPOOFED, 2**32][hour % 4]
        box.clocks.is_synchronised = hour % 3 == 0
        box.run(3_600)
        await box.commit()
        await box.boot()
    assert box.keeper.grace().used_s == WEEK_S
    assert box.keeper.grace().has_ended


# -- all of them, in any order -------------------------------------------------------------------------------------

Step: TypeAlias = "tuple[str, int]"
_WALL = st.sampled_from([0, 1, BUILT - 1, NOW, SPOOFED, 2**31 - 1, 2**31, 2**32 - 1, 2**32]) | st.integers(0, 2**33)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("synchronised"), _WALL),
        st.tuples(st.just("unsynchronised"), _WALL),
        st.tuples(st.just("run"), st.integers(0, 30 * DAY_S)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("fail"), st.just(0)),
        st.tuples(st.just("grant"), _WALL),
    ),
    min_size=10,
    max_size=24,
)


async def play(steps: list[Step]) -> None:
    """Check each step against the rules, written once more: `mark` is what was made durable, `carried` runs on from it.

    A clock that is synchronised is believed as long as it is ahead; for good once something is made durable meanwhile.
    """
    box = await a_box()
    mark = carried = NOW
    graced_s = durable_graced_s = 0
    for what, value in steps:
        if what in {"synchronised", "unsynchronised"}:
            box.clocks.wall_s, box.clocks.is_synchronised = value, what == "synchronised"
        elif what == "run":
            box.run(value)
            carried += value
            graced_s += value
        elif what == "commit":
            await box.commit()
        elif what == "cut":
            await box.boot()
            carried, graced_s = mark, durable_graced_s
        elif what == "fail":
            await box.fail()
            carried += 60  # time runs on, grace does not: nobody could have counted
            graced_s = durable_graced_s
        else:
            await box.install(value, TRIAL)
            mark = carried = max(value, BUILT)
        now = max(carried, box.clocks.wall_s) if box.clocks.is_synchronised else carried
        assert (box.keeper.now(), box.keeper.grace().used_s) == (now, graced_s), what
        assert now >= mark >= BUILT
        if what in {"commit", "cut", "fail", "grant"}:
            mark = carried = now
            durable_graced_s = graced_s


@settings(max_examples=1_000)
@given(_STEPS)
def test_no_decision_runs_backward_but_by_a_grant_and_grace_is_time_of_running(steps: list[Step]) -> None:
    asyncio.run(play(steps))
