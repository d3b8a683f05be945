"""Growing pauses between doing the same thing to the same one: 1…60 s.

Rules (WIRE.md): whoever does not obey, or keeps writing what is not its own, meets growing pauses; who has been quiet
for twice the last pause begins anew.

What this module does not do: it does nothing itself; the caller says when something is done.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from smartserver_licensed.domain.seats import HUNDRED

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0

K = TypeVar("K", bound=Hashable)


class Pauses(Generic[K]):
    """Who may be dealt with again, and when. Times are monotonic seconds.

    Bounded by those dealt with in the last two minutes: what has been quiet long enough is forgotten by `ended`.
    """

    def __init__(self) -> None:
        self._running: dict[K, tuple[float, float]] = {}  # the length of the last pause, and its end
        self._ends: list[tuple[float, int, K]] = []  # heaps; what was forgotten or renewed meanwhile is skipped
        self._lapses: list[tuple[float, int, K]] = []
        self._serial = itertools.count()

    def begin(self, key: K, now_s: float) -> bool:
        """Whether the thing may be done to this one now; if so, the next pause begins."""
        pause_s = FIRST_PAUSE_S
        if key in self._running:
            last_s, end_s = self._running[key]
            if now_s < end_s:
                return False
            if now_s <= end_s + last_s:
                pause_s = min(last_s * 2, LONGEST_PAUSE_S)
        self.wait(key, pause_s, now_s)
        return True

    def wait(self, key: K, pause_s: float, now_s: float) -> None:
        """A pause of this length begins now, whatever was before."""
        self._running[key] = (pause_s, now_s + pause_s)
        heapq.heappush(self._ends, (now_s + pause_s, next(self._serial), key))

    def is_over(self, key: K, now_s: float) -> bool:
        """Whether no pause of this one is running."""
        return key not in self._running or now_s >= self._running[key][1]

    def ended(self, now_s: float) -> list[K]:
        """Those whose pause is over, a hundred at most; each is told once."""
        while self._lapses and self._lapses[0][0] < now_s:
            _, _, key = heapq.heappop(self._lapses)
            if key in self._running and now_s > sum(self._running[key]):
                del self._running[key]
        over: list[K] = []
        while self._ends and self._ends[0][0] <= now_s and len(over) < HUNDRED:
            end_s, serial, key = heapq.heappop(self._ends)
            if key in self._running and self._running[key][1] == end_s:
                over.append(key)
                heapq.heappush(self._lapses, (end_s + self._running[key][0], serial, key))
        return over

    def next_end_at(self) -> float | None:
        """When the next pause is over, or None."""
        return self._ends[0][0] if self._ends else None

    def forget(self, key: K) -> None:
        """Begin anew with this one."""
        self._running.pop(key, None)

    def forget_all(self, which: Callable[[K], bool] = lambda _: True) -> None:
        """Begin anew with those."""
        for key in [each for each in self._running if which(each)]:
            del self._running[key]
