"""A SmartServer for tests of the authority: it makes real requests and returns, and takes grants as the daemon does."""

from __future__ import annotations

import copy
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from smartserver_licensed.documents.acceptance import accept_grant
from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, encode_contact
from smartserver_licensed.documents.trust import Trust
from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.contacts import Contact, ContactKind, LicenseTotals, Wanted
from smartserver_licensed.domain.licenses import ContactMark, Grant

from .documents import INSTALL_CODE, NOW

FACTORS = Factors("10000000aabbccdd", "150100424a5444345206", "00:d0:71:3b:67:88")


Edit: TypeAlias = Callable[[Contact], Contact]


def _as_it_is(contact: Contact) -> Contact:
    return contact


@dataclass
class Device:
    """One SmartServer. Fields may be set at will: that is how one is restored, or lies."""

    install_code: str = INSTALL_CODE
    key: SigningKey = field(default_factory=lambda: SigningKey(b"\x05" * 32))
    factors: Factors = FACTORS
    now: int = NOW
    grant: Grant | None = None
    trust: Trust | None = None
    next_number: int = 1
    marks: list[ContactMark] = field(default_factory=list)  # from the one that the last grant acknowledged
    returned: dict[str, int] = field(default_factory=dict)
    consumed: dict[str, int] = field(default_factory=dict)

    def request(self, *wanted: Wanted | str, customer_id: str = "", edit: Edit = _as_it_is) -> bytes:
        """A request for licenses, each by its id or as Wanted; `edit` changes the contact before it is signed."""
        licenses = tuple(Wanted(each) if isinstance(each, str) else each for each in wanted)
        contact = replace(self._contact(), wanted=licenses, customer_id=customer_id)
        return self._signed(edit(contact))

    def give_back(self, license_id: str, devices: int, edit: Edit = _as_it_is) -> bytes:
        """A return: the total rises first, then the proof is signed."""
        self.returned[license_id] = self.returned.get(license_id, 0) + devices
        contact = replace(self._contact(), kind=ContactKind.RETURN, license_id=license_id, devices=devices)
        return self._signed(edit(contact))

    def consume(self, license_id: str) -> None:
        """An upgrade license is used; the next contact says so."""
        self.consumed[license_id] = self.consumed.get(license_id, 0) + 1

    def install(self, data: bytes, trust: Trust | None = None) -> Grant:
        """Accept a grant; `trust` is what was shipped, needed the first time. Raises DocumentError."""
        trusted = self.trust or trust
        assert trusted is not None
        accepted = accept_grant(
            data,
            trust=trusted,
            install_code=self.install_code,
            last_seq=self.grant.seq if self.grant else 0,
            device_key=self.key.public.raw,
        )
        self.grant, self.trust = accepted.grant, accepted.trust
        for each in self.grant.licenses:
            self.returned[each.id] = max(self.returned.get(each.id, 0), each.returned_total)
            consumed = max(self.consumed.get(each.id, 0), each.consumed_total)  # what is returned cannot be used up
            self.consumed[each.id] = min(consumed, max(0, each.granted_total - self.returned[each.id]))
        if self.grant.contact in self.marks:
            self.marks = self.marks[self.marks.index(self.grant.contact) :]
        return self.grant

    def usable(self, license_id: str) -> int:
        """How many devices this license carries here; 0 for one that is not in the grant."""
        licenses = self.grant.licenses if self.grant else ()
        granted = sum(each.granted_total for each in licenses if each.id == license_id)
        return max(0, granted - self.returned.get(license_id, 0))

    def renew_key(self, key: SigningKey | None = None) -> None:
        """A new device key: the contact chain begins anew."""
        self.key = key or SigningKey.generate()
        self.next_number, self.marks = 1, []

    def copy(self) -> Device:
        """An image of its disk, or a clone."""
        return copy.deepcopy(self)

    def _contact(self) -> Contact:
        granted = {each.id: each.granted_total for each in self.grant.licenses} if self.grant else {}
        return Contact(
            kind=ContactKind.REQUEST,
            number=self.next_number,
            chain=tuple(each.sha256 for each in self.marks),
            nonce=secrets.token_hex(16),
            made_at=self.now,
            install_code=self.install_code,
            device_key=self.key.public.raw,
            factors=self.factors,
            grant_seq=self.grant.seq if self.grant else 0,
            root_version=self.trust.current.version if self.trust else 1,
            anchor="none",
            totals=tuple(
                LicenseTotals(name, total, self.returned.get(name, 0), self.consumed.get(name, 0))
                for name, total in granted.items()
            ),
        )

    def _signed(self, contact: Contact) -> bytes:
        payload = encode_contact(contact)
        self.marks.append(ContactMark(contact.number, hashlib.sha256(payload).hexdigest()))
        self.next_number = contact.number + 1
        return seal(CONTACT_TYPES[contact.kind], payload, [self.key])
