"""Whether a document is accepted here, in the one order of checks.

Rules (LICENSING §4): size → envelope → payload type → the roots that it brings → signatures by the keys that the newest
root trusts for that type → strict payload → root version, that of the newest root → emergency cap → install code →
device key → `seq` higher than the last. The first that fails is the answer; nothing has changed then. A grant comes
whole or not at all, and the roots that it brings are trusted with it or not at all.

- a stored grant is verified under the root that it was accepted under, whatever came later.

What this module does not do: it stores nothing and reads no clock: an old grant is told by `seq`, never by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from smartserver_licensed.domain.contacts import Contact, ContactKind
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
from smartserver_licensed.domain.licenses import MAX_EMERGENCY_DAYS, Grant, License, LicenseType, describe
from smartserver_licensed.domain.timekeeping import DAY_S, to_iso, to_iso_date

from .envelope import Envelope, check_type, parse_envelope
from .keys import key_id
from .payloads import CONTACT_TYPES, GRANT_TYPE, open_contact, parse_contact, parse_grant
from .trust import ROOT_TYPE, Root, Trust, root_of

Inspection: TypeAlias = "dict[str, str | int | bool | list[str]]"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A grant that may be installed, and what is trusted with it: the roots that it brought are in the chain."""

    grant: Grant
    trust: Trust


def accept_grant(data: bytes, *, trust: Trust, install_code: str, last_seq: int, device_key: bytes | None) -> Accepted:
    """The grant of an envelope, if it is meant for this SmartServer and newer than the last one (0: none yet).

    `device_key` is this SmartServer's own raw public key; None while it has none. Raises DocumentError: one class per
    check, in the order of this module's rules.
    """
    envelope = parse_envelope(data)
    check_type(envelope, GRANT_TYPE)
    extended = trust.extended(envelope.roots)
    root = extended.current
    root.check(envelope)
    grant = parse_grant(envelope.payload)
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
    return Accepted(grant, extended)


def accept_root(data: bytes, trust: Trust) -> Trust:
    """The chain with the root of an envelope, and with those that it brings; the same chain where it is the current.

    Raises DocumentError, RootError where it does not follow or is older than the current root.
    """
    envelope = parse_envelope(data)
    check_type(envelope, ROOT_TYPE)
    extended = trust.extended([*envelope.roots, data])
    version = root_of(envelope).version
    if version != extended.current.version:
        raise RootError(
            f"cannot trust the root: it is version {version}, the trusted one is {extended.current.version}, and none "
            "goes backwards"
        )
    return extended


def verify_stored(data: bytes, root_version: int, trust: Trust) -> None:
    """Raise DocumentError unless the stored grant is signed as the root demands under which it was accepted."""
    root = trust.under(root_version)
    if root is None:
        raise RootError(f"cannot verify the grant: it was made under root version {root_version}, which is not kept")
    envelope = parse_envelope(data)
    check_type(envelope, GRANT_TYPE)
    root.check(envelope)


def inspect_document(data: bytes, trust: Trust | None) -> Inspection:
    """What a document is, in plain values, whether or not it is meant for this SmartServer.

    `verified`: a grant is signed as the newest root demands, counting those that it brings; a root is one of the chain
    or follows it; a request or return is signed by the key that it carries, whoever that is. Where it is False,
    `reason` and `code` say why, and everything else is a mere claim. Raises DocumentError for what is no document of a
    known kind or cannot be read.
    """
    envelope = parse_envelope(data)
    if envelope.payload_type == GRANT_TYPE:
        return _inspect_grant(envelope, trust)
    if envelope.payload_type == ROOT_TYPE:
        return _inspect_root(data, envelope, trust)
    for kind, payload_type in CONTACT_TYPES.items():
        if envelope.payload_type == payload_type:
            return _inspect_contact(data, parse_contact(envelope.payload, kind))
    raise PayloadTypeError(f"cannot inspect the document: {envelope.payload_type[:80]!r} is not known")


def _check_root(grant: Grant, root: Root) -> None:
    if grant.root_version != root.version:
        raise RootError(
            f"cannot accept the grant: made under root version {grant.root_version}, the trusted one is {root.version}"
        )
    running = [
        each for each in grant.licenses if each.type is LicenseType.EMERGENCY and each.is_current(grant.issued_at)
    ]
    devices = sum(each.granted_total - each.returned_total for each in running)
    if devices > root.emergency_max_devices:
        raise PayloadError(
            f"cannot accept the grant: {devices} emergency devices, the root allows {root.emergency_max_devices}"
        )
    latest = grant.issued_at + MAX_EMERGENCY_DAYS * DAY_S
    for each in running:
        if each.expires_at is None or each.expires_at > latest:
            raise PayloadError(
                f"cannot accept the grant: emergency license {each.id} runs for more than {MAX_EMERGENCY_DAYS} days"
            )


def _inspect_grant(envelope: Envelope, trust: Trust | None) -> Inspection:
    grant = parse_grant(envelope.payload)
    refusal: DocumentError | None = None
    if trust is None:
        refusal = SignatureError("cannot verify the grant: no root to verify it with")
    else:
        try:
            root = trust.extended(envelope.roots).current
            root.check(envelope)
            _check_root(grant, root)
        except DocumentError as error:
            refusal = error
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


def _inspect_root(data: bytes, envelope: Envelope, trust: Trust | None) -> Inspection:
    found = root_of(envelope)
    refusal: DocumentError | None = None
    if trust is None:
        refusal = RootError("cannot verify the root: consistent in itself, and no trusted root to compare it with")
    else:
        try:
            if trust.extended([*envelope.roots, data]).under(found.version) is None:
                refusal = RootError(f"cannot verify the root: version {found.version} is older than all that are kept")
        except DocumentError as error:
            refusal = error
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


def _inspect_contact(data: bytes, contact: Contact) -> Inspection:
    refusal: DocumentError | None = None
    try:
        open_contact(data)
    except DocumentError as error:
        refusal = error
    signed = "not signed by its own device key" if refusal else "signed by its own device key; the authority decides"
    return {
        "kind": contact.kind.value,
        **_verdict(refusal),
        "summary": f"{contact.kind.value} {contact.number} of SmartServer {contact.install_code}: {_asked(contact)}, "
        f"{signed}",
        "number": contact.number,
        "made_at": to_iso(contact.made_at),
        "install_code": contact.install_code,
        "device_key": key_id(contact.device_key),
        "grant_seq": contact.grant_seq,
        "root_version": contact.root_version,
        "totals": [
            f"{each.id}: {each.granted_total} granted, {each.returned_total} returned, {each.consumed_total} consumed"
            for each in contact.totals
        ],
    }


def _asked(contact: Contact) -> str:
    if contact.kind is ContactKind.RETURN:
        return f"{contact.devices} devices of {contact.license_id}"
    wanted = [f"{each.license_id} ({each.devices or 'all'} devices)" for each in contact.wanted]
    if contact.customer_id:
        wanted.insert(0, f"licenses of customer {contact.customer_id}")
    return ", ".join(wanted) or "what the authority has for it"


def _verdict(refusal: DocumentError | None) -> Inspection:
    if refusal is None:
        return {"verified": True, "reason": "", "code": ""}
    return {"verified": False, "reason": str(refusal), "code": refusal.code}


def _line(license_: License) -> str:
    end = f" until {to_iso_date(license_.expires_at)}" if license_.expires_at is not None else ""
    note = f" ({license_.note})" if license_.note else ""
    return f"{license_.id}: {describe(license_)}{end}{note}"
