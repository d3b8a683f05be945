"""Where a device is refused: the one place in which a refusal is born.

Rules (WIRE.md, LICENSING §3):
- a request (`provision`, or `create` with `provision:true`) for a counting unit that has no seat at the end of the
  batch is refused, with a stable code, a sentence in the vendor's form and the numbers;
- one refusal a request, and one a counting unit in 10 seconds: `RefusalLimit` holds it;
- a refused unit keeps waiting: it gets the next seat that becomes free.

What this module does not do: it publishes nothing and decides nothing about seats.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .counting import UnitId
from .devices import Action, DeviceId
from .status import Totals

REFUSAL_PAUSE_S = 10.0
_REMEMBERED = 4_096


class RefusalCode(enum.Enum):
    """Why a request is refused; the same word on MQTT, D-Bus and in the journal."""

    CAPACITY_EXCEEDED = "capacity-exceeded"
    OVER_CAPACITY = "over-capacity"
    STORAGE_FAULT = "storage-fault"
    REBIND_NEEDED = "rebind-needed"


@dataclass(frozen=True, slots=True)
class SeatRequest:
    """Somebody asks that a device be provisioned. `asked_at_s` on the monotonic clock."""

    unit: UnitId
    device: DeviceId
    action: Action
    asked_at_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request; `sentence` is for people, in the form of the vendor's own engines."""

    request: SeatRequest
    code: RefusalCode
    capacity: int
    used: int
    reserved: int

    @property
    def sentence(self) -> str:
        """`provision-device capacity exceeded: 5 of 5 in use`, or what else is the matter."""
        return f"{self.request.action.value}-{self._why()}"

    def _why(self) -> str:
        if self.code is RefusalCode.STORAGE_FAULT:
            return "license storage fault: no new devices are admitted"
        if self.code is RefusalCode.REBIND_NEEDED:
            return "license bound to other hardware: no new devices are admitted"
        if self.code is RefusalCode.OVER_CAPACITY:
            return f"device capacity exceeded: {self.used} of {self.capacity} in use, over capacity"
        if self.capacity == 0:
            return "device capacity exceeded: no license is installed"
        reserved = f", {self.reserved} reserved" if self.reserved else ""
        return f"device capacity exceeded: {self.used} of {self.capacity} in use{reserved}"


def refuse(request: SeatRequest, *, totals: Totals, is_storage_usable: bool, is_bound: bool = True) -> Refusal:
    """The refusal of a request whose counting unit has no seat."""
    if not is_storage_usable:
        code = RefusalCode.STORAGE_FAULT
    elif not is_bound:
        code = RefusalCode.REBIND_NEEDED
    elif totals.excess:
        code = RefusalCode.OVER_CAPACITY
    else:
        code = RefusalCode.CAPACITY_EXCEEDED
    return Refusal(request, code, capacity=totals.capacity, used=totals.used, reserved=totals.reserved)


class RefusalLimit:
    """One refusal a counting unit in 10 s. Bounded: remembers the last 4,096 units."""

    def __init__(self) -> None:
        self._last: dict[UnitId, float] = {}

    def allows(self, unit: UnitId, now_s: float) -> bool:
        """Whether a refusal of this unit may be told now; if so, it is remembered as told."""
        last = self._last.get(unit)
        if last is not None and now_s - last < REFUSAL_PAUSE_S:
            return False
        self._last.pop(unit, None)
        self._last[unit] = now_s
        if len(self._last) > _REMEMBERED:
            del self._last[next(iter(self._last))]
        return True
