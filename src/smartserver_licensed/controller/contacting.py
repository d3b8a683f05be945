"""Requests and returns: what this SmartServer signs.

Rules (LICENSING §4):
- each has a number and lists every earlier one that no grant has acknowledged; it is durable before it is signed;
- signing is deterministic: what was made can be exported again, byte for byte;
- a request that would say the same as the one that is not answered yet is that one;
- a return is one event with all fields of its proof, and never undone; what it leaves beyond the capacity runs on for
  the license's grace, or is revoked in the same event.

What this module does not do: it judges no return (`domain.returning`) and asks no issuer (`license-courier`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, encode_contact, parse_contact
from smartserver_licensed.domain import overcapacity
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.contacts import MAX_CHAIN, Contact, ContactKind, LicenseTotals, Wanted
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.entitlement import capacity, usable
from smartserver_licensed.domain.errors import (
    ContactError,
    ContactsExhaustedError,
    NotReturnableError,
    ReturnLeavesExcessError,
    ReturnPendingError,
    UnknownLicenseError,
)
from smartserver_licensed.domain.ledger_state import Cause, ContactMade, Enrolled, Event, LedgerState, SeatLost
from smartserver_licensed.domain.licenses import License
from smartserver_licensed.domain.overcapacity import DAY_S
from smartserver_licensed.domain.returning import check_return, excess_after

from .entitling import licenses_of

_NAMED = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is to ask for; `is_fresh`: also where the last one says the same."""

    customer_id: str = ""
    wanted: tuple[Wanted, ...] = ()
    is_new_key: bool = False
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class Return:
    """A return as an administrator wants it; `devices` 0: all of it. What else is said at most once."""

    license_id: str
    devices: int = 0
    may_exceed: bool = False
    revokes_excess: bool = False
    is_another: bool = False


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a return comes to. `excess`: the units that would run beyond the capacity, newest first.

    `grace_days`: how long they could run on, begun days of running counted; what was used of a grace before is used.
    """

    license: License
    devices: int
    returned_total: int
    capacity_before: int
    capacity_after: int
    excess: tuple[UnitId, ...]
    grace_days: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What every contact says of this SmartServer and its time. `least_seq`: of the grants that were installed."""

    identity: Identity
    now: int
    least_seq: int
    root_version: int
    anchor: str


