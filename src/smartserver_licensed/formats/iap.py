"""The SmartServer's MQTT protocol, IAP/MQ: topics ↔ values, payloads ↔ values. (lead's fallback)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from smartserver_licensed.documents import strict_json
from smartserver_licensed.documents.strict_json import JsonValue
from smartserver_licensed.domain.devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from smartserver_licensed.domain.errors import MessageError, StrictJsonError
from smartserver_licensed.domain.status import Status
from smartserver_licensed.domain.timekeeping import mru_text

SID_TOPIC = "glp/0/././sid"
MARKER_TOPIC = "glp/0/./=licensed/marker"
ENGINE_FILTERS = ("glp/0/./=engine/+/about", "glp/0/./=engine/about")
MAX_BYTES = 64 * 1024
MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class SidSeen:
    sid: str | None


@dataclass(frozen=True, slots=True)
class StatusSeen:
    device: DeviceId
    report: DeviceReport | None


@dataclass(frozen=True, slots=True)
class ConfigSeen:
    device: DeviceId
    is_local_attach: bool | None


@dataclass(frozen=True, slots=True)
class LicSeen:
    device: DeviceId
    licensed: bool | None
    reason: str | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class OwnStatusSeen:
    payload: bytes


@dataclass(frozen=True, slots=True)
class RequestSeen:
    device: DeviceId
    request: DeviceRequest | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class EngineStarted:
    protocol: str | None


@dataclass(frozen=True, slots=True)
class MarkerSeen:
    nonce: str


Message: TypeAlias = (
    SidSeen | StatusSeen | ConfigSeen | LicSeen | OwnStatusSeen | RequestSeen | EngineStarted | MarkerSeen
)


def live_filters(sid: str) -> tuple[str, ...]:
    return (
        f"glp/0/{sid}/rq/dev/+/+/do",
        f"glp/0/{sid}/fb/dev/+/+/sts",
        f"glp/0/{sid}/fb/dev/+/+/lic",
        f"glp/0/{sid}/fb/lic",
    )


def snapshot_filter(sid: str, kind: str) -> str:
    return f"glp/0/{sid}/fb/dev/+/+/{kind}/#"


def sts_topic(sid: str, d: DeviceId) -> str:
    return f"glp/0/{sid}/fb/dev/{d.protocol}/{d.handle}/sts"


def lic_topic(sid: str, d: DeviceId) -> str:
    return f"glp/0/{sid}/fb/dev/{d.protocol}/{d.handle}/lic"


def do_topic(sid: str, d: DeviceId) -> str:
    return f"glp/0/{sid}/rq/dev/{d.protocol}/{d.handle}/do"


def status_topic(sid: str) -> str:
    return f"glp/0/{sid}/fb/lic"


def event_topic(sid: str) -> str:
    return f"glp/0/{sid}/ev/lic"


def error_topic(sid: str) -> str:
    return f"glp/0/{sid}/ev/error"


def warning_topic(sid: str) -> str:
    return f"glp/0/{sid}/ev/warning"


def parse(topic: str, payload: bytes, *, sid: str) -> Message | None:
    try:
        return _parse(topic, payload, sid)
    except StrictJsonError as error:
        raise MessageError(f"cannot read {topic[:200]!r}: {error}") from error


def _json(payload: bytes) -> JsonValue:
    return strict_json.parse(payload, max_bytes=MAX_BYTES, max_depth=MAX_DEPTH, allow_floats=True)


def _object(payload: bytes, topic: str) -> dict[str, JsonValue]:
    value = _json(payload)
    if not isinstance(value, dict):
        raise MessageError(f"cannot read {topic[:200]!r}: no object")
    return value


def _parse(topic: str, payload: bytes, sid: str) -> Message | None:
    if topic == SID_TOPIC:
        value = _json(payload) if payload else None
        if value is not None and not isinstance(value, str):
            raise MessageError("sid is no text")
        return SidSeen(value or None)
    if topic == MARKER_TOPIC:
        return MarkerSeen(payload.decode("ascii", "replace")[:64])
    parts = topic.split("/")
    if parts[:3] == ["glp", "0", "."] and len(parts) > 3 and parts[3] == "=engine":
        return EngineStarted(parts[4] if len(parts) == 6 else None)
    if len(parts) < 5 or parts[2] != sid or not sid:
        return None
    if parts[3:] == ["fb", "lic"]:
        return OwnStatusSeen(payload)
    if len(parts) != 8 or parts[4] != "dev":
        return None
    device = DeviceId(parts[5], parts[6])
    match parts[3], parts[7]:
        case "fb", "sts":
            return StatusSeen(device, _report(payload, topic) if payload else None)
        case "fb", "lic":
            value = _object(payload, topic) if payload else {}
            licensed = value.get("licensed")
            licensed = {"true": True, "false": False}.get(licensed) if isinstance(licensed, str) else licensed
            reason = value.get("reason")
            return LicSeen(
                device,
                licensed if isinstance(licensed, bool) else None,
                reason if isinstance(reason, str) else None,
                payload,
            )
        case "fb", "cfg":
            value = _object(payload, topic) if payload else {}
            return ConfigSeen(device, value.get("lon.attach") == "local" and device.protocol == "lon")
        case "rq", "do":
            return RequestSeen(device, _request(_object(payload, topic), device), payload)
    return None


def _report(payload: bytes, topic: str) -> DeviceReport:
    value = _object(payload, topic)
    state = value.get("state")
    if state is not None and not isinstance(state, str):
        raise MessageError(f"cannot read {topic[:200]!r}: state is no text")
    return DeviceReport(
        state=DeviceState.from_wire(state),
        has_restore_mark=value.get("provisioned") in ("true", True),
        is_infrastructure=value.get("cat") == "infrastructure",
        is_troubled=bool(value.get("error")) or value.get("health") == "down",
    )


def _request(value: dict[str, JsonValue], device: DeviceId) -> DeviceRequest | None:
    try:
        action = Action(value.get("action"))
    except ValueError:
        return None
    args = value.get("args")
    args = args if isinstance(args, dict) else {}
    wants = action is Action.PROVISION or (action is Action.CREATE and args.get("provision") in (True, "true"))
    return DeviceRequest(
        action, wants, action is Action.CREATE and device.protocol == "lon" and args.get("lon.attach") == "local"
    )


def marker_payload(nonce: str) -> bytes:
    return nonce.encode()


def lic_payload(*, licensed: bool, reason: str | None, capacity: int | None, used: int | None, mru_ms: int) -> bytes:
    if licensed:
        return strict_json.dump({"licensed": True, "mru": mru_text(mru_ms)})
    return strict_json.dump(
        {"licensed": False, "reason": reason, "capacity": capacity, "used": used, "mru": mru_text(mru_ms)}
    )


def refusal_error_payload(*, topic: str, message: str, code: str, capacity: int, used: int, utc_ms: int) -> bytes:
    return strict_json.dump(
        {
            "cat": "error",
            "source": "licensed",
            "language": "en",
            "topic": topic,
            "message": message,
            "utc": mru_text(utc_ms),
            "code": code,
            "data": {"capacity": capacity, "used": used},
        }
    )


def warning_payload(*, message: str, code: str, utc_ms: int) -> bytes:
    return strict_json.dump(
        {
            "cat": "warning",
            "source": "licensed",
            "language": "en",
            "message": message,
            "utc": mru_text(utc_ms),
            "code": code,
        }
    )


def event_payload(
    kind: str, *, unit: str, device: DeviceId | None, reason: str | None, capacity: int, used: int, utc_ms: int
) -> bytes:
    return strict_json.dump(
        {
            "event": kind,
            "unit": unit,
            "device": str(device) if device else None,
            "reason": reason,
            "capacity": capacity,
            "used": used,
            "utc": mru_text(utc_ms),
        }
    )


def status_payload(status: Status, mru_ms: int) -> bytes:
    t, m = status.totals, status.maintenance
    return strict_json.dump(
        {
            "state": status.state.value,
            "capacity": t.capacity,
            "used": t.used,
            "reserved": t.reserved,
            "available": t.available,
            "waiting": t.waiting,
            "maintenance": {"status": m.status, "expires": m.expires, "devices": m.devices},
            "customerId": status.customer_id,
            "storage": status.storage.value,
            "clock": status.clock.value,
            "version": status.version,
            "mru": mru_text(mru_ms),
        }
    )


def request_payload(action: str) -> bytes:
    return strict_json.dump({"action": action})
