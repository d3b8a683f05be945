"""The vendor's side as one object: each method is one transaction, remembered before anything leaves.

Rules: documents come and go as envelopes (an armored block is unwrapped by whoever reads it). `now` is in seconds
since 1970 UTC. Nothing changes where an error is raised, but a fork that was found is remembered.

What this module does not do: it holds no rule; they are in the modules that it calls. It reads no clock and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smartserver_licensed.domain.contacts import ContactKind, Wanted
from smartserver_licensed.domain.timekeeping import Timestamp

from . import activating, emergencies, enrolling, issuing, moving, orders, releasing, showing, stock
from .auditing import note_act
from .hearing import hear
from .issuing import Keys, Policy
from .moving import Credit, RmaResult
from .orders import Purchase
from .register import Register


@dataclass(frozen=True, slots=True)
class Answer:
    """What a SmartServer gets for a document: a grant, and of a return what was credited.

    `install_code`: that of the SmartServer, as the document says it.
    """

    document: bytes
    install_code: str
    credit: Credit | None


class Authority:
    """A vendor's authority. Every method raises RegisterBusyError, RegisterCorruptError and FileAccessError too."""

    def __init__(self, register: Register, keys: Keys, policy: Policy = Policy()) -> None:  # noqa: B008 - a value
        self._register = register
        self._keys = keys
        self._policy = policy

    def add_customer(self, name: str, *, now: Timestamp, customer_id: str = "") -> str:
        """A new customer; its id, a UUID, which may be given. Raises ArgumentError."""
        with self._register.transaction() as session:
            customer = orders.add_customer(session, name, now, customer_id)
            note_act(session, now, "customer", f"{customer.id}: {name}")
            return customer.id

    def order(self, purchase: Purchase, *, now: Timestamp) -> str:
        """Sell a license; its id. Raises AuthorityError as `orders.place_order`, ArgumentError."""
        with self._register.transaction() as session:
            license_ = orders.place_order(session, purchase, now)
            note_act(
                session, now, "order", f"{license_.sold} {license_.type} for {license_.customer_id}: {license_.id}"
            )
            return license_.id

    def activate(self, document: bytes, *, now: Timestamp, confirm: bool = False, add: Sequence[Wanted] = ()) -> bytes:
        """The grant that answers a request; the same request gets the same one.

        `confirm`: a new device key, or a new or unknown install code, is right. `add`: what the request gets beside
        what it asks for. Raises DocumentError, AuthorityError.
        """
        with self._register.transaction() as session:
            return activating.activate(session, self._keys, document, now, is_confirmed=confirm, add=add)

    def contact(self, document: bytes, *, now: Timestamp, customer_id: str = "") -> Answer:
        """What a SmartServer gets that sends a request or a return itself.

        `customer_id`: whoever brings it may bring this customer's only; "": anybody's. Raises CustomerMismatchError,
        DocumentError, AuthorityError.
        """
        with self._register.transaction() as session:
            heard = hear(session, document, now, carried_for=customer_id)
            grant = activating.answer(session, self._keys, heard, now)
            is_return = heard.contact.kind is ContactKind.RETURN
            credit = moving.credit_of(session, heard) if is_return else None
            return Answer(grant, heard.contact.install_code, credit)

    def credit(self, document: bytes, *, now: Timestamp) -> Credit:
        """Credit a return, once however often it comes. Raises DocumentError, AuthorityError."""
        with self._register.transaction() as session:
            return moving.credit(session, document, now)

    def transfer(self, document: bytes, to_install_code: str, *, now: Timestamp) -> Credit:
        """Credit a return and reserve it for another SmartServer. Raises as `moving.transfer`."""
        with self._register.transaction() as session:
            return moving.transfer(session, document, to_install_code, now)

    def rma(self, from_code: str, to_code: str, *, now: Timestamp) -> RmaResult:
        """Replace a dead SmartServer by another one. Raises as `moving.rma`."""
        with self._register.transaction() as session:
            return moving.rma(session, self._keys, from_code, to_code, now)

    def release(self, install_code: str, *, now: Timestamp) -> None:
        """Free an install code for any customer. Raises as `releasing.release`."""
        with self._register.transaction() as session:
            releasing.release(session, install_code, now)

    def emergency(self, install_code: str, devices: int, days: int, *, now: Timestamp) -> bytes:
        """A grant with emergency capacity for 1 to 14 days. Raises as `emergencies.emergency`."""
        with self._register.transaction() as session:
            return emergencies.emergency(session, self._keys, self._policy, install_code, devices, days, now)

    def issue_unactivated(self, purchase: Purchase, *, now: Timestamp) -> bytes:
        """Sell and grant at once, for demonstrations; an enrolled SmartServer's grant is bound to its key.

        Raises as `activating.issue`.
        """
        with self._register.transaction() as session:
            return activating.issue(session, self._keys, purchase, now)

    def regrant(self, install_code: str, *, now: Timestamp) -> bytes:
        """A new grant of what a SmartServer has, as after a rotation of keys. Raises as `issuing.next_grant`."""
        with self._register.transaction() as session:
            smartserver = enrolling.find_smartserver(session, install_code)
            note_act(session, now, "regrant", install_code)
            return issuing.next_grant(session, self._keys, smartserver, now)

    def last_grant(self, install_code: str) -> bytes:
        """The last grant as it left. Raises SmartServerUnknownError."""
        with self._register.transaction() as session:
            return issuing.last_document(session, enrolling.find_smartserver(session, install_code))

    def customers(self) -> tuple[showing.CustomerRow, ...]:
        """All customers."""
        with self._register.transaction() as session:
            return showing.customers(session)

    def orders(self, customer_id: str = "") -> tuple[showing.OrderRow, ...]:
        """The orders of a customer, or all."""
        with self._register.transaction() as session:
            return showing.orders(session, customer_id)

    def licenses(self, customer_id: str = "") -> tuple[showing.LicenseRow, ...]:
        """The licenses of a customer, or all, and where their devices are."""
        with self._register.transaction() as session:
            return showing.licenses(session, customer_id)

    def smartservers(self, install_code: str = "") -> tuple[showing.SmartServerRow, ...]:
        """One SmartServer, or all, with the forks found."""
        with self._register.transaction() as session:
            return showing.smartservers(session, install_code)

    def balance(self) -> tuple[stock.Balance, ...]:
        """Where the devices of each license are: at_authority + in_field + consumed == sold."""
        with self._register.transaction() as session:
            return showing.balance(session)

    def audit(self) -> tuple[showing.AuditRow, ...]:
        """What operators did, oldest first."""
        with self._register.transaction() as session:
            return showing.audit(session)
