"""The current driver library as a pure state machine: what a protocol engine that reads `lic` says, and when.

Rules (WIRE.md facts 1–9; the recordings `idl_*` are the truth, and a test replays them all):
- time is an argument, in seconds since the epoch; nothing happens by itself: call `tick` when `deadline_s` has come;
- the engine hears only what it subscribed to: whoever drives it looks at `subscriptions` after each call, subscribes
  to what is new, and hands over what the broker then sends, the retained flag as delivered. `lic` is subscribed to
  once, at the end of the start-up window: hence only retained ones count until then, and a `lic` for a handle that is
  not known is dropped for good;
- the restore mark is set by `create` with `provision: true` alone (not by `provision`: idl_create), survives
  `licensed: false` and `replace`, and is lost by a restart while `unlicensed`.

Not recorded, chosen here: `deprovision` clears the mark; an action that changes nothing publishes `sts` again; only
a handle that this run never had can be created by somebody's `sts`; a new SID starts the engine anew.

What this module does not do: no connection, no clock, no polling of values, no type resources;
`if/block/0` is a stand-in.
"""

from __future__ import annotations

import datetime as dt
import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DEVICE_TYPE = "9B0001050004ED00"  # the one type the recorded engine had a definition of
SID_TOPIC = "glp/0/././sid"

_INTERFACE = {"Counter_RO": {"type": "SNVT_count", "name": "Counter_RO", "cat": "in", "value": None}}


