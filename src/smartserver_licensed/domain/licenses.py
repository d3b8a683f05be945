"""Licenses and grants as values, and the sentences that people read of them.

Rules (LICENSING §1, §4):
- a capacity license never expires; trial and emergency always have an end; ends are absolute;
- a grant is the complete set of a SmartServer's licenses, in totals that never fall, with a rising `seq`.

- what has been returned or consumed is said in totals as well: those of a grant are what the issuer has been told.

What this module does not do: it verifies nothing (`documents`) and adds nothing up (`entitlement`).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from .binding import NO_FACTORS, Factors
from .errors import ArgumentError
from .timekeeping import DAY_S, LATEST, Timestamp, to_iso_date

MAX_DEVICES = 1_000_000
MAX_GRACE_DAYS = 3_650
MAX_TEXT = 200  # characters of an id, a note, a name: they end up in D-Bus rows and journal fields
MAX_EMERGENCY_DAYS = 14
EXPIRING_DAYS = 90

_RELEASE = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LicenseType(enum.Enum):
    """The types of the table in LICENSING §1."""

    CAPACITY = "capacity"
    TRIAL = "trial"
    MAINTENANCE = "maintenance"
    UPGRADE = "upgrade"
    EMERGENCY = "emergency"
    REMOTE_CMS = "remote-cms"


_ALWAYS_END = frozenset({LicenseType.TRIAL, LicenseType.EMERGENCY})
_WITHOUT_DEVICES = frozenset({LicenseType.UPGRADE, LicenseType.REMOTE_CMS})


@dataclass(frozen=True, slots=True)
class License:
    """One license as granted; totals are lifetime totals in devices, of an upgrade in upgrades.

    `expires_at`: the first second after. `returned_total` and `consumed_total`: what the issuer knows; the SmartServer
    may know more. `replaces`: the maintenance that this one renews. `release`: the newest feature release that an
    upgrade allows, as in "4.0". `host`: the CMS host that a remote-cms license is bound to.
    """

    id: str
    type: LicenseType
    granted_total: int
    expires_at: Timestamp | None = None
    grace_days: int = 0
    note: str = ""
    returned_total: int = 0
    consumed_total: int = 0
    replaces: str = ""
    release: str = ""
    host: str = ""

    def __post_init__(self) -> None:
        check_name("a license id", self.id)
        for name, text in (("a note", self.note), ("a predecessor", self.replaces), ("a host", self.host)):
            _check_text(name, text)
        _check_range("devices", self.granted_total, 0, MAX_DEVICES)
        _check_range("returned devices", self.returned_total, 0, self.granted_total)
        _check_range("consumed upgrades", self.consumed_total, 0, self.granted_total - self.returned_total)
        if self.release and not _RELEASE.fullmatch(self.release):
            raise ArgumentError(f"cannot make license {self.id!r}: release {self.release[:40]!r} is not as in '4.0'")
        _check_range("days of grace", self.grace_days, 0, MAX_GRACE_DAYS)
        if self.expires_at is not None:
            _check_range("end", self.expires_at, 0, LATEST)
        if self.type is LicenseType.CAPACITY and self.expires_at is not None:
            raise ArgumentError(f"cannot make license {self.id!r}: capacity never expires")
        if (self.type is LicenseType.UPGRADE) != bool(self.release):
            raise ArgumentError(f"cannot make license {self.id!r}: an upgrade, and nothing else, names a release")
        if self.type in _ALWAYS_END and self.expires_at is None:
            raise ArgumentError(f"cannot make license {self.id!r}: {self.type.value} needs an end")

    def is_current(self, now: Timestamp) -> bool:
        """Whether it has not ended."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True)
class ContactMark:
    """One document of a SmartServer: its number in the contact chain and the hex SHA-256 of its payload."""

    number: int
    sha256: str

    def __post_init__(self) -> None:
        _check_range("contact number", self.number, 1, 2**53)
        if not _SHA256.fullmatch(self.sha256):
            raise ArgumentError(f"cannot make a contact: {self.sha256[:80]!r} is no SHA-256")


@dataclass(frozen=True, slots=True)
class Grant:
    """All licenses of the SmartServer with this install code.

    `device_key` is None where it was never activated (demonstrations only). `factors` is what the issuer was told of
    the hardware. `contact`: the last document of the SmartServer that the issuer has seen, None where there was none.
    """

    seq: int
    issued_at: Timestamp
    customer_id: str
    install_code: str
    device_key: bytes | None
    licenses: tuple[License, ...]
    root_version: int
    factors: Factors = NO_FACTORS
    contact: ContactMark | None = None

    def __post_init__(self) -> None:
        _check_range("seq", self.seq, 1, 2**53)  # JSON readers elsewhere hold numbers in doubles
        _check_range("issue time", self.issued_at, 0, LATEST)
        _check_range("root version", self.root_version, 1, 2**31 - 1)
        check_name("a customer id", self.customer_id)
        check_name("an install code", self.install_code)
        if len({each.id for each in self.licenses}) != len(self.licenses):
            raise ArgumentError("cannot make a grant: two licenses have the same id")


def describe(license_: License) -> str:
    """As in "1000-device capacity", of what is not returned; the Description column of the CMS."""
    name: str = license_.type.value
    devices = license_.granted_total - license_.returned_total
    return name if license_.type in _WITHOUT_DEVICES else f"{devices}-device {name}"


def license_status(license_: License, now: Timestamp) -> str:
    """As in "Active", "Expiring 2028-10-23" (the last 90 days), "Expired 2028-10-23"; the CMS's Status column."""
    if license_.expires_at is None:
        return "Active"
    if not license_.is_current(now):
        return f"Expired {to_iso_date(license_.expires_at)}"
    if license_.expires_at - now <= EXPIRING_DAYS * DAY_S:
        return f"Expiring {to_iso_date(license_.expires_at)}"
    return "Active"


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ArgumentError(f"cannot make a license or grant: {name} {value}, not between {lowest} and {highest}")


def _check_text(name: str, text: str) -> None:
    # Control characters would reach terminals and journal fields.
    if len(text) > MAX_TEXT or not text.isprintable():
        raise ArgumentError(f"cannot make a license or grant: {name} is longer than {MAX_TEXT} or not printable")


def check_name(name: str, text: str) -> None:
    """Raise ArgumentError unless it is a short printable text, not empty and without spaces around it."""
    _check_text(name, text)
    if not text or text != text.strip():
        raise ArgumentError(f"cannot make a license or grant: {name} is empty or has spaces around it")
