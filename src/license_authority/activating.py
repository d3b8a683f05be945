"""What a request gets, and what a SmartServer is given without one.

Rules (LICENSING §1, §4):
- a request gets what is reserved for its install code, what it names, and what the operator adds; where it names a
  customer, everything of that customer that is free;
- the same request gets the same answer, byte for byte; a late one is answered like any other;
- a trial is given whole, once per install code, and ends so many days after; what has ended is not given;
- a SmartServer belongs to one customer; one that nobody has heard of gets something or stays unknown, unless the
  operator confirms: otherwise anybody could take an install code for his customer.

What this module does not do: returns are in `moving`, emergency capacity in `emergencies`; it seals nothing
(`issuing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from sqlalchemy import select
from sqlalchemy.orm import Session

from smartserver_licensed.domain.contacts import ContactKind, Wanted
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.timekeeping import DAY_S, Timestamp, to_iso

from .auditing import note_act
from .errors import (
    AuthorityError,
    CustomerMismatchError,
    EmergencyRefusedError,
    LicenseExhaustedError,
    RequestAnsweredError,
    TrialUsedError,
)
from .hearing import Heard, hear
from .issuing import Keys, next_grant
from .orders import Purchase, add_customer, place_order, smartserver_for, trial_taken
from .stock import allocation_of, allocations_of, free_for, give, has_ended, license_of, reservations_of, usable
from .tables import Customer, SmartServer, SoldLicense, TrialTaken


def activate(
    session: Session, keys: Keys, document: bytes, now: Timestamp, *, is_confirmed: bool, add: Sequence[Wanted]
) -> bytes:
    """The grant that answers a request.

    Raises DocumentError, AuthorityError; RequestAnsweredError where it was answered with other additions.
    """
    heard = hear(session, document, now, kind=ContactKind.REQUEST, is_confirmed=is_confirmed, add=add)
    return answer(session, keys, heard, now, add)


def answer(session: Session, keys: Keys, heard: Heard, now: Timestamp, add: Sequence[Wanted] = ()) -> bytes:
    """The grant that answers a contact: the one that it got before, or a new one. Raises AuthorityError."""
    contact, smartserver, row = heard.contact, heard.smartserver, heard.row
    added = " ".join(f"{each.license_id}={each.devices}" for each in add)
    if row.answer is not None:
        if added not in {"", row.added}:
            raise RequestAnsweredError(
                f"cannot add {added} to request {contact.number} of {smartserver.install_code}: it has been answered, "
                f"and the same request always gets the same answer (`licensectl request --fresh` makes a new one)"
            )
        return row.answer
    wanted = (*contact.wanted, *add)
    if contact.kind is ContactKind.REQUEST:
        give_reserved(session, smartserver, now, apart_from={each.license_id for each in wanted})
    if contact.customer_id:
        _give_all(session, smartserver, contact.customer_id, now)
    for each in wanted:
        _give_wanted(session, smartserver, each, now)
    if heard.is_introduced and not allocations_of(session, smartserver):
        raise LicenseExhaustedError(
            f"cannot answer {smartserver.install_code}: it is not known, and nothing is free for it "
            f"(`license-authority activate --confirm` makes it known all the same)"
        )
    row.added, row.answer = added, next_grant(session, keys, smartserver, now)
    if add:
        note_act(session, now, "activate", f"added {added} for {smartserver.install_code}")
    return row.answer


def give_reserved(
    session: Session, smartserver: SmartServer, now: Timestamp, *, apart_from: AbstractSet[str] = frozenset()
) -> None:
    """Give what is reserved for a SmartServer; what has ended, or a second trial, stays where it is."""
    for reservation in reservations_of(session, smartserver):
        license_, devices = reservation.license, reservation.devices
        if license_.id not in apart_from and hindrance(session, license_, smartserver, now) is None:
            _give(session, license_, smartserver, devices, now)


def issue(session: Session, keys: Keys, purchase: Purchase, now: Timestamp) -> bytes:
    """Sell a license and grant it at once, without a request: for demonstrations. An unknown customer is made.

    Raises UnactivatedRefusedError where the root does not allow it and the SmartServer is not enrolled;
    AuthorityError, ArgumentError.
    """
    if not purchase.install_code:
        raise ArgumentError("cannot issue: no install code says for which SmartServer")
    if session.get(Customer, purchase.customer_id) is None:
        add_customer(session, purchase.customer_id, now, purchase.customer_id)
        session.flush()
    license_ = place_order(session, purchase, now)
    smartserver = smartserver_for(session, purchase.install_code, purchase.customer_id)
    _give_wanted(session, smartserver, Wanted(license_.id), now)
    note_act(session, now, "issue", f"{license_.type} {license_.id} to {smartserver.install_code}")
    return next_grant(session, keys, smartserver, now)


def hindrance(
    session: Session, license_: SoldLicense, smartserver: SmartServer, now: Timestamp
) -> AuthorityError | None:
    """Why a SmartServer may not be given devices of a license although some are free; None: it may."""
    if has_ended(license_, now):
        end = to_iso(license_.expires_at or 0)
        return LicenseExhaustedError(f"cannot grant {license_.id} to {smartserver.install_code}: it ended on {end}")
    taken = trial_taken(session, smartserver) if license_.type == LicenseType.TRIAL.value else ""
    if taken:
        return TrialUsedError(f"cannot grant a trial to {smartserver.install_code}: it has had one, {taken}")
    return None


def _give_all(session: Session, smartserver: SmartServer, customer_id: str, now: Timestamp) -> None:
    if customer_id != smartserver.customer_id:
        raise CustomerMismatchError(
            f"cannot license {smartserver.install_code}: it belongs to the customer {smartserver.customer_id}, not to "
            f"{customer_id}"
        )
    mine = (
        select(SoldLicense)
        .where(SoldLicense.customer_id == customer_id, SoldLicense.type != LicenseType.EMERGENCY.value)
        .order_by(SoldLicense.made_at, SoldLicense.id)
    )
    for license_ in session.execute(mine).scalars().all():
        free = free_for(session, license_, smartserver)
        if free and hindrance(session, license_, smartserver, now) is None:
            _give(session, license_, smartserver, free, now)


def _give_wanted(session: Session, smartserver: SmartServer, wanted: Wanted, now: Timestamp) -> None:
    license_ = license_of(session, wanted.license_id)
    if license_.customer_id != smartserver.customer_id:
        raise CustomerMismatchError(
            f"cannot license {smartserver.install_code}: it belongs to the customer {smartserver.customer_id}, "
            f"{license_.id} to {license_.customer_id}"
        )
    free = free_for(session, license_, smartserver)
    allocation = allocation_of(session, license_.id, smartserver)
    devices = 0 if license_.type == LicenseType.TRIAL.value else wanted.devices  # a part of a trial: all of it
    if not free and not devices and allocation is not None and usable(allocation):
        return  # it has what there is
    if license_.type == LicenseType.EMERGENCY.value:
        raise EmergencyRefusedError(f"cannot activate {license_.id}: emergency capacity is granted by itself")
    why = hindrance(session, license_, smartserver, now)
    if why is not None:
        raise why
    if not free:
        raise LicenseExhaustedError(
            f"cannot grant {license_.id} to {smartserver.install_code}: all of its {license_.sold} devices are "
            f"elsewhere (`license-authority show licenses` says where)"
        )
    _give(session, license_, smartserver, devices or free, now)


def _give(session: Session, license_: SoldLicense, smartserver: SmartServer, devices: int, now: Timestamp) -> None:
    give(session, license_, smartserver, devices)
    if license_.type != LicenseType.TRIAL.value:
        return
    if license_.expires_at is None:
        license_.expires_at = now + license_.days * DAY_S
    session.add(TrialTaken(install_code=smartserver.install_code, license_id=license_.id, taken_at=now))
    session.flush()
