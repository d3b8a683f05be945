"""One batch of decisions over facts, queues and seats: which units are due, and what follows for them.

Rules: every message only marks a counting unit as due; the decision is computed from the current facts. `deciding`
moves no seat; once its events are durable and applied, the units that are `touched` are filed anew.

What this module does not do: it makes nothing durable and publishes nothing. All state in it is derived: it can be
dropped and rebuilt from a snapshot of the broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from .counting import UnitId
from .facts import Facts
from .ledger_state import LedgerState, SeatGiven, SeatLost
from .overcapacity import Grace
from .queues import Queue, Queues, place
from .seats import HUNDRED, Decision, Entitled, by_hundreds, deciding


class Admission:
    """Facts and queues under one SID. Times are monotonic seconds."""

    def __init__(self, *, max_devices: int, settle_s: float) -> None:
        self.facts = Facts(max_devices=max_devices)
        self.queues = Queues()
        self.settle_s = settle_s
        self._due: dict[UnitId, None] = {}

    @property
    def is_due(self) -> bool:
        """Whether some unit waits to be looked at."""
        return bool(self._due)

    def mark(self, *units: UnitId | None) -> None:
        """These units are due; None is nobody."""
        self._due.update(dict.fromkeys(unit for unit in units if unit is not None))

    def mark_all(self, state: LedgerState | None) -> None:
        """Every unit that is known, or has a seat, is due."""
        self.mark(*self.facts.units(), *(state.seats if state else ()))

    def take_due(self) -> dict[UnitId, None]:
        """The units that are due, in order; they are due no longer."""
        due, self._due = self._due, {}
        return due

    def state_changed(self, state: LedgerState | None, now_s: float) -> None:
        """The durable state was loaded (again) or dropped: everything derived from it is made anew."""
        self.queues = Queues()
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

    def deciding(
        self, state: LedgerState, entitled: Entitled, *, grace: Grace, now_s: float
    ) -> Iterator[Decision | None]:
        """Decide about all due units and requests; see `seats.deciding`. Whose hold ends now is in the next batch."""
        changes, moved = self.facts.take_internal_changes(state.internal)
        self.mark(*moved, *self.queues.ripe(Queue.SETTLING, now_s), *self.queues.ripe(Queue.FRESH, now_s))
        due = self.take_due()
        for some in by_hundreds(due):
            self.file(some, state, now_s)
            if len(some) == HUNDRED:
                yield None
        requests = self.facts.take_requests()
        for decision in deciding(
            state,
            self.queues,
            due,
            requests,
            entitled,
            view=self.facts.view,
            grace=grace,
            now_s=now_s,
            settle_s=self.settle_s,
            has_held=self.facts.has_held,
        ):
            if decision is None:
                yield None
                continue
            self.mark(*self.facts.take_unheld(now_s))  # not before: each has been decided once while it was held
            events = (*changes, *decision.events)
            yield replace(decision, events=events, due=tuple(due), requests=tuple(requests))

    def touched(self, decision: Decision) -> dict[UnitId, None]:
        """All units that a decision touches; they are to be filed once it is durable and applied."""
        changed = (each.unit for each in decision.events if isinstance(each, SeatGiven | SeatLost))
        return dict.fromkeys((*decision.due, *changed))

    def file(self, units: Iterable[UnitId], state: LedgerState, now_s: float) -> None:
        """Put units where they belong by their facts and seats."""
        for unit in units:
            seat = state.seats.get(unit)
            self.queues.file(unit, place(self.facts.view(unit), seat, now_s=now_s, settle_s=self.settle_s))

    def next_due_at(self, *, can_take: bool) -> float | None:
        """When some unit becomes due by time alone, or None."""
        moments = (self.facts.next_unheld_at(), self.queues.next_ripe_at(can_take=can_take))
        return min((each for each in moments if each is not None), default=None)
