"""The SmartServer's license status: one frozen value a batch, the same for MQTT, D-Bus and the command line.

Rules (LICENSING §3):
- `used` = 1 (the SmartServer itself) + provisioned counting units; `available` = max(0, capacity − used): reserved
  seats can be had;
- `state` is the first that holds of: starting, storage-fault, rebind-needed, over-capacity, unlicensed, full, licensed.

What this module does not do: it counts nothing (`seats`) and knows no names of keys on any border
(`formats.vocabulary`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """The SmartServer's license state; the order is the order in which they are tried."""

    STARTING = "starting"
    STORAGE_FAULT = "storage-fault"
    REBIND_NEEDED = "rebind-needed"
    OVER_CAPACITY = "over-capacity"
    UNLICENSED = "unlicensed"
    FULL = "full"
    LICENSED = "licensed"


class Storage(enum.Enum):
    """The condition of the ledger (STATE.md's table)."""

    OK = "ok"
    DEGRADED = "degraded"
    READ_ONLY = "read-only"
    MISSING = "missing"
    FOREIGN = "foreign"
    CORRUPT = "corrupt"
    NEWER = "newer"
    ROLLED_BACK = "rolled-back"
    ANCHOR_LOST = "anchor-lost"

    @property
    def is_writable(self) -> bool:
        """Whether admissions may go on: in all but these two nothing new is admitted and no `false` leaves."""
        return self in {Storage.OK, Storage.DEGRADED}


class Clock(enum.Enum):
    """What is known of the time (LICENSING §5)."""

    OK = "ok"
    UNSYNCHRONISED = "unsynchronised"
    SET_BACK = "set-back"


@dataclass(frozen=True, slots=True)
class Maintenance:
    """The maintenance that covers this SmartServer; `status` is "None" where there is none."""

    status: str = "None"
    expires: str = ""  # ISO date, or ""
    devices: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of counting units against the capacity; all in seats."""

    capacity: int
    provisioned: int
    reserved: int
    waiting: int

    @property
    def used(self) -> int:
        """Seats in use: the SmartServer's own and one for each provisioned counting unit."""
        return 1 + self.provisioned

    @property
    def available(self) -> int:
        """Seats that a request could have; never negative."""
        return max(0, self.capacity - self.used)

    @property
    def free(self) -> int:
        """Seats that nobody holds; negative when more are held than the capacity gives."""
        return max(0, self.capacity - 1) - self.provisioned - self.reserved

    @property
    def is_full(self) -> bool:
        """Whether nothing more can be provisioned."""
        return self.used >= self.capacity

    @property
    def excess(self) -> int:
        """Provisioned units beyond the capacity; the SmartServer's own seat alone is never an excess."""
        return max(0, self.provisioned - max(0, self.capacity - 1))


@dataclass(frozen=True, slots=True)
class Status:
    """All that a status query answers; replaced as a whole at the end of each batch."""

    state: State
    totals: Totals
    storage: Storage
    clock: Clock
    is_broker_connected: bool
    customer_id: str
    segment_id: str
    install_code: str
    assurance: str
    version: str
    maintenance: Maintenance = Maintenance()


def license_state(*, is_started: bool, storage: Storage, is_bound: bool, totals: Totals) -> State:
    """The first state that holds, in the order of LICENSING §3."""
    if not is_started:
        return State.STARTING
    if not storage.is_writable:
        return State.STORAGE_FAULT
    if not is_bound:
        return State.REBIND_NEEDED
    if totals.excess:
        return State.OVER_CAPACITY
    if totals.capacity == 0:
        return State.UNLICENSED
    if totals.is_full:
        return State.FULL
    return State.LICENSED
