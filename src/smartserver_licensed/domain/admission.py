"""One batch of decisions over facts, queues and seats: which units are due, and what follows for them.

Rules: every message only marks a counting unit as due; the decision is computed from the current facts. `decide` moves
no seat; once its events are durable and applied, `applied` files the units anew and says who is touched.

What this module does not do: it makes nothing durable and publishes nothing. All state in it is derived: it can be
dropped and rebuilt from a snapshot of the broker.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from .counting import UnitId
from .devices import DeviceState
from .facts import Facts
from .ledger_state import LedgerState, SeatGiven, SeatLost
from .overcapacity import Grace
from .queues import Queue, Queues, place
from .seats import AT_ONCE, Decision, Entitled, decide


class Admission:
    """Facts and queues under one SID. Times are monotonic seconds."""

    def __init__(self, *, max_devices: int, settle_s: float) -> None:
        self.facts = Facts(max_devices=max_devices)
        self.queues = Queues()
        self.settle_s = settle_s
        self._due: dict[UnitId, None] = {}
        self._is_cut = False
        self.is_sweeping = False  # all units were marked, and not all are decided yet
        self.is_swept = False  # all were decided once

    @property
    def is_due(self) -> bool:
        """Whether some unit waits to be looked at, or for a seat that is free."""
        return bool(self._due) or self._is_cut

    def mark(self, *units: UnitId | None) -> None:
        """These units are due; None is nobody."""
        self._due.update(dict.fromkeys(unit for unit in units if unit is not None))

    def mark_all(self, state: LedgerState | None) -> None:
        """Every unit that is known, or has a seat, is due; those that run come first, as they do in one batch."""
        running = (device.unit for device in self.facts.devices() if device.state is DeviceState.PROVISIONED)
        self.mark(*running, *self.facts.units(), *(state.seats if state else ()))
        self.is_sweeping = True

    def take_due(self) -> dict[UnitId, None]:
        """The units for one batch, in order; they are due no longer."""
        taken = dict.fromkeys(itertools.islice(self._due, AT_ONCE))
        for unit in taken:
            del self._due[unit]
        if self.is_sweeping and not self._due:
            self.is_sweeping, self.is_swept = False, True
        return taken

    def state_changed(self, state: LedgerState | None, now_s: float) -> None:
        """The durable state was loaded (again) or dropped: everything derived from it is made anew."""
        self.queues = Queues()
        self._is_cut = False
        if state is not None:
            self.facts.realign(state.internal)
            self.hold_candidates(state, now_s)
        self.mark_all(state)

    def hold_candidates(self, state: LedgerState, now_s: float) -> None:
        """Units in the first snapshot of a new ledger, and returned evicted ones, may run: no `false` for them yet."""
        for unit in self.facts.units():
            may_run = self.facts.view(unit).state is not None
            if may_run and unit not in state.seats and (state.is_adopting or unit in state.evicted):
                self.facts.hold(unit, now_s + self.settle_s)

    def find_absent(self, state: LedgerState | None, since: int) -> None:
        """No `sts` came since that snapshot, and the grace is over: such units keep their seats, but hear nothing.

        Those without a seat are forgotten. Without the durable state nobody is: it may come back with seats.
        """
        if state is None:
            return
        for unit in dict.fromkeys([*self.facts.units(), *state.seats]):
            if not self.facts.is_seen(unit, since):
                (self.facts.set_absent if unit in state.seats else self.facts.drop)(unit)
                self.mark(unit)

    def decide(self, state: LedgerState, entitled: Entitled, *, grace: Grace, now_s: float) -> Decision:
        """Decide about the units that are due, `AT_ONCE` at most, and their requests; see `seats.decide`."""
        changes, moved = self.facts.take_internal_changes(state.internal)
        self.mark(*moved, *self.facts.take_unheld(now_s))
        self.mark(*self.queues.ripe(Queue.SETTLING, now_s), *self.queues.ripe(Queue.FRESH, now_s))
        due = self.take_due()
        self._file(due, state, now_s)
        decision = decide(
            state,
            self.queues,
            due,
            self.facts.take_requests(due),
            entitled,
            view=self.facts.view,
            grace=grace,
            now_s=now_s,
            settle_s=self.settle_s,
            has_held=self.facts.has_held,
        )
        self._is_cut = decision.is_cut
        return replace(decision, events=(*changes, *decision.events), due=tuple(due))

    def applied(self, state: LedgerState, decision: Decision, now_s: float) -> dict[UnitId, None]:
        """The decision is durable and applied: file what it changed. Returns all units it touched."""
        changed = (each.unit for each in decision.events if isinstance(each, SeatGiven | SeatLost))
        touched = dict.fromkeys((*decision.due, *changed))
        self._file(touched, state, now_s)
        return touched

    def next_due_at(self, *, can_take: bool) -> float | None:
        """When some unit becomes due by time alone, or None."""
        moments = (self.facts.next_unheld_at(), self.queues.next_ripe_at(can_take=can_take))
        return min((each for each in moments if each is not None), default=None)

    def _file(self, units: Iterable[UnitId], state: LedgerState, now_s: float) -> None:
        for unit in units:
            seat = state.seats.get(unit)
            self.queues.file(unit, place(self.facts.view(unit), seat, now_s=now_s, settle_s=self.settle_s))
