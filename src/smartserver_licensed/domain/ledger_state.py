"""Everything that is durable, as one value: what the ledger's snapshot holds and what its events change.

Rules (STATE.md):
- an event is first made durable, then `apply` changes this value, then it is announced; nothing else changes it;
- applying the same events to the same snapshot gives the same value: recovery is a replay;
- counting is by ±1 as events come (LICENSING §3); `recount` exists for the audit and for tests.

What this module does not do: it decides nothing (`seats`), reads no bytes (`formats.ledger`) and knows no queue.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from .binding import NO_FACTORS, Factors, Identity
from .contacts import ContactKind
from .counting import UnitId
from .devices import DeviceId
from .entitlement import usable
from .licenses import ContactMark, Grant
from .notices import DEFAULT_DAYS
from .overcapacity import Grace

EVICTED_LIMIT = 1_000
RETURNS_KEPT = 16


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
class Enrolled:
    """The SmartServer has a new device key, and its contact chain begins anew. The seed is in no repr."""

    seed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bound:
    """The ledger belongs to this board. A new one is bound when it is first opened, then each grant binds it anew."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class ContactMade:
    """A request or return was made, not signed yet: `payload` is what will be signed, byte for byte.

    Of a return: `returned` is the license and its new `returned_total`; `grace_days` what is left to devices that run
    beyond the capacity afterwards.
    """

    kind: ContactKind
    number: int
    payload: bytes
    returned: tuple[str, int] | None = None
    grace_days: int = 0

    @property
    def mark(self) -> ContactMark:
        """Its place in the contact chain."""
        return ContactMark(self.number, hashlib.sha256(self.payload).hexdigest())


@dataclass(frozen=True, slots=True)
class RootsTrusted:
    """All roots that are trusted from now on, oldest first, as envelopes."""

    envelopes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class UpgradeConsumed:
    """An upgrade license was used for the installation of this version."""

    license_id: str
    version: str


@dataclass(frozen=True, slots=True)
class ReleaseSeen:
    """So far has the SmartServer's own software come."""

    version: str


@dataclass(frozen=True, slots=True)
class NoticesChanged:
    """What has been noticed: the whole memory of `domain.notices`."""

    noticed: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class NoticeDaysSet:
    """How many days before an end somebody wants a notice."""

    days: tuple[int, ...]


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
    | Enrolled
    | Bound
    | ContactMade
    | RootsTrusted
    | UpgradeConsumed
    | ReleaseSeen
    | NoticesChanged
    | NoticeDaysSet
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
    factors: Factors = NO_FACTORS
    device_seed: bytes = field(default=b"", repr=False)  # empty: no device key yet
    next_contact: int = 1
    contacts: dict[int, str] = field(default_factory=dict)  # from the one that the last grant acknowledged: SHA-256
    request: ContactMade | None = None  # the last one that is not answered
    returns: dict[int, ContactMade] = field(default_factory=dict)  # the last ones, by number
    returned: dict[str, int] = field(default_factory=dict)  # per license: `returned_total`, as it is signed
    consumed: dict[str, int] = field(default_factory=dict)
    returned_grace_days: int | None = None
    roots: tuple[bytes, ...] = ()
    release: str = ""  # of the SmartServer's software, as it was seen last
    noticed: dict[str, int] = field(default_factory=dict)
    notice_days: tuple[int, ...] = DEFAULT_DAYS
    license_revision: int = field(default=0, compare=False)  # rises with each licensing event; not durable
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
            case TimeMarked(mark_s, grace, written_bytes):
                self.mark_s, self.grace, self.written_bytes = mark_s, grace, written_bytes
            case RepairNoted(what):
                self.repair = what
            case Anchored(count):
                self.anchored = count
            case NoticesChanged(noticed):
                self.noticed = dict(noticed)
            case _:
                self._apply_licensing(event)

    def _apply_licensing(self, event: Event) -> None:
        self.license_revision += 1
        match event:
            case GrantInstalled():
                self._install(event)
            case Enrolled(seed):
                self.device_seed, self.next_contact, self.request = seed, 1, None
                self.contacts.clear()
                self.returns.clear()
            case Bound(identity):
                self.install_code, self.factors = identity.install_code, identity.factors
            case ContactMade():
                self._contact(event)
            case RootsTrusted(envelopes):
                self.roots = envelopes
            case UpgradeConsumed(license_id, version):
                self.consumed[license_id] = self.consumed.get(license_id, 0) + 1
                self.release = version
            case ReleaseSeen(version):
                self.release = version
            case NoticeDaysSet(days):
                self.notice_days = days

    def _install(self, event: GrantInstalled) -> None:
        grant = event.grant
        lowered = self._lowered_by(grant)
        self.installed = event
        self.mark_s = grant.issued_at  # a newer grant sets the time, also downwards (LICENSING §5)
        for each in grant.licenses:  # totals never fall, whoever knows more
            self.returned[each.id] = max(self.returned.get(each.id, 0), each.returned_total)
            consumed = max(self.consumed.get(each.id, 0), each.consumed_total)  # what is returned cannot be used up
            self.consumed[each.id] = min(consumed, max(0, each.granted_total - self.returned[each.id]))
        self.returned_grace_days = lowered  # None: a running grace is not shortened by that
        self.install_code = grant.install_code
        if grant.factors.count:
            self.factors = grant.factors
        seen = grant.contact
        if seen is None or self.contacts.get(seen.number) != seen.sha256:
            return  # one that this ledger has not made: the next contact tells the issuer
        self.contacts = {number: sha256 for number, sha256 in self.contacts.items() if number >= seen.number}
        if self.request is not None and self.request.number <= seen.number:
            self.request = None

    def _lowered_by(self, grant: Grant) -> int | None:
        """Days of grace of what a grant takes away: a license that is gone, or devices that were written off."""
        now = {each.id: usable(each, self.returned) for each in grant.licenses}
        had = self.installed.grant.licenses if self.installed else ()
        return max((each.grace_days for each in had if now.get(each.id, 0) < usable(each, self.returned)), default=None)

    def _contact(self, event: ContactMade) -> None:
        self.contacts[event.number] = event.mark.sha256
        self.next_contact = event.number + 1
        if event.returned is None:
            self.request = event
            return
        license_id, total = event.returned
        self.returned[license_id], self.returned_grace_days = total, event.grace_days
        self.returns[event.number] = event
        if len(self.returns) > RETURNS_KEPT:
            del self.returns[min(self.returns)]

    def _count(self, seat: Seat | None, by: int) -> None:
        if seat is None:
            return
        if seat.kind is SeatKind.PROVISIONED:
            self.provisioned += by
        else:
            self.reserved += by


def is_license_event(event: Event) -> bool:
    """Whether no earlier copy of the state may be left to go back to: what is granted, returned or used up."""
    match event:
        case GrantInstalled() | RootsTrusted() | UpgradeConsumed():
            return True
        case ContactMade(returned=returned):
            return returned is not None
    return False


def as_reserved(seat: Seat, *, has_run: bool) -> Seat:
    """The same seat, no longer counted as provisioned."""
    return replace(seat, kind=SeatKind.RESERVED, has_run=has_run)


def as_provisioned(seat: Seat) -> Seat:
    """The same seat, counted as provisioned; such a unit has run."""
    return replace(seat, kind=SeatKind.PROVISIONED, has_run=True)
