"""Licenses that leave a SmartServer: returns, transfers, and the exchange of dead hardware (RMA).

Rules (LICENSING §4 "Return to the cloud, and RMA"):
- a return is credited once, however often it comes; the devices are free again for the customer's license;
- a transfer reserves what came back, and no more, for another SmartServer of the same customer; never emergency
  capacity;
- an RMA writes off what the dead SmartServer has left, reserves it for the new one, and retires the old key. A trial
  moves only to one that has had none, emergency capacity only as far as the root allows; what has ended stays.

What this module does not do: it asks nobody whether the hardware is dead; the operator knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.orm import Session

from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import Timestamp

from .activating import give_reserved, hindrance
from .auditing import note_act
from .emergencies import running_emergency
from .enrolling import current_key, find_smartserver, retire
from .errors import EmergencyRefusedError, LicenseExhaustedError, ReturnReservedError, SmartServerRetiredError
from .hearing import Heard, hear
from .issuing import Keys, next_grant
from .orders import smartserver_for
from .stock import allocation_of, allocations_of, balance_of, license_of, reservations_of, reserve, usable
from .tables import SmartServer, SoldLicense


@dataclass(frozen=True, slots=True)
class Credit:
    """What a return has brought. `is_known`: it was credited before, and brings nothing now.

    `at_authority`: devices of the license that are not in the field, reserved ones included.
    """

    license_id: str
    devices_credited: int
    is_known: bool
    at_authority: int


@dataclass(frozen=True, slots=True)
class RmaResult:
    """What was moved, as license id and devices; `grant` where the new SmartServer is enrolled already."""

    moved: tuple[tuple[str, int], ...]
    grant: bytes | None


def credit(session: Session, document: bytes, now: Timestamp) -> Credit:
    """Credit a return. Raises DocumentError, AuthorityError."""
    heard = hear(session, document, now, kind=ContactKind.RETURN)
    note_act(session, now, "return", f"contact {heard.contact.number} of {heard.smartserver.install_code}")
    return credit_of(session, heard)


def credit_of(session: Session, heard: Heard) -> Credit:
    """What a return has brought, once it was taken in."""
    license_ = license_of(session, heard.contact.license_id)
    devices = 0 if heard.is_known else heard.row.credited
    return Credit(license_.id, devices, heard.is_known, balance_of(session, license_).at_authority)


def transfer(session: Session, document: bytes, to_install_code: str, now: Timestamp) -> Credit:
    """Credit a return, and reserve its devices for another SmartServer of the same customer.

    Raises ReturnReservedError where they are reserved for a third one, LicenseExhaustedError where they have been
    given to somebody since, EmergencyRefusedError; DocumentError, AuthorityError, ArgumentError.
    """
    heard = hear(session, document, now, kind=ContactKind.RETURN)
    if to_install_code == heard.smartserver.install_code:
        raise ArgumentError(f"cannot transfer from {to_install_code} to itself")
    if heard.row.reserved_for not in {"", to_install_code}:
        raise ReturnReservedError(
            f"cannot transfer to {to_install_code}: what came back is reserved for {heard.row.reserved_for}"
        )
    if not heard.row.reserved_for:
        license_ = license_of(session, heard.contact.license_id)
        if license_.type == LicenseType.EMERGENCY.value:
            raise EmergencyRefusedError(f"cannot transfer {license_.id}: emergency capacity is granted by itself")
        devices = _came_back(session, heard)
        to = _receiver(session, to_install_code, heard.smartserver)
        reserve(session, license_, to, devices)
        heard.row.reserved_for = to_install_code
        note_act(
            session,
            now,
            "transfer",
            f"{devices} devices of {license_.id} from {heard.smartserver.install_code} to {to_install_code}",
        )
    return credit_of(session, heard)


def rma(session: Session, keys: Keys, from_code: str, to_code: str, now: Timestamp) -> RmaResult:
    """Move everything of a dead SmartServer to another one.

    Raises SmartServerUnknownError, SmartServerRetiredError, CustomerMismatchError, ForkFoundError, ArgumentError.
    """
    if from_code == to_code:
        raise ArgumentError(f"cannot replace {from_code} by itself (a new device key needs `activate --confirm`)")
    dead = find_smartserver(session, from_code)
    if dead.retired_at is not None:
        raise SmartServerRetiredError(f"cannot replace {from_code}: it was replaced by {dead.replaced_by} already")
    to, cap = _receiver(session, to_code, dead), keys.trust.current.emergency_max_devices
    moved: list[tuple[str, int]] = []
    for license_, devices in _taken_from(session, dead):
        if devices and _may_move(session, license_, devices, to, cap, now):
            reserve(session, license_, to, devices)
            session.flush()
            moved.append((license_.id, devices))
    retire(session, dead, now, is_replaced=True)
    dead.retired_at, dead.replaced_by = now, to_code
    note_act(session, now, "rma", f"{from_code} replaced by {to_code}")
    if current_key(session, to) is None:
        return RmaResult(tuple(moved), None)
    give_reserved(session, to, now)
    return RmaResult(tuple(moved), next_grant(session, keys, to, now))


def _came_back(session: Session, heard: Heard) -> int:
    """What a return says, as far as it was credited: by itself, or by the contact that told of it while it was lost."""
    contact = heard.contact
    allocation = allocation_of(session, contact.license_id, heard.smartserver)
    said = next((each.returned_total for each in contact.totals if each.id == contact.license_id), 0)
    credited = heard.row.credited or (allocation.returned_total if allocation is not None else 0)
    devices = min(contact.devices, said, credited)
    if not devices:
        raise LicenseExhaustedError(f"cannot transfer {contact.license_id}: nothing of it came back with this return")
    return devices


def _receiver(session: Session, install_code: str, giver: SmartServer) -> SmartServer:
    """The SmartServer that gets what another one had; it need not be known yet."""
    to = smartserver_for(session, install_code, giver.customer_id)
    if to.retired_at is not None:
        raise SmartServerRetiredError(f"cannot move licenses to {install_code}: it was replaced by {to.replaced_by}")
    return to


def _taken_from(session: Session, dead: SmartServer) -> list[tuple[SoldLicense, int]]:
    """Write off what a SmartServer has left, and take away what was reserved for it; what has become free so."""
    taken: dict[str, int] = {}
    licenses: dict[str, SoldLicense] = {}
    for allocation in allocations_of(session, dead):
        licenses[allocation.license_id] = allocation.license
        taken[allocation.license_id] = usable(allocation)
        allocation.written_off_total += usable(allocation)
    for reservation in reservations_of(session, dead):
        licenses[reservation.license_id] = reservation.license
        taken[reservation.license_id] = taken.get(reservation.license_id, 0) + reservation.devices
        session.delete(reservation)
    session.flush()
    return [(licenses[license_id], devices) for license_id, devices in taken.items()]


def _may_move(session: Session, license_: SoldLicense, devices: int, to: SmartServer, cap: int, now: Timestamp) -> bool:
    if hindrance(session, license_, to, now) is not None:
        return False
    is_emergency = license_.type == LicenseType.EMERGENCY.value
    return not is_emergency or running_emergency(session, to, now) + devices <= cap
