"""Whether a document is accepted here, in the one order of checks.

Rules (LICENSING §4): size → envelope → payload type → signatures by the keys trusted for that type → strict payload →
root version → emergency cap → install code → device key → `seq` higher than the last. The first that fails is the
answer; nothing has changed then. A grant comes whole or not at all.

What this module does not do: it stores nothing and reads no clock: an old grant is told by `seq`, never by time.
"""

from __future__ import annotations

from typing import TypeAlias

from smartserver_licensed.domain.errors import (
    ActivationRequiredError,
    DocumentError,
    PayloadError,
    PayloadTypeError,
    RootError,
    SignatureError,
    StaleGrantError,
    WrongSmartServerError,
)
from smartserver_licensed.domain.licenses import Grant, License, LicenseType, describe
from smartserver_licensed.domain.timekeeping import to_iso, to_iso_date

from .envelope import Envelope, check_signatures, parse_envelope, verify
from .payloads import GRANT_TYPE, parse_grant
from .trust import ROOT_TYPE, Root, root_of

Inspection: TypeAlias = "dict[str, str | int | bool | list[str]]"


def accept_grant(
    data: bytes, *, root: Root, install_code: str, last_seq: int, device_key: bytes | None = None
) -> Grant:
    """The grant of an envelope, if it is meant for this SmartServer and newer than the last one (0: none yet).

    `device_key` is this SmartServer's own raw public key; None while it has none. Raises DocumentError: one class per
    check, in the order of this module's rules.
    """
    payload = verify(
        data, payload_type=GRANT_TYPE, keys=root.keys_for(GRANT_TYPE), threshold=root.threshold_for(GRANT_TYPE)
    )
    grant = parse_grant(payload)
    _check_root(grant, root)
    if grant.install_code != install_code:
        raise WrongSmartServerError(
            f"cannot accept the grant: it is for the SmartServer {grant.install_code!r}, this one is {install_code!r}"
        )
    if grant.device_key is None:
        if not root.allow_unactivated:
            raise ActivationRequiredError(
                "cannot accept the grant: it has no device key, and the root demands an activation"
            )
    elif grant.device_key != device_key:
        raise WrongSmartServerError(
            "cannot accept the grant: its device key is not this SmartServer's"
            + ("" if device_key else ", which has none yet")
        )
    if grant.seq <= last_seq:
        raise StaleGrantError(f"cannot accept the grant: its seq is {grant.seq}, the last accepted one {last_seq}")
    return grant


def inspect_document(data: bytes, root: Root | None) -> Inspection:
    """What a document is, in plain values, whether or not it is meant for this SmartServer.

    `verified`: a grant is signed by the keys that `root` trusts for grants; a root is `root` itself. Where it is
    False, `reason` and `code` say why, and everything else is a mere claim. Raises DocumentError for what is no
    document of a known kind or cannot be read.
    """
    envelope = parse_envelope(data)
    if envelope.payload_type == GRANT_TYPE:
        return _inspect_grant(envelope, root)
    if envelope.payload_type == ROOT_TYPE:
        return _inspect_root(envelope, root)
    raise PayloadTypeError(f"cannot inspect the document: {envelope.payload_type[:80]!r} is not known")


def _check_root(grant: Grant, root: Root) -> None:
    if grant.root_version != root.version:
        raise RootError(
            f"cannot accept the grant: made under root version {grant.root_version}, the trusted one is {root.version}"
        )
    emergency = sum(each.granted_total for each in grant.licenses if each.type is LicenseType.EMERGENCY)
    if emergency > root.emergency_max_devices:
        raise PayloadError(
            f"cannot accept the grant: {emergency} emergency devices, the root allows {root.emergency_max_devices}"
        )


def _inspect_grant(envelope: Envelope, root: Root | None) -> Inspection:
    refusal: DocumentError | None = None
    if root is None:
        refusal = SignatureError("cannot verify the grant: no root to verify it with")
    else:
        try:
            check_signatures(envelope, keys=root.keys_for(GRANT_TYPE), threshold=root.threshold_for(GRANT_TYPE))
        except SignatureError as error:
            refusal = error
    grant = parse_grant(envelope.payload)
    licenses = ", ".join(describe(each) for each in grant.licenses) or "no licenses"
    return {
        "kind": "grant",
        **_verdict(refusal),
        "summary": f"grant {grant.seq} for SmartServer {grant.install_code}: {licenses}",
        "seq": grant.seq,
        "issued_at": to_iso(grant.issued_at),
        "customer_id": grant.customer_id,
        "install_code": grant.install_code,
        "root_version": grant.root_version,
        "licenses": [_line(each) for each in grant.licenses],
    }


def _inspect_root(envelope: Envelope, root: Root | None) -> Inspection:
    found = root_of(envelope)
    refusal: DocumentError | None = None
    if root is None:
        refusal = RootError("cannot verify the root: consistent in itself, and no trusted root to compare it with")
    elif found != root:
        refusal = RootError("cannot verify the root: consistent in itself, but not the trusted one")
    activation = "not needed" if found.allow_unactivated else "needed"
    return {
        "kind": "root",
        **_verdict(refusal),
        "summary": f"root version {found.version} with {len(found.keys)} keys, activation {activation}",
        "version": found.version,
        "issued_at": to_iso(found.issued_at),
        "allow_unactivated": found.allow_unactivated,
        "emergency_max_devices": found.emergency_max_devices,
        "roles": [
            f"{payload_type!a}: {role.threshold} of {', '.join(each[:16] for each in role.key_ids)}"
            for payload_type, role in found.roles.items()
        ],
    }


def _verdict(refusal: DocumentError | None) -> Inspection:
    if refusal is None:
        return {"verified": True, "reason": "", "code": ""}
    return {"verified": False, "reason": str(refusal), "code": refusal.code}


def _line(license_: License) -> str:
    end = f" until {to_iso_date(license_.expires_at)}" if license_.expires_at is not None else ""
    note = f" ({license_.note})" if license_.note else ""
    return f"{license_.id}: {describe(license_)}{end}{note}"
