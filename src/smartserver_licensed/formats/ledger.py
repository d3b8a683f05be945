"""Ledger events and snapshots ↔ bytes: what stands in the body of a record.

Rules (STATE.md):
- one body holds all events of one commit, with the time mark; a snapshot holds the whole state;
- JSON, so that a person with a hex dump can read it; the grant's envelope is kept byte for byte;
- a state of more than 3 MiB is not to be made (the controller refuses what would); what could be written can be read;
- within a major format an unknown event or key is ignored: a newer minor version may add such.

What this module does not do: it checks no signature (the controller verifies the grant at the start) and knows nothing
of records, slots and disks.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, TypeVar

from smartserver_licensed.documents import strict_json
from smartserver_licensed.documents.envelope import parse_envelope
from smartserver_licensed.documents.keys import KEY_BYTES
from smartserver_licensed.documents.payloads import parse_grant
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.errors import LedgerCorruptError, LicensedError
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Anchored,
    Bound,
    Cause,
    ContactMade,
    Enrolled,
    Event,
    EvictionForgotten,
    GrantInstalled,
    InternalChanged,
    LedgerState,
    NoticeDaysSet,
    NoticesChanged,
    ReleaseSeen,
    RepairNoted,
    RootsTrusted,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
    UpgradeConsumed,
)
from smartserver_licensed.domain.licenses import ContactMark
from smartserver_licensed.domain.overcapacity import Grace

MAX_STATE_BYTES = 3 << 20  # so that a log of 4 MiB has room for events beside it
MAX_SEAT_BYTES = 600  # in a state: the names that `iap` lets in, escaped, and the numbers
_MAX_BYTES = 4 << 20  # of a log: what could be written can be read
_MAX_DEPTH = 8

_E = TypeVar("_E", bound=Event)


def encode_events(events: Sequence[Event], mark: TimeMarked) -> bytes:
    """The body of one EVENT record: all events of one commit, then how far time has come."""
    told: list[strict_json.JsonValue] = [_event(each) for each in events]
    return strict_json.dump({"e": told, "t": mark.mark_s, "g": _grace(mark.grace), "w": mark.written_bytes})


def decode_events(body: bytes) -> list[Event]:
    """The events of one commit, the time mark last. Raises LedgerCorruptError."""
    try:
        value: Any = strict_json.parse(body, max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)
        events = [event for each in value["e"] if (event := _decode(each)) is not None]
        return [*events, TimeMarked(value["t"], Grace(*value["g"]), value["w"])]
    except _BAD as error:
        raise LedgerCorruptError(f"cannot read a ledger event: {error!r}") from error


def encode_snapshot(state: LedgerState) -> bytes:
    """The whole state as the body of a SNAPSHOT record."""
    installed = state.installed
    return strict_json.dump(
        {
            "install_code": state.install_code,
            "mark": state.mark_s,
            "seats": [_seat(unit, seat) for unit, seat in state.seats.items()],
            "evicted": list(state.evicted),
            "internal": [[each.protocol, each.handle] for each in sorted(state.internal)],
            "adopting": state.is_adopting,
            "grant": _event(installed) if installed else None,
            "grace": _grace(state.grace),
            "next": state.next_number,
            "written": state.written_bytes,
            "repair": state.repair,
            "anchor": state.anchored,
            **_licensing(state),
        }
    )


def _licensing(state: LedgerState) -> dict[str, strict_json.JsonValue]:
    return {
        "factors": list(state.factors.all),
        "key": _binary(state.device_seed),
        "next_contact": state.next_contact,
        "contacts": [[number, sha256] for number, sha256 in state.contacts.items()],
        "request": _event(state.request) if state.request else None,
        "returns": [_event(each) for each in state.returns.values()],
        "returned": dict(state.returned),
        "consumed": dict(state.consumed),
        "returned_grace": state.returned_grace_days,
        "roots": [_binary(each) for each in state.roots],
        "release": state.release,
        "noticed": dict(state.noticed),
        "notice_days": list(state.notice_days),
    }


def decode_snapshot(body: bytes) -> LedgerState:
    """The state of a SNAPSHOT record. Raises LedgerCorruptError."""
    try:
        value: Any = strict_json.parse(body, max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)
        return LedgerState(
            install_code=_text(value["install_code"]),
            mark_s=_number(value["mark"]),
            seats=dict(_decode_seat(each) for each in value["seats"]),
            evicted={UnitId(_text(unit)): None for unit in value["evicted"]},
            internal={DeviceId(_text(protocol), _text(handle)) for protocol, handle in value["internal"]},
            is_adopting=bool(value["adopting"]),
            installed=_decode_as(GrantInstalled, value["grant"]),
            grace=Grace(*value["grace"]),
            next_number=_number(value["next"]),
            written_bytes=_number(value["written"]),
            repair=_text(value["repair"]),
            anchored=_number_or_none(value["anchor"]),
            **_decode_licensing(value),
        )
    except _BAD as error:
        raise LedgerCorruptError(f"cannot read the ledger's snapshot: {error!r}") from error


def _decode_licensing(value: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON; every value is checked
    made = [_decode_as(ContactMade, each) for each in value["returns"]]
    soc, emmc, mac = value["factors"]
    return {
        "factors": Factors(_text(soc), _text(emmc), _text(mac)),
        "device_seed": _seed(value["key"]) if value["key"] != "" else b"",
        "next_contact": _number(value["next_contact"]),
        "contacts": {_number(number): ContactMark(number, sha256).sha256 for number, sha256 in value["contacts"]},
        "request": _decode_as(ContactMade, value["request"]),
        "returns": {each.number: each for each in made if each is not None},
        "returned": _totals(value["returned"]),
        "consumed": _totals(value["consumed"]),
        "returned_grace_days": _number_or_none(value["returned_grace"]),
        "roots": tuple(map(_bytes, value["roots"])),
        "release": _text(value["release"]),
        "noticed": _totals(value["noticed"]),
        "notice_days": tuple(map(_number, value["notice_days"])),
    }


def _decode_as(kind: type[_E], value: object) -> _E | None:
    event = _decode(value) if value is not None else None
    if event is not None and not isinstance(event, kind):
        raise TypeError(f"{type(event).__name__} in the place of a {kind.__name__}")
    return event


def _totals(value: Any) -> dict[str, int]:  # noqa: ANN401
    return {_text(key): _number(total) for key, total in value.items()}


_BAD = (LicensedError, binascii.Error, KeyError, TypeError, ValueError, IndexError, AttributeError)


def _seat(unit: UnitId, seat: Seat) -> list[strict_json.JsonValue]:
    return [unit, seat.kind.value[0], int(seat.has_run), seat.number]


def _decode_seat(value: Sequence[Any]) -> tuple[UnitId, Seat]:
    unit, kind, has_run, number = value
    return UnitId(_text(unit)), Seat(_KINDS[kind], bool(has_run), _number(number))


_KINDS = {kind.value[0]: kind for kind in SeatKind}


def _grace(grace: Grace) -> list[strict_json.JsonValue]:
    return [grace.allowed_s, grace.used_s, grace.within_s]


def _event(event: Event) -> list[strict_json.JsonValue]:  # noqa: C901, PLR0911, PLR0912 - a table, one line an event
    match event:
        case SeatGiven(unit, seat):
            return ["+", *_seat(unit, seat)]
        case SeatLost(unit, cause):
            return ["-", unit, cause.value]
        case EvictionForgotten(unit):
            return ["forget", unit]
        case InternalChanged(device, is_internal):
            return ["internal", device.protocol, device.handle, is_internal]
        case AdoptionChanged(is_adopting):
            return ["adopting" if is_adopting else "adopted"]
        case GrantInstalled(_, envelope, accepted_at):
            return ["grant", _binary(envelope), accepted_at]
        case RepairNoted(what):
            return ["repair", what]
        case Anchored(count):
            return ["anchor", count]
        case Enrolled(seed):
            return ["key", _binary(seed)]
        case Bound(identity):
            return ["bound", identity.install_code, *identity.factors.all]
        case ContactMade(kind, number, payload, returned, grace_days):
            return ["contact", kind.value, number, _binary(payload), list(returned) if returned else None, grace_days]
        case RootsTrusted(envelopes):
            return ["roots", [_binary(each) for each in envelopes]]
        case UpgradeConsumed(license_id, version):
            return ["consumed", license_id, version]
        case ReleaseSeen(version):
            return ["release", version]
        case NoticesChanged(noticed):
            return ["noticed", [list(each) for each in noticed]]
        case NoticeDaysSet(days):
            return ["notice-days", list(days)]
        case TimeMarked():
            raise ValueError("the time mark stands beside the events")


_NAMES = {"+", "-", "forget", "internal", "adopted", "adopting", "repair", "anchor", "grant", "key", "bound", "contact"}
_NAMES |= {"roots", "consumed", "release", "noticed", "notice-days"}


def _decode(value: object) -> Event | None:  # noqa: C901, PLR0911, PLR0912 - a table, one line an event
    match value:
        case ["+", *seat]:
            return SeatGiven(*_decode_seat(seat))
        case ["-", str(unit), str(cause)]:
            return SeatLost(UnitId(unit), Cause(cause))
        case ["forget", str(unit)]:
            return EvictionForgotten(UnitId(unit))
        case ["internal", str(protocol), str(handle), bool(is_internal)]:
            return InternalChanged(DeviceId(protocol, handle), is_internal)
        case ["adopted" | "adopting" as word]:
            return AdoptionChanged(word == "adopting")
        case ["repair", str(what)]:
            return RepairNoted(what)
        case ["anchor", count]:
            return Anchored(_number_or_none(count))
        case ["grant", str(text), int(accepted_at)]:
            envelope = _bytes(text)
            return GrantInstalled(parse_grant(parse_envelope(envelope).payload), envelope, accepted_at)
        case ["key", str(seed)]:
            return Enrolled(_seed(seed))
        case ["bound", str(code), str(soc), str(emmc), str(mac)]:
            return Bound(Identity(code, Factors(soc, emmc, mac)))
        case ["contact", str(kind), int(number), str(payload), None, int(grace_days)]:
            return ContactMade(ContactKind(kind), number, _bytes(payload), None, grace_days)
        case ["contact", str(kind), int(number), str(payload), [str(license_id), int(total)], int(grace_days)]:
            return ContactMade(ContactKind(kind), number, _bytes(payload), (license_id, total), grace_days)
        case ["roots", list(envelopes)]:
            return RootsTrusted(tuple(map(_bytes, envelopes)))
        case ["consumed", str(license_id), str(version)]:
            return UpgradeConsumed(license_id, version)
        case ["release", str(version)]:
            return ReleaseSeen(version)
        case ["noticed", list(noticed)]:
            return NoticesChanged(tuple((_text(key), _number(level)) for key, level in noticed))
        case ["notice-days", list(days)]:
            return NoticeDaysSet(tuple(map(_number, days)))
        case [str(name), *_] if name not in _NAMES:
            return None
    raise TypeError(f"{value!r} is no event")


def _binary(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: object) -> bytes:
    return base64.b64decode(_text(text), validate=True)


def _seed(text: object) -> bytes:
    seed = _bytes(text)
    if len(seed) != KEY_BYTES:
        raise ValueError(f"a device key of {len(seed)} bytes")
    return seed


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    return value


def _number_or_none(value: object) -> int | None:
    return None if value is None else _number(value)
