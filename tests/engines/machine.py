"""What drives a simulated engine (`replay`, `runner`) knows of it, whichever its kind.

Rules:
- "idl" is the current driver library, which reads `lic`; "js" is an older engine, which knows none;
- a run's end is the end of its machine; what the next one remembers is what `succeed` hands over.

What this module does not do: it knows no rule of either kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from engines import idl, js
from engines.idl import IdlEngine, Publish
from engines.js import JsEngine

Kind = Literal["idl", "js"]

PROTOCOL: dict[Kind, str] = {"idl": "example", "js": "xyz"}  # of the recorded ones
DEVICE_TYPE: dict[Kind, str] = {"idl": idl.DEVICE_TYPE, "js": js.DEVICE_TYPE}


class Machine(Protocol):
    """One run of an engine. Times are seconds since the epoch."""

    protocol: str
    unreachable: set[str]

    @property
    def sid(self) -> str:
        """The SID in use; empty while none is known."""

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The topic filters wanted now."""

    @property
    def deadline_s(self) -> float | None:
        """When `tick` is needed next."""

    def do_topic(self, handle: str) -> str:
        """Where this engine takes requests for a device."""

    def start(self, now_s: float) -> list[Publish]:
        """The engine is connected."""

    def receive(self, now_s: float, topic: str, payload: str, retain: bool) -> list[Publish]:
        """One message of a subscription."""

    def tick(self, now_s: float) -> list[Publish]:
        """Do what time brings."""


def succeed(
    before: Machine | None,
    kind: Kind,
    *,
    protocol: str | None = None,
    sid: str | None = "17qtest",
    start_window_s: float = 5.0,
    unreachable: Iterable[str] = (),
    is_obedient: bool = True,
) -> Machine:
    """The machine of a new run; `before` is that of the last one, if there was one."""
    name = PROTOCOL[kind] if protocol is None else protocol
    if kind == "idl":
        return IdlEngine(protocol=name, sid=sid, start_window_s=start_window_s, unreachable=unreachable)
    devices = before.devices if isinstance(before, JsEngine) else None
    return JsEngine(protocol=name, sid=sid, unreachable=unreachable, devices=devices, is_obedient=is_obedient)
