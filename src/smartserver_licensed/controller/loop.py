"""The one way through: observations → decide → make durable → apply → publish → replace the status.

Rules (OVERVIEW, WIRE.md):
- one batch at a time; what comes meanwhile waits in the adapter's queue and is in the next one;
- nothing is decided before the own state is loaded and a snapshot of the broker is complete;
- persist, then publish: what was announced survives a power cut;
- no turn of the loop takes longer than some milliseconds: events are taken in for 10 ms, then others have their turn;
  a large batch is computed by hundreds;
- the watchdog is fed by finished batches, not by a timer.

What this module does not do: it reads no message (`observing`), decides nothing (`domain.seats`), says nothing itself
(`speaking`, `outbox`, `showing`) and keeps nothing durable (`keeper`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeVar

from smartserver_licensed.domain import messages, overcapacity, withholding
from smartserver_licensed.domain.admission import Admission
from smartserver_licensed.domain.binding import NO_FACTORS, Binding, assurance
from smartserver_licensed.domain.counting import SMARTSERVER, UnitId, only_device
from smartserver_licensed.domain.devices import DeviceState
from smartserver_licensed.domain.facts import Device
from smartserver_licensed.domain.ledger_state import Cause, Event, LedgerState, SeatGiven, SeatLost
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.domain.refusal import Refusal, RefusalLimit, SeatRequest, refuse
from smartserver_licensed.domain.seats import HUNDRED, Decision, Entitled, by_hundreds
from smartserver_licensed.domain.status import Status, Totals, license_state
from smartserver_licensed.domain.withholding import Answer
from smartserver_licensed.formats.bus import Plain
from smartserver_licensed.formats.connection import BrokerEvent

from .enforcing import Enforcer
from .entitling import Entitlement, Entitling
from .guarding import Guard
from .keeper import Keeper
from .noticing import Noticing
from .observing import Observer
from .outbox import Outbox
from .policy import Policy
from .ports import Announcer, Broker, Clocks, Notifier
from .rationing import Ration
from .showing import Display
from .speaking import Speaker
from .telling import tell
from .trusting import Trusted

AUDIT_INTERVAL_S = 3_600.0
LONGEST_WAIT_S = 1.0
_TAKEN_AT_ONCE = 1_000
_TURN_S = 0.01
_T = TypeVar("_T")


class Controller:
    """The daemon's heart: one per process."""

    def __init__(
        self,
        *,
        broker: Broker,
        keeper: Keeper,
        clocks: Clocks,
        announcer: Announcer,
        notifier: Notifier,
        policy: Policy,
        install_code: str,
        version: str,
        trusted: Trusted,
        anchor: str,
    ) -> None:
        self._broker = broker
        self._keeper = keeper
        self._clocks = clocks
        self._announcer = announcer
        self._notifier = notifier
        self._install_code = install_code
        self._version = version
        self._anchor = anchor
        self._entitling = Entitling()
        self._entitlement = Entitlement()
        self._outbox = Outbox(broker, clocks.wall_ms)
        self._speaker = Speaker(self._outbox, self._reads_lic)
        self._enforcer = Enforcer(self._outbox, self._reads_lic, is_reporting_only=policy.is_reporting_only)
        self._guard = Guard(self._outbox, announcer)
        self._observer = Observer(broker, clocks, self._outbox, self._speaker, policy, lambda: keeper.state)
        self._entitled = Entitled(0, None)
        self._is_ledger_full = False
        self._display = Display(announcer, notifier, self._outbox, clocks, self._make_status())
        self.noticing = Noticing(keeper, trusted, self._outbox, announcer, now_s=clocks.monotonic())
        self._limit = RefusalLimit()
        self._refusals = Ration(messages.SEAT_REFUSED)
        self._rations = (self._refusals, self._guard.ration, self._enforcer.ration)
        self._lock = asyncio.Lock()
        self._touched: dict[UnitId, None] = {}
        self._next_audit_at = clocks.monotonic() + AUDIT_INTERVAL_S

    # -- running -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the state, before anything is decided. Raises LedgerBusyError only."""
        await self._keeper.open()
        self._state_changed()
        self._look_at_licenses()
        self._replace_status()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            wait_s = max(0.0, min(self._next_due_at() - self._clocks.monotonic(), LONGEST_WAIT_S))
            events = await self._broker.take(_TAKEN_AT_ONCE, wait_s)
            async with self._lock:
                await self._observe(events)
                await self._batch()
            self._notifier.progressed()
            await asyncio.sleep(0)  # while messages wait, nothing above does

    async def _observe(self, events: Iterable[BrokerEvent]) -> None:
        turn_ends_at = self._clocks.monotonic() + _TURN_S
        for event in events:
            self._observer.observe(event)
            if self._clocks.monotonic() >= turn_ends_at:
                await asyncio.sleep(0)  # 64 KiB of JSON may take 6 ms
                turn_ends_at = self._clocks.monotonic() + _TURN_S

    async def commit_license(
        self, make: Callable[[LedgerState], Sequence[Event]], when_durable: Callable[[], None] = lambda: None
    ) -> bool:
        """Make a license event durable and act on it in the same breath; `make` sees the state as it is then.

        `when_durable` is called before anything is announced. False: the ledger failed. Raises as `make` and the keeper
        do; then nothing has changed.
        """
        async with self._lock:
            state, had_state = self._keeper.shown, self._keeper.state is not None
            if state is None:
                return False
            events = make(state)
            is_durable = await self._keeper.commit_license(events)
            if is_durable:
                when_durable()
            if had_state and self._keeper.state is not None:
                self.admission.mark_all(self._keeper.state)
            else:
                self._state_changed()
            await self._batch()
            if is_durable:
                await self._announce(events, frozenset())
                self._tell_counts([], [each.unit for each in events if isinstance(each, SeatLost)])
            return is_durable

    async def commit_contact(self, make: Callable[[LedgerState], Sequence[Event]]) -> bool:
        """Make a request, or a note, durable; as `commit_license`, but nothing of what is decided depends on it."""
        async with self._lock:
            state, had_state = self._keeper.shown, self._keeper.state is not None
            events = make(state) if state is not None else ()
            is_durable = state is not None and (not events or await self._keeper.commit_contact(events))
            if had_state and self._keeper.state is None:
                self._state_changed()
            return is_durable

    async def acknowledge_repair(self) -> str:
        """Take the condition `degraded` back; what was repaired, empty where nothing was."""
        async with self._lock:
            try:
                return await self._keeper.acknowledge_repair()
            finally:
                if self._keeper.state is None:
                    self._state_changed()
                await self._batch()

    # -- one batch -----------------------------------------------------------------------------------------------------

    async def _batch(self) -> None:
        now_s = self._clocks.monotonic()
        await self._on_time(now_s)
        self._look_at_licenses()
        if self._observer.is_current:
            if self._keeper.state is None:
                self._touched.update(self.admission.take_due())
                await self._refuse_without_state(self.admission.facts.take_requests(), now_s)
            else:
                await self._decide(self._keeper.state, now_s)
            await self._speak(now_s)
        elif self._keeper.has_excess and self._keeper.state is not None:
            await self._begin_grace()
        for topic, payload, device in self._observer.take_foreign():
            self._guard.found(topic, payload, device, self.totals(), now_s)
        await self.noticing.on_time(self.totals(), is_current=self._observer.is_current, now_s=now_s)
        self._replace_status()

    def _look_at_licenses(self) -> None:
        state = self._keeper.state
        self._entitlement = self._entitling.look(self._keeper.shown, self._keeper.now())
        room = self._keeper.room_for_seats()
        if state is not None and room == 0 and not self._is_ledger_full:
            tell(messages.LEDGER_FULL, SEATS=len(state.seats))
        self._is_ledger_full = room == 0
        is_bound = self._keeper.binding is Binding.BOUND
        self._entitled = Entitled(
            self._entitlement.capacity, self._entitlement.ended_grace_days, is_bound=is_bound, room=room
        )
        if state is not None:  # also where nothing is decided: at the start, and while no broker is there
            self._keeper.has_excess = self.totals().excess > 0

    async def _on_time(self, now_s: float) -> None:
        if self._keeper.retry_at is not None and now_s >= self._keeper.retry_at:
            await self._keeper.open()
            self._state_changed()
        if self._keeper.state is not None and now_s >= self._keeper.mark_due_at and not await self._keeper.commit([]):
            self._state_changed()
        self._observer.on_time(now_s)
        for ration in self._rations:
            ration.on_time(now_s)
        if now_s >= self._next_audit_at:
            self._next_audit_at = now_s + AUDIT_INTERVAL_S
            self._audit()

    async def _decide(self, state: LedgerState, now_s: float) -> None:
        grace = self._keeper.grace()
        decision = await self._decision(state, grace, now_s)
        given = [each.unit for each in decision.events if isinstance(each, SeatGiven)]
        newly = {unit for unit in given if unit not in state.seats}
        has_news = bool(decision.events) or decision.grace != grace
        if has_news and not await self._keeper.commit(decision.events, decision.grace):
            self._state_changed()
            await self._refuse_without_state(decision.requests, now_s)
            return
        touched = self.admission.touched(decision)
        async for some in _in_turns(touched):
            self.admission.file(some, state, now_s)
        self._touched.update(touched)
        self._keeper.has_excess = self.totals().excess > 0
        await self._speak(now_s)  # lic first: a device waits for it, ev/lic is for the record
        self._broker.flush()
        await self._announce(decision.events, newly)
        self._tell_counts(decision.adopted, decision.revoked)
        await self._refuse(decision.refusals, now_s)

    async def _begin_grace(self) -> None:
        """While no broker is there nobody is decided about, but the grace begins with what has lowered the capacity."""
        grace, days = self._keeper.grace(), self._entitled.ended_grace_days
        begun = overcapacity.begun(grace, days=overcapacity.ADOPTION_GRACE_DAYS if days is None else days)
        if begun != grace and not await self._keeper.commit([], begun):
            self._state_changed()

    async def _decision(self, state: LedgerState, grace: Grace, now_s: float) -> Decision:
        for decision in self.admission.deciding(state, self._entitled, grace=grace, now_s=now_s):
            if decision is not None:
                return decision
            await asyncio.sleep(0)
        raise AssertionError("deciding ends with a decision")

    async def _speak(self, now_s: float) -> None:
        facts = self.admission.facts
        touched = (device for unit in self._touched for device in facts.members(unit))
        due = (*self._speaker.due(facts, now_s), *self._enforcer.due(facts, now_s))
        devices = {device.id: device for device in touched}
        self._touched.clear()
        waited = {device.id: device for device in due if device.id not in devices}
        unasked: list[SeatRequest] = []
        for group in (waited, devices):  # who had to wait does not wait for ever, whoever else comes
            answers: list[tuple[Device, Answer]] = []
            async for some in _in_turns(group.values()):
                answers += [(device, self.answer(device)) for device in some]
            unasked += self._enforcer.look(answers, now_s)
            for device in self._speaker.speak(answers, totals=self.totals(), now_s=now_s):
                facts.forget(device)
        is_usable = self._keeper.state is not None
        await self._refuse(
            [
                refuse(each, totals=self.totals(), is_storage_usable=is_usable, is_bound=self._entitled.is_bound)
                for each in unasked
            ],
            now_s,
        )

    def answer(self, device: Device) -> Answer:
        """What a device should hear now; the rule is `withholding`'s."""
        state = self._keeper.state
        view = self.admission.facts.view(device.unit)
        return withholding.answer(
            is_ledger_usable=state is not None,
            was_licensed_at_start=device.was_licensed_at_start,
            is_deleted=device.state is DeviceState.DELETED,
            is_internal=device.unit == SMARTSERVER,
            seat=state.seats.get(device.unit) if state else None,
            is_absent=view.is_absent,
            is_held=view.is_held,
            has_asked=view.asked_at is not None,
        )

    def _reads_lic(self, protocol: str) -> bool | None:
        return self.admission.facts.reads_lic(protocol)

    async def _announce(self, events: Iterable[Event], newly: AbstractSet[UnitId]) -> None:
        totals = self.totals()
        async for some in _in_turns(events):
            for event in some:
                match event:
                    case SeatGiven(unit) if unit in newly:
                        self._say_event("admission", unit, None, totals)
                    case SeatLost(unit, cause):
                        kind = "revocation" if cause in {Cause.GRACE_ENDED, Cause.REVOKED} else "release"
                        self._say_event(kind, unit, cause.value, totals)

    def _tell_counts(self, adopted: Sequence[UnitId], revoked: Sequence[UnitId]) -> None:
        for message, units in ((messages.ADOPTED, adopted), (messages.REVOKED, revoked)):
            if units:
                tell(message, COUNT=len(units), DEVICE=units[0], CAPACITY=self.totals().capacity)

    def _say_event(self, kind: str, unit: UnitId, reason: str | None, totals: Totals) -> None:
        members = self.admission.facts.members(unit)
        device = members[0].id if members else only_device(unit)
        self._outbox.event(kind, str(unit), device, reason=reason, totals=totals)

    async def _refuse(self, refusals: Iterable[Refusal], now_s: float) -> None:
        async for some in _in_turns(each for each in refusals if self._limit.allows(each.request.unit, now_s)):
            for refusal in some:
                self._tell_refused(refusal, now_s)

    def _tell_refused(self, refusal: Refusal, now_s: float) -> None:
        self._outbox.refusal(refusal, self.totals())
        device, code = str(refusal.request.device), refusal.code.value
        details: dict[str, Plain] = {"capacity": refusal.capacity, "used": refusal.used, "message": refusal.sentence}
        self._announcer.rejected(device, code, details)
        self._refusals.tell(now_s, DEVICE=device, CODE=code, CAPACITY=refusal.capacity, USED=refusal.used)

    async def _refuse_without_state(self, requests: Iterable[SeatRequest], now_s: float) -> None:
        """No ledger: nothing is admitted; whoever asks is told why, and what runs is left alone."""
        facts, totals = self.admission.facts, self.totals()
        waiting = [each for each in requests if facts.view(each.unit).state is not DeviceState.PROVISIONED]
        await self._refuse([refuse(each, totals=totals, is_storage_usable=False) for each in waiting], now_s)

    # -- state comes and goes ------------------------------------------------------------------------------------------

    def _state_changed(self) -> None:
        """The ledger was opened, or failed: memory follows."""
        state = self._keeper.state
        if state is not None:
            tell(messages.LEDGER_OPENED, USED=1 + state.provisioned, RESERVED=state.reserved)
        self.admission.state_changed(state, self._clocks.monotonic())

    def _audit(self) -> None:
        """Recount the seat table and look at every unit again; a difference is a bug report, not routine."""
        state = self._keeper.state
        if state is not None and (counted := (state.provisioned, state.reserved)) != (recounted := state.recount()):
            tell(messages.AUDIT_DIFFERENCE, COUNTED=counted, RECOUNTED=recounted)
            state.provisioned, state.reserved = recounted
        self.admission.mark_all(state)

    def _next_due_at(self) -> float:
        now_s = self._clocks.monotonic()
        moments: list[float | None] = [
            self._keeper.retry_at,
            self._observer.next_due_at(),
            self._next_audit_at,
            *(each.due_at for each in self._rations),
            self._display.due_at,
            self.noticing.due_at,
        ]
        if self._observer.is_current:  # nobody is spoken to before
            moments += [self._speaker.next_due_at(), self._enforcer.next_due_at()]
            moments.append(now_s if self.admission.is_due else None)
        if self._keeper.state is not None and self._observer.is_current:
            end = self._entitlement.next_end
            moments += [
                self.admission.next_due_at(can_take=self.totals().free == 0),
                now_s + end - self._keeper.now() if end is not None else None,
                now_s + self._keeper.grace().remaining_s if self._keeper.has_excess else None,
            ]
        return min(each for each in moments if each is not None)

    # -- what is asked of it -------------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The status as of the last batch."""
        return self._display.status

    @property
    def admission(self) -> Admission:
        """Facts and queues under the current SID."""
        return self._observer.admission

    def totals(self) -> Totals:
        """The counts as of now, the capacity as of the last batch; O(1), and no clock is read."""
        state = self._keeper.shown
        waiting = self.admission.queues.waiting
        if state is None:
            return Totals(0, 0, 0, waiting)
        return Totals(self._entitled.capacity, state.provisioned, state.reserved, waiting)

    def _make_status(self) -> Status:
        state, storage, totals = self._keeper.shown, self._keeper.storage, self.totals()
        return Status(
            state=license_state(
                is_started=self._observer.is_started,
                storage=storage,
                is_bound=self._entitled.is_bound,
                totals=totals,
            ),
            totals=totals,
            storage=storage,
            clock=self._keeper.clock(),
            is_broker_connected=self._broker.is_connected,
            customer_id=state.installed.grant.customer_id if state and state.installed else "",
            segment_id=self._observer.sid or "",
            install_code=self._install_code,
            assurance=assurance(state.factors if state else NO_FACTORS, self._anchor),
            version=self._version,
            maintenance=self._entitlement.maintenance,
        )

    def _replace_status(self) -> None:
        is_shown = self._display.replace(
            self._make_status(), is_current=self._observer.is_current, is_doubtful=self._observer.is_status_doubtful
        )
        self._observer.is_status_doubtful = not is_shown


async def _in_turns(items: Iterable[_T]) -> AsyncIterator[list[_T]]:
    """The items by hundreds; between two of them others have their turn."""
    for some in by_hundreds(items):
        yield some
        if len(some) == HUNDRED:
            await asyncio.sleep(0)
