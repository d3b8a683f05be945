"""Trusted time and the grace counted in hours of running (LICENSING §3, §5)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.domain.overcapacity import DAY_S, Grace, advanced, begun
from smartserver_licensed.domain.status import Clock
from smartserver_licensed.domain.trusted_time import Reading, TrustedTime

WALL = st.integers(0, 2**33)
STEPS = st.lists(st.tuples(WALL, st.floats(0, 1e5), st.booleans()), min_size=1, max_size=30)


@given(STEPS)
def test_no_clock_makes_trusted_time_run_backward(steps: list[tuple[int, float, bool]]) -> None:
    time, boottime = TrustedTime(1_000_000, 0.0), 0.0
    last = 0
    for wall, passed, is_synchronised in steps:
        boottime += passed
        reading = Reading(wall, boottime, is_synchronised)
        assert time.now(reading) >= last
        time = time.marked(reading)
        last = time.mark_s


def test_an_unsynchronised_clock_moves_nothing_but_running_time_does() -> None:
    time = TrustedTime(1_000, 50.0)
    assert time.now(Reading(9_999_999, 60.0, is_synchronised=False)) == 1_010
    assert time.now(Reading(9_999_999, 60.0, is_synchronised=True)) == 9_999_999


def test_a_clock_set_back_is_reported_and_changes_nothing() -> None:
    time = TrustedTime(1_000_000, 0.0)
    reading = Reading(5, 10.0, is_synchronised=True)
    assert time.now(reading) == 1_000_010
    assert time.condition(reading) is Clock.SET_BACK


def test_marking_many_times_a_second_loses_no_time() -> None:
    time = TrustedTime(1_000, 0.0)
    for tenth in range(1, 101):
        time = time.marked(Reading(0, tenth / 10, is_synchronised=False))
    assert time.mark_s == 1_010


def test_grace_counts_only_time_beyond_the_capacity() -> None:
    grace = begun(Grace(), days=7)
    grace = advanced(grace, elapsed_s=6 * DAY_S, has_excess=True)
    assert not grace.has_ended
    grace = advanced(grace, elapsed_s=10 * DAY_S, has_excess=False)
    assert grace.remaining_s == DAY_S
    assert advanced(grace, elapsed_s=DAY_S, has_excess=True).has_ended


def test_a_grace_cannot_be_had_again_within_30_days_within_capacity() -> None:
    used = advanced(begun(Grace(), days=7), elapsed_s=7 * DAY_S, has_excess=True)
    again = begun(advanced(used, elapsed_s=29 * DAY_S, has_excess=False), days=7)
    assert again.has_ended
    assert not begun(advanced(used, elapsed_s=30 * DAY_S, has_excess=False), days=7).has_ended


def test_a_running_grace_is_never_shortened_by_a_second_cause() -> None:
    assert begun(begun(Grace(), days=30), days=0).allowed_s == 30 * DAY_S


def test_a_document_without_grace_ends_at_once() -> None:
    assert begun(Grace(), days=0).has_ended
