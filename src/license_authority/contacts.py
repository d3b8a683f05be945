"""What a SmartServer says, held against what it has said before.

Rules (LICENSING §4 "The contact chain", "Return to the cloud"):
- for each device key the SHA-256 of every contact seen, or listed in the chain of one seen, is remembered. A number
  with another hash, or a newer contact whose chain does not contain the last one seen: there are two copies. So do
  totals below those said before. It is remembered who, when and both hashes, and the key is refused from then on;
- a contact seen before changes nothing; a late one is known from the chain of a later one, and welcome;
- credited is the rise of `returned_total`, whatever contact tells it: a return that got lost is told by the next one,
  and one that is told twice has risen once. Used up are upgrade licenses only.

What this module does not do: it answers nothing (`activating`); whose the key is says `enrolling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.contacts import Contact, LicenseTotals
from smartserver_licensed.domain.licenses import ContactMark, LicenseType
from smartserver_licensed.domain.timekeeping import Timestamp, to_iso

from .auditing import note_act
from .enrolling import follow_board
from .errors import ContactForkedError, ForkFoundError, OverReturnedError, RegisterBehindError, TotalsFallenError
from .stock import allocations_of
from .tables import Allocation, CreditEntry, DeviceKey, Fork, KnownContact, SmartServer

_FORK_ERRORS: dict[str, type[ForkFoundError]] = {error.code: error for error in (ContactForkedError, TotalsFallenError)}


@dataclass(frozen=True, slots=True)
class Incoming:
    """A contact as it came, signed by the key that it carries, which is enrolled.

    `is_confirmed`: the operator said that whatever is unusual about it is right.
    """

    document: bytes
    contact: Contact
    mark: ContactMark
    key: DeviceKey
    now: Timestamp
    is_confirmed: bool


def check_fork(key: DeviceKey) -> None:
    """Raise ForkFoundError where a fork of this key was found earlier."""
    if key.fork_code:
        raise _FORK_ERRORS[key.fork_code](
            f"cannot serve {key.smartserver.install_code}: two copies of it were found; it needs a new device key "
            f"(`licensectl request --new-key`)"
        )


def last_seen(session: Session, key: DeviceKey) -> KnownContact | None:
    """The contact with the highest number that came from this key."""
    seen = (KnownContact.key_id == key.key_id, KnownContact.seen_at.is_not(None))
    highest = select(func.max(KnownContact.number)).where(*seen).scalar_subquery()
    return session.execute(select(KnownContact).where(*seen, KnownContact.number == highest)).scalar_one_or_none()


def take_in(session: Session, incoming: Incoming) -> tuple[KnownContact, bool]:
    """Remember a contact, and credit what it tells; and whether it was seen before, which changes nothing.

    Raises ForkFoundError (remembered), RegisterBehindError, OverReturnedError, and what `follow_board` raises.
    """
    contact, mark, key, now = incoming.contact, incoming.mark, incoming.key, incoming.now
    check_fork(key)
    known = _known(session, incoming)
    last = last_seen(session, key)
    _check_chain(session, incoming, known, last)
    own = known.get(mark.number)
    if own is not None and own.seen_at is not None:
        return own, True
    allocations = {each.license_id: each for each in allocations_of(session, key.smartserver)}
    _check_register(incoming, allocations)
    if last is None or mark.number > last.number:
        _check_totals(session, incoming, last)
        follow_board(session, key, contact, now, is_confirmed=incoming.is_confirmed)
        _note_facts(key.smartserver, contact)
    for each in (*contact.earlier, mark):
        if each.number not in known:
            known[each.number] = KnownContact(
                key_id=key.key_id, number=each.number, sha256=each.sha256, known_at=now, credited=0
            )
            session.add(known[each.number])
    own = known[mark.number]
    own.seen_at, own.document = now, incoming.document
    for totals in contact.totals:
        rise = _credit(session, incoming, totals, allocations.get(totals.id))
        if totals.id == contact.license_id:
            own.credited += rise
    session.flush()
    return own, False


def _known(session: Session, incoming: Incoming) -> dict[int, KnownContact]:
    """What is known of the numbers that this contact speaks of."""
    contact = incoming.contact
    found = session.execute(
        select(KnownContact).where(
            KnownContact.key_id == incoming.key.key_id,
            KnownContact.number.between(contact.number - len(contact.chain), contact.number),
        )
    ).scalars()
    return {each.number: each for each in found}


def _check_chain(
    session: Session, incoming: Incoming, known: dict[int, KnownContact], last: KnownContact | None
) -> None:
    contact, mark = incoming.contact, incoming.mark
    for each in (*contact.earlier, mark):
        if each.number in known and known[each.number].sha256 != each.sha256:
            raise _forked(session, incoming, ContactForkedError, known[each.number], each)
    first = mark.number - len(contact.chain)
    if last is None:
        if first > 1:
            raise RegisterBehindError(
                f"cannot accept contact {mark.number} of {contact.install_code}: an answer to number {first} or a "
                f"later one is not in the register, which may be an old copy"
            )
    elif first > last.number and contact.grant_seq > incoming.key.smartserver.seq:
        raise RegisterBehindError(
            f"cannot accept contact {mark.number} of {contact.install_code}: it has grant {contact.grant_seq}, the "
            f"register's last is {incoming.key.smartserver.seq}; the register may be an old copy"
        )
    elif first > last.number or (mark.number < last.number and mark.number not in known):
        raise _forked(session, incoming, ContactForkedError, last, mark)


def _check_register(incoming: Incoming, allocations: Mapping[str, Allocation]) -> None:
    """What the SmartServer has must have come from here."""
    contact, smartserver = incoming.contact, incoming.key.smartserver
    where = f"cannot accept contact {contact.number} of {contact.install_code}"
    if contact.grant_seq > smartserver.seq:
        raise RegisterBehindError(
            f"{where}: it has grant {contact.grant_seq}, the register's last is {smartserver.seq}; the register may be "
            f"an old copy, or this ledger is another SmartServer's"
        )
    for totals in contact.totals:
        allocation = allocations.get(totals.id)
        granted = allocation.granted_total if allocation is not None else 0
        if totals.returned_total > granted:
            raise OverReturnedError(
                f"{where}: {totals.returned_total} devices of {totals.id} are returned, it says; {granted} were granted"
            )
        if totals.granted_total > granted:
            raise RegisterBehindError(
                f"{where}: it has {totals.granted_total} devices of {totals.id}, {granted} were granted here"
            )


def _check_totals(session: Session, incoming: Incoming, last: KnownContact | None) -> None:
    """A newer contact must not say less than the last one."""
    if last is None or last.document is None:
        return
    said = {each.id: each for each in incoming.contact.totals}
    before, _ = open_contact(last.document)
    for old in before.totals:
        new = said.get(old.id, LicenseTotals(old.id, 0, 0, 0))
        if (
            new.granted_total < old.granted_total
            or new.returned_total < old.returned_total
            or new.consumed_total < old.consumed_total
        ):
            raise _forked(session, incoming, TotalsFallenError, last, incoming.mark)


def _note_facts(smartserver: SmartServer, contact: Contact) -> None:
    factors = contact.factors
    smartserver.soc, smartserver.emmc, smartserver.mac = factors.soc, factors.emmc, factors.mac
    smartserver.root_version = contact.root_version


def _credit(session: Session, incoming: Incoming, totals: LicenseTotals, allocation: Allocation | None) -> int:
    """Take over what rose; the rise of what was returned."""
    contact, key = incoming.contact, incoming.key
    if allocation is None:  # it has had nothing of it: `_check_register`
        return 0
    left = allocation.granted_total - allocation.returned_total - allocation.written_off_total
    consumed = totals.consumed_total if allocation.license.type == LicenseType.UPGRADE.value else 0
    if consumed > left:  # an upgrade that was written off, and used all the same
        note_act(
            session,
            incoming.now,
            "used-twice",
            f"{contact.install_code} has used up {consumed} of {totals.id}, {left} were left to it",
        )
    allocation.consumed_total = max(allocation.consumed_total, min(consumed, left))
    rise = max(0, totals.returned_total - allocation.returned_total - allocation.written_off_total)
    if rise > (possible := left - allocation.consumed_total):  # by an old image, of what was used up meanwhile
        note_act(
            session,
            incoming.now,
            "returned-after-use",
            f"{contact.install_code} returns {rise} of {totals.id}, {possible} were left to it",
        )
        rise = possible
    allocation.returned_total += rise
    if rise:
        session.add(
            CreditEntry(
                license_id=totals.id,
                smartserver_id=key.smartserver_id,
                key_id=key.key_id,
                number=contact.number,
                devices=rise,
                made_at=incoming.now,
            )
        )
    return rise


def _forked(
    session: Session, incoming: Incoming, error: type[ForkFoundError], known: KnownContact, other: ContactMark
) -> ForkFoundError:
    """Remember that there are two copies; the transaction keeps this although it ends with the error."""
    key, install_code = incoming.key, incoming.contact.install_code
    key.fork_code = error.code
    session.add(
        Fork(
            key_id=key.key_id,
            install_code=install_code,
            code=error.code,
            number=other.number,
            known_sha256=known.sha256,
            known_at=known.known_at,
            other_sha256=other.sha256,
            found_at=incoming.now,
            document=incoming.document,
        )
    )
    return error(
        f"cannot accept contact {incoming.mark.number} of {install_code}: there are two copies of this SmartServer; "
        f"number {known.number} is known as {known.sha256[:16]} since {to_iso(known.known_at)}, this one says "
        f"{other.sha256[:16]} for number {other.number}",
        is_new=True,
    )
