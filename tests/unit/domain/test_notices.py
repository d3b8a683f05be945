"""Notices: the nearest passed threshold, once, over restarts and wrong clocks (LICENSING §7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.notices import DEFAULT_DAYS, Notice, NoticeFacts, NoticeKind, check_days, look
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso
from smartserver_licensed.domain.trusted_time import Reading, TrustedTime

END = from_iso("2028-10-23T12:00:00Z")
LATER = END + 365 * DAY_S
CAPACITY = License("c", LicenseType.CAPACITY, 100)
TRIAL = License("t", LicenseType.TRIAL, 5, END, 7)
MAINTENANCE = License("m", LicenseType.MAINTENANCE, 100, END)
RENEWAL = License("m2", LicenseType.MAINTENANCE, 100, LATER, replaces="m")
IDLE = Totals(100, 0, 0, 0)
FACTS = NoticeFacts(END - 200 * DAY_S, (CAPACITY,), {}, IDLE)


class Watch:
    """Looks again and again, with the memory that survives."""

    def __init__(self, facts: NoticeFacts = FACTS, days: Sequence[int] = DEFAULT_DAYS) -> None:
        self.facts = facts
        self.days = days
        self.memory: dict[str, int] = {}

    def look(self, **changes: object) -> list[Notice]:
        self.facts = replace(self.facts, **changes)  # type: ignore[arg-type]
        new, self.memory = look(self.facts, self.memory, self.days)
        return new

    def thresholds(self, **changes: object) -> list[int]:
        return [each.threshold for each in self.look(**changes)]

    def before(self, days: float) -> list[int]:
        """What is noticed so many days before the end."""
        return self.thresholds(now=int(END - days * DAY_S))

    def used(self, count: int) -> list[int]:
        """What is noticed when so many of 100 seats are in use."""
        return self.thresholds(totals=replace(self.facts.totals, provisioned=count - 1))


def ending(*licenses: License) -> Watch:
    return Watch(replace(FACTS, licenses=licenses))


def test_first_seen_8_days_before_the_end_it_is_the_notice_of_14_days_and_nothing_else() -> None:
    watch = ending(TRIAL)
    assert watch.before(8) == [14]
    assert watch.before(7.5) == []
    assert [watch.before(each) for each in (7, 6, 1, 0.1, 0, -1, -900)] == [[7], [], [1], [], [0], [], []]


def test_every_threshold_is_noticed_once_by_who_is_always_on() -> None:
    watch = ending(TRIAL)
    assert [each for day in range(200, -30, -1) for each in watch.before(day)] == list(DEFAULT_DAYS)


def test_a_threshold_is_passed_in_its_second_and_not_before() -> None:
    watch = ending(TRIAL)
    assert watch.thresholds(now=END - 90 * DAY_S - 1) == []
    assert watch.thresholds(now=END - 90 * DAY_S) == [90]


def test_who_was_off_beyond_the_end_hears_only_that_it_ended() -> None:
    (notice,) = ending(TRIAL).look(now=END + DAY_S)
    assert (notice.threshold, notice.due, notice.license_id) == (0, END, "t")
    assert notice.sentence == "The trial license t for 5 devices ended on 2028-10-23."


def test_a_notice_says_what_ends_and_when() -> None:
    emergency = License("e", LicenseType.EMERGENCY, 50, END)
    (notice,) = ending(emergency).look(now=END - 8 * DAY_S)
    assert (notice.kind, notice.license_id) == (NoticeKind.EXPIRY, "e")
    assert notice.sentence == "The emergency license e for 50 devices ends on 2028-10-23, in 8 days."
    (notice,) = ending(emergency).look(now=END - 3_000)
    assert notice.sentence.endswith("in 1 hour.")


def test_what_was_returned_whole_ends_unnoticed() -> None:
    assert Watch(replace(FACTS, licenses=(TRIAL,), returned={"t": 5})).before(1) == []


def test_an_end_that_was_moved_is_another_end() -> None:
    watch = ending(TRIAL)
    assert watch.before(7) == [7]
    assert watch.look(licenses=(replace(TRIAL, expires_at=LATER),)) == []
    assert watch.memory == {}
    assert watch.look(now=LATER - 30 * DAY_S)[0].due == LATER


def test_maintenance_ends_on_the_day_on_which_it_covers_the_capacity_no_longer() -> None:
    half, rest = replace(MAINTENANCE, granted_total=50), replace(RENEWAL, granted_total=50, replaces="")
    (notice,) = ending(CAPACITY, half, rest).look(now=END - 14 * DAY_S)
    assert (notice.due, notice.license_id) == (END, "")
    assert notice.sentence == "Maintenance for 100 devices ends on 2028-10-23, in 14 days."
    assert ending(CAPACITY, half, replace(rest, granted_total=100)).before(1) == []


def test_a_renewal_silences_at_once_and_its_own_end_is_noticed() -> None:
    watch = ending(CAPACITY, MAINTENANCE)
    assert watch.before(30) == [30]
    assert watch.look(licenses=(CAPACITY, MAINTENANCE, RENEWAL)) == []
    assert watch.memory == {}
    assert [watch.before(each) for each in (14, 7, 1, 0)] == [[], [], [], []]
    assert watch.thresholds(now=LATER - 60 * DAY_S) == [60]


def test_cover_that_is_missing_is_noticed_once_for_each_amount() -> None:
    watch = ending(CAPACITY, replace(MAINTENANCE, granted_total=70))
    (notice,) = watch.look()
    assert (notice.kind, notice.threshold) == (NoticeKind.COVER_MISSING, 30)
    assert "70 of 100 devices of the capacity: 30 are missing" in notice.sentence
    assert watch.look() == []
    assert watch.thresholds(returned={"m": 10}) == [40]
    assert watch.thresholds(returned={"c": 40, "m": 10}) == []
    assert watch.thresholds(returned={"m": 10}) == [40]


def test_who_has_no_maintenance_is_not_told_that_cover_is_missing() -> None:
    assert ending(CAPACITY, TRIAL).look() == []


@pytest.mark.parametrize(("used", "expected"), [(89, []), (90, [90]), (99, [90]), (100, [100])])
def test_only_the_nearest_capacity_threshold_is_noticed(used: int, expected: list[int]) -> None:
    assert Watch().used(used) == expected


def test_a_capacity_threshold_is_armed_again_5_points_below() -> None:
    watch = Watch()
    steps = [90, 89, 90, 85, 90, 84, 90, 100, 95, 100, 94, 100, 84, 100]
    assert [watch.used(each) for each in steps] == [[90], [], [], [], [], [], [90], [100], [], [], [], [100], [], [100]]


def test_capacity_in_use_is_said_with_its_numbers() -> None:
    (notice,) = Watch().look(totals=Totals(40, 36, 0, 0))
    assert (notice.kind, notice.sentence) == (
        NoticeKind.CAPACITY,
        "37 of 40 devices of the capacity are in use, 92 %.",
    )


def test_without_capacity_there_is_no_share_of_it() -> None:
    assert Watch().look(totals=Totals(0, 0, 0, 0)) == []


def test_more_capacity_silences_at_once() -> None:
    watch = Watch()
    assert watch.used(100) == [100]
    assert watch.look(totals=Totals(200, 99, 0, 0)) == []
    assert watch.memory == {}


def over(days_used: float) -> dict[str, object]:
    return {"totals": Totals(10, 12, 0, 0), "grace": Grace(7 * DAY_S, int(days_used * DAY_S)), "percents": ()}


def test_over_capacity_is_noticed_once_a_day_of_running_and_says_the_grace_that_is_left() -> None:
    watch = Watch()
    (notice,) = watch.look(**over(0))
    assert (notice.kind, notice.sentence) == (
        NoticeKind.OVER_CAPACITY,
        "3 devices more than the capacity of 10 run; the grace has 7 days of running left.",
    )
    heard = [each for hour in range(1, 24 * 8) for each in watch.thresholds(**over(hour / 24))]
    assert heard == [1, 2, 3, 4, 5, 6, 7]
    assert Watch().look(**over(6.9))[0].sentence.endswith("the grace has 3 hours of running left.")
    assert Watch().look(**over(7))[0].sentence.endswith("the grace is over.")


def test_no_clock_hurries_or_hushes_the_daily_notice_over_capacity() -> None:
    watch = Watch()
    assert watch.thresholds(**over(2)) == [2]
    for now in (0, END, 2**31, 2**32):
        assert watch.thresholds(now=now, **over(2.5)) == []
    assert watch.thresholds(now=0, **over(3)) == [3]


def test_an_hour_of_running_that_a_power_cut_lost_says_nothing_twice() -> None:
    watch = Watch()
    assert watch.thresholds(**over(3)) == [3]
    assert watch.thresholds(**over(2.98)) == []
    assert watch.thresholds(**over(3.01)) == []
    assert watch.thresholds(**over(4)) == [4]


def test_retired_keys_are_noticed_once_a_grant() -> None:
    watch = Watch(replace(FACTS, grant_seq=4))
    (notice,) = watch.look(has_retired_keys=True)
    assert (notice.kind, notice.threshold) == (NoticeKind.RENEW, 4)
    assert watch.look() == []
    assert watch.look(grant_seq=5, has_retired_keys=False) == []
    assert watch.thresholds(grant_seq=6, has_retired_keys=True) == [6]


def test_a_missing_binding_is_noticed_once_a_day_until_it_is_mended() -> None:
    watch = Watch(replace(FACTS, now=END, is_bound=False))
    assert watch.look()[0].kind is NoticeKind.REBIND_NEEDED
    assert len([each for hour in range(1, 24 * 5 + 1) for each in watch.look(now=END + hour * 3_600)]) == 5
    assert watch.look(is_bound=True) == []
    assert len(watch.look(is_bound=False)) == 1


def test_time_that_falls_within_a_week_says_nothing_twice() -> None:
    watch = ending(TRIAL)
    watch.facts = replace(watch.facts, is_bound=False)
    assert len(watch.before(10)) == 2
    assert [watch.before(each) for each in (14, 16, 17, 12, 10)] == [[], [], [], [], []]


def test_what_was_noticed_under_a_clock_that_a_grant_mended_was_false_and_is_forgotten() -> None:
    watch = ending(TRIAL)
    watch.facts = replace(watch.facts, is_bound=False)
    assert watch.thresholds(now=END + 29 * DAY_S)[0] == 0
    real_date = END - 20 * DAY_S
    assert watch.thresholds(now=real_date) == [30, real_date // DAY_S]
    assert [watch.before(each)[0] for each in (14, 7, 1, 0)] == [14, 7, 1, 0]


def test_other_days_hold_at_once_and_say_nothing_twice() -> None:
    watch = ending(TRIAL)
    assert watch.before(20) == [30]
    watch.days = (25, 10)
    assert watch.before(20) == [25]
    watch.days = DEFAULT_DAYS
    assert [watch.before(each) for each in (20, 14)] == [[], [14]]


@pytest.mark.parametrize("days", [[0], [366, 0], list(range(10)), [1, 90, 7]])
def test_good_days_come_back_most_first(days: list[int]) -> None:
    assert check_days(days) == tuple(sorted(days, reverse=True))


@pytest.mark.parametrize("days", [[], list(range(11)), [-1], [367], [7, 7], [True], [1.5], ["7"]])
def test_other_days_are_refused(days: list[int]) -> None:
    with pytest.raises(ArgumentError, match="cannot set the notice days"):
        check_days(days)


def test_the_default_days_are_good_days() -> None:
    assert check_days(DEFAULT_DAYS) == DEFAULT_DAYS


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.floats(0, 40 * DAY_S), st.booleans(), st.booleans()), max_size=25))
def test_whatever_the_clocks_do_between_restarts_no_notice_of_an_end_comes_twice(
    steps: list[tuple[int, float, bool, bool]],
) -> None:
    watch = ending(CAPACITY, TRIAL, MAINTENANCE)
    time, boottime_s = TrustedTime(END - 100 * DAY_S, 0.0), 0.0
    heard: list[tuple[str, int]] = []
    for wall_s, passed_s, is_synchronised, restarts in steps:
        boottime_s += passed_s
        time = time.marked(Reading(wall_s, boottime_s, is_synchronised))
        heard += [(each.key, each.threshold) for each in watch.look(now=time.mark_s)]
        if restarts:
            time, boottime_s = TrustedTime(time.mark_s, 0.0), 0.0
    assert len(heard) == len(set(heard))
    for key in {key for key, _ in heard}:
        thresholds = [threshold for each, threshold in heard if each == key]
        assert thresholds == sorted(thresholds, reverse=True)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(-400, 400), st.integers(1, 9)), max_size=30),
    st.lists(st.sampled_from([0, 50, 90, 100, 120]), max_size=30),
)
def test_the_memory_holds_no_more_than_what_is_true(grants: list[tuple[int, int, int]], in_use: list[int]) -> None:
    watch = Watch()
    for number, day, devices in grants:
        trial = replace(TRIAL, id=f"t{number}", expires_at=END + day * DAY_S, granted_total=devices)
        watch.look(licenses=(CAPACITY, trial), now=END)
    for used in in_use:
        watch.used(used + 1)
    assert len(watch.memory) <= 3


def test_a_trial_that_ended_a_month_ago_is_no_notice_any_more_and_forgotten() -> None:
    watch = Watch(replace(FACTS, licenses=(CAPACITY, TRIAL)))
    assert watch.thresholds(now=END + 30 * DAY_S - 1) == [0]
    assert watch.thresholds(now=END + 30 * DAY_S) == []
    assert watch.memory == {}
