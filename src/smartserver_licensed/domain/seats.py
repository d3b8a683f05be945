"""Where seats are counted and given: the incremental counter. `deciding` says what changes; it changes nothing.

Rules (LICENSING §3):
- a new counting unit gets a seat if one is free, else it waits; units that were asked for come first;
- the seat's kind follows the current `sts`: provisioned at once; back to reserved by an effective deprovision or after
  `settle_s` of `unprovisioned`; `unlicensed` or silence changes nothing (a driver restart dips);
- a request takes a seat from a unit that does not run, in the order of `queues.TAKEABLE`;
- adopted beyond the capacity are only units that are held and run (`facts.hold` says who is held);
- when capacity shrinks, reserved seats go first, newest first; provisioned ones only when their grace has ended;
- `used + reserved ≤ capacity` at each grant, and a unit has one seat at most;
- the cost is in the changes of the batch, never in the number of units (but for a shrink, which sorts once).

What this module does not do: it knows no bytes, no topics and no clock, and keeps nothing. `LedgerState.apply` follows
the durable append.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from . import overcapacity
from .counting import SMARTSERVER, UnitId
from .devices import DeviceState
from .facts import UnitView
from .ledger_state import (
    AdoptionChanged,
    Cause,
    Event,
    EvictionForgotten,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    as_provisioned,
    as_reserved,
)
from .overcapacity import ADOPTION_GRACE_DAYS, Grace
from .queues import TAKEABLE, WAITING, Queue, Queues
from .refusal import Refusal, SeatRequest, refuse
from .status import Totals
from .withholding import may_lose_seat

_T = TypeVar("_T")
HUNDRED = 100  # what is done before others have their turn: units, messages, pauses


@dataclass(frozen=True, slots=True)
class Entitled:
    """What the documents and the time say for one decision."""

    capacity: int
    ended_grace_days: int | None  # of the license that ended last; None where none has ended
    is_bound: bool = True  # False: rebind-needed; nothing new is admitted
    room: int = 1_000_000  # how many new seats the ledger can hold; no reason to take one from anybody


@dataclass(frozen=True, slots=True)
class Decision:
    """What one batch changes, in order; empty `events` need no commit."""

    events: tuple[Event, ...]
    refusals: tuple[Refusal, ...]
    adopted: tuple[UnitId, ...]
    revoked: tuple[UnitId, ...]
    grace: Grace
    due: tuple[UnitId, ...] = ()  # the units looked at
    requests: tuple[SeatRequest, ...] = ()  # all of the batch, answered by it


def deciding(
    state: LedgerState,
    queues: Queues,
    due: Iterable[UnitId],
    requests: Sequence[SeatRequest],
    entitled: Entitled,
    *,
    view: Callable[[UnitId], UnitView],
    grace: Grace,
    now_s: float,
    settle_s: float,
    has_held: bool,
) -> Iterator[Decision | None]:
    """Decide one batch: the last value is the decision; a None before it is a place to let others have their turn.

    `due` are the units whose facts changed; all of them are filed in `queues` already, as nothing is given or taken
    before all of them were followed. Nothing is changed: not the state, not the queues, not the facts behind `view`,
    and nobody else may change them before the end. `now_s` is monotonic seconds. `grace` is the state's, advanced to
    now. `has_held`: some unit is still held, so that the adoption of a new ledger stays open.
    """
    draft = _Draft(state, entitled.capacity, grace)
    unseated: list[UnitId] = []
    for some in by_hundreds(due):
        for unit in some:
            if unit != SMARTSERVER:
                _follow(draft, view(unit), unseated, now_s=now_s, settle_s=settle_s)
        if len(some) == HUNDRED:
            yield None
    if state.is_adopting and not has_held:
        draft.events.append(AdoptionChanged(is_adopting=False))
    _shrink(draft)
    _revoke(draft, entitled)
    if entitled.is_bound:
        _fill(
            draft,
            itertools.islice(_untouched(draft, itertools.chain(unseated, queues.units(*WAITING))), entitled.room),
            view,
        )
        _take(draft, queues, view, now_s)
    totals = draft.totals(queues.waiting)
    refusals = tuple(
        refuse(request, totals=totals, is_storage_usable=True, is_bound=entitled.is_bound)
        for request in requests
        if request.unit != SMARTSERVER and draft.seat(request.unit) is None
    )
    yield Decision(tuple(draft.events), refusals, tuple(draft.adopted), tuple(draft.revoked), draft.grace)


def by_hundreds(items: Iterable[_T]) -> Iterator[list[_T]]:
    """The items in lists of 100: what takes long is done piece by piece, so that others have their turn between."""
    rest = iter(items)
    while some := list(itertools.islice(rest, HUNDRED)):
        yield some


class _Draft:
    """The state as it will be after the events so far: an overlay, so that the state itself stays unchanged."""

    def __init__(self, state: LedgerState, capacity: int, grace: Grace) -> None:
        self._state = state
        self._seats: dict[UnitId, Seat | None] = {}
        self._capacity = capacity
        self._provisioned, self._reserved = state.provisioned, state.reserved
        self._next_number = state.next_number
        self.grace = grace
        self.events: list[Event] = []
        self.adopted: list[UnitId] = []
        self.revoked: list[UnitId] = []

    def seat(self, unit: UnitId) -> Seat | None:
        return self._seats[unit] if unit in self._seats else self._state.seats.get(unit)

    def is_untouched(self, unit: UnitId) -> bool:
        return unit not in self._seats

    def is_evicted(self, unit: UnitId) -> bool:
        return unit in self._state.evicted and unit not in self._seats

    @property
    def free(self) -> int:
        """Seats that could be given now; negative when there are more than the capacity holds."""
        return self.totals().free

    @property
    def excess(self) -> int:
        return self.totals().excess

    def totals(self, waiting: int = 0) -> Totals:
        return Totals(self._capacity, self._provisioned, self._reserved, waiting)

    def seats(self, kind: SeatKind) -> list[tuple[UnitId, Seat]]:
        """All seats of a kind, newest first: for a shrink only, it looks at every unit."""
        everything = self._state.seats | {unit: seat for unit, seat in self._seats.items() if seat}
        held = [(unit, seat) for unit in everything if (seat := self.seat(unit)) and seat.kind is kind]
        return sorted(held, key=lambda each: each[1].number, reverse=True)

    def give(self, unit: UnitId, kind: SeatKind) -> None:
        """A new seat for a unit that has none."""
        seat = Seat(kind, has_run=kind is SeatKind.PROVISIONED, number=self._next_number)
        self._next_number += 1
        self.change(unit, seat)

    def change(self, unit: UnitId, seat: Seat) -> None:
        self._count(self.seat(unit), -1)
        self._count(seat, +1)
        self._seats[unit] = seat
        self.events.append(SeatGiven(unit, seat))

    def lose(self, unit: UnitId, cause: Cause, *, is_absent: bool = False) -> None:
        seat = self.seat(unit)
        if seat is None or not may_lose_seat(
            seat, cause, is_absent=is_absent, has_grace_ended=self.excess > 0 and self.grace.has_ended
        ):
            raise AssertionError(f"cannot take the seat of {unit} ({cause.value}): withholding forbids it")
        self._count(seat, -1)
        self._seats[unit] = None
        self.events.append(SeatLost(unit, cause))

    def _count(self, seat: Seat | None, by: int) -> None:
        if seat is not None and seat.kind is SeatKind.PROVISIONED:
            self._provisioned += by
        elif seat is not None:
            self._reserved += by


def _follow(draft: _Draft, view: UnitView, unseated: list[UnitId], *, now_s: float, settle_s: float) -> None:
    """The seat of a unit follows what its `sts` shows now."""
    seat = draft.seat(view.unit)
    if seat is None:
        _follow_without_seat(draft, view, unseated)
    elif view.is_released:
        draft.lose(view.unit, Cause.RELEASED)
    elif view.state is DeviceState.PROVISIONED:
        if seat.kind is not SeatKind.PROVISIONED:
            draft.change(view.unit, as_provisioned(seat))
    elif view.state is DeviceState.UNPROVISIONED and (seat.kind is SeatKind.PROVISIONED or seat.has_run):
        since = view.unprovisioned_since
        is_settled = since is not None and now_s - since >= settle_s
        if view.was_deprovisioned:
            draft.change(view.unit, as_reserved(seat, has_run=False))
        elif is_settled and seat.kind is SeatKind.PROVISIONED:
            draft.change(view.unit, as_reserved(seat, has_run=True))


def _follow_without_seat(draft: _Draft, view: UnitView, unseated: list[UnitId]) -> None:
    is_running = view.state is DeviceState.PROVISIONED
    if view.is_held and is_running:
        draft.give(view.unit, SeatKind.PROVISIONED)
        draft.adopted.append(view.unit)
    elif draft.is_evicted(view.unit) and (view.is_released or (view.state is not None and not view.is_held)):
        draft.events.append(EvictionForgotten(view.unit))
    if draft.seat(view.unit) is None and _runs(view):
        unseated.append(view.unit)


def _runs(view: UnitView) -> bool:
    """Whether a unit without a seat is believed to run: after our `false` only a live `sts` says so."""
    return view.state is DeviceState.PROVISIONED and (view.is_live or not view.was_told_false)


def _shrink(draft: _Draft) -> None:
    """Reserved seats that the capacity no longer holds become waiting, newest first."""
    if draft.free >= 0:
        return
    for unit, _ in draft.seats(SeatKind.RESERVED):
        draft.lose(unit, Cause.SHRUNK)
        if draft.free >= 0:
            return


def _revoke(draft: _Draft, entitled: Entitled) -> None:
    """Provisioned units beyond the capacity run on for the grace; then the newest lose their seats."""
    if not draft.excess:
        return
    days = entitled.ended_grace_days
    draft.grace = overcapacity.begun(draft.grace, days=ADOPTION_GRACE_DAYS if days is None or draft.adopted else days)
    if not draft.grace.has_ended:
        return
    for unit, _ in draft.seats(SeatKind.PROVISIONED):
        draft.lose(unit, Cause.GRACE_ENDED)
        draft.revoked.append(unit)
        if not draft.excess:
            return


def _fill(draft: _Draft, candidates: Iterator[UnitId], view: Callable[[UnitId], UnitView]) -> None:
    """Free seats go to units that run without one, then to those that were asked for, then by arrival."""
    while draft.free > 0 and (unit := next(candidates, None)) is not None:
        _give(draft, view(unit))


def _take(draft: _Draft, queues: Queues, view: Callable[[UnitId], UnitView], now_s: float) -> None:
    """Fresh requests take seats from units that do not run; beyond the capacity nothing is taken."""
    takers = _untouched(draft, queues.units(Queue.FRESH))
    victims = (each for queue in TAKEABLE for each in _untouched(draft, queues.ripe(queue, now_s)))
    while draft.free == 0:
        taker = next(takers, None)
        victim = next(victims, None) if taker is not None else None
        if taker is None or victim is None:
            return
        is_absent = queues.where(victim) is Queue.ABSENT
        draft.lose(victim, Cause.EVICTED if is_absent else Cause.TAKEN, is_absent=is_absent)
        _give(draft, view(taker))


def _give(draft: _Draft, view: UnitView) -> None:
    draft.give(view.unit, SeatKind.PROVISIONED if _runs(view) else SeatKind.RESERVED)


def _untouched(draft: _Draft, units: Iterable[UnitId]) -> Iterator[UnitId]:
    return (unit for unit in units if draft.is_untouched(unit))
