"""Everything the daemon publishes on MQTT, and the recognition of its own messages when they come back.

Rules (WIRE.md): own messages are recognised by exact payload among the last 32 sent per topic, so that an own
`provision` is no request and an own older `lic` no tampering; of the last 5,000 topics at least, so that handles which
come and go leave nothing behind. Without a connection or a SID nothing is published; the
snapshot after the next connect repairs.

What this module does not do: it decides nothing; payload forms are `formats.iap`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.facts import Device
from smartserver_licensed.domain.notices import Notice
from smartserver_licensed.domain.refusal import Refusal
from smartserver_licensed.domain.status import Status, Totals
from smartserver_licensed.domain.withholding import Answer
from smartserver_licensed.formats import iap, iap_said

from .ports import Broker

_REMEMBERED = 32  # WIRE.md says 8; `fb/lic` may be said ten times a second, and an echo may take its time
_REMEMBERED_TOPICS = 5_000


class Outbox:
    """Publishes under one SID. `wall_ms` gives the time that people read."""

    def __init__(self, broker: Broker, wall_ms: Callable[[], int]) -> None:
        self._broker = broker
        self._wall_ms = wall_ms
        self._sent: dict[str, tuple[bytes, ...]] = {}
        self._sent_before: dict[str, tuple[bytes, ...]] = {}  # an older generation; both together are looked at
        self.sid: str | None = None

    def forget_sent(self) -> None:
        """A new connection: what was sent over the old one does not come back."""
        self._sent.clear()
        self._sent_before.clear()

    def is_own(self, topic: str, payload: bytes, *, once: bool = False) -> bool:
        """Whether we sent this. `once`: one echo answers for one message, as a person may send the same bytes."""
        sent = self._recall(topic)
        if payload not in sent:
            return False
        if once:
            place = sent.index(payload)
            self._sent[topic] = sent[:place] + sent[place + 1 :]
        return True

    def _recall(self, topic: str) -> tuple[bytes, ...]:
        return self._sent[topic] if topic in self._sent else self._sent_before.get(topic, ())

    def lic(self, device: Device, answer: Answer, totals: Totals) -> bool:
        """Say `lic` to a device."""
        if self.sid is None or answer.licensed is None:
            return False
        payload = iap_said.lic(answer, totals, self._wall_ms())
        return self._publish(iap.lic_topic(self.sid, device.id), payload, retain=True)

    def do(self, device: DeviceId, payload: bytes, *, is_kept: bool = True) -> bool:
        """Ask a device's engine for an action. `is_kept`: the broker may keep it for an engine that is away."""
        return self.sid is not None and self._publish(iap.do_topic(self.sid, device), payload, qos=int(is_kept))

    def status(self, status: Status) -> bool:
        """Publish `fb/lic`."""
        if self.sid is None:
            return False
        return self._publish(iap.status_topic(self.sid), iap_said.status(status, self._wall_ms()), retain=True)

    def refusal(self, refusal: Refusal, totals: Totals) -> None:
        """One `ev/error` in the vendor's form and one `ev/lic`."""
        if self.sid is None:
            return
        request = refusal.request
        error = iap_said.refusal_error(refusal, topic=iap.do_topic(self.sid, request.device), at_ms=self._wall_ms())
        self._publish(iap.error_topic(self.sid), error)
        self.event("rejection", str(request.unit), request.device, reason=refusal.code.value, totals=totals)

    def warning(self, notice: Notice) -> None:
        """One `ev/warning`, from which the CMS makes an alarm."""
        if self.sid is not None:
            topic = iap.status_topic(self.sid)
            self._publish(iap.warning_topic(self.sid), iap_said.warning(notice, topic=topic, at_ms=self._wall_ms()))

    def event(
        self, kind: str, unit: str, device: DeviceId | None, *, reason: str | None, totals: Totals, topic: str = ""
    ) -> None:
        """One record on `ev/lic`; `topic`: where a foreign value was found."""
        if self.sid is not None:
            payload = iap_said.event(
                kind, unit, device, reason=reason, totals=totals, at_ms=self._wall_ms(), topic=topic
            )
            self._publish(iap.event_topic(self.sid), payload)

    def _publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if not self._broker.publish(topic, payload, qos=qos, retain=retain):
            return False
        if topic.endswith(("/lic", "/do")):
            self._sent[topic] = (*self._recall(topic)[1 - _REMEMBERED :], payload)
            if len(self._sent) > _REMEMBERED_TOPICS:
                self._sent, self._sent_before = {}, self._sent
        return True
