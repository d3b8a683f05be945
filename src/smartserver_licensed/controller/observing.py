"""From broker events to facts: the connection, the SID, the snapshot, and what each message says.

Rules (WIRE.md):
- a message only changes facts and marks a unit as due; nothing is decided here;
- the facts are *current* once a snapshot under this SID on this connection is complete; before, nothing is decided;
- no SID: nothing is decided or published; a new SID starts everything anew (seats belong to protocol and handle); the
  last one holds over a reconnect until the broker shows another or none (ADR 0012);
- own messages that come back are no requests and no tampering; what others write to own topics is doubted, and noted;
- what cannot be read changes nothing, is counted, and is reported once a minute.

What this module does not do: it reads no bytes itself (`formats.iap`) and says nothing to devices (`speaking`).
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence

from smartserver_licensed.domain import messages
from smartserver_licensed.domain.admission import Admission
from smartserver_licensed.domain.counting import only_device
from smartserver_licensed.domain.devices import DeviceId, DeviceReport, DeviceState
from smartserver_licensed.domain.errors import MessageError
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Disconnected, Dropped, Received

from .outbox import Outbox
from .policy import Policy
from .ports import Broker, Clocks
from .snapshot import Snapshot
from .speaking import Speaker
from .telling import tell

SNAPSHOT_INTERVAL_S = 3_600.0
REPORT_INTERVAL_S = 60.0
_NEVER = float("inf")
_UNKNOWN_STATES = 1_000


class Observer:
    """Takes in what the broker delivers. `state` gives the durable state, or None while it is not loaded."""

    def __init__(
        self,
        broker: Broker,
        clocks: Clocks,
        outbox: Outbox,
        speaker: Speaker,
        policy: Policy,
        state: Callable[[], LedgerState | None],
    ) -> None:
        self._broker = broker
        self._clocks = clocks
        self._outbox = outbox
        self._speaker = speaker
        self._policy = policy
        self._state = state
        self._salt = secrets.token_hex(4)
        self._snapshot: Snapshot | None = None
        self._was_connected = True
        self._had_snapshot = False
        self._absence_at = self._next_snapshot_at = self._report_at = _NEVER
        self._begun_at = -REPORT_INTERVAL_S
        self._absence_since = 0  # the generation of the snapshot that the grace began with
        self._drops: Counter[str] = Counter()
        self._last_bad = ""
        self._unknown_states: set[DeviceId] = set()
        self._foreign: list[tuple[str, bytes, DeviceId | None]] = []
        self.admission = self._new_admission()
        self.sid: str | None = None
        self.is_current = False
        self.is_started = False  # some snapshot under this SID has been complete, now or on an earlier connection
        self.is_status_doubtful = True  # the broker may hold another `fb/lic` than ours

    # -- events ------------------------------------------------------------------------------------------------------

    def observe(self, event: BrokerEvent) -> None:
        """Take in one event of the connection."""
        match event:
            case Connected():
                tell(messages.BROKER_CONNECTED)
                self._was_connected = True
                self._outbox.forget_sent()
                self.admission.facts.connected()
                self._speaker.reset()
                self._broker.subscribe([(each, 1) for each in (iap.SID_TOPIC, *iap.ENGINE_FILTERS)])
                if (
                    self.sid is not None
                ):  # a broker that lost everything has no SID to give; another one would come first
                    self._begin_snapshot(self.sid)
            case Disconnected(reason):
                if self._was_connected:
                    tell(messages.BROKER_LOST, REASON=reason)
                self._was_connected = False
                self._stop_looking()
            case Dropped(reason, is_incomplete):
                self._note_drop(reason)
                if is_incomplete:
                    self._look_again(self._clocks.monotonic())
            case Received(topic, payload, is_retained):
                try:
                    message = iap.parse(topic, payload, sid=self.sid or "")
                except MessageError as error:
                    self._drop(error.code, str(error))
                    return
                self._take_in(message, topic, payload, is_retained=is_retained)

    def _take_in(self, message: iap.Message | None, topic: str, payload: bytes, *, is_retained: bool) -> None:
        facts, now_s = self.admission.facts, self._clocks.monotonic()
        if is_retained and self._snapshot is not None:
            self._snapshot.on_retained(now_s)
        match message:
            case iap.StatusSeen(device, report):
                self._status_seen(device, report, is_retained=is_retained, now_s=now_s)
            case iap.RequestSeen(device, request) if request is not None:
                if not self._outbox.is_own(topic, payload, once=True):
                    self.admission.mark(facts.request(device, request, payload, now_s=now_s))
            case iap.LicSeen(device, licensed, reason) if is_retained:
                known = facts.licensed(device, licensed=licensed, reason=reason)
                self.admission.mark(known.unit if known else None)
            case iap.LicSeen(device):
                if not self._outbox.is_own(topic, payload):
                    known = facts.doubt_lic(device)
                    self.admission.mark(known.unit if known else None)
                    self._foreign.append((topic, payload, device))
            case iap.ConfigSeen(device, is_local_attach):
                facts.configured(device, is_local_attach=is_local_attach)
            case _:
                self._take_in_system(message, topic, payload, now_s, is_retained=is_retained)

    def _take_in_system(
        self, message: iap.Message | None, topic: str, payload: bytes, now_s: float, *, is_retained: bool
    ) -> None:
        match message:
            case iap.SidSeen(sid):
                self._sid_seen(sid)
            case iap.MarkerSeen(nonce) if self._snapshot is not None:
                self._snapshot.on_marker(nonce, now_s)
                if self._snapshot.is_done:
                    self._snapshot_done(self._snapshot, now_s)
            case iap.OwnStatusSeen() if not self._outbox.is_own(topic, payload):
                self.is_status_doubtful = True
                if not is_retained:
                    self._foreign.append((topic, payload, None))
            case iap.EngineStarted(protocol):
                self.admission.facts.engine_started(protocol)
                self._speaker.reset(protocol)

    def _status_seen(self, device: DeviceId, report: DeviceReport | None, *, is_retained: bool, now_s: float) -> None:
        facts, state = self.admission.facts, self._state()
        internal = state.internal if state else set()
        if report is None:
            self.admission.mark(facts.clear(device, now_s=now_s, internal=internal))
            return
        if report.state is DeviceState.UNKNOWN:
            self._tell_unknown(device)
        known = facts.device(device)
        was_out_of_sight = known is None or known.state is None
        unit = facts.report(device, report, is_retained=is_retained, now_s=now_s, internal=internal)
        self.admission.mark(unit)
        if unit is not None and was_out_of_sight and state is not None and unit in state.evicted:
            facts.hold(unit, now_s + self._policy.settle_s)

    def take_foreign(self) -> list[tuple[str, bytes, DeviceId | None]]:
        """What others wrote to the daemon's own topics since the last call: topic, payload, and whose `lic` it is."""
        foreign, self._foreign = self._foreign, []
        return foreign

    def _tell_unknown(self, device: DeviceId) -> None:
        """Once a device, and for so many devices only: the rest is silence."""
        if device not in self._unknown_states and len(self._unknown_states) < _UNKNOWN_STATES:
            self._unknown_states.add(device)
            tell(messages.UNKNOWN_STATE, DEVICE=device)

    # -- SID and snapshot ----------------------------------------------------------------------------------------------

    def _sid_seen(self, sid: str | None) -> None:
        if sid == self.sid and (self._snapshot is not None or self.is_current):
            return
        if sid != self.sid:
            if self.sid is not None:
                self._broker.unsubscribe(iap.live_filters(self.sid))
            self.sid = sid
            self.is_started = False
            self.admission = self._new_admission()
            self._speaker.reset()
        self._stop_looking()
        if sid is not None:
            self._begin_snapshot(sid)

    def _new_admission(self) -> Admission:
        return Admission(max_devices=self._policy.max_devices, settle_s=self._policy.settle_s)

    def _stop_looking(self) -> None:
        self.is_current = False
        self._snapshot = None
        self._outbox.sid = None
        self._absence_at = self._next_snapshot_at = _NEVER

    def _begin_snapshot(self, sid: str) -> None:
        facts, state = self.admission.facts, self._state()
        facts.begin_snapshot()
        for unit in state.seats if state else ():
            device = only_device(unit)
            if device is not None and state is not None:
                facts.expect(device, state.internal)
        self._next_snapshot_at = _NEVER
        self._begun_at = self._clocks.monotonic()
        self._snapshot = Snapshot(self._broker, sid, unseen=self._unseen, salt=self._salt)
        self._snapshot.start(self._begun_at)

    def _look_again(self, now_s: float) -> None:
        """Facts are missing: another snapshot at once, but one a minute at most, as it may be what overflows.

        Without a connection or a SID there is nothing to look at; the first one begins a snapshot anyway.
        """
        if self.sid is None or not self._was_connected:
            return
        self._next_snapshot_at = min(self._next_snapshot_at, max(now_s, self._begun_at + REPORT_INTERVAL_S))

    def _unseen(self) -> Sequence[DeviceId]:
        facts = self.admission.facts
        return [each.id for each in facts.devices() if each.seen_in != facts.generation]

    def _snapshot_done(self, snapshot: Snapshot, now_s: float) -> None:
        if snapshot.is_truncated:
            self._drop("snapshot-truncated")
        self._snapshot = None
        self.is_current = self.is_started = self.is_status_doubtful = True
        self._outbox.sid = self.sid
        self._next_snapshot_at = min(self._next_snapshot_at, now_s + SNAPSHOT_INTERVAL_S)
        if self._absence_at == _NEVER:  # a later snapshot does not postpone it
            self._absence_at = now_s + self._policy.absence_grace_s
            self._absence_since = self.admission.facts.generation
        if not self._had_snapshot:
            self._had_snapshot = True
            self.admission.facts.note_start()
        state = self._state()
        if state is not None:
            self.admission.hold_candidates(state, now_s)
        self.admission.mark_all(state)

    # -- time ----------------------------------------------------------------------------------------------------------

    def on_time(self, now_s: float) -> None:
        """Whatever is due by time alone: the snapshot's markers, the next snapshot, absence, the report of drops."""
        if self._snapshot is not None:
            self._snapshot.on_time(now_s)
        elif self.sid is not None and now_s >= self._next_snapshot_at:
            self._begin_snapshot(self.sid)
        if now_s >= self._absence_at:
            self._absence_at = _NEVER
            self.admission.find_absent(self._state(), self._absence_since)
        if self.admission.facts.dropped:
            self._note_drop("more devices than max_devices")
            self._look_again(now_s)
        if now_s >= self._report_at:
            self._report_drops(now_s)

    def next_due_at(self) -> float:
        """When `on_time` has something to do next (monotonic seconds)."""
        look_at = self._snapshot.due_at if self._snapshot else self._next_snapshot_at
        return min(look_at, self._absence_at, self._report_at)

    def _drop(self, why: str, text: str = "") -> None:
        self._drops[why] += 1
        self._note_drop(text)

    def _note_drop(self, text: str) -> None:
        self._last_bad = text or self._last_bad
        if self._report_at == _NEVER:
            self._report_at = self._clocks.monotonic()

    def _report_drops(self, now_s: float) -> None:
        """At once, then once a minute: all that was dropped since the last report."""
        self._drops.update(self._broker.take_drops())
        if self.admission.facts.dropped:
            self._drops["too-many-devices"] += self.admission.facts.dropped
            self.admission.facts.dropped = 0
        if not self._drops:
            self._report_at = _NEVER
            return
        summary = ", ".join(f"{why}: {count}" for why, count in sorted(self._drops.items()))
        tell(messages.MESSAGES_DROPPED, DROPPED=summary, LAST=self._last_bad)
        self._drops.clear()
        self._last_bad = ""
        self._report_at = now_s + REPORT_INTERVAL_S
