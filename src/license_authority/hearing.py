"""A document of a SmartServer comes in: opened, its key found or enrolled, held against what is known.

Rules (LICENSING §4): signed by the key that it carries; whether that key may do anything is known from its enrolment.
A SmartServer that nobody has heard of is made known by a request that says whose it is, never by a return. Where
somebody carries documents for one customer only, all that a document speaks of is that customer's.

What this module does not do: it answers nothing (`activating`, `moving`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from smartserver_licensed.documents.keys import key_id
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.contacts import Contact, ContactKind, Wanted
from smartserver_licensed.domain.errors import PayloadTypeError
from smartserver_licensed.domain.timekeeping import Timestamp

from .contacts import Incoming, take_in
from .enrolling import by_install_code, enrolled_key
from .errors import CustomerMismatchError, CustomerUnknownError
from .orders import smartserver_for
from .stock import license_of
from .tables import Customer, DeviceKey, KnownContact, SmartServer, SoldLicense


@dataclass(frozen=True, slots=True)
class Heard:
    """A contact that was taken in. `is_known`: it had been before, and changed nothing now.

    `is_introduced`: by it the SmartServer became known, without a word of the operator.
    """

    contact: Contact
    smartserver: SmartServer
    row: KnownContact
    is_known: bool
    is_introduced: bool


def hear(
    session: Session,
    document: bytes,
    now: Timestamp,
    *,
    kind: ContactKind | None = None,
    is_confirmed: bool = False,
    add: Sequence[Wanted] = (),
    carried_for: str = "",
) -> Heard:
    """Take in a contact of this kind (None: either). `add`: what the operator adds, which may say whose it is.

    `carried_for`: the customer whose documents only may come, "": anybody's. Raises DocumentError,
    CustomerMismatchError, and AuthorityError as `enrolled_key` and `take_in` do.
    """
    contact, mark = open_contact(document)
    if kind is not None and contact.kind is not kind:
        raise PayloadTypeError(f"cannot accept the document: it is a {contact.kind.value}, not a {kind.value}")
    if carried_for:
        _check_carried(session, contact, carried_for)
    is_introduced = contact.kind is ContactKind.REQUEST and _introduce(session, contact, (*contact.wanted, *add))
    key = enrolled_key(session, contact, now, is_confirmed=is_confirmed)
    row, is_known = take_in(session, Incoming(document, contact, mark, key, now, is_confirmed))
    return Heard(contact, key.smartserver, row, is_known, is_introduced and not is_confirmed)


def _check_carried(session: Session, contact: Contact, customer_id: str) -> None:
    key = session.get(DeviceKey, key_id(contact.device_key))
    smartservers = [by_install_code(session, contact.install_code), key.smartserver if key is not None else None]
    owners = {each.customer_id for each in smartservers if each is not None}
    licenses = [session.get(SoldLicense, each.license_id) for each in contact.wanted]
    owners.update(each.customer_id if each is not None else "" for each in licenses)
    if not owners | {contact.customer_id or customer_id} <= {customer_id}:
        raise CustomerMismatchError(
            f"cannot answer {contact.install_code}: it, or a license in it, is not of the token's customer"
        )


def _introduce(session: Session, contact: Contact, wanted: Sequence[Wanted]) -> bool:
    """Make a SmartServer known that says whose it is; whether it is known by this."""
    if session.get(DeviceKey, key_id(contact.device_key)) or by_install_code(session, contact.install_code):
        return False
    owners = {license_of(session, each.license_id).customer_id for each in wanted}
    if contact.customer_id:
        if session.get(Customer, contact.customer_id) is None:
            raise CustomerUnknownError(f"cannot answer: there is no customer {contact.customer_id!r}")
        owners.add(contact.customer_id)
    if len(owners) > 1:
        raise CustomerMismatchError(
            f"cannot answer {contact.install_code}: it wants licenses of several customers: {', '.join(sorted(owners))}"
        )
    for owner in owners:
        smartserver_for(session, contact.install_code, owner)
    return bool(owners)
