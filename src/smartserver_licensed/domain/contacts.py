"""What a SmartServer says to the issuer: requests and returns, numbered and chained.

Rules (LICENSING §4 "The contact chain"):
- each document that a SmartServer signs has a number, one higher than the one before, and is durable before it leaves;
- `chain` lists the SHA-256 of the payloads of every earlier one, beginning with the one that the last grant
  acknowledged (with number 1 where none did): the first entry belongs to the number `number - len(chain)`;
- each one says all totals: a return that got lost is told by whatever comes next;
- the nonce makes two copies of one SmartServer say different things under the same number.

What this module does not do: it signs nothing (`documents.payloads`) and keeps nothing (`ledger_state`).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from .binding import Factors
from .errors import ArgumentError
from .licenses import ContactMark
from .timekeeping import LATEST, Timestamp

MAX_CHAIN = 128  # documents that no grant has acknowledged; then an answer has to be installed first
MAX_WANTED = 100

_NONCE = re.compile(r"[0-9a-f]{32}")


class ContactKind(enum.Enum):
    """The two kinds of documents that a SmartServer signs."""

    REQUEST = "request"
    RETURN = "return"


@dataclass(frozen=True, slots=True)
class LicenseTotals:
    """Lifetime totals of one license as the SmartServer knows them, in devices (of an upgrade in upgrades)."""

    id: str
    granted_total: int
    returned_total: int
    consumed_total: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A license that a request asks for; `devices` 0: as many as there are."""

    license_id: str
    devices: int = 0


@dataclass(frozen=True, slots=True)
class Contact:
    """One request or return. `grant_seq`: that of the installed grant, 0 where there is none.

    `least_seq`: what the `seq` of an answer has to exceed; more than `grant_seq` where the ledger is an old copy.

    A request may name a customer whose licenses it wants, or licenses; with neither it asks for what the issuer has
    for this SmartServer. A return names the license and how many devices come back with it.
    """

    kind: ContactKind
    number: int
    chain: tuple[str, ...]
    nonce: str
    made_at: Timestamp
    install_code: str
    device_key: bytes
    factors: Factors
    grant_seq: int
    root_version: int
    anchor: str
    totals: tuple[LicenseTotals, ...]
    customer_id: str = ""
    wanted: tuple[Wanted, ...] = ()
    license_id: str = ""
    devices: int = 0
    least_seq: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.grant_seq <= 2**53 or not 0 <= self.least_seq <= 2**53:
            raise ArgumentError(f"cannot make a contact: grant {self.grant_seq}, or the least {self.least_seq}")
        if not 1 <= self.number <= 2**53:
            raise ArgumentError(f"cannot make a contact: number {self.number}")
        if len(self.chain) > min(MAX_CHAIN, self.number - 1):
            raise ArgumentError(f"cannot make a contact: number {self.number} with a chain of {len(self.chain)}")
        if not self.chain and self.number > 1:
            raise ArgumentError(f"cannot make a contact: number {self.number} without a chain")
        _ = self.earlier  # each of them a SHA-256, or ArgumentError
        if not _NONCE.fullmatch(self.nonce) or not 0 <= self.made_at <= LATEST:
            raise ArgumentError("cannot make a contact: its nonce or its time is not of the right form")
        if len({each.id for each in self.totals}) != len(self.totals):
            raise ArgumentError("cannot make a contact: the totals of a license are in it twice")
        if len(self.wanted) > MAX_WANTED:
            raise ArgumentError(f"cannot make a contact: {len(self.wanted)} licenses wanted, the limit is {MAX_WANTED}")
        is_return = self.kind is ContactKind.RETURN
        if is_return != bool(self.license_id) or is_return != (self.devices > 0):
            raise ArgumentError("cannot make a contact: a return, and nothing else, names a license and devices")

    @property
    def earlier(self) -> tuple[ContactMark, ...]:
        """The contacts that it lists, with their numbers."""
        first = self.number - len(self.chain)
        return tuple(ContactMark(first + index, each) for index, each in enumerate(self.chain))
