"""A small world for tests of the pure core: one SmartServer's facts, seats and time, without disk or broker."""

from __future__ import annotations

import itertools

from smartserver_licensed.domain.admission import Admission
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import Action, DeviceId, DeviceReport, DeviceRequest, DeviceState
from smartserver_licensed.domain.facts import Facts
from smartserver_licensed.domain.ledger_state import Event, LedgerState
from smartserver_licensed.domain.refusal import Refusal
from smartserver_licensed.domain.seats import Decision, Entitled
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer, answer

SETTLE_S = 15.0


def device_id(name: str) -> DeviceId:
    protocol, _, handle = name.partition("/")
    return DeviceId(protocol, handle)


class World:
    """Drives `Admission` as the controller does: observe, decide, apply, look at the answers."""

    def __init__(self, capacity: int, *, is_adopting: bool = False) -> None:
        self.capacity = capacity
        self.ended_grace_days: int | None = None
        self.state = LedgerState(install_code="17qtest", mark_s=0, is_adopting=is_adopting)
        self.admission = Admission(max_devices=4_000, settle_s=SETTLE_S)
        self.admission.facts.begin_snapshot()
        self.now_s = 1_000.0
        self.events: list[Event] = []
        self.refusals: list[Refusal] = []
        self.heard: dict[str, bool] = {}  # what each device heard last
        self.history: list[tuple[str, bool]] = []

    # -- what happens ----------------------------------------------------------------------------------------------

    def sts(
        self,
        name: str,
        state: str | None,
        *,
        retained: bool = False,
        mark: bool = False,
        trouble: bool = False,
        infrastructure: bool = False,
    ) -> None:
        report = DeviceReport(
            state=DeviceState.from_wire(state),
            has_restore_mark=mark,
            is_troubled=trouble,
            is_infrastructure=infrastructure,
        )
        device = device_id(name)
        known = self.facts.device(device)
        was_out_of_sight = known is None or known.state is None
        unit = self.facts.report(device, report, is_retained=retained, now_s=self.now_s, internal=self.state.internal)
        self.admission.mark(unit)
        if unit is not None and was_out_of_sight and unit in self.state.evicted:
            self.facts.hold(unit, self.now_s + SETTLE_S)

    def ask(
        self, name: str, action: Action = Action.PROVISION, *, wants_provision: bool | None = None, local: bool = False
    ) -> None:
        wants = action is Action.PROVISION if wants_provision is None else wants_provision
        request = DeviceRequest(action, wants_provision=wants, is_local_attach=local)
        self.admission.mark(self.facts.request(device_id(name), request, b"{}", now_s=self.now_s))

    def create(self, name: str, *, provision: bool = False, local: bool = False) -> None:
        self.ask(name, Action.CREATE, wants_provision=provision, local=local)
        self.sts(name, "unlicensed", mark=provision)

    def snapshot_done(self) -> None:
        self.admission.hold_candidates(self.state, self.now_s)
        self.admission.mark_all(self.state)

    def wait(self, seconds: float) -> None:
        """Time passes; whatever becomes due by time alone is decided when it does."""
        until_s = self.now_s + seconds
        for turn in itertools.count():
            assert turn < 1_000, "time does not pass: a unit stays due for ever"
            self.batch()
            due_at = self.admission.next_due_at(can_take=self.totals.free == 0)
            if due_at is None or due_at > until_s:
                break
            self.now_s = max(self.now_s, due_at)
        self.now_s = until_s
        self.batch()

    def batch(self) -> Decision:
        *_, decision = self.admission.deciding(
            self.state, Entitled(self.capacity, self.ended_grace_days), grace=self.state.grace, now_s=self.now_s
        )
        assert decision is not None
        for event in decision.events:
            self.state.apply(event)
        self.state.grace = decision.grace
        touched = self.admission.touched(decision)
        self.admission.file(touched, self.state, self.now_s)
        self.events.extend(decision.events)
        self.refusals.extend(decision.refusals)
        self._say(touched)
        if self.admission.is_due:  # whose hold has just ended
            self.batch()
        return decision

    def _say(self, touched: dict[UnitId, None]) -> None:
        answers = {
            str(device.id): said.licensed
            for unit in touched
            for device in self.facts.members(unit)
            if (said := self.answer(str(device.id))).licensed is not None
        }
        for wanted in (False, True):
            for name, licensed in answers.items():
                if licensed is wanted and self.heard.get(name) is not wanted:
                    self.heard[name] = wanted
                    self.history.append((name, wanted))

    # -- what can be seen ------------------------------------------------------------------------------------------

    @property
    def facts(self) -> Facts:
        return self.admission.facts

    @property
    def totals(self) -> Totals:
        return Totals(self.capacity, self.state.provisioned, self.state.reserved, self.admission.queues.waiting)

    def answer(self, name: str) -> Answer:
        device = self.facts.device(device_id(name))
        assert device is not None
        view = self.facts.view(device.unit)
        return answer(
            is_ledger_usable=True,
            was_licensed_at_start=False,
            is_deleted=device.state is DeviceState.DELETED,
            is_internal=device.unit == "smartserver",
            seat=self.state.seats.get(device.unit),
            is_absent=view.is_absent,
            is_held=view.is_held,
            has_asked=view.asked_at is not None,
        )

    def seat(self, name: str) -> str | None:
        seat = self.state.seats.get(UnitId(name))
        return seat.kind.value if seat else None

    def run(self, name: str) -> None:
        """A device is created, licensed and provisioned."""
        self.create(name, provision=True)
        self.batch()
        self.sts(name, "unprovisioned", mark=True)
        self.sts(name, "provisioned", mark=True)
        self.batch()
