"""What a grant entitles to: usable numbers, capacity, grace and maintenance cover (LICENSING §1, §4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.domain.entitlement import (
    capacity,
    cover,
    ended_grace_days,
    maintenance,
    next_end,
    unused,
    usable,
)
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.status import Maintenance
from smartserver_licensed.domain.timekeeping import DAY_S, from_iso

NOW = from_iso("2027-01-01T00:00:00Z")
END = from_iso("2028-10-23T12:00:00Z")
LATER = from_iso("2029-10-23T12:00:00Z")
CAPACITY = License("c", LicenseType.CAPACITY, 1_000, grace_days=30)
TRIAL = License("t", LicenseType.TRIAL, 5, END, 7)
EMERGENCY = License("e", LicenseType.EMERGENCY, 50, LATER)
MAINTENANCE = License("m", LicenseType.MAINTENANCE, 1_000, END)
RENEWAL = License("m2", LicenseType.MAINTENANCE, 1_000, LATER, replaces="m")


@pytest.mark.parametrize(
    ("told", "known", "left"), [(0, 0, 1_000), (300, 0, 700), (0, 300, 700), (300, 400, 600), (400, 300, 600)]
)
def test_whoever_knows_of_more_that_was_returned_is_right(told: int, known: int, left: int) -> None:
    assert usable(replace(CAPACITY, returned_total=told), {"c": known, "other": 9}) == left


def test_more_returned_than_granted_leaves_nothing_and_takes_nothing_from_others() -> None:
    returned = {"c": 1_500}
    assert usable(CAPACITY, returned) == 0
    assert capacity([CAPACITY, TRIAL], NOW, returned) == 5


@pytest.mark.parametrize(
    ("returned", "consumed", "told", "left"), [(0, 0, 0, 2), (1, 0, 0, 1), (1, 1, 0, 0), (0, 1, 2, 0), (2, 2, 0, 0)]
)
def test_an_upgrade_is_used_by_a_return_and_by_an_installation(
    returned: int, consumed: int, told: int, left: int
) -> None:
    upgrade = License("u", LicenseType.UPGRADE, 2, release="4.0", consumed_total=told)
    assert unused(upgrade, {"u": returned}, {"u": consumed}) == left


def test_trial_and_emergency_add_to_the_capacity_until_their_end() -> None:
    every = [CAPACITY, TRIAL, EMERGENCY, MAINTENANCE]
    assert [capacity(every, now, {}) for now in (NOW, END - 1, END, LATER)] == [1_055, 1_055, 1_050, 1_000]
    assert [next_end(every, now, {}) for now in (NOW, END, LATER)] == [END, LATER, None]


def test_the_license_that_ended_last_says_the_grace() -> None:
    every = [CAPACITY, TRIAL, EMERGENCY]
    assert [ended_grace_days(every, now, {}) for now in (END - 1, END, LATER)] == [None, 7, 1]


def test_of_licenses_that_ended_together_the_longer_grace_counts() -> None:
    together = [replace(EMERGENCY, expires_at=END), TRIAL]
    assert ended_grace_days(together, END, {}) == ended_grace_days(together[::-1], END, {}) == 7


def test_a_license_with_nothing_usable_has_no_say() -> None:
    returned = {"t": 5}
    assert next_end([TRIAL], NOW, returned) is None
    assert ended_grace_days([TRIAL], END, returned) is None
    assert maintenance([MAINTENANCE], NOW, {"m": 1_000}) == Maintenance()


def test_without_a_grant_there_is_nothing() -> None:
    assert (capacity([], NOW, {}), next_end([], NOW, {}), ended_grace_days([], NOW, {})) == (0, None, None)
    assert maintenance([], NOW, {}) == Maintenance()
    assert not cover([], NOW, {}).is_covered


def test_maintenance_covers_the_capacity_until_its_end() -> None:
    covered = cover([CAPACITY, MAINTENANCE], NOW, {})
    assert (covered.devices, covered.needed, covered.missing, covered.falls_short_at) == (1_000, 1_000, 0, END)
    assert covered.is_covered
    over = cover([CAPACITY, MAINTENANCE], END, {})
    assert (over.devices, over.missing, over.falls_short_at, over.is_covered) == (0, 1_000, END, False)


def test_trial_and_emergency_need_no_cover() -> None:
    assert cover([CAPACITY, MAINTENANCE, TRIAL, EMERGENCY], NOW, {}).is_covered


def test_without_any_maintenance_nothing_is_covered_not_even_a_trial_alone() -> None:
    assert not cover([TRIAL], NOW, {}).is_covered
    assert cover([TRIAL, MAINTENANCE], NOW, {}).is_covered


def test_returned_capacity_needs_no_cover_and_returned_maintenance_gives_none() -> None:
    half = replace(MAINTENANCE, granted_total=500)
    assert cover([CAPACITY, half], NOW, {}).missing == 500
    assert cover([CAPACITY, half], NOW, {"c": 500}).is_covered
    assert cover([CAPACITY, half], NOW, {"c": 500, "m": 1}).missing == 1


def test_the_cover_falls_short_when_one_of_two_ends_that_are_both_needed() -> None:
    first, second = replace(MAINTENANCE, granted_total=300), replace(RENEWAL, granted_total=800, replaces="")
    covered = cover([CAPACITY, first, second], NOW, {})
    assert (covered.devices, covered.falls_short_at) == (1_100, END)
    assert cover([CAPACITY, first, replace(second, granted_total=1_000)], NOW, {}).falls_short_at == LATER


def test_a_renewal_counts_instead_of_its_predecessor_also_before_that_ends() -> None:
    covered = cover([CAPACITY, MAINTENANCE, replace(RENEWAL, granted_total=400)], NOW, {})
    assert (covered.devices, covered.missing) == (400, 600)
    assert cover([CAPACITY, MAINTENANCE, RENEWAL], NOW, {}).falls_short_at == LATER


def test_maintenance_does_not_replace_itself_and_other_types_replace_none() -> None:
    licenses = [CAPACITY, replace(MAINTENANCE, replaces="m"), replace(TRIAL, replaces="m")]
    assert cover(licenses, NOW, {}).devices == 1_000


def test_a_renewal_that_was_returned_does_not_bring_its_predecessor_back() -> None:
    assert cover([CAPACITY, MAINTENANCE, RENEWAL], NOW, {"m2": 1_000}).devices == 0


def test_maintenance_without_an_end_never_falls_short() -> None:
    endless = replace(MAINTENANCE, expires_at=None)
    assert cover([CAPACITY, endless], NOW, {}).falls_short_at is None
    assert maintenance([CAPACITY, endless], NOW, {}) == Maintenance("Active", "", 1_000)


@pytest.mark.parametrize(
    ("now", "status", "devices"),
    [
        (END - 91 * DAY_S, "Active", 1_000),
        (END - 90 * DAY_S, "Expiring 2028-10-23", 1_000),
        (END - 1, "Expiring 2028-10-23", 1_000),
        (END, "Expired 2028-10-23", 0),
    ],
)
def test_the_status_of_maintenance_says_the_day_on_which_it_covers_no_longer(
    now: int, status: str, devices: int
) -> None:
    assert maintenance([CAPACITY, MAINTENANCE], now, {}) == Maintenance(status, "2028-10-23", devices)


def test_maintenance_that_never_covered_shows_its_last_end() -> None:
    short = [CAPACITY, replace(MAINTENANCE, granted_total=10), replace(RENEWAL, granted_total=20, replaces="")]
    assert maintenance(short, NOW, {}) == Maintenance("Active", "2029-10-23", 30)
    assert maintenance(short, END, {}).devices == 20
    assert maintenance(short, LATER, {}) == Maintenance("Expired 2029-10-23", "2029-10-23", 0)


_MAINTENANCES = st.lists(st.tuples(st.integers(0, 50), st.none() | st.integers(0, 40), st.integers(0, 60)), max_size=6)


@given(_MAINTENANCES, st.integers(0, 100), st.integers(0, 60))
def test_the_second_at_which_cover_falls_short_is_the_first_one_without_it(
    drawn: list[tuple[int, int | None, int]], devices: int, now: int
) -> None:
    licenses = [License("c", LicenseType.CAPACITY, devices)] + [
        License(f"m{index}", LicenseType.MAINTENANCE, each, end) for index, (each, end, _) in enumerate(drawn)
    ]
    returned = {f"m{index}": each for index, (_, _, each) in enumerate(drawn)}
    found = cover(licenses, now, returned).falls_short_at
    by_second = [cover(licenses, each, returned).is_covered for each in range(-1, 42)]
    assert (found is not None) == (by_second[0] and not by_second[-1])
    if found is not None:
        assert by_second.index(False) - 1 == found
