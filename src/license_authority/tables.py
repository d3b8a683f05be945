"""The tables of the register.

Rules:
- times are seconds since 1970 UTC in 64 bits; ids of licenses and customers are UUIDs as text;
- totals are lifetime totals and never fall; what is free, in the field, or reserved is computed from them (`stock`);
- a SmartServer has an id of its own, since a changed mainboard changes its install code;
- nothing is deleted but reservations and what was never used: orders, contacts, grants and forks are evidence.

What this module does not do: it opens no database (`register`) and holds no rule but that of `allocations`.
"""

from __future__ import annotations

from typing import Annotated

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = 1

_MAX_BLOB_BYTES = 2**20  # MySQL takes the size of its type from this
_MAX_TEXT = 255

RowId = Annotated[int, mapped_column(Integer, primary_key=True)]
LongText = Annotated[str, mapped_column(Text)]
CustomerRef = Annotated[str, mapped_column(ForeignKey("customers.id"))]
LicenseRef = Annotated[str, mapped_column(ForeignKey("licenses.id"))]
SmartServerRef = Annotated[int, mapped_column(Integer, ForeignKey("smartservers.id"))]
KeyRef = Annotated[str, mapped_column(ForeignKey("device_keys.key_id"))]


class Base(DeclarativeBase):
    """What every table of the register derives from."""

    type_annotation_map = {int: BigInteger(), str: String(_MAX_TEXT), bytes: LargeBinary(_MAX_BLOB_BYTES)}  # noqa: RUF012


class RegisterState(Base):
    """The one row that says what this database is; other databases than SQLite lock it."""

    __tablename__ = "register"

    id: Mapped[RowId]
    schema_version: Mapped[int]


class Customer(Base):
    """Who buys."""

    __tablename__ = "customers"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    made_at: Mapped[int]


class SoldLicense(Base):
    """A license as sold. `days`: of a trial, counted from its first activation, which sets `expires_at`."""

    __tablename__ = "licenses"

    id: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[CustomerRef]
    type: Mapped[str]
    sold: Mapped[int]
    days: Mapped[int]
    expires_at: Mapped[int | None]
    grace_days: Mapped[int]
    note: Mapped[str]
    replaces: Mapped[str]
    release: Mapped[str]
    host: Mapped[str]
    made_at: Mapped[int]


class Order(Base):
    """One purchase. `install_code`: the SmartServer that it was reserved for, or ""."""

    __tablename__ = "orders"

    id: Mapped[RowId]
    customer_id: Mapped[CustomerRef]
    license_id: Mapped[LicenseRef]
    install_code: Mapped[str]
    made_at: Mapped[int]


class SmartServer(Base):
    """A SmartServer. Factors and root version are those of its last contact; `replaced_by`: after an RMA.

    One that was released has another `install_code` than any SmartServer could have.
    """

    __tablename__ = "smartservers"

    id: Mapped[RowId]
    install_code: Mapped[str] = mapped_column(unique=True)
    customer_id: Mapped[CustomerRef]
    seq: Mapped[int] = mapped_column(default=0)
    root_version: Mapped[int] = mapped_column(default=1)
    soc: Mapped[str] = mapped_column(default="")
    emmc: Mapped[str] = mapped_column(default="")
    mac: Mapped[str] = mapped_column(default="")
    retired_at: Mapped[int | None] = mapped_column(default=None)
    replaced_by: Mapped[str] = mapped_column(default="")


class FormerCode(Base):
    """An install code that a SmartServer had before its mainboard was changed."""

    __tablename__ = "former_codes"

    install_code: Mapped[str] = mapped_column(primary_key=True)
    smartserver_id: Mapped[SmartServerRef]
    left_at: Mapped[int]


class DeviceKey(Base):
    """A device key. `is_replaced`: retired by an RMA; `fork_code`: what was found, "" where nothing was."""

    __tablename__ = "device_keys"

    key_id: Mapped[str] = mapped_column(primary_key=True)
    raw: Mapped[bytes]
    smartserver_id: Mapped[SmartServerRef]
    enrolled_at: Mapped[int]
    retired_at: Mapped[int | None] = mapped_column(default=None)
    is_replaced: Mapped[bool] = mapped_column(default=False)
    fork_code: Mapped[str] = mapped_column(default="")

    smartserver: Mapped[SmartServer] = relationship()


