"""What the register shows to people and programs: rows of plain values.

What this module does not do: it changes nothing, and shows no document and no key but its id.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from smartserver_licensed.domain.timekeeping import Timestamp

from .contacts import last_seen
from .enrolling import current_key
from .stock import Balance, allocations_of, balance_of, reserved_of, usable
from .tables import Allocation, AuditEntry, Customer, DeviceKey, Fork, Order, SmartServer, SoldLicense


@dataclass(frozen=True, slots=True)
class CustomerRow:
    """A customer."""

    id: str
    name: str
    made_at: Timestamp


@dataclass(frozen=True, slots=True)
class OrderRow:
    """A purchase; `what` as in "1000 capacity". `install_code`: whom it was reserved for, or ""."""

    id: int
    customer_id: str
    license_id: str
    made_at: Timestamp
    what: str
    install_code: str


@dataclass(frozen=True, slots=True)
class LicenseRow:
    """A license and where its devices are; `where`: install codes and the devices that each of them has."""

    id: str
    customer_id: str
    type: str
    sold: int
    at_authority: int
    reserved: int
    in_field: int
    consumed: int
    expires_at: Timestamp | None
    note: str
    replaces: str
    release: str
    host: str
    where: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ForkRow:
    """Two copies of a SmartServer: which number, both hashes, since when the first one was known."""

    found_at: Timestamp
    code: str
    number: int
    known_sha256: str
    known_at: Timestamp
    other_sha256: str
    key_id: str


@dataclass(frozen=True, slots=True)
class AllocationRow:
    """What a SmartServer has had of one license, in lifetime totals."""

    license_id: str
    granted: int
    returned: int
    consumed: int
    written_off: int


@dataclass(frozen=True, slots=True)
class SmartServerRow:
    """A SmartServer. `key_id` "": not enrolled; `last_contact` 0: none of this key was seen."""

    install_code: str
    customer_id: str
    seq: int
    key_id: str
    enrolled_at: Timestamp | None
    last_contact: int
    last_contact_at: Timestamp | None
    root_version: int
    retired_at: Timestamp | None
    replaced_by: str
    licenses: tuple[AllocationRow, ...]
    forks: tuple[ForkRow, ...]


@dataclass(frozen=True, slots=True)
class AuditRow:
    """What an operator did."""

    at: Timestamp
    act: str
    detail: str


def customers(session: Session) -> tuple[CustomerRow, ...]:
    """All customers by name."""
    query = select(Customer).order_by(Customer.name, Customer.id)
    return tuple(CustomerRow(each.id, each.name, each.made_at) for each in session.execute(query).scalars())


def orders(session: Session, customer_id: str) -> tuple[OrderRow, ...]:
    """The orders of a customer ("": of all), oldest first."""
    query = select(Order, SoldLicense).join(SoldLicense).order_by(Order.id)
    if customer_id:
        query = query.where(Order.customer_id == customer_id)
    return tuple(
        OrderRow(
            order.id,
            order.customer_id,
            order.license_id,
            order.made_at,
            f"{license_.sold} {license_.type}",
            order.install_code,
        )
        for order, license_ in session.execute(query)
    )


def licenses(session: Session, customer_id: str) -> tuple[LicenseRow, ...]:
    """The licenses of a customer ("": of all), oldest first."""
    return tuple(_license(session, each) for each in _licenses(session, customer_id))


def balance(session: Session) -> tuple[Balance, ...]:
    """Where the devices of each license are."""
    return tuple(balance_of(session, each) for each in _licenses(session, ""))


def smartservers(session: Session, install_code: str) -> tuple[SmartServerRow, ...]:
    """The SmartServer of this install code ("": all), by install code."""
    query = select(SmartServer).order_by(SmartServer.install_code)
    if install_code:
        query = query.where(SmartServer.install_code == install_code)
    return tuple(_smartserver(session, each) for each in session.execute(query).scalars().all())


def audit(session: Session) -> tuple[AuditRow, ...]:
    """What operators did, oldest first."""
    query = select(AuditEntry).order_by(AuditEntry.id)
    return tuple(AuditRow(each.made_at, each.act, each.detail) for each in session.execute(query).scalars())


def _licenses(session: Session, customer_id: str) -> list[SoldLicense]:
    query = select(SoldLicense).order_by(SoldLicense.made_at, SoldLicense.id)
    if customer_id:
        query = query.where(SoldLicense.customer_id == customer_id)
    return list(session.execute(query).scalars())


def _license(session: Session, license_: SoldLicense) -> LicenseRow:
    found = balance_of(session, license_)
    query = select(Allocation).where(Allocation.license_id == license_.id).order_by(Allocation.id)
    where = [(each.smartserver.install_code, usable(each)) for each in session.execute(query).scalars()]
    return LicenseRow(
        license_.id,
        license_.customer_id,
        license_.type,
        license_.sold,
        found.at_authority,
        reserved_of(session, license_),
        found.in_field,
        found.consumed,
        license_.expires_at,
        license_.note,
        license_.replaces,
        license_.release,
        license_.host,
        tuple((code, devices) for code, devices in where if devices),
    )


def _smartserver(session: Session, smartserver: SmartServer) -> SmartServerRow:
    key = current_key(session, smartserver)
    last = last_seen(session, key) if key is not None else None
    forks = (
        select(Fork)
        .join(DeviceKey, DeviceKey.key_id == Fork.key_id)
        .where(DeviceKey.smartserver_id == smartserver.id)
        .order_by(Fork.id)
    )
    return SmartServerRow(
        smartserver.install_code,
        smartserver.customer_id,
        smartserver.seq,
        key.key_id if key is not None else "",
        key.enrolled_at if key is not None else None,
        last.number if last is not None else 0,
        last.seen_at if last is not None else None,
        smartserver.root_version,
        smartserver.retired_at,
        smartserver.replaced_by,
        tuple(
            AllocationRow(
                each.license_id,
                each.granted_total,
                each.returned_total,
                each.consumed_total,
                each.written_off_total,
            )
            for each in allocations_of(session, smartserver)
        ),
        tuple(
            ForkRow(
                each.found_at,
                each.code,
                each.number,
                each.known_sha256,
                each.known_at,
                each.other_sha256,
                each.key_id,
            )
            for each in session.execute(forks).scalars()
        ),
    )
