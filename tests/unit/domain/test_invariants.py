"""The invariants of LICENSING §3 under random histories, held against a slow, obvious model that recounts."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from smartserver_licensed.domain.admission import Admission
from smartserver_licensed.domain.counting import SMARTSERVER, UnitId, counting_unit
from smartserver_licensed.domain.devices import Action, DeviceState
from smartserver_licensed.domain.ledger_state import Cause, SeatGiven, SeatKind, SeatLost
from smartserver_licensed.domain.queues import REQUEST_LIFE_S
from support.world import SETTLE_S, World, device_id

NAMES = [f"modbus/{n}" for n in range(6)] + ["iap/iox.1.dio", "iap/iox.1.sys", "lon/app.1", "lon/lon.sys", "bacnet/sys"]
STATES = ["unlicensed", "unprovisioned", "provisioned", "deleted", None, "odd"]
names = st.sampled_from(NAMES)


class Seats(RuleBasedStateMachine):
    """Random histories of devices, requests, time, capacity, restarts of engines, broker and daemon."""

    @initialize(capacity=st.integers(0, 7), is_adopting=st.booleans())
    def begin(self, capacity: int, is_adopting: bool) -> None:
        self.world = World(capacity, is_adopting=is_adopting)
        self.shown: dict[str, str] = {}  # the broker's retained sts
        if not is_adopting:
            return
        self.world.snapshot_done()
        self.batch()

    # -- what may happen -------------------------------------------------------------------------------------------

    @rule(name=names, provision=st.booleans(), local=st.booleans())
    def create(self, name: str, provision: bool, local: bool) -> None:
        self.world.create(name, provision=provision, local=local)
        self.shown[name] = "unlicensed"
        self.batch()

    @rule(name=names, state=st.sampled_from(STATES), trouble=st.booleans(), infrastructure=st.booleans())
    def sts(self, name: str, state: str | None, trouble: bool, infrastructure: bool) -> None:
        self.world.sts(name, state, trouble=trouble, infrastructure=infrastructure)
        if state is not None:
            self.shown[name] = state
        self.batch()

    @rule(name=names)
    def obey(self, name: str) -> None:
        """The engine does what `lic` says, and provisions the device."""
        heard = self.world.heard.get(name)
        if self.shown.get(name) in {None, "deleted"} or heard is None:
            return
        self.sts(name, "provisioned" if heard else "unlicensed", trouble=False, infrastructure=False)

    @rule(name=names, action=st.sampled_from([Action.PROVISION, Action.DEPROVISION]))
    def ask(self, name: str, action: Action) -> None:
        self.world.ask(name, action)
        self.batch()

    @rule(seconds=st.sampled_from([1, 5, 11, 16, 61]))
    def wait(self, seconds: float) -> None:
        before = self._before()
        self.world.wait(seconds)
        self._check_batch(*before)

    @rule(capacity=st.integers(0, 9), days=st.sampled_from([None, 0, 7]))
    def capacity_changes(self, capacity: int, days: int | None) -> None:
        self.world.capacity, self.world.ended_grace_days = capacity, days
        self.batch()

    @rule(seen=st.sets(names))
    def others_are_absent(self, seen: set[str]) -> None:
        self.world.facts.begin_snapshot()
        for name in sorted(seen):
            if name in self.shown:
                self.world.sts(name, self.shown[name], retained=True)
        self.world.snapshot_done()
        self.world.admission.find_absent(self.world.state, self.world.facts.generation)
        self.batch()

    @rule()
    def daemon_restarts(self) -> None:
        self.world.admission = Admission(max_devices=4_000, settle_s=SETTLE_S)
        self.world.facts.begin_snapshot()
        for name, state in self.shown.items():
            self.world.sts(name, state, retained=True)
            device = self.world.facts.device(device_id(name))
            if device is not None:
                self.world.facts.licensed(device.id, licensed=self.world.heard.get(name), reason="capacity-exceeded")
        self.world.snapshot_done()
        self.batch()

    # -- what must hold ----------------------------------------------------------------------------------------------

    def batch(self) -> None:
        self.wait(0)

    def _before(self) -> tuple[int, int, dict[UnitId, SeatKind]]:
        kinds = {unit: seat.kind for unit, seat in self.world.state.seats.items()}
        return len(self.world.events), len(self.world.history), kinds

    def _check_batch(self, events_before: int, heard_before: int, kinds: dict[UnitId, SeatKind]) -> None:
        held = set(kinds)
        provisioned = {unit for unit, kind in kinds.items() if kind is SeatKind.PROVISIONED}
        for event in self.world.events[events_before:]:
            if isinstance(event, SeatLost):
                assert event.unit in held, "a seat is lost once"
                held.discard(event.unit)
                if event.unit in provisioned:
                    allowed = {Cause.RELEASED, Cause.EVICTED, Cause.GRACE_ENDED, Cause.REVOKED}
                    assert event.cause in allowed, f"{event.unit} ran and lost its seat: {event.cause}"
                provisioned.discard(event.unit)
            elif isinstance(event, SeatGiven):
                is_adopted = event.seat.kind is SeatKind.PROVISIONED
                if event.unit not in held and not is_adopted:
                    assert 1 + len(held) < self.world.capacity, "used + reserved ≤ capacity at each grant"
                held.add(event.unit)
                (provisioned.add if is_adopted else provisioned.discard)(event.unit)
        said = self.world.history[heard_before:]
        for name, licensed in said:
            device = self.world.facts.device(device_id(name))
            unit = device.unit if device else counting_unit(device_id(name))
            if not licensed and unit in provisioned and unit in self.world.state.seats:
                assert device is not None
                assert device.state is DeviceState.DELETED, f"{name} has a seat, ran, and heard false"

    @invariant()
    def counters_equal_a_recount(self) -> None:
        state = self.world.state
        assert (state.provisioned, state.reserved) == state.recount()
        assert SMARTSERVER not in state.seats

    @invariant()
    def who_waits_equals_a_recount(self) -> None:
        facts, state = self.world.facts, self.world.state
        waiting = {
            device.unit
            for device in facts.devices()
            if device.state not in {None, DeviceState.DELETED}
            and device.unit not in state.seats
            and device.unit != SMARTSERVER
        }
        assert self.world.totals.waiting == len(waiting)
        if self.world.totals.free > 0:
            assert not waiting, "a free seat while somebody waits"

    @invariant()
    def a_fresh_request_waits_only_while_nothing_can_be_taken(self) -> None:
        world, now_s = self.world, self.world.now_s
        fresh = [
            view.unit
            for unit in world.facts.units()
            if (view := world.facts.view(unit)).state is not None
            and unit not in world.state.seats
            and unit != SMARTSERVER
            and view.asked_at is not None
            and now_s - view.asked_at < REQUEST_LIFE_S
        ]
        if not fresh or world.totals.free != 0 or world.totals.excess:
            return
        for unit, seat in world.state.seats.items():
            view = world.facts.view(unit)
            if seat.kind is SeatKind.RESERVED and not seat.has_run:
                assert view.asked_at is not None, f"{unit} was never asked for, and {fresh} wait"
                assert now_s - view.asked_at < REQUEST_LIFE_S, f"{unit} was asked for long ago, and {fresh} wait"
            assert not view.is_absent, f"{unit} is absent, and {fresh} wait"

    @invariant()
    def internal_devices_take_no_seat(self) -> None:
        for device in self.world.state.internal:
            assert UnitId(str(device)) not in self.world.state.seats

    @invariant()
    def everybody_alive_heard_the_truth(self) -> None:
        for device in self.world.facts.devices():
            answer = self.world.answer(str(device.id))
            if answer.licensed is not None and device.state is not None:
                assert self.world.heard.get(str(device.id)) is answer.licensed


TestSeats = Seats.TestCase
TestSeats.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