def outlook(state: LedgerState, wanted: Return, now: int) -> Outlook:
    """What becomes of it. Raises UnknownLicenseError, NotReturnableError or ArgumentError."""
    licenses = licenses_of(state)
    found = next((each for each in licenses if each.id == wanted.license_id), None)
    if found is None:
        raise UnknownLicenseError(f"cannot return {wanted.license_id!r}: no such license is installed")
    devices = wanted.devices or usable(found, state.returned)
    if not devices:
        raise NotReturnableError(f"cannot return {found.id!r}: all of it is returned already (`licensectl returns`)")
    total = check_return(found, devices, state.returned, state.consumed)
    after = capacity(licenses, now, {**state.returned, found.id: total})
    grace = overcapacity.begun(state.grace, days=found.grace_days)
    return Outlook(
        found,
        devices,
        total,
        capacity(licenses, now, state.returned),
        after,
        excess_after(state, after),
        grace_days=-(-grace.remaining_s // DAY_S),
    )


def request_events(state: LedgerState, asked: Asked, facts: Facts, *, nonce: str, seed: bytes) -> list[Event]:
    """The events of a new request; none where the one that waits for an answer says the same.

    `seed` is that of a new device key for a request that wants one, else empty. Raises ContactsExhaustedError, or
    ContactError for a new key on a board that is not confirmed: the issuer would not know whose it is.
    """
    own = facts.identity.install_code
    if asked.is_new_key and state.install_code != own:
        raise ContactError(
            f"cannot make a new device key: this ledger is that of {state.install_code}, the board is {own}; request "
            "without a new key first, and have the issuer confirm it (a ledger made anew is a hardware swap)"
        )

    def request(facts: Facts, nonce: str, number: int, chain: tuple[str, ...]) -> Contact:
        return _contact(
            state,
            facts,
            ContactKind.REQUEST,
            nonce,
            seed=seed if asked.is_new_key else state.device_seed,
            number=number,
            chain=chain,
            customer_id=asked.customer_id,
            wanted=asked.wanted,
        )

    known = None if asked.is_new_key or asked.is_fresh else _pending(state)
    if known and known == request(replace(facts, now=known.made_at), known.nonce, known.number, known.chain):
        return []
    contact = request(facts, nonce, *((1, ()) if asked.is_new_key else (state.next_contact, _chain(state))))
    made = ContactMade(ContactKind.REQUEST, contact.number, _payload(contact))
    return [Enrolled(seed), made] if asked.is_new_key else [made]


def return_events(state: LedgerState, wanted: Return, facts: Facts, *, nonce: str) -> list[Event]:
    """The events of a return, and of what it revokes.

    Raises ReturnPendingError, ReturnLeavesExcessError, ContactsExhaustedError, or as `outlook`.
    """
    look = outlook(state, wanted, facts.now)
    _check_pending(state, wanted, look)
    is_leaving = bool(look.excess) and look.capacity_after < look.capacity_before
    if is_leaving and not wanted.may_exceed and not wanted.revokes_excess:
        raise ReturnLeavesExcessError(
            f"cannot return {look.devices} devices of {look.license.id}: {len(look.excess)} that run would be beyond "
            f"the capacity of {look.capacity_after}: {_named(look.excess)}; say that they run on for "
            f"{look.grace_days} days (over-capacity), or that they are stopped (revoke-excess)"
        )
    contact = _contact(
        state,
        facts,
        ContactKind.RETURN,
        nonce,
        seed=state.device_seed,
        number=state.next_contact,
        chain=_chain(state),
        returned={look.license.id: look.returned_total},
        license_id=look.license.id,
        devices=look.devices,
    )
    made = ContactMade(
        ContactKind.RETURN,
        contact.number,
        _payload(contact),
        (look.license.id, look.returned_total),
        look.license.grace_days,
    )
    revoked = look.excess if wanted.revokes_excess and is_leaving else ()
    return [made, *(SeatLost(unit, Cause.REVOKED) for unit in revoked)]


def sealed(state: LedgerState, made: ContactMade) -> bytes:
    """The envelope of a contact that is durable; always the same bytes."""
    return seal(CONTACT_TYPES[made.kind], made.payload, [SigningKey(state.device_seed)])


def acknowledged(state: LedgerState) -> int:
    """The number of the last contact that a grant has acknowledged; 0 where none was."""
    mark = state.installed.grant.contact if state.installed else None
    return mark.number if mark is not None and state.contacts.get(mark.number) == mark.sha256 else 0


def contact_of(made: ContactMade) -> Contact:
    """What a contact says."""
    return parse_contact(made.payload, made.kind)


def _contact(
    state: LedgerState,
    facts: Facts,
    kind: ContactKind,
    nonce: str,
    *,
    seed: bytes,
    number: int,
    chain: tuple[str, ...],
    returned: Mapping[str, int] | None = None,
    customer_id: str = "",
    wanted: tuple[Wanted, ...] = (),
    license_id: str = "",
    devices: int = 0,
) -> Contact:
    totals = {**state.returned, **(returned or {})}
    return Contact(
        kind=kind,
        number=number,
        chain=chain,
        nonce=nonce,
        made_at=facts.now,
        install_code=facts.identity.install_code,
        device_key=SigningKey(seed).public.raw,
        factors=facts.identity.factors,
        grant_seq=state.installed.grant.seq if state.installed else 0,
        least_seq=facts.least_seq,
        root_version=facts.root_version,
        anchor=facts.anchor,
        totals=tuple(
            LicenseTotals(each.id, each.granted_total, totals.get(each.id, 0), state.consumed.get(each.id, 0))
            for each in licenses_of(state)
        ),
        customer_id=customer_id,
        wanted=wanted,
        license_id=license_id,
        devices=devices,
    )


def _payload(contact: Contact) -> bytes:
    """What will be signed. Raises DocumentTooLargeError, before anything is durable, where nobody could read it."""
    payload = encode_contact(contact)
    seal(CONTACT_TYPES[contact.kind], payload, [SigningKey(bytes(32))])  # any signature is as long as the right one
    return payload


def _chain(state: LedgerState) -> tuple[str, ...]:
    if len(state.contacts) > MAX_CHAIN:
        raise ContactsExhaustedError(
            f"cannot make another document: {len(state.contacts)} are not acknowledged, the limit is {MAX_CHAIN}; "
            "install an answer to the last request first"
        )
    return tuple(state.contacts[number] for number in sorted(state.contacts))


def _pending(state: LedgerState) -> Contact | None:
    """The last contact, where it is a request that is not answered."""
    last = state.request
    return contact_of(last) if last is not None and last.number == state.next_contact - 1 else None


def _check_pending(state: LedgerState, wanted: Return, look: Outlook) -> None:
    if wanted.is_another or not state.returns:
        return
    last = state.returns[max(state.returns)]
    said = contact_of(last)
    if acknowledged(state) < last.number and (said.license_id, said.devices) == (look.license.id, look.devices):
        raise ReturnPendingError(
            f"cannot return {look.devices} devices of {look.license.id} again: return {last.number} of as many is not "
            "acknowledged by a grant yet; export that one again, or say that another one is meant"
        )


def _named(units: Sequence[UnitId]) -> str:
    return ", ".join(units[:_NAMED]) + (f" and {len(units) - _NAMED} more" if len(units) > _NAMED else "")
