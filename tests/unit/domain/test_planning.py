from __future__ import annotations

import pytest

from smartserver_licensed.domain.planning import plan
from smartserver_licensed.domain.refusal import RefusalCode
from smartserver_licensed.domain.status import Totals

FULL, OVER = RefusalCode.CAPACITY_EXCEEDED, RefusalCode.OVER_CAPACITY


@pytest.mark.parametrize(
    ("capacity", "provisioned", "reserved", "count", "fits", "code", "needed"),
    [
        (10, 3, 0, 6, 6, None, 0),  # the SmartServer has one of the ten
        (10, 3, 0, 7, 6, FULL, 1),
        (10, 3, 6, 6, 6, None, 0),  # a request takes a reserved seat
        (10, 9, 0, 4, 0, FULL, 4),
        (0, 0, 0, 3, 0, FULL, 4),  # the first license also has to cover the SmartServer itself
        (10, 12, 0, 1, 0, OVER, 4),  # three run beyond the capacity
        (10, 3, 0, 0, 0, None, 0),
    ],
)
def test_what_fits_is_what_is_available_and_a_license_makes_up_for_the_rest(
    capacity: int, provisioned: int, reserved: int, count: int, fits: int, code: RefusalCode | None, needed: int
) -> None:
    planned = plan(count, Totals(capacity, provisioned, reserved, waiting=0), is_storage_usable=True)
    assert (planned.fits, planned.missing) == (fits, count - fits)
    assert (planned.code, planned.license_devices) == (code, needed)


def test_with_the_license_that_a_plan_names_all_of_it_fits() -> None:
    for capacity in range(8):
        for provisioned in range(8):
            for count in range(1, 8):
                before = plan(count, Totals(capacity, provisioned, 0, 0), is_storage_usable=True)
                more = Totals(capacity + before.license_devices, provisioned, 0, 0)
                assert plan(count, more, is_storage_usable=True).missing == 0
                if before.license_devices:
                    one_less = Totals(capacity + before.license_devices - 1, provisioned, 0, 0)
                    assert plan(count, one_less, is_storage_usable=True).missing > 0


def test_devices_that_wait_or_do_not_run_are_counted_in_what_all_of_them_need() -> None:
    planned = plan(4, Totals(capacity=5, provisioned=0, reserved=4, waiting=3), is_storage_usable=True)
    assert (planned.fits, planned.license_devices, planned.license_devices_for_all) == (4, 0, 7)


def test_without_a_usable_ledger_nothing_fits_and_no_license_helps() -> None:
    planned = plan(2, Totals(0, 0, 0, waiting=9), is_storage_usable=False)
    assert (planned.fits, planned.missing, planned.code) == (0, 2, RefusalCode.STORAGE_FAULT)
    assert (planned.license_devices, planned.license_devices_for_all) == (0, 0)
