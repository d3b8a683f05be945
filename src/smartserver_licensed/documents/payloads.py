"""Grants ↔ payload bytes.

Rules (LICENSING §4): parsed strictly, each refusal names the field; unknown fields are ignored unless `critical` lists
them, so that an older SmartServer can read a newer grant whenever the issuer says that this is safe.

What this module does not do: it verifies nothing: whoever calls `parse_grant` has checked the signatures
(`acceptance`), or says that they are not checked.
"""

from __future__ import annotations

from smartserver_licensed.domain.errors import ArgumentError, PayloadError
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import to_iso

from . import strict_json
from .envelope import encode_base64
from .fields import Fields, parse_payload
from .keys import PublicKey
from .strict_json import JsonValue

GRANT_TYPE = "application/vnd.smartserver.grant+json"

_KNOWN = frozenset({"seq", "issued_at", "customer_id", "smartserver", "licenses", "root_version", "critical"})


def encode_grant(grant: Grant) -> bytes:
    """The payload of a grant; `parse_grant` gives the same value back."""
    licenses: list[JsonValue] = [_license(each) for each in grant.licenses]
    return strict_json.dump(
        {
            "seq": grant.seq,
            "issued_at": to_iso(grant.issued_at),
            "customer_id": grant.customer_id,
            "smartserver": {
                "install_code": grant.install_code,
                "device_key": encode_base64(grant.device_key) if grant.device_key is not None else None,
                "factors": [],
            },
            "licenses": licenses,
            "root_version": grant.root_version,
            "critical": [],
        }
    )


def parse_grant(payload: bytes) -> Grant:
    """The grant of a payload. Raises PayloadError, CriticalFieldError or, for a weak device key, KeyRejectedError."""
    fields = parse_payload(payload, _KNOWN)
    smartserver = fields.object("smartserver")
    smartserver.list("factors")  # must be there; not compared before activation exists
    device_key = smartserver.binary_or_none("device_key")
    if device_key is not None:
        PublicKey(device_key)
    try:
        return Grant(
            seq=fields.integer("seq"),
            issued_at=fields.time("issued_at"),
            customer_id=fields.text("customer_id"),
            install_code=smartserver.text("install_code"),
            device_key=device_key,
            licenses=tuple(_parse_license(each) for each in fields.objects("licenses")),
            root_version=fields.integer("root_version"),
        )
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
        )
    except ArgumentError as error:
        raise PayloadError(f"cannot read the payload: {fields.path}: {error}") from error
