"""Whose a device key is.

Rules (LICENSING §4):
- a SmartServer that has no device key yet is enrolled by its first contact;
- a new key for one that has one, or that was replaced, or for an install code that a SmartServer had before its
  mainboard was changed, needs the operator's word: then the old key is retired, and contacts start anew. What the
  SmartServer had of each license goes on;
- a known key with another install code (a changed mainboard) needs it too; the SmartServer is renamed;
- a retired key is refused for ever: `smartserver-retired` after an RMA, `key-retired` after a new key.

What this module does not do: it reads no contact chain (`contacts`).
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from smartserver_licensed.documents.keys import key_id
from smartserver_licensed.domain.contacts import Contact
from smartserver_licensed.domain.timekeeping import Timestamp, to_iso

from .auditing import note_act
from .errors import (
    ConfirmationNeededError,
    InstallCodeTakenError,
    KeyRetiredError,
    SmartServerRetiredError,
    SmartServerUnknownError,
)
from .stock import allocations_of, reservations_of, reserve
from .tables import DeviceKey, FormerCode, SmartServer


def find_smartserver(session: Session, install_code: str) -> SmartServer:
    """The SmartServer of this install code. Raises SmartServerUnknownError."""
    found = by_install_code(session, install_code)
    if found is None:
        raise SmartServerUnknownError(f"cannot find the SmartServer {install_code}: no license was ever meant for it")
    return found


def by_install_code(session: Session, install_code: str) -> SmartServer | None:
    """The SmartServer of this install code, None where it is not known."""
    return session.execute(select(SmartServer).where(SmartServer.install_code == install_code)).scalar_one_or_none()


def current_key(session: Session, smartserver: SmartServer) -> DeviceKey | None:
    """The device key that is not retired."""
    return session.execute(
        select(DeviceKey).where(DeviceKey.smartserver_id == smartserver.id, DeviceKey.retired_at.is_(None))
    ).scalar_one_or_none()


def enrolled_key(session: Session, contact: Contact, now: Timestamp, *, is_confirmed: bool) -> DeviceKey:
    """The key of a contact, enrolled now if that is right.

    Raises SmartServerUnknownError, ConfirmationNeededError, KeyRetiredError, SmartServerRetiredError.
    """
    key = session.get(DeviceKey, key_id(contact.device_key))
    if key is None:
        return _enroll(session, contact, now, is_confirmed=is_confirmed)
    _check_not_retired(key)
    return key


def follow_board(session: Session, key: DeviceKey, contact: Contact, now: Timestamp, *, is_confirmed: bool) -> None:
    """Rename a SmartServer whose newest contact has another install code: its mainboard was changed.

    Raises ConfirmationNeededError, InstallCodeTakenError.
    """
    smartserver, code = key.smartserver, contact.install_code
    before = smartserver.install_code
    if before == code:
        return
    if not is_confirmed:
        raise ConfirmationNeededError(
            f"cannot serve {code}: its device key is that of {before}; if its mainboard was changed, confirm "
            f"(`license-authority activate --confirm`)"
        )
    other = by_install_code(session, code)
    if other is not None:
        _merge(session, other, smartserver)
    smartserver.install_code = code
    if session.get(FormerCode, before) is None:
        session.add(FormerCode(install_code=before, smartserver_id=smartserver.id, left_at=now))
    note_act(session, now, "confirm", f"{before} is {code} from now on")
    session.flush()


def retire(session: Session, smartserver: SmartServer, now: Timestamp, *, is_replaced: bool) -> None:
    """Retire its device key, if it has one."""
    key = current_key(session, smartserver)
    if key is not None:
        key.retired_at, key.is_replaced = now, is_replaced
        session.flush()


def _check_not_retired(key: DeviceKey) -> None:
    if key.retired_at is None:
        return
    smartserver, since = key.smartserver, to_iso(key.retired_at)
    if key.is_replaced:
        raise SmartServerRetiredError(
            f"cannot serve {smartserver.install_code}: it was replaced on {since}, what it had is written off"
        )
    raise KeyRetiredError(f"cannot serve {smartserver.install_code}: this device key was replaced on {since}")


def _enroll(session: Session, contact: Contact, now: Timestamp, *, is_confirmed: bool) -> DeviceKey:
    smartserver = find_smartserver(session, contact.install_code)
    is_known = (
        smartserver.retired_at is not None
        or current_key(session, smartserver) is not None
        or session.get(FormerCode, contact.install_code) is not None
    )
    if is_known and not is_confirmed:
        raise ConfirmationNeededError(
            f"cannot enroll a new device key of {contact.install_code}: it has or had one; if its storage was lost, "
            f"or it is to have a new key, confirm (`license-authority activate --confirm`)"
        )
    if is_known:
        retire(session, smartserver, now, is_replaced=False)
        smartserver.retired_at, smartserver.replaced_by = None, ""
        note_act(session, now, "confirm", f"new device key of {contact.install_code}")
    key = DeviceKey(
        key_id=key_id(contact.device_key), raw=contact.device_key, smartserver_id=smartserver.id, enrolled_at=now
    )
    session.add(key)
    session.flush()
    return key


def _merge(session: Session, other: SmartServer, smartserver: SmartServer) -> None:
    """Take over what is reserved for an install code that has never made a request."""
    has_keys = session.execute(select(DeviceKey.key_id).where(DeviceKey.smartserver_id == other.id)).first()
    if has_keys or allocations_of(session, other) or other.customer_id != smartserver.customer_id:
        raise InstallCodeTakenError(
            f"cannot rename {smartserver.install_code} to {other.install_code}: that is another SmartServer with "
            f"licenses of its own (`license-authority rma` moves them)"
        )
    for reservation in reservations_of(session, other):
        license_, devices = reservation.license, reservation.devices
        session.delete(reservation)
        session.flush()
        reserve(session, license_, smartserver, devices)
    session.delete(other)
    session.flush()
