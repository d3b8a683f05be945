"""Everything that is durable, as one value: what the ledger's snapshot holds and what its events change.

Rules (STATE.md):
- an event is first made durable, then `apply` changes this value, then it is announced; nothing else changes it;
- applying the same events to the same snapshot gives the same value: recovery is a replay;
- counting is by ±1 as events come (LICENSING §3); `recount` exists for the audit and for tests.

What this module does not do: it decides nothing (`seats`), reads no bytes (`formats.ledger`) and knows no queue.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .counting import UnitId
from .devices import DeviceId
from .licenses import Grant
from .overcapacity import Grace

EVICTED_LIMIT = 1_000


class SeatKind(enum.Enum):
    """A seat is reserved (licensed, not provisioned) or provisioned (counted as used)."""

    RESERVED = "reserved"
    PROVISIONED = "provisioned"


class Cause(enum.Enum):
    """Why a seat was lost; durable, since `withholding` asks for it."""

    RELEASED = "released"  # the device is deleted, or counts with the SmartServer
    TAKEN = "taken"  # a request took it from a unit that does not run
    EVICTED = "evicted"  # a request took it from an absent unit
    SHRUNK = "shrunk"  # reserved, and the capacity no longer holds it
    GRACE_ENDED = "grace-ended"  # capacity shrank and its grace is over
    REVOKED = "revoked"  # an administrator asked for it


@dataclass(frozen=True, slots=True)
class Seat:
    """A seat of one counting unit. `number` rises with each seat given: the newest has the highest."""

    kind: SeatKind
    has_run: bool
    number: int


@dataclass(frozen=True, slots=True)
class SeatGiven:
    """A unit has a seat now, or its seat changed its kind."""

    unit: UnitId
    seat: Seat


@dataclass(frozen=True, slots=True)
class SeatLost:
    """A unit has no seat any more."""

    unit: UnitId
    cause: Cause


@dataclass(frozen=True, slots=True)
class EvictionForgotten:
    """A unit that lost its seat while absent is deleted: it will not be adopted when it comes back."""

    unit: UnitId


@dataclass(frozen=True, slots=True)
class InternalChanged:
    """A device counts with the SmartServer from now on, or no longer."""

    device: DeviceId
    is_internal: bool


@dataclass(frozen=True, slots=True)
class AdoptionChanged:
    """Closed: the first snapshot of this ledger has been dealt with, what runs later is not adopted. Open again: the
    ledger is older than what runs.
    """

    is_adopting: bool


@dataclass(frozen=True, slots=True)
class GrantInstalled:
    """A grant was accepted. `envelope` is kept as it came; `accepted_at` in seconds since 1970 UTC."""

    grant: Grant
    envelope: bytes
    accepted_at: int


@dataclass(frozen=True, slots=True)
class TimeMarked:
    """How far trusted time, the grace and the flash's wear have come; goes with every commit, and alone hourly."""

    mark_s: int
    grace: Grace
    written_bytes: int = 0  # to the device, in the ledger's whole life


@dataclass(frozen=True, slots=True)
class RepairNoted:
    """Damage was repaired; `what` is shown until somebody acknowledges it: then it is empty."""

    what: str


@dataclass(frozen=True, slots=True)
class Anchored:
    """What the anchor counts once the license event of this commit is over; None: no anchor is used any more."""

    count: int | None


Event: TypeAlias = (
    SeatGiven
    | SeatLost
    | EvictionForgotten
    | InternalChanged
    | AdoptionChanged
    | GrantInstalled
    | TimeMarked
    | RepairNoted
    | Anchored
)


@dataclass(slots=True)
class LedgerState:
    """The durable state of one SmartServer. Changed by `apply` only."""

    install_code: str
    mark_s: int
    seats: dict[UnitId, Seat] = field(default_factory=dict)
    evicted: dict[UnitId, None] = field(default_factory=dict)  # in order; the oldest is forgotten over the limit
    internal: set[DeviceId] = field(default_factory=set)
    is_adopting: bool = True
    installed: GrantInstalled | None = None
    grace: Grace = field(default_factory=Grace)
    next_number: int = 1
    written_bytes: int = 0
    repair: str = ""
    anchored: int | None = None
    provisioned: int = 0
    reserved: int = 0

    def __post_init__(self) -> None:
        self.provisioned, self.reserved = self.recount()

    def recount(self) -> tuple[int, int]:
        """Provisioned and reserved seats counted one by one; for the audit, never for a decision."""
        provisioned = sum(seat.kind is SeatKind.PROVISIONED for seat in self.seats.values())
        return provisioned, len(self.seats) - provisioned

    def apply(self, event: Event) -> None:
        """Change the state by one durable event."""
        match event:
            case SeatGiven(unit, seat):
                self._count(self.seats.get(unit), -1)
                self.seats[unit] = seat
                self._count(seat, +1)
                self.next_number = max(self.next_number, seat.number + 1)
                self.evicted.pop(unit, None)
            case SeatLost(unit, cause):
                self._count(self.seats.pop(unit, None), -1)
                if cause is Cause.EVICTED:
                    self.evicted[unit] = None
                    if len(self.evicted) > EVICTED_LIMIT:
                        del self.evicted[next(iter(self.evicted))]
            case EvictionForgotten(unit):
                self.evicted.pop(unit, None)
            case InternalChanged(device, is_internal):
                (self.internal.add if is_internal else self.internal.discard)(device)
            case AdoptionChanged(is_adopting):
                self.is_adopting = is_adopting
            case GrantInstalled():
                self.installed = event
                self.mark_s = event.grant.issued_at  # a newer grant sets the time, also downwards (LICENSING §5)
            case TimeMarked(mark_s, grace, written_bytes):
                self.mark_s, self.grace, self.written_bytes = mark_s, grace, written_bytes
            case RepairNoted(what):
                self.repair = what
            case Anchored(count):
                self.anchored = count

    def _count(self, seat: Seat | None, by: int) -> None:
        if seat is None:
            return
        if seat.kind is SeatKind.PROVISIONED:
            self.provisioned += by
        else:
            self.reserved += by


def as_reserved(seat: Seat, *, has_run: bool) -> Seat:
    """The same seat, no longer counted as provisioned."""
    return replace(seat, kind=SeatKind.RESERVED, has_run=has_run)


def as_provisioned(seat: Seat) -> Seat:
    """The same seat, counted as provisioned; such a unit has run."""
    return replace(seat, kind=SeatKind.PROVISIONED, has_run=True)
