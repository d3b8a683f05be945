"""The daemon's own topics are guarded: who else writes to them is reported.

Rules (WIRE.md "Its own topics are guarded"): one `ev/lic`, one D-Bus signal and one journal entry for a foreign value,
rationed, since whoever can write one can write a million; overwriting it is `speaking`'s and `showing`'s.

What this module does not do: it finds nothing itself (`observing` compares what comes back with what was sent).
"""

from __future__ import annotations

from smartserver_licensed.domain.counting import SMARTSERVER, UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.messages import TAMPERED
from smartserver_licensed.domain.status import Totals

from .outbox import Outbox
from .ports import Announcer
from .rationing import Ration

_SHOWN = 200  # characters of what was found


class Guard:
    """Reports foreign values on own topics."""

    def __init__(self, outbox: Outbox, announcer: Announcer) -> None:
        self._outbox = outbox
        self._announcer = announcer
        self.ration = Ration(TAMPERED)

    def found(self, topic: str, payload: bytes, device: DeviceId | None, totals: Totals, now_s: float) -> None:
        """Somebody else wrote `payload` to `topic`; `device` is None where it is the status of the SmartServer."""
        shown = ascii(payload[:_SHOWN].decode("utf-8", "replace"))[1:-1]
        name = str(device) if device else SMARTSERVER
        if not self.ration.tell(now_s, TOPIC=topic, FOUND=shown, DEVICE=name):
            return
        self._outbox.event("tamper", UnitId(name), device, reason="foreign-write", totals=totals, topic=topic)
        self._announcer.tampered(topic, {"device": name, "found": shown})
