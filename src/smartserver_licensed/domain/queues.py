"""Who is next, and from whom a seat may be taken: an index over the counting units.

Rules (LICENSING §3): waiting units that were asked for come first, then by arrival. A request takes a seat from units
that do not run, in this order: absent; never asked for; asked for more than 60 s ago and has not run; has run, but
shows `unprovisioned` for `settle_s` without trouble. A unit stands in at most one queue; only the head
of a queue has to be looked at, whatever the number of units.

What this module does not do: it moves no seat (`seats`). It is derived from facts and seats and could be rebuilt.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterator

from .counting import SMARTSERVER, UnitId
from .devices import DeviceState
from .facts import UnitView
from .ledger_state import Seat, SeatKind

REQUEST_LIFE_S = 60.0
_ALWAYS = float("-inf")


class Queue(enum.Enum):
    """The queues. The first three wait for a seat, the next four have one that does not run."""

    FRESH = "asked for within the last 60 s"
    ASKED = "asked for"
    ARRIVED = "never asked for"
    ABSENT = "absent"
    UNASKED = "has a seat, never asked for"
    TRIED = "has a seat, asked for, has not run"
    IDLE = "has a seat, has run, shows unprovisioned"
    SETTLING = "provisioned seat, shows unprovisioned"


WAITING = (Queue.FRESH, Queue.ASKED, Queue.ARRIVED)
TAKEABLE = (Queue.ABSENT, Queue.UNASKED, Queue.TRIED, Queue.IDLE)
_TIMED = frozenset({Queue.FRESH, Queue.TRIED, Queue.IDLE, Queue.SETTLING})
_SLACK = 64


def place(view: UnitView, seat: Seat | None, *, now_s: float, settle_s: float) -> tuple[Queue, float] | None:
    """The queue a unit belongs in and from when on its place there counts (monotonic seconds), or None."""
    if view.unit == SMARTSERVER:
        return None
    if seat is None:
        return _place_without_seat(view, now_s)
    if view.is_absent:
        return Queue.ABSENT, _ALWAYS
    shows_unprovisioned = view.state is DeviceState.UNPROVISIONED
    settled_at = (view.unprovisioned_since if view.unprovisioned_since is not None else now_s) + settle_s
    if seat.kind is SeatKind.PROVISIONED:
        return (Queue.SETTLING, settled_at) if shows_unprovisioned else None
    if seat.has_run:
        return (Queue.IDLE, settled_at) if shows_unprovisioned and not view.is_troubled else None
    if view.asked_at is None:
        return Queue.UNASKED, _ALWAYS
    return Queue.TRIED, view.asked_at + REQUEST_LIFE_S


def _place_without_seat(view: UnitView, now_s: float) -> tuple[Queue, float] | None:
    if view.state is None:
        return None
    if view.asked_at is None:
        return Queue.ARRIVED, _ALWAYS
    fresh_until = view.asked_at + REQUEST_LIFE_S
    return (Queue.FRESH, fresh_until) if now_s < fresh_until else (Queue.ASKED, _ALWAYS)


class Queues:
    """All queues, and where each unit stands. Filing costs O(1), O(log n) where a queue is in order of time."""

    def __init__(self) -> None:
        self._queues: dict[Queue, dict[UnitId, float]] = {queue: {} for queue in Queue}
        self._timed: dict[Queue, list[tuple[float, UnitId]]] = {queue: [] for queue in _TIMED}  # heaps, lazily cleaned
        self._where: dict[UnitId, Queue] = {}

    @property
    def waiting(self) -> int:
        """Units that wait for a seat."""
        return sum(len(self._queues[queue]) for queue in WAITING)

    def file(self, unit: UnitId, placement: tuple[Queue, float] | None) -> None:
        """Put a unit where it belongs; a unit that stays in its queue with the same time keeps its place."""
        where = self._where.get(unit)
        if where is not None and placement == (where, self._queues[where][unit]):
            return
        if where is not None:
            self._leave(where, unit)
        if placement is None:
            return
        queue, due_at = placement
        self._queues[queue][unit] = due_at
        self._where[unit] = queue
        if queue in _TIMED:
            self._push(queue, due_at, unit)

    def _leave(self, queue: Queue, unit: UnitId) -> None:
        del self._queues[queue][unit]
        del self._where[unit]
        if not self._queues[queue]:
            self._queues[queue].clear()  # or walking it would pass the places of all who were ever in it

    def where(self, unit: UnitId) -> Queue | None:
        """The queue a unit stands in."""
        return self._where.get(unit)

    def units(self, *queues: Queue) -> Iterator[UnitId]:
        """The units of these queues, in order; the queues must not change meanwhile."""
        for queue in queues:
            yield from self._queues[queue]

    def ripe(self, queue: Queue, now_s: float) -> Iterator[UnitId]:
        """The units of a queue whose time has come, in order of time; the queues must not change meanwhile.

        Walks the heap from its top without changing it; a unit may come twice where it was filed twice.
        """
        if queue not in _TIMED:
            yield from self._queues[queue]
            return
        heap, filed = self._timed[queue], self._queues[queue]
        ahead = [(heap[0][0], 0)] if heap else []
        while ahead and ahead[0][0] <= now_s:
            due_at, place_ = heapq.heappop(ahead)
            unit = heap[place_][1]
            if filed.get(unit) == due_at:
                yield unit
            for child in (2 * place_ + 1, 2 * place_ + 2):
                if child < len(heap):
                    heapq.heappush(ahead, (heap[child][0], child))

    def next_ripe_at(self, *, can_take: bool) -> float | None:
        """When the next unit becomes due by time alone (monotonic seconds), or None.

        `can_take`: a fresh request that waits would take a seat, so the seats it could have are looked at.
        """
        queues = [Queue.FRESH, Queue.SETTLING]
        if can_take and self._queues[Queue.FRESH]:
            queues += TAKEABLE
        return min((head for queue in queues if (head := self._head(queue)) is not None), default=None)

    def _head(self, queue: Queue) -> float | None:
        filed = self._queues[queue]
        if queue not in _TIMED:
            return _ALWAYS if filed else None
        heap = self._timed[queue]
        while heap and filed.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _push(self, queue: Queue, due_at: float, unit: UnitId) -> None:
        heap, filed = self._timed[queue], self._queues[queue]
        if len(heap) > 2 * len(filed) + _SLACK:  # mostly units that have left: make it anew
            heap[:] = [(at, each) for each, at in filed.items() if each != unit]
            heapq.heapify(heap)
        heapq.heappush(heap, (due_at, unit))
