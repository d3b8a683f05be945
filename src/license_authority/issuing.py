"""The next grant of a SmartServer.

Rules (LICENSING §4):
- a grant is the complete set of what the SmartServer has had, in totals; `seq` rises by one with each, by more
  where an old copy of a ledger is to take it; what was written off stands in `returned_total` as well;
- it acknowledges the last contact seen of the device key, and brings the roots that the SmartServer lacks;
- it is one that SmartServers accept: not issued before the emergency capacity that it carries, and with no more of
  that than the root allows, which may have been lowered since;
- without a device key only under a root that allows it, which the shipped root never does;
- it is remembered as it leaves.

What this module does not do: it does not decide what a SmartServer gets (`activating`, `moving`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.orm import Session

from smartserver_licensed.documents.envelope import Signer, attach_roots, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant, open_contact
from smartserver_licensed.documents.trust import Trust
from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.licenses import ContactMark, Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import Timestamp, to_iso

from .contacts import check_fork, last_seen
from .enrolling import current_key
from .errors import (
    EmergencyRefusedError,
    SmartServerRetiredError,
    SmartServerUnknownError,
    UnactivatedRefusedError,
)
from .stock import allocations_of, has_ended
from .tables import Allocation, DeviceKey, SentGrant, SmartServer

MOST_MISSED = 10_000  # of grants, by a SmartServer whose ledger is an old copy


class Keys(Protocol):
    """What signs grants, and the roots that say so."""

    @property
    def trust(self) -> Trust:
        """All roots, oldest first."""
        ...

    @property
    def grant_signers(self) -> Sequence[Signer]:
        """As many signers as the newest root demands of a grant."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """What the vendor decides for himself. `emergencies_per_year`: grants of emergency capacity per SmartServer."""

    emergencies_per_year: int = 2


def next_grant(session: Session, keys: Keys, smartserver: SmartServer, now: Timestamp) -> bytes:
    """The envelope of the grant that follows the last one, remembered.

    Raises SmartServerRetiredError, ForkFoundError, UnactivatedRefusedError, EmergencyRefusedError, ArgumentError,
    DocumentTooLargeError.
    """
    if smartserver.retired_at is not None:
        raise SmartServerRetiredError(f"cannot grant to {smartserver.install_code}: it was replaced")
    key = current_key(session, smartserver)
    if key is not None:
        check_fork(key)
    elif not keys.trust.current.allow_unactivated:
        raise UnactivatedRefusedError(
            f"cannot grant to {smartserver.install_code}: it has made no request, and this authority does not allow "
            f"licenses without activation"
        )
    session.flush()
    smartserver.seq = _next_seq(session, smartserver, key)
    allocations = allocations_of(session, smartserver)
    grant = Grant(
        seq=smartserver.seq,
        issued_at=_issued_at(allocations, now),
        customer_id=smartserver.customer_id,
        install_code=smartserver.install_code,
        device_key=key.raw if key is not None else None,
        licenses=tuple(_granted(each) for each in allocations),
        root_version=keys.trust.current.version,
        factors=Factors(smartserver.soc, smartserver.emmc, smartserver.mac),
        contact=_acknowledged(session, key),
    )
    _check_cap(grant, keys.trust.current.emergency_max_devices)
    document = seal(GRANT_TYPE, encode_grant(grant), keys.grant_signers)
    lacking = [
        envelope
        for root, envelope in zip(keys.trust.roots, keys.trust.envelopes, strict=True)
        if root.version > smartserver.root_version
    ]
    document = attach_roots(document, lacking)
    session.add(SentGrant(smartserver_id=smartserver.id, seq=grant.seq, issued_at=grant.issued_at, document=document))
    session.flush()
    return document


def last_document(session: Session, smartserver: SmartServer) -> bytes:
    """The last grant as it left. Raises SmartServerUnknownError where there was none."""
    sent = session.get(SentGrant, (smartserver.id, smartserver.seq))
    if sent is None:
        raise SmartServerUnknownError(f"cannot show the last grant of {smartserver.install_code}: there was none")
    return sent.document


def _issued_at(allocations: Sequence[Allocation], now: Timestamp) -> Timestamp:
    """Now; where the vendor's clock was set back, not before the emergency capacity that runs."""
    sold = [each.license for each in allocations]
    running = [each for each in sold if each.type == LicenseType.EMERGENCY.value and not has_ended(each, now)]
    return max([now, *(each.made_at for each in running)])


def _check_cap(grant: Grant, cap: int) -> None:
    running = [
        each for each in grant.licenses if each.type is LicenseType.EMERGENCY and each.is_current(grant.issued_at)
    ]
    devices = sum(each.granted_total - each.returned_total for each in running)
    if devices > cap:
        ends = to_iso(max(each.expires_at or 0 for each in running))
        raise EmergencyRefusedError(
            f"cannot grant to {grant.install_code}: {devices} emergency devices run there until {ends}, the root "
            f"allows {cap} by now, and no SmartServer accepts more (`license-authority rotate --emergency-devices`)"
        )


def _granted(allocation: Allocation) -> License:
    sold = allocation.license
    return License(
        id=sold.id,
        type=LicenseType(sold.type),
        granted_total=allocation.granted_total,
        expires_at=sold.expires_at,
        grace_days=sold.grace_days,
        note=sold.note,
        returned_total=allocation.returned_total + allocation.written_off_total,
        consumed_total=allocation.consumed_total,
        replaces=sold.replaces,
        release=sold.release,
        host=sold.host,
    )


def _next_seq(session: Session, smartserver: SmartServer, key: DeviceKey | None) -> int:
    """One more than the last; more where an old copy of a ledger has to be told that it missed some (ADR 17)."""
    last = last_seen(session, key) if key is not None else None
    asked = open_contact(last.document)[0].least_seq if last is not None and last.document is not None else 0
    return max(smartserver.seq, min(asked, smartserver.seq + MOST_MISSED)) + 1


def _acknowledged(session: Session, key: DeviceKey | None) -> ContactMark | None:
    last = last_seen(session, key) if key is not None else None
    return ContactMark(last.number, last.sha256) if last is not None else None
