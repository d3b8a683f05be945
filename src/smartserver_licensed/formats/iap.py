"""The SmartServer's MQTT protocol, IAP/MQ: what a message says. Topics and payloads → values.

Rules (WIRE.md):
- topics are split at `/` and never matched: handles contain dots and dashes;
- a topic that no rule reads, or of another SID, is None; what cannot be read is a MessageError that names the topic,
  and nothing but a MessageError is ever raised, whatever the bytes;
- payloads are strict JSON: at most 64 KiB, depth ≤ 16, no duplicate keys, no NaN;
- any field may be null or absent, and more may come; only a `state` that is no text is an error: a guess would count.

What this module does not do: it keeps nothing and decides nothing. What the daemon says is in `iap_said`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from smartserver_licensed.documents import strict_json
from smartserver_licensed.documents.strict_json import JsonValue
from smartserver_licensed.domain.devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from smartserver_licensed.domain.errors import MessageError, StrictJsonError

SID_TOPIC = "glp/0/././sid"
MARKER_TOPIC = "glp/0/./=licensed/marker"  # the daemon's own: how far a snapshot has come
ENGINE_FILTERS = ("glp/0/./=engine/+/about", "glp/0/./=engine/about")  # the second is older engines'
MAX_PAYLOAD_BYTES = 64 * 1024
MAX_DEPTH = 16
MAX_SID_LENGTH = 128  # characters; over 65,535 bytes no topic can be built, and the daemon would fail at each start
MAX_NAME_BYTES = 256  # of a protocol and a handle together, in UTF-8: facts and the ledger's state are bounded by it
_SHOWN = 200  # characters of a topic in an error
_TRUTH = {"true": True, "false": False}
_ACTIONS = {action.value: action for action in Action}


@dataclass(frozen=True, slots=True)
class SidSeen:
    """The segment id; None where the segment is not provisioned."""

    sid: str | None


@dataclass(frozen=True, slots=True)
class StatusSeen:
    """A device's `sts`; the report is None where the broker's copy was cleared."""

    device: DeviceId
    report: DeviceReport | None


@dataclass(frozen=True, slots=True)
class ConfigSeen:
    """A device's `cfg`, as far as a rule reads it."""

    device: DeviceId
    is_local_attach: bool


@dataclass(frozen=True, slots=True)
class LicSeen:
    """A device's `lic`: what the broker holds. None where it says nothing that a driver would take."""

    device: DeviceId
    licensed: bool | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class OwnStatusSeen:
    """`fb/lic`, which nobody but the daemon should write."""


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """A `do` message; the request is None where no rule reads its action."""

    device: DeviceId
    request: DeviceRequest | None


@dataclass(frozen=True, slots=True)
class EngineStarted:
    """An engine started; older ones do not say of which protocol."""

    protocol: str | None


@dataclass(frozen=True, slots=True)
class MarkerSeen:
    """One of the daemon's own markers came back."""

    nonce: str


Message: TypeAlias = (
    SidSeen | StatusSeen | ConfigSeen | LicSeen | OwnStatusSeen | RequestSeen | EngineStarted | MarkerSeen
)


# -- topics ------------------------------------------------------------------------------------------------------------


def live_filters(sid: str) -> tuple[str, ...]:
    """What is followed all the time."""
    return (
        f"glp/0/{sid}/rq/dev/+/+/do",
        f"glp/0/{sid}/fb/dev/+/+/sts",
        f"glp/0/{sid}/fb/dev/+/+/lic",
        f"glp/0/{sid}/fb/lic",
    )


def snapshot_filter(sid: str, kind: str) -> str:
    """All retained `sts`, `lic` or `cfg`: another filter than the live one, so that both can be subscribed at once."""
    return f"glp/0/{sid}/fb/dev/+/+/{kind}/#"


def sts_topic(sid: str, device: DeviceId) -> str:
    """Where a device's engine says its state."""
    return f"glp/0/{sid}/fb/dev/{device.protocol}/{device.handle}/sts"


def lic_topic(sid: str, device: DeviceId) -> str:
    """Where the daemon says whether a device is licensed."""
    return f"glp/0/{sid}/fb/dev/{device.protocol}/{device.handle}/lic"


def do_topic(sid: str, device: DeviceId) -> str:
    """Where a device's engine is asked for an action."""
    return f"glp/0/{sid}/rq/dev/{device.protocol}/{device.handle}/do"


def status_topic(sid: str) -> str:
    """The SmartServer's license status."""
    return f"glp/0/{sid}/fb/lic"


def event_topic(sid: str) -> str:
    """One message for each admission, rejection, release, revocation."""
    return f"glp/0/{sid}/ev/lic"


def error_topic(sid: str) -> str:
    """The CMS raises an alarm for each message here."""
    return f"glp/0/{sid}/ev/error"


def warning_topic(sid: str) -> str:
    """The CMS raises an alarm for each message here, too."""
    return f"glp/0/{sid}/ev/warning"


# -- what a message says -----------------------------------------------------------------------------------------------


def parse(topic: str, payload: bytes, *, sid: str) -> Message | None:
    """What a message under this SID says ("" where there is none). Raises MessageError and nothing else."""
    try:
        return _parse(topic, payload, sid)
    except StrictJsonError as error:
        raise MessageError(f"cannot read {_shown(topic)}: {error}") from error


