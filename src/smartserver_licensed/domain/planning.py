"""How many more devices fit, and what is missing: the arithmetic before a purchase or an import.

Rules (LICENSING §3):
- seats that can be had are those that nobody holds and the reserved ones: a request takes one from a unit that does
  not run. Devices that wait have no right of their own before a request; they are counted and said;
- without a usable ledger, unbound, and beyond the capacity, nothing is admitted: nothing fits;
- what helps is said in devices of a capacity license. It is more than what is missing where the seats in use are not
  covered: the SmartServer's own without any license, and units that run beyond the capacity.

What this module does not do: it gives no seat (`seats`) and refuses nobody (`refusal`); a plan promises nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from .refusal import RefusalCode
from .status import Totals


@dataclass(frozen=True, slots=True)
class Plan:
    """`fits` of `count` more devices can be provisioned as things are; `code` says why the rest cannot.

    `license_devices`: what a capacity license must give, at least, so that all `count` fit;
    `license_devices_for_all`: so that all of them run beside every device that has a reserved seat or waits.
    Both are 0 where no license is needed, or where none would help.
    """

    count: int
    fits: int
    code: RefusalCode | None
    license_devices: int
    license_devices_for_all: int

    @property
    def missing(self) -> int:
        """Devices of the plan that do not fit."""
        return self.count - self.fits


def plan(count: int, totals: Totals, *, is_storage_usable: bool, is_bound: bool = True) -> Plan:
    """What becomes of `count` more devices, each a counting unit of its own; `count` is 0 or more."""
    if not is_storage_usable:
        return Plan(count, 0, RefusalCode.STORAGE_FAULT, 0, 0)
    if not is_bound:
        return Plan(count, 0, RefusalCode.REBIND_NEEDED, 0, 0)
    fits = 0 if totals.excess else min(count, totals.available)
    code = None
    if fits < count:
        code = RefusalCode.OVER_CAPACITY if totals.excess else RefusalCode.CAPACITY_EXCEEDED
    wanted = totals.used + count
    return Plan(
        count,
        fits,
        code,
        license_devices=max(0, wanted - totals.capacity) if code else 0,
        license_devices_for_all=max(0, wanted + totals.reserved + totals.waiting - totals.capacity),
    )
