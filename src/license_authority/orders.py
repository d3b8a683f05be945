"""What may be bought: customers, and the purchase rules.

Rules (LICENSING §1):
- maintenance runs 1 or 3 calendar years, from the end of the one that it renews, or from now; the end is absolute;
- a customer's first maintenance is free to buy, more of it while one is current; after a lapse only within 30 days of
  an upgrade license; a renewal names its predecessor, which is renewed once;
- a trial once per install code, for ever; its end is set when it is first granted;
- an upgrade names a release; emergency capacity is not ordered.

What this module does not do: it grants nothing (`activating`).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import License, LicenseType, check_name
from smartserver_licensed.domain.timekeeping import DAY_S, Timestamp, from_iso, to_iso

from .errors import CustomerMismatchError, CustomerUnknownError, MaintenanceLapsedError, TrialUsedError
from .stock import allocations_of, has_ended, license_of, reservations_of, reserve
from .tables import Customer, Order, SmartServer, SoldLicense, TrialTaken

TRIAL_DAYS = 30
TRIAL_GRACE_DAYS = 7
CAPACITY_GRACE_DAYS = 30
UPGRADE_WINDOW_DAYS = 30
MAINTENANCE_YEARS = (1, 3)
MAX_DAYS = 3_660

_GRACE_DAYS = {LicenseType.CAPACITY: CAPACITY_GRACE_DAYS, LicenseType.TRIAL: TRIAL_GRACE_DAYS}


@dataclass(frozen=True, slots=True)
class Purchase:
    """One license to be bought. `install_code`: reserve it for that SmartServer.

    `years`: of maintenance 1 or 3, of a remote-cms license any; `days`: of a trial (0: 30), of a remote-cms license.
    """

    customer_id: str
    type: LicenseType
    devices: int
    years: int = 0
    days: int = 0
    release: str = ""
    host: str = ""
    note: str = ""
    install_code: str = ""
    replaces: str = ""

    def __post_init__(self) -> None:
        if self.type is LicenseType.EMERGENCY:
            raise ArgumentError("cannot order emergency capacity: it is made at once, for an enrolled SmartServer")
        if self.devices < 1 or (self.type is LicenseType.UPGRADE and self.devices != 1):
            raise ArgumentError(f"cannot order {self.type.value} for {self.devices} devices")
        has_years = self.type in {LicenseType.MAINTENANCE, LicenseType.REMOTE_CMS}
        has_days = self.type in {LicenseType.TRIAL, LicenseType.REMOTE_CMS}
        if self.type is LicenseType.MAINTENANCE and self.years not in MAINTENANCE_YEARS:
            raise ArgumentError(f"cannot order maintenance for {self.years} years: 1 or 3")
        if not 0 <= self.years <= (10 if has_years else 0) or not 0 <= self.days <= (MAX_DAYS if has_days else 0):
            raise ArgumentError(
                f"cannot order {self.type.value} for {self.years} years or {self.days} days: capacity and upgrades "
                f"never end, maintenance counts in years, a trial in days"
            )
        if self.replaces and self.type is not LicenseType.MAINTENANCE:
            raise ArgumentError(f"cannot order {self.type.value} as a renewal: only maintenance is renewed")
        if bool(self.host) != (self.type is LicenseType.REMOTE_CMS):
            raise ArgumentError("cannot order: a remote-cms license, and nothing else, names a CMS host")
        if self.install_code:
            check_name("an install code", self.install_code)


def add_customer(session: Session, name: str, now: Timestamp, customer_id: str) -> Customer:
    """A new customer; without an id it gets a new one. Raises ArgumentError."""
    check_name("a customer's name", name)
    try:
        id_ = str(uuid.UUID(customer_id)) if customer_id else str(uuid.uuid4())
    except ValueError as error:
        raise ArgumentError(f"cannot add a customer: the id {customer_id[:80]!r} is no UUID") from error
    if session.get(Customer, id_) is not None:
        raise ArgumentError(f"cannot add a customer: the id {id_} is taken")
    customer = Customer(id=id_, name=name, made_at=now)
    session.add(customer)
    return customer


def place_order(session: Session, purchase: Purchase, now: Timestamp) -> SoldLicense:
    """Sell a license, and reserve it where the purchase says for whom.

    Raises CustomerUnknownError, CustomerMismatchError, MaintenanceLapsedError, TrialUsedError, LicenseNotFoundError,
    ArgumentError.
    """
    if session.get(Customer, purchase.customer_id) is None:
        raise CustomerUnknownError(f"cannot order: there is no customer {purchase.customer_id!r}")
    license_ = SoldLicense(
        id=str(uuid.uuid4()),
        customer_id=purchase.customer_id,
        type=purchase.type.value,
        sold=purchase.devices,
        days=purchase.days or TRIAL_DAYS,
        expires_at=_end(session, purchase, now),
        grace_days=_GRACE_DAYS.get(purchase.type, 0),
        note=purchase.note,
        replaces=purchase.replaces,
        release=purchase.release,
        host=purchase.host,
        made_at=now,
    )
    _check_value(license_, now)
    session.add(license_)
    session.flush()  # what follows refers to it
    session.add(
        Order(customer_id=license_.customer_id, license_id=license_.id, install_code=purchase.install_code, made_at=now)
    )
    if purchase.install_code:
        smartserver = smartserver_for(session, purchase.install_code, purchase.customer_id)
        if purchase.type is LicenseType.TRIAL:
            _check_trial(session, smartserver)
        reserve(session, license_, smartserver, purchase.devices)
    return license_


def smartserver_for(session: Session, install_code: str, customer_id: str) -> SmartServer:
    """The SmartServer of this install code, known from now on as this customer's. Raises CustomerMismatchError."""
    smartserver = session.execute(
        select(SmartServer).where(SmartServer.install_code == install_code)
    ).scalar_one_or_none()
    if smartserver is None:
        check_name("an install code", install_code)
        smartserver = SmartServer(install_code=install_code, customer_id=customer_id)
        session.add(smartserver)
        session.flush()  # for its id
    if smartserver.customer_id != customer_id:
        raise CustomerMismatchError(
            f"cannot license {install_code}: it belongs to the customer {smartserver.customer_id}, not to {customer_id}"
        )
    return smartserver


