"""Whether licenses may be returned, and what would run beyond the capacity afterwards: asked before a return is made.

Rules (LICENSING §3 "When capacity shrinks", §4 "Return to the cloud"):
- capacity, maintenance and unconsumed upgrades can be returned, whole or in part; trial, emergency and remote-cms not;
- never more than is usable; `returned_total` only rises;
- what runs beyond the capacity is named before anything happens, the newest first: they would lose their seats first.

What this module does not do: it makes no document and changes nothing (`ledger_state` applies what is durable).
"""

from __future__ import annotations

from collections.abc import Mapping

from .counting import UnitId
from .entitlement import unused, usable
from .errors import ArgumentError, NotReturnableError
from .ledger_state import LedgerState, SeatKind
from .licenses import License, LicenseType
from .status import Totals

_RETURNABLE = frozenset({LicenseType.CAPACITY, LicenseType.MAINTENANCE, LicenseType.UPGRADE})


def check_return(license_: License, devices: int, returned: Mapping[str, int], consumed: Mapping[str, int]) -> int:
    """The `returned_total` of the license once `devices` (1 or more; of an upgrade: upgrades) are returned.

    Raises ArgumentError for less than one, NotReturnableError for another type or for more than is left.
    """
    what = f"cannot return {devices} of license {license_.id!r}"
    if devices < 1:
        raise ArgumentError(f"{what}: the least is 1")
    if license_.type not in _RETURNABLE:
        raise NotReturnableError(f"{what}: a license of type {license_.type.value} cannot be returned")
    is_upgrade = license_.type is LicenseType.UPGRADE
    left = unused(license_, returned, consumed) if is_upgrade else usable(license_, returned)
    if devices > left:
        raise NotReturnableError(f"{what}: {left} of {license_.granted_total} are left to return")
    return license_.granted_total - usable(license_, returned) + devices


def excess_after(state: LedgerState, capacity_after: int) -> tuple[UnitId, ...]:
    """The provisioned units that would run beyond this capacity (in seats), newest first; `state` is unchanged."""
    excess = Totals(capacity_after, state.provisioned, state.reserved, waiting=0).excess
    running = [(seat.number, unit) for unit, seat in state.seats.items() if seat.kind is SeatKind.PROVISIONED]
    return tuple(unit for _, unit in sorted(running, reverse=True)[:excess])