class KnownContact(Base):
    """A contact that was seen, or only listed in the chain of a later one (then `seen_at` is None).

    `credited`: devices of the license that a return names; `added`: what the operator added to a request;
    `reserved_for`: the SmartServer that a return was transferred to.
    """

    __tablename__ = "contacts"

    key_id: Mapped[str] = mapped_column(ForeignKey("device_keys.key_id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    known_at: Mapped[int]
    seen_at: Mapped[int | None] = mapped_column(default=None)
    document: Mapped[bytes | None] = mapped_column(default=None)
    answer: Mapped[bytes | None] = mapped_column(default=None)
    credited: Mapped[int] = mapped_column(default=0)
    added: Mapped[LongText] = mapped_column(default="")
    reserved_for: Mapped[str] = mapped_column(default="")


class Allocation(Base):
    """What one SmartServer has had of one license, in lifetime totals.

    `returned_total` is what the SmartServer has told, `written_off_total` what the authority took back by itself.
    """

    __tablename__ = "allocations"
    __table_args__ = (
        Index("allocations_once", "license_id", "smartserver_id", unique=True),
        CheckConstraint("returned_total + written_off_total + consumed_total <= granted_total"),
    )

    id: Mapped[RowId]
    license_id: Mapped[LicenseRef]
    smartserver_id: Mapped[SmartServerRef]
    granted_total: Mapped[int] = mapped_column(default=0)
    returned_total: Mapped[int] = mapped_column(default=0)
    consumed_total: Mapped[int] = mapped_column(default=0)
    written_off_total: Mapped[int] = mapped_column(default=0)

    license: Mapped[SoldLicense] = relationship()
    smartserver: Mapped[SmartServer] = relationship()


class Reservation(Base):
    """Devices of a license that only this SmartServer gets, at its next request."""

    __tablename__ = "reservations"
    __table_args__ = (CheckConstraint("devices > 0"),)

    license_id: Mapped[str] = mapped_column(ForeignKey("licenses.id"), primary_key=True)
    smartserver_id: Mapped[int] = mapped_column(Integer, ForeignKey("smartservers.id"), primary_key=True)
    devices: Mapped[int]

    license: Mapped[SoldLicense] = relationship()


class SentGrant(Base):
    """A grant as it left, byte for byte."""

    __tablename__ = "grants"

    smartserver_id: Mapped[int] = mapped_column(Integer, ForeignKey("smartservers.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    issued_at: Mapped[int]
    document: Mapped[bytes]


class CreditEntry(Base):
    """Devices that came back, and the contact that said so."""

    __tablename__ = "credits"

    id: Mapped[RowId]
    license_id: Mapped[LicenseRef]
    smartserver_id: Mapped[SmartServerRef]
    key_id: Mapped[KeyRef]
    number: Mapped[int]
    devices: Mapped[int]
    made_at: Mapped[int]


class Fork(Base):
    """Evidence of two copies of a SmartServer; `document` is the contact that showed it."""

    __tablename__ = "forks"

    id: Mapped[RowId]
    key_id: Mapped[KeyRef]
    install_code: Mapped[str]
    code: Mapped[str]
    number: Mapped[int]
    known_sha256: Mapped[str]
    known_at: Mapped[int]
    other_sha256: Mapped[str]
    found_at: Mapped[int]
    document: Mapped[bytes]


class TrialTaken(Base):
    """An install code that has had its trial, for ever."""

    __tablename__ = "trials"

    install_code: Mapped[str] = mapped_column(primary_key=True)
    license_id: Mapped[LicenseRef]
    taken_at: Mapped[int]


class AuditEntry(Base):
    """What an operator did."""

    __tablename__ = "audit"

    id: Mapped[RowId]
    made_at: Mapped[int]
    act: Mapped[str]
    detail: Mapped[LongText]