@dataclass(frozen=True, slots=True)
class Publish:
    """One message to send."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = True


@dataclass(slots=True)
class _Device:
    handle: str
    unid: str | None
    type: str | None
    state: str = "unlicensed"
    health: str = "normal"
    blocks: int | None = None  # unknown until the interface is built
    has_mark: bool = False


class IdlEngine:
    """One run of a driver, from its start to its end; a restart is a new object."""

    def __init__(
        self,
        *,
        protocol: str = "example",
        sid: str | None = "17qtest",
        start_window_s: float = 5.0,
        unreachable: Iterable[str] = (),
    ) -> None:
        """`sid=None`: taken from the broker. `start_window_s` also scales the pauses between deletions."""
        self.protocol = protocol
        self.unreachable = set(unreachable)  # handles that stay `unprovisioned`, `health: down`, when provisioned
        self._is_sid_fixed = sid is not None
        self._window_s = start_window_s
        self._reset(sid or "")

    def _reset(self, sid: str) -> None:
        self._sid = sid
        self._now_s = 0.0
        self._out: list[Publish] = []
        self._devices: dict[str, _Device] = {}
        self._unids: set[str | None] = set()  # never holds None
        self._had: set[str] = set()  # every handle of this run; tells own `sts` coming back from somebody's
        self._window_end_s: float | None = None  # set by the first device
        self._is_window_over = False
        self._restoring: list[_Device] = []
        self._deletions: deque[str | None] = deque()  # in the order of requests; None: was deleted at once
        self._sweep_s: float | None = None

    # -- for the driver of the machine -----------------------------------------------------------------------------

    @property
    def sid(self) -> str:
        """The SID in use; empty while none is known."""
        return self._sid

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topic filters wanted now; grows when the SID gets known and when the start-up window ends."""
        wanted: tuple[str, ...] = () if self._is_sid_fixed else (SID_TOPIC,)
        if self._sid:
            devices = f"glp/0/{self._sid}/fb/dev/{self.protocol}/+"
            wanted += (f"{devices}/sts", self.do_topic("+"))
            if self._is_window_over:
                wanted += (f"{devices}/lic",)
        return wanted

    @property
    def deadline_s(self) -> float | None:
        """When `tick` is needed next."""
        window_end_s = None if self._is_window_over else self._window_end_s
        return min((each for each in (window_end_s, self._sweep_s) if each is not None), default=None)

    def do_topic(self, handle: str) -> str:
        """Where this engine takes requests for a device."""
        return f"glp/0/{self._sid}/rq/dev/{self.protocol}/{handle}/do"

    def start(self, now_s: float) -> list[Publish]:
        """The engine is connected: it introduces itself, not retained."""
        about = {
            "components": [{"name": f"{self.protocol} driver engine"}],
            "limitations": {"devices": 2000, "protocols": [self.protocol]},
            "protocol": {self.protocol: {"devices": 2000, "discoverDevices": False}},
        }
        self._now_s = now_s
        return [Publish(f"glp/0/./=engine/{self.protocol}/about", _text(about), retain=False)]

    def receive(self, now_s: float, topic: str, payload: str, retain: bool) -> list[Publish]:
        """One message of a subscription. What cannot be understood is ignored, as the library does."""
        self._advance(now_s)
        levels = topic.split("/")
        if topic == SID_TOPIC and not self._is_sid_fixed:
            self._take_sid(payload)
        elif len(levels) == 8 and levels[2] == self._sid and levels[5] == self.protocol:
            handle, kind = levels[6], levels[7]
            value = _parsed(payload)
            if kind == "do" and isinstance(value.get("action"), str):
                self._act(handle, topic, value)
            elif kind == "lic" and self._is_window_over and handle in self._devices:
                self._license(self._devices[handle], value.get("licensed"))
            elif kind == "sts" and handle not in self._had and value and value.get("state") != "deleted":
                self._restore(handle, value)
        return self._taken()

    def tick(self, now_s: float) -> list[Publish]:
        """Do what time brings: the end of the start-up window, deletions that waited."""
        self._advance(now_s)
        return self._taken()

    # -- time --------------------------------------------------------------------------------------------------------

    def _advance(self, now_s: float) -> None:
        self._now_s = now_s
        if self._window_end_s is not None and not self._is_window_over and now_s >= self._window_end_s:
            self._is_window_over = True
            for device in self._restoring:
                self._complete(device)
            self._restoring.clear()
        while self._sweep_s is not None and now_s >= self._sweep_s:
            self._sweep(self._sweep_s)

    def _add(self, device: _Device) -> None:
        self._devices[device.handle] = device
        self._had.add(device.handle)
        if device.unid is not None:
            self._unids.add(device.unid)
        if self._window_end_s is None:
            self._window_end_s = self._now_s + self._window_s

    # -- what comes from outside -------------------------------------------------------------------------------------

    def _take_sid(self, payload: str) -> None:
        try:
            sid = json.loads(payload)
        except ValueError:
            return
        if isinstance(sid, str) and sid and sid != self._sid:
            now_s = self._now_s
            self._reset(sid)
            self._now_s = now_s

    def _restore(self, handle: str, sts: dict[str, Any]) -> None:
        """A device by its `sts`: at the start its own retained one, later anybody's (facts 7 and 9)."""
        unid, type_ = _text_or_none(sts.get("unid")), _text_or_none(sts.get("type"))
        device = _Device(handle, unid, type_, blocks=sts.get("blocks"))
        device.has_mark = sts.get("provisioned") == "true" and sts.get("state") != "unlicensed"
        self._add(device)
        if not device.has_mark:
            self._publish_sts(device)
        if self._is_window_over:
            self._complete(device)
        else:
            self._restoring.append(device)

    def _complete(self, device: _Device) -> None:
        """The second half of a restore. A marked device stays silent until its license is heard (idl_restart, 92.6)."""
        if self._devices.get(device.handle) is not device:
            return  # deleted within the window
        self._publish_interface(device)
        if not device.has_mark:
            self._publish_sts(device)

    def _license(self, device: _Device, value: object) -> None:
        if _is_true(value) and device.state == "unlicensed":
            self._set_state(device, "unprovisioned")
            if device.has_mark:
                self._provision(device)
        elif (value is False or value == "false") and device.state != "unlicensed":
            self._set_state(device, "unlicensed")

    def _act(self, handle: str, topic: str, request: dict[str, Any]) -> None:
        action, args = request["action"], request.get("args")
        args = args if isinstance(args, dict) else {}
        device = self._devices.get(handle)
        if action == "create":
            self._create(handle, topic, args)
        elif device is None:
            self._publish_error(topic, f"Handle {handle}-device not found")
        elif action == "delete":
            self._delete(device)
        elif action == "replace":
            self._replace(device, topic, args)
        elif action not in {"provision", "deprovision", "test"}:
            self._publish_error(topic, f"{action}-action not found")
        elif device.state == "unlicensed":
            self._publish_error(topic, f"{action}-illegal operation on unlicensed device")
            self._publish_sts(device)
        elif action == "provision":
            self._provision(device)
        elif action == "deprovision":
            device.has_mark = False
            self._set_state(device, "unprovisioned")
        else:
            self._publish_sts(device)

    def _create(self, handle: str, topic: str, args: dict[str, Any]) -> None:
        device = self._devices.get(handle)
        if device is None:
            if args.get("type") != DEVICE_TYPE:
                if "type" not in args:
                    self._publish_error(topic, "type not found")
                self._publish_error(topic, "create-action unsuccessful")
                return
            unid = _text_or_none(args.get("unid"))
            device = _Device(handle, None if unid in self._unids else unid, DEVICE_TYPE)
            device.has_mark = _is_true(args.get("provision"))
            self._add(device)
        self._publish_sts(device)
        self._publish(
            device, "cfg", {"desc": "exampledevice xif", "loc": {"lat": 0, "lng": 0, "ele": 0}, "mru": self._utc()}
        )
        self._publish_interface(device)
        self._publish_sts(device)

    def _replace(self, device: _Device, topic: str, args: dict[str, Any]) -> None:
        unid = _text_or_none(args.get("unid"))
        if unid in self._unids:
            self._publish_error(topic, f"{unid}-UNID already exists")
        elif unid is not None:
            self._unids.discard(device.unid)
            self._unids.add(unid)
            device.unid = unid
            if device.state == "provisioned":
                device.state = "unprovisioned"
        self._publish_sts(device)

    def _provision(self, device: _Device) -> None:
        is_reachable = device.handle not in self.unreachable
        device.health = "normal" if is_reachable else "down"
        self._set_state(device, "provisioned" if is_reachable else "unprovisioned")

    # -- deletion ----------------------------------------------------------------------------------------------------

    def _delete(self, device: _Device) -> None:
        """At once, unless the device is provisioned and there was a deletion in the last 5 s: then by a sweep."""
        must_wait = self._sweep_s is not None and device.state == "provisioned"
        if self._sweep_s is not None:
            self._deletions.append(device.handle if must_wait else None)
        if not must_wait:
            self._remove(device)
            if self._sweep_s is None:
                self._sweep_s = self._now_s + self._window_s

    def _sweep(self, at_s: float) -> None:
        """Delete what waits, up to a request that was met at once.

        The simplest rule that gives both recordings: one device a sweep in idl_burst20, where requests for provisioned
        and other devices alternate, and two in one sweep in idl_daemon_cap.
        """
        is_idle = True
        while self._deletions:
            handle = self._deletions.popleft()
            device = self._devices.get(handle) if handle is not None else None
            if device is not None:
                self._remove(device)
                is_idle = False
            elif not is_idle:
                break
        self._sweep_s = None if is_idle else at_s + self._window_s

    def _remove(self, device: _Device) -> None:
        del self._devices[device.handle]
        self._unids.discard(device.unid)
        device.state = "deleted"
        self._publish_sts(device)
        self._publish(device, "cfg", None)
        self._publish(device, "if/block/0", None)
        self._publish_sts(device)

    # -- what goes out -----------------------------------------------------------------------------------------------

    def _set_state(self, device: _Device, state: str) -> None:
        device.state = state
        self._publish_sts(device)

    def _publish_sts(self, device: _Device) -> None:
        fields = {
            "state": device.state,
            "unid": device.unid,
            "health": device.health,
            "cat": "i/o",
            "type": device.type,
            "interface": "static",
            "usage": "controller",
            "product": "example_xif",
            "manufacturer": "Dialog",
            "blocks": device.blocks,
            "provisioned": "true" if device.has_mark else None,
            "mru": self._utc(),
        }
        self._publish(device, "sts", {key: value for key, value in fields.items() if value is not None})

    def _publish_interface(self, device: _Device) -> None:
        self._publish(device, "if/block/0", _INTERFACE)
        device.blocks = 1

    def _publish(self, device: _Device, resource: str, value: dict[str, Any] | None) -> None:
        """`None` clears the retained topic."""
        topic = f"glp/0/{self._sid}/fb/dev/{self.protocol}/{device.handle}/{resource}"
        self._out.append(Publish(topic, "" if value is None else _text(value)))

    def _publish_error(self, topic: str, message: str) -> None:
        error = {"cat": "error", "source": self.protocol, "language": "en", "topic": topic, "message": message}
        error["utc"] = self._utc()
        self._out.append(Publish(f"glp/0/{self._sid}/ev/error", _text(error), retain=False))

    def _utc(self) -> str:
        """As the library writes it: milliseconds are not zero-padded (fact 11)."""
        when = dt.datetime.fromtimestamp(self._now_s, dt.timezone.utc)
        return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000} UTC"

    def _taken(self) -> list[Publish]:
        out, self._out = self._out, []
        return out


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _parsed(payload: str) -> dict[str, Any]:
    """The JSON object in a payload; an empty one where there is none."""
    try:
        value = json.loads(payload)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_true(value: object) -> bool:
    """JSON true or the word; not 1."""
    return value is True or value == "true"
