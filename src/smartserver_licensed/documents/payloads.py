"""Grants, requests and returns ↔ payload bytes.

Rules (LICENSING §4): parsed strictly, each refusal names the field; unknown fields are ignored unless `critical` lists
them, so that an older SmartServer can read a newer grant whenever the issuer says that this is safe.

- a document of a SmartServer carries its key: `open_contact` reads it, verifies by it, and only then looks further.
  That proves who made it, not that he may: the issuer knows the keys that are enrolled.

What this module does not do: it verifies no grant: whoever calls `parse_grant` has checked the signatures
(`acceptance`), or says that they are not checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.contacts import Contact, ContactKind, LicenseTotals, Wanted
from smartserver_licensed.domain.errors import ArgumentError, PayloadError, PayloadTypeError
from smartserver_licensed.domain.licenses import MAX_DEVICES, ContactMark, Grant, License, LicenseType, check_name
from smartserver_licensed.domain.timekeeping import to_iso

from . import strict_json
from .envelope import check_signatures, encode_base64, parse_envelope
from .fields import Fields, parse_payload
from .keys import PublicKey
from .strict_json import JsonValue

GRANT_TYPE = "application/vnd.smartserver.grant+json"
CONTACT_TYPES = {
    ContactKind.REQUEST: "application/vnd.smartserver.request+json",
    ContactKind.RETURN: "application/vnd.smartserver.return+json",
}

_KNOWN = frozenset(
    {"seq", "issued_at", "customer_id", "smartserver", "licenses", "contact", "root_version", "critical"}
)
_KNOWN_CONTACT = frozenset(
    {"number", "chain", "nonce", "made_at", "smartserver", "grant_seq", "least_seq", "root_version", "anchor"}
    | {"totals", "critical"}
    | {kind.value for kind in ContactKind}
)


def encode_grant(grant: Grant) -> bytes:
    """The payload of a grant; `parse_grant` gives the same value back."""
    licenses: list[JsonValue] = [_license(each) for each in grant.licenses]
    contact = grant.contact
    return strict_json.dump(
        {
            "seq": grant.seq,
            "issued_at": to_iso(grant.issued_at),
            "customer_id": grant.customer_id,
            "smartserver": _smartserver(grant.install_code, grant.device_key, grant.factors),
            "licenses": licenses,
            "contact": {"number": contact.number, "sha256": contact.sha256} if contact is not None else None,
            "root_version": grant.root_version,
            "critical": [],
        }
    )


def parse_grant(payload: bytes) -> Grant:
    """The grant of a payload. Raises PayloadError, CriticalFieldError or, for a weak device key, KeyRejectedError."""
    fields = parse_payload(payload, _KNOWN)
    smartserver = fields.object("smartserver")
    device_key = smartserver.binary_or_none("device_key")
    if device_key is not None:
        PublicKey(device_key)
    with _as_payload_error():
        contact = fields.object_or_none("contact")
        return Grant(
            seq=fields.integer("seq"),
            issued_at=fields.time("issued_at"),
            customer_id=fields.text("customer_id"),
            install_code=smartserver.text("install_code"),
            device_key=device_key,
            licenses=tuple(_parse_license(each) for each in fields.objects("licenses")),
            root_version=fields.integer("root_version"),
            factors=_parse_factors(smartserver.object("factors")),
            contact=ContactMark(contact.integer("number"), contact.text("sha256")) if contact is not None else None,
        )


def encode_contact(contact: Contact) -> bytes:
    """The payload of a request or return; `parse_contact` gives the same value back."""
    wanted: list[JsonValue] = [{"id": each.license_id, "devices": each.devices} for each in contact.wanted]
    said: JsonValue = {"customer_id": contact.customer_id, "licenses": wanted}
    if contact.kind is ContactKind.RETURN:
        said = {"license": contact.license_id, "devices": contact.devices}
    return strict_json.dump(
        {
            "number": contact.number,
            "chain": list(contact.chain),
            "nonce": contact.nonce,
            "made_at": to_iso(contact.made_at),
            "smartserver": _smartserver(contact.install_code, contact.device_key, contact.factors),
            "grant_seq": contact.grant_seq,
            "least_seq": contact.least_seq,
            "root_version": contact.root_version,
            "anchor": contact.anchor,
            "totals": [
                {
                    "id": each.id,
                    "granted_total": each.granted_total,
                    "returned_total": each.returned_total,
                    "consumed_total": each.consumed_total,
                }
                for each in contact.totals
            ],
            contact.kind.value: said,
            "critical": [],
        }
    )


def parse_contact(payload: bytes, kind: ContactKind) -> Contact:
    """The request or return of a payload. Raises PayloadError, CriticalFieldError or KeyRejectedError."""
    fields = parse_payload(payload, _KNOWN_CONTACT)
    smartserver, said = fields.object("smartserver"), fields.object(kind.value)
    device_key = smartserver.binary("device_key")
    PublicKey(device_key)
    is_return = kind is ContactKind.RETURN
    with _as_payload_error():
        return Contact(
            kind=kind,
            number=fields.integer("number"),
            chain=fields.texts("chain"),
            nonce=fields.text("nonce"),
            made_at=fields.time("made_at"),
            install_code=_name("install code", smartserver.text("install_code")),
            device_key=device_key,
            factors=_parse_factors(smartserver.object("factors")),
            grant_seq=fields.integer("grant_seq"),
            least_seq=fields.integer("least_seq"),
            root_version=fields.integer("root_version"),
            anchor=_name("anchor", fields.text("anchor")),
            totals=tuple(_parse_totals(each) for each in fields.objects("totals")),
            customer_id="" if is_return else said.text("customer_id"),
            wanted=() if is_return else tuple(_parse_wanted(each) for each in said.objects("licenses")),
            license_id=_name("license", said.text("license")) if is_return else "",
            devices=said.integer("devices") if is_return else 0,
        )


def open_contact(data: bytes) -> tuple[Contact, ContactMark]:
    """The request or return of an envelope, signed by the key that it carries, and its mark in the contact chain.

    Raises DocumentError; that its maker may do what it asks for is for the issuer to say.
    """
    envelope = parse_envelope(data)
    kind = next((kind for kind, type_ in CONTACT_TYPES.items() if type_ == envelope.payload_type), None)
    if kind is None:
        raise PayloadTypeError(
            f"cannot accept the document: it is a {envelope.payload_type[:80]!r}, neither a request nor a return"
        )
    contact = parse_contact(envelope.payload, kind)
    key = PublicKey(contact.device_key)
    check_signatures(envelope, keys={key.key_id: key}, threshold=1)
    return contact, ContactMark(contact.number, hashlib.sha256(envelope.payload).hexdigest())


def _smartserver(install_code: str, device_key: bytes | None, factors: Factors) -> JsonValue:
    return {
        "install_code": install_code,
        "device_key": encode_base64(device_key) if device_key is not None else None,
        "factors": {"soc": factors.soc, "emmc": factors.emmc, "mac": factors.mac},
    }


def _parse_factors(fields: Fields) -> Factors:
    return Factors(fields.text("soc"), fields.text("emmc"), fields.text("mac"))


def _parse_totals(fields: Fields) -> LicenseTotals:
    granted, returned, consumed = (
        _count(fields, name) for name in ("granted_total", "returned_total", "consumed_total")
    )
    if returned + consumed > granted:
        raise PayloadError(f"cannot read the payload: {fields.path}: more returned or consumed than granted")
    return LicenseTotals(_name("license", fields.text("id")), granted, returned, consumed)


def _parse_wanted(fields: Fields) -> Wanted:
    return Wanted(_name("license", fields.text("id")), _count(fields, "devices"))


def _count(fields: Fields, name: str) -> int:
    value = fields.integer(name)
    if not 0 <= value <= MAX_DEVICES:
        raise PayloadError(f"cannot read the payload: {fields.where(name)}: {value}, the limit is {MAX_DEVICES}")
    return value


def _name(what: str, text: str) -> str:
    check_name(what, text)
    return text


@contextmanager
def _as_payload_error() -> Iterator[None]:
    """What cannot be a value is no payload."""
    try:
        yield
    except ArgumentError as error:
        raise PayloadError(f"cannot read the payload: {error}") from error


def _license(license_: License) -> JsonValue:
    return {
        "id": license_.id,
        "type": license_.type.value,
        "granted_total": license_.granted_total,
        "expires_at": to_iso(license_.expires_at) if license_.expires_at is not None else None,
        "grace_days": license_.grace_days,
        "note": license_.note,
        "returned_total": license_.returned_total,
        "consumed_total": license_.consumed_total,
        "replaces": license_.replaces,
        "release": license_.release,
        "host": license_.host,
    }


def _parse_license(fields: Fields) -> License:
    text = fields.text("type")
    try:
        type_ = LicenseType(text)
    except ValueError as error:
        raise PayloadError(f"cannot read the payload: {fields.where('type')}: {text[:40]!r} is not known") from error
    try:
        return License(
            id=fields.text("id"),
            type=type_,
            granted_total=fields.integer("granted_total"),
            expires_at=fields.time_or_none("expires_at"),
            grace_days=fields.integer("grace_days"),
            note=fields.text("note"),
            returned_total=fields.integer("returned_total"),
            consumed_total=fields.integer("consumed_total"),
            replaces=fields.text("replaces"),
            release=fields.text("release"),
            host=fields.text("host"),
        )
    except ArgumentError as error:
        raise PayloadError(f"cannot read the payload: {fields.path}: {error}") from error
