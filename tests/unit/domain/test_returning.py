"""Returns before they are made: what may be returned, and who would run beyond the capacity (LICENSING §3, §4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.entitlement import usable
from smartserver_licensed.domain.errors import ArgumentError, NotReturnableError
from smartserver_licensed.domain.ledger_state import GrantInstalled, LedgerState, Seat, SeatKind
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.returning import check_return, excess_after
from support.documents import GRANT

CAPACITY = License("c", LicenseType.CAPACITY, 1_000)
MAINTENANCE = License("m", LicenseType.MAINTENANCE, 200, 2**31)
UPGRADE = License("u", LicenseType.UPGRADE, 1, release="4.0")


def test_a_return_in_parts_raises_the_total_by_each_part() -> None:
    assert check_return(CAPACITY, 300, {}, {}) == 300
    assert check_return(CAPACITY, 700, {"c": 300}, {}) == 1_000
    assert check_return(MAINTENANCE, 200, {"c": 300}, {}) == 200


def test_a_return_goes_on_from_what_the_issuer_knows_where_that_is_more() -> None:
    assert check_return(replace(CAPACITY, returned_total=400), 100, {"c": 300}, {}) == 500


def test_more_than_is_left_cannot_be_returned_and_both_numbers_are_said() -> None:
    with pytest.raises(NotReturnableError, match="cannot return 701 of license 'c': 700 of 1000"):
        check_return(CAPACITY, 701, {"c": 300}, {})


@pytest.mark.parametrize("devices", [0, -1])
def test_nothing_cannot_be_returned(devices: int) -> None:
    with pytest.raises(ArgumentError, match="the least is 1"):
        check_return(CAPACITY, devices, {}, {})


@pytest.mark.parametrize("kind", [LicenseType.TRIAL, LicenseType.EMERGENCY, LicenseType.REMOTE_CMS])
def test_what_was_not_bought_for_good_cannot_be_returned(kind: LicenseType) -> None:
    with pytest.raises(NotReturnableError, match=kind.value):
        check_return(License("x", kind, 5, 2**31), 1, {}, {})


def test_an_upgrade_can_be_returned_until_it_is_consumed() -> None:
    assert check_return(UPGRADE, 1, {}, {}) == 1
    for consumed, license_ in (({"u": 1}, UPGRADE), ({}, replace(UPGRADE, consumed_total=1))):
        with pytest.raises(NotReturnableError, match="0 of 1"):
            check_return(license_, 1, {}, consumed)


@given(st.lists(st.integers(1, 400), max_size=12), st.integers(0, 1_000))
def test_whatever_is_returned_the_total_rises_and_never_passes_what_was_granted(parts: list[int], told: int) -> None:
    license_ = replace(CAPACITY, returned_total=told)
    returned: dict[str, int] = {}
    for part in parts:
        before = usable(license_, returned)
        try:
            total = check_return(license_, part, returned, {})
        except NotReturnableError:
            assert part > before
            continue
        returned["c"] = total
        assert usable(license_, returned) == before - part
    assert 0 <= usable(license_, returned) <= 1_000 - told


def _state(kinds: str) -> LedgerState:
    """One seat for each letter, given in this order: p is provisioned, r reserved."""
    found = {"p": SeatKind.PROVISIONED, "r": SeatKind.RESERVED}
    seats = {UnitId(f"modbus/{number}"): Seat(found[each], True, number) for number, each in enumerate(kinds, 1)}
    return LedgerState("17qtest", 0, seats=dict(reversed(seats.items())))


def test_the_newest_running_units_are_beyond_the_capacity_and_the_smartserver_has_a_seat_of_its_own() -> None:
    state = _state("pprprp")
    assert excess_after(state, 5) == ()
    assert excess_after(state, 4) == ("modbus/6",)
    assert excess_after(state, 2) == ("modbus/6", "modbus/4", "modbus/2")


@pytest.mark.parametrize("capacity", [0, 1])
def test_without_capacity_all_running_units_are_beyond_it(capacity: int) -> None:
    assert len(excess_after(_state("ppp"), capacity)) == 3


def test_reserved_seats_are_nobody_who_runs() -> None:
    assert excess_after(_state("rrr"), 1) == ()


def test_what_is_returned_cannot_be_used_up_whoever_says_so() -> None:
    state = LedgerState(install_code="17qei61", mark_s=0)
    state.consumed["up-1"] = 1  # in an old image, after the original had returned it
    upgrade = License("up-1", LicenseType.UPGRADE, 1, release="4.0", returned_total=1)
    state.apply(GrantInstalled(replace(GRANT, licenses=(upgrade,)), b"", 0))
    assert (state.returned["up-1"], state.consumed["up-1"]) == (1, 0)