def _parse(topic: str, payload: bytes, sid: str) -> Message | None:
    if topic == SID_TOPIC:
        return SidSeen(_sid(payload))
    if topic == MARKER_TOPIC:
        return MarkerSeen(payload[:_SHOWN].decode("ascii", "replace"))
    if "+" in topic or "#" in topic or "\0" in topic:  # no broker should pass it, and nothing can be answered on it
        return None
    match topic.split("/"):
        case ["glp", "0", ".", "=engine", "about"]:
            return EngineStarted(None)
        case ["glp", "0", ".", "=engine", protocol, "about"]:
            return EngineStarted(protocol)
        case ["glp", "0", segment, "fb", "lic"] if sid and segment == sid:
            return OwnStatusSeen()
        case ["glp", "0", segment, channel, "dev", protocol, handle, resource] if (
            sid and segment == sid and protocol and handle
        ):
            return _device_message(DeviceId(protocol, handle), f"{channel}/{resource}", payload, topic)
    return None


def _device_message(device: DeviceId, kind: str, payload: bytes, topic: str) -> Message | None:
    name = str(device)
    if len(name.encode("utf-8", "replace")) > MAX_NAME_BYTES or any(character < " " for character in name):
        raise MessageError(f"cannot read {_shown(topic)}: a name of over {MAX_NAME_BYTES} bytes, or not of characters")
    if kind == "fb/sts":
        return StatusSeen(device, _report(_object(payload, topic), topic) if payload else None)
    if kind == "fb/lic":
        return _lic(device, payload)
    if kind == "fb/cfg":
        value = _object(payload, topic) if payload else {}
        args = value.get("args")
        is_local = _is_local_attach(device, value) or (isinstance(args, dict) and _is_local_attach(device, args))
        return ConfigSeen(device, is_local)
    if kind == "rq/do":
        return RequestSeen(device, _request(device, _object(payload, topic)))
    return None


def _lic(device: DeviceId, payload: bytes) -> LicSeen:
    """Whatever stands there: also what cannot be read is a value that somebody wrote, and is to be overwritten."""
    try:
        value = _json(payload)
    except StrictJsonError:
        value = None
    if not isinstance(value, dict):
        return LicSeen(device, None, None)
    reason = value.get("reason")
    return LicSeen(device, _truth(value.get("licensed")), reason if isinstance(reason, str) else None)


def _sid(payload: bytes) -> str | None:
    value = _json(payload) if payload else None
    if value is not None and not isinstance(value, str):
        raise MessageError(f"cannot read {_shown(SID_TOPIC)}: {type(value).__name__}, expected a text")
    if value and len(value) > MAX_SID_LENGTH:
        raise MessageError(f"cannot read {_shown(SID_TOPIC)}: {len(value)} characters, the limit is {MAX_SID_LENGTH}")
    # "." means "this server"; for a control character the broker ends the connection.
    if value and (value == "." or not value.isprintable() or any(sign in value for sign in "/+#")):
        raise MessageError(f"cannot read {_shown(SID_TOPIC)}: no topic can hold the SID {_shown(value)}")
    return value or None


def _report(value: dict[str, JsonValue], topic: str) -> DeviceReport:
    state = value.get("state")
    if state is not None and not isinstance(state, str):
        raise MessageError(f"cannot read {_shown(topic)}: state is {type(state).__name__}, expected a text")
    return DeviceReport(
        state=DeviceState.from_wire(state),
        has_restore_mark=_truth(value.get("provisioned")) is True,
        is_infrastructure=value.get("cat") == "infrastructure",
        is_troubled=bool(value.get("error")) or value.get("health") == "down",
    )


def _request(device: DeviceId, value: dict[str, JsonValue]) -> DeviceRequest | None:
    named, args = value.get("action"), value.get("args")
    action = _ACTIONS.get(named) if isinstance(named, str) else None
    if action is None:
        return None
    if action is not Action.CREATE or not isinstance(args, dict):
        return DeviceRequest(action, wants_provision=action is Action.PROVISION)
    return DeviceRequest(
        action,
        wants_provision=_truth(args.get("provision")) is True,
        is_local_attach=_is_local_attach(device, args),
    )


def _is_local_attach(device: DeviceId, value: dict[str, JsonValue]) -> bool:
    return device.protocol == "lon" and value.get("lon.attach") == "local"


def _truth(value: JsonValue) -> bool | None:
    """True and false, or those words, as drivers take them."""
    if isinstance(value, str):
        return _TRUTH.get(value)
    return value if isinstance(value, bool) else None


def _object(payload: bytes, topic: str) -> dict[str, JsonValue]:
    value = _json(payload)
    if not isinstance(value, dict):
        raise MessageError(f"cannot read {_shown(topic)}: {type(value).__name__}, expected an object")
    return value


def _shown(text: str) -> str:
    """For an error: in ASCII with escapes, which may be ten characters for one, and short."""
    return ascii(text[:_SHOWN])[:_SHOWN]


def _json(payload: bytes) -> JsonValue:
    return strict_json.parse(payload, max_bytes=MAX_PAYLOAD_BYTES, max_depth=MAX_DEPTH, allow_floats=True)
