"""Where the devices of a license are: at the authority, reserved, in the field, used up.

Rules (LICENSING §4):
- of what was sold, what is not in the field and not used up is at the authority: `at_authority + in_field + consumed
  == sold`, at any time;
- in the field = granted − returned − written off − consumed, over all SmartServers; nothing is given that is not free;
- what is reserved for one SmartServer is not free for another one.

What this module does not do: it does not say who may have what (`activating`, `moving`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from smartserver_licensed.domain.timekeeping import Timestamp

from .errors import LicenseExhaustedError, LicenseNotFoundError
from .tables import Allocation, Reservation, SmartServer, SoldLicense


@dataclass(frozen=True, slots=True)
class Balance:
    """Where the devices of one license are; of an upgrade, the upgrades. The last three add up to `sold`."""

    license_id: str
    sold: int
    at_authority: int
    in_field: int
    consumed: int


def license_of(session: Session, license_id: str) -> SoldLicense:
    """The license of this id. Raises LicenseNotFoundError."""
    license_ = session.get(SoldLicense, license_id)
    if license_ is None:
        raise LicenseNotFoundError(f"cannot find the license {license_id!r}: none of that id was sold")
    return license_


def balance_of(session: Session, license_: SoldLicense) -> Balance:
    """Where the devices of a license are now."""
    total = func.sum(Allocation.granted_total - Allocation.returned_total - Allocation.written_off_total)
    out, consumed = session.execute(
        select(func.coalesce(total, 0), func.coalesce(func.sum(Allocation.consumed_total), 0)).where(
            Allocation.license_id == license_.id
        )
    ).one()
    return Balance(license_.id, license_.sold, license_.sold - int(out), int(out) - int(consumed), int(consumed))


def reserved_of(session: Session, license_: SoldLicense, *, apart_from: SmartServer | None = None) -> int:
    """How many devices are reserved, those for one SmartServer left out."""
    query = select(func.coalesce(func.sum(Reservation.devices), 0)).where(Reservation.license_id == license_.id)
    if apart_from is not None:
        query = query.where(Reservation.smartserver_id != apart_from.id)
    return int(session.execute(query).scalar_one())


def free_for(session: Session, license_: SoldLicense, smartserver: SmartServer | None) -> int:
    """How many devices this SmartServer (None: anybody) could be given."""
    balance = balance_of(session, license_)
    return balance.at_authority - reserved_of(session, license_, apart_from=smartserver)


def allocation_of(session: Session, license_id: str, smartserver: SmartServer) -> Allocation | None:
    """What this SmartServer has had of a license."""
    return session.execute(
        select(Allocation).where(Allocation.license_id == license_id, Allocation.smartserver_id == smartserver.id)
    ).scalar_one_or_none()


def allocations_of(session: Session, smartserver: SmartServer) -> list[Allocation]:
    """All that this SmartServer has had, in the order it came."""
    query = select(Allocation).where(Allocation.smartserver_id == smartserver.id).order_by(Allocation.id)
    return list(session.execute(query).scalars())


def reservations_of(session: Session, smartserver: SmartServer) -> list[Reservation]:
    """What waits for this SmartServer, oldest license first."""
    query = (
        select(Reservation)
        .join(SoldLicense)
        .where(Reservation.smartserver_id == smartserver.id)
        .order_by(SoldLicense.made_at, SoldLicense.id)
    )
    return list(session.execute(query).scalars())


def reserve(session: Session, license_: SoldLicense, smartserver: SmartServer, devices: int) -> None:
    """Keep devices for one SmartServer. Raises LicenseExhaustedError where fewer are free for everybody."""
    free = free_for(session, license_, None)
    if devices > free:
        raise LicenseExhaustedError(f"cannot reserve {devices} devices of {license_.id}: {free} are free")
    reservation = session.get(Reservation, (license_.id, smartserver.id))
    if reservation is None:
        session.add(Reservation(license_id=license_.id, smartserver_id=smartserver.id, devices=devices))
    else:
        reservation.devices += devices


def give(session: Session, license_: SoldLicense, smartserver: SmartServer, devices: int) -> None:
    """Raise what was granted to a SmartServer; its own reservation is used first. Raises LicenseExhaustedError."""
    free = free_for(session, license_, smartserver)
    if devices > free:
        raise LicenseExhaustedError(f"cannot grant {devices} devices of {license_.id}: {free} are free")
    reservation = session.get(Reservation, (license_.id, smartserver.id))
    if reservation is not None and reservation.devices > devices:
        reservation.devices -= devices
    elif reservation is not None:
        session.delete(reservation)
    allocation = allocation_of(session, license_.id, smartserver)
    if allocation is None:
        allocation = Allocation(license_id=license_.id, smartserver_id=smartserver.id, granted_total=0)
        session.add(allocation)
    allocation.granted_total += devices


def usable(allocation: Allocation) -> int:
    """What the SmartServer still has of it."""
    returned = allocation.returned_total + allocation.written_off_total
    return allocation.granted_total - returned - allocation.consumed_total


def has_ended(license_: SoldLicense, now: Timestamp) -> bool:
    """Whether nothing of it can be used any more."""
    return license_.expires_at is not None and now >= license_.expires_at
