"""A document of a SmartServer comes in: opened, its key found or enrolled, held against what is known.

Rules (LICENSING §4): signed by the key that it carries; whether that key may do anything is known from its enrolment.
A SmartServer that nobody has heard of is made known by a request that says whose it is, never by a return.

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
from .tables import Customer, DeviceKey, KnownContact, SmartServer


@dataclass(frozen=True, slots=True)
class Heard:
    """A contact that was taken in. `is_known`: it had been before, and changed nothing now."""

    contact: Contact
    smartserver: SmartServer
    row: KnownContact
    is_known: bool


def hear(
    session: Session,
    document: bytes,
    now: Timestamp,
    *,
    kind: ContactKind | None = None,
    is_confirmed: bool = False,
    add: Sequence[Wanted] = (),
) -> Heard:
    """Take in a contact of this kind (None: either). `add`: what the operator adds, which may say whose it is.

    Raises DocumentError, and AuthorityError as `enrolled_key` and `take_in` do.
    """
    contact, mark = open_contact(document)
    if kind is not None and contact.kind is not kind:
        raise PayloadTypeError(f"cannot accept the document: it is a {contact.kind.value}, not a {kind.value}")
    if contact.kind is ContactKind.REQUEST:
        _introduce(session, contact, (*contact.wanted, *add))
    key = enrolled_key(session, contact, now, is_confirmed=is_confirmed)
    row, is_known = take_in(session, Incoming(document, contact, mark, key, now, is_confirmed))
    return Heard(contact, key.smartserver, row, is_known)


def _introduce(session: Session, contact: Contact, wanted: Sequence[Wanted]) -> None:
    """Make a SmartServer known that says whose it is."""
    if session.get(DeviceKey, key_id(contact.device_key)) or by_install_code(session, contact.install_code):
        return
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
