"""An older protocol engine as a pure state machine: one that knows no `lic`, and what it says, and when.

Rules (WIRE.md facts 8–10; the recordings `js_*` are the truth, and a test replays them all):
- time is an argument and used for stamps only: nothing happens by time;
- the engine hears requests, its own among them: a device that was created with `provision: true` is provisioned by a
  QoS 2 `provision` that the engine posts to itself and hears from the broker. Nobody's leave is asked;
- `sts` shows what the last request said: no `type` after `provision`, no `unid` either where the request had no args;
- a `create` without a unid leaves a ghost: an `sts` without `state`, of a device that does not exist;
- what is refused is refused without a word here (the real one tells its logger, `=logger/event`, nobody else).

Not recorded, chosen here:
- after a restart it silently goes on running what it had (fact 10: it publishes nothing): hand the last run's
  `devices` to the next one;
- `deprovision`, whoever asks, makes a provisioned device `unprovisioned`, and leaves its interface; `replace` shows the
  new unid in the same state; a device that cannot be reached stays `unprovisioned`, `health: down`;
- a new SID starts the engine anew, without devices; other actions change nothing.

What this module does not do: no connection, no clock, no values, no logger; the recorded engine's own limit of 20
devices is announced and not held.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engines.idl import SID_TOPIC, Publish

DEVICE_TYPE = "9000010600000000"

_SFPT = {"if/light/0": ("SFPTopenLoopActuator", "in"), "if/switch/0": ("SFPTopenLoopSensor", "out")}


@dataclass(frozen=True, slots=True)
class JsDevice:
    """What an engine remembers of a device."""

    handle: str
    unid: str
    is_provisioned: bool = False
    has_interface: bool = False  # built by the first `provision`


class JsEngine:
    """One run of an older engine, from its start to its end; a restart is a new object with the same `devices`."""

    def __init__(
        self,
        *,
        protocol: str = "xyz",
        sid: str | None = "17qtest",
        unreachable: Iterable[str] = (),
        devices: Mapping[str, JsDevice] | None = None,
        is_obedient: bool = True,
    ) -> None:
        """`sid=None`: taken from the broker. `devices`: of the run before. `is_obedient=False`: no deprovision."""
        self.protocol = protocol
        self.unreachable = set(unreachable)  # handles that stay `unprovisioned`, `health: down`, when provisioned
        self.is_obedient = is_obedient
        self._is_sid_fixed = sid is not None
        self._sid = sid or ""
        self._now_s = 0.0
        self._out: list[Publish] = []
        self._devices = dict(devices or {})
        self._unids = {each.unid: each.handle for each in self._devices.values()}

    # -- for the driver of the machine -----------------------------------------------------------------------------

    @property
    def sid(self) -> str:
        """The SID in use; empty while none is known."""
        return self._sid

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topic filters wanted now; grows when the SID gets known."""
        wanted: tuple[str, ...] = () if self._is_sid_fixed else (SID_TOPIC,)
        return (*wanted, self.do_topic("+")) if self._sid else wanted

    @property
    def deadline_s(self) -> float | None:
        """When `tick` is needed next: never."""
        return None

    @property
    def devices(self) -> dict[str, JsDevice]:
        """What the next run may remember; by handle."""
        return dict(self._devices)

    def do_topic(self, handle: str) -> str:
        """Where this engine takes requests for a device, and posts its own."""
        return f"glp/0/{self._sid}/rq/dev/{self.protocol}/{handle}/do"

    def start(self, now_s: float) -> list[Publish]:
        """The engine is connected: it introduces itself, not retained, and without its protocol in the topic."""
        component = {
            "name": f"{self.protocol} Protocol Engine",
            "desc": "",
            "license": "",
            "manufacturer": "Adesto Technologies Corporation",
            "version": "1.00.000",
        }
        about = {
            "components": [component],
            "limitations": {"devices": 20, "protocols": [self.protocol]},
            "protocol": {self.protocol: {"devices": 20}},
        }
        self._now_s = now_s
        return [Publish("glp/0/./=engine/about", _text(about), retain=False)]

    def receive(self, now_s: float, topic: str, payload: str, retain: bool) -> list[Publish]:
        """One message of a subscription. What cannot be understood is ignored."""
        self._now_s = now_s
        levels = topic.split("/")
        value = _parsed(payload)
        if topic == SID_TOPIC and not self._is_sid_fixed:
            self._take_sid(value)
        elif len(levels) == 8 and topic == self.do_topic(levels[6]) and isinstance(value, dict):
            args = value.get("args")
            self._act(levels[6], value.get("action"), args if isinstance(args, dict) else {})
        out, self._out = self._out, []
        return out

    def tick(self, now_s: float) -> list[Publish]:
        """Nothing happens by time."""
        self._now_s = now_s
        return []

    # -- what comes from outside -------------------------------------------------------------------------------------

    def _take_sid(self, sid: object) -> None:
        if isinstance(sid, str) and sid and sid != self._sid:
            if self._sid:
                self._devices, self._unids = {}, {}
            self._sid = sid

    def _act(self, handle: str, action: object, args: dict[str, Any]) -> None:
        device = self._devices.get(handle)
        if action == "create":
            self._create(handle, args)
        elif device is None:
            return  # "Device with handle … does not exist", says the real one to its logger
        elif action == "provision":
            self._provision(device, args)
        elif action == "deprovision":
            self._deprovision(device, args)
        elif action == "delete":
            self._delete(device)
        elif action == "replace":
            self._replace(device, args)

    def _create(self, handle: str, args: dict[str, Any]) -> None:
        unid = _text_or_none(args.get("unid"))
        if unid is not None and self._unids.get(unid, handle) != handle:
            return  # "Unid is not unique", says the real one to its logger
        device = self._devices.get(handle)
        if device is None and unid is not None:
            device = self._keep(JsDevice(handle, unid))
        is_wanted = device is not None and args.get("provision") is True
        action = "provision" if is_wanted and device is not None and not device.is_provisioned else None
        self._publish_sts(handle, device, args, type_=_text_or_none(args.get("type")), action=action)
        self._publish_cfg(handle)
        if is_wanted:
            request = {"action": "provision", "args": args}
            self._out.append(Publish(self.do_topic(handle), _text(request), qos=2, retain=False))

    def _provision(self, device: JsDevice, args: dict[str, Any]) -> None:
        if device.is_provisioned:
            return
        if device.handle in self.unreachable:
            self._publish_sts(device.handle, device, args, health="down")
            return
        for resource in _SFPT:
            self._publish(device.handle, resource, self._interface(resource))
        device = self._keep(replace(device, is_provisioned=True, has_interface=True))
        self._publish_sts(device.handle, device, args)

    def _deprovision(self, device: JsDevice, args: dict[str, Any]) -> None:
        if self.is_obedient and device.is_provisioned:
            device = self._keep(replace(device, is_provisioned=False))
            self._publish_sts(device.handle, device, args)

    def _replace(self, device: JsDevice, args: dict[str, Any]) -> None:
        unid = _text_or_none(args.get("unid"))
        if unid is not None and unid not in self._unids:
            del self._unids[device.unid]
            self._publish_sts(device.handle, self._keep(replace(device, unid=unid)), args)

    def _delete(self, device: JsDevice) -> None:
        del self._devices[device.handle], self._unids[device.unid]
        self._publish(device.handle, "sts", self._sts(health=None, state="deleted"))
        self._publish(device.handle, "cfg", None)
        for resource in _SFPT if device.has_interface else ():
            self._publish(device.handle, resource, None)

    def _keep(self, device: JsDevice) -> JsDevice:
        self._devices[device.handle] = device
        self._unids[device.unid] = device.handle
        return device

    # -- what goes out -----------------------------------------------------------------------------------------------

    def _publish_sts(
        self,
        handle: str,
        device: JsDevice | None,
        args: dict[str, Any],
        *,
        type_: str | None = None,
        action: str | None = None,
        health: str = "normal",
    ) -> None:
        """As after a request with these args. No device: a ghost, without `state`."""
        state = None if device is None else "provisioned" if device.is_provisioned else "unprovisioned"
        unid = _text_or_none(args.get("unid"))
        self._publish(handle, "sts", self._sts(health=health, state=state, unid=unid, type_=type_, action=action))

    def _sts(
        self,
        *,
        health: str | None,
        state: str | None,
        unid: str | None = None,
        type_: str | None = None,
        action: str | None = None,
    ) -> dict[str, Any]:
        """Every key is there, null or not, but for `state`."""
        before = {"action": action, "addr": None, "alert": None, "amd": None, "cat": None, "health": health}
        before |= {"manufacturer": None, "product": None, "routing": None}
        after = {"type": type_, "unid": unid, "usage": None, "version": None, "mru": self._utc()}
        return before | ({} if state is None else {"state": state}) | after

    def _publish_cfg(self, handle: str) -> None:
        names = ("name", "desc", "loc", "motion_zone", "motion_radius", "motion_timeout")
        self._publish(handle, "cfg", dict.fromkeys(names) | {"mru": self._utc()})

    def _interface(self, resource: str) -> dict[str, Any]:
        type_, direction = _SFPT[resource]
        off = {"value": 0, "state": 0}
        value = {
            "cat": direction,
            "property": False,
            "type": "SNVT_switch",
            "value": off,
            "values": {"level": 17, "levels": {"17": off}},
            "monitor": {"rate": 0, "inFeedback": False, "report": "change", "throttle": 0.5},
        }
        return {"type": type_, "nviValue": value, "mru": self._utc()}

    def _publish(self, handle: str, resource: str, value: dict[str, Any] | None) -> None:
        """`None` clears the retained topic."""
        topic = f"glp/0/{self._sid}/fb/dev/{self.protocol}/{handle}/{resource}"
        self._out.append(Publish(topic, "" if value is None else _text(value)))

    def _utc(self) -> str:
        """Milliseconds are not zero-padded (fact 11)."""
        when = dt.datetime.fromtimestamp(self._now_s, dt.timezone.utc)
        return f"{when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000} UTC"


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _parsed(payload: str) -> object:
    """The JSON value in a payload; None where there is none."""
    try:
        return json.loads(payload)
    except ValueError:
        return None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