def trial_taken(session: Session, smartserver: SmartServer) -> str:
    """The trial that a SmartServer has had, under whatever install code and however long ago; "" where none."""
    taken = session.get(TrialTaken, smartserver.install_code)
    had = [each for each in allocations_of(session, smartserver) if each.license.type == LicenseType.TRIAL.value]
    return taken.license_id if taken is not None else had[0].license_id if had else ""


def years_after(moment: Timestamp, years: int) -> Timestamp:
    """The same moment so many calendar years later; of a 29 February the 28th where there is none.

    Raises ArgumentError after the year 9999.
    """
    iso = to_iso(moment)
    year = int(iso[:4]) + years
    if iso[4:10] == "-02-29" and not _is_leap(year):
        iso = f"{iso[:4]}-02-28{iso[10:]}"
    return from_iso(f"{year:04d}{iso[4:]}")


def _check_trial(session: Session, smartserver: SmartServer) -> None:
    reserved = [each for each in reservations_of(session, smartserver) if each.license.type == LicenseType.TRIAL.value]
    taken = trial_taken(session, smartserver) or (reserved[0].license_id if reserved else "")
    if taken:
        raise TrialUsedError(f"cannot sell a trial for {smartserver.install_code}: it has had one, {taken}")


def _is_leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _end(session: Session, purchase: Purchase, now: Timestamp) -> Timestamp | None:
    if purchase.type is LicenseType.MAINTENANCE:
        return years_after(_maintenance_start(session, purchase, now), purchase.years)
    if purchase.type is LicenseType.REMOTE_CMS and (purchase.years or purchase.days):
        return years_after(now, purchase.years) + purchase.days * DAY_S
    return None  # of a trial: set when it is first granted


def _maintenance_start(session: Session, purchase: Purchase, now: Timestamp) -> Timestamp:
    """When it begins. Raises MaintenanceLapsedError where it may not be bought."""
    mine = select(SoldLicense).where(SoldLicense.customer_id == purchase.customer_id)
    earlier = session.execute(mine.where(SoldLicense.type == LicenseType.MAINTENANCE.value)).scalars().all()
    predecessor = _predecessor(session, purchase) if purchase.replaces else None
    if predecessor is not None and not has_ended(predecessor, now):
        return predecessor.expires_at or now
    if predecessor is None and (not earlier or not all(has_ended(each, now) for each in earlier)):
        return now
    upgrades = mine.where(
        SoldLicense.type == LicenseType.UPGRADE.value, SoldLicense.made_at >= now - UPGRADE_WINDOW_DAYS * DAY_S
    )
    if session.execute(upgrades).scalars().first() is None:
        last = max((each.expires_at or 0 for each in earlier), default=0)
        raise MaintenanceLapsedError(
            f"cannot sell maintenance to {purchase.customer_id}: it lapsed on {to_iso(last)}, and no upgrade license "
            f"was bought in the last {UPGRADE_WINDOW_DAYS} days"
        )
    return now


def _predecessor(session: Session, purchase: Purchase) -> SoldLicense:
    predecessor = license_of(session, purchase.replaces)
    if predecessor.customer_id != purchase.customer_id:
        raise CustomerMismatchError(f"cannot renew {predecessor.id}: it is another customer's")
    if predecessor.type != LicenseType.MAINTENANCE.value:
        raise ArgumentError(f"cannot renew {predecessor.id}: it is {predecessor.type}, only maintenance is renewed")
    renewal = session.execute(select(SoldLicense).where(SoldLicense.replaces == predecessor.id)).scalars().first()
    if renewal is not None:
        raise ArgumentError(f"cannot renew {predecessor.id}: {renewal.id} renews it already")
    return predecessor


def _check_value(license_: SoldLicense, now: Timestamp) -> None:
    """Raise ArgumentError for what could never stand in a grant."""
    is_trial = license_.type == LicenseType.TRIAL.value
    License(
        id=license_.id,
        type=LicenseType(license_.type),
        granted_total=license_.sold,
        expires_at=now + license_.days * DAY_S if is_trial else license_.expires_at,
        grace_days=license_.grace_days,
        note=license_.note,
        replaces=license_.replaces,
        release=license_.release,
        host=license_.host,
    )
