"""The license status: made anew at the end of each batch, and shown to everybody who follows it.

Rules (OVERVIEW):
- totals are frozen per batch, so that a status query never waits for disk, broker or network;
- who follows it hears of a change at once, and of what follows ten times a second at most: a batch may take 5 ms;
- `fb/lic` is guarded: a value that is not ours is replaced, with growing pauses if it comes again and again.

What this module does not do: it counts nothing and knows no payload.
"""

from __future__ import annotations

from smartserver_licensed.domain import messages
from smartserver_licensed.domain.status import Clock, State, Status

from .outbox import Outbox
from .pauses import Pauses
from .ports import Announcer, Clocks, Notifier
from .telling import tell

_PAUSE_S = 0.1


class Display:
    """The status value and who was shown which."""

    def __init__(
        self, announcer: Announcer, notifier: Notifier, outbox: Outbox, clocks: Clocks, status: Status
    ) -> None:
        self._announcer = announcer
        self._notifier = notifier
        self._outbox = outbox
        self._clocks = clocks
        self._told = status
        self._published: Status | None = None
        self._again_at = 0.0
        self._guarding: Pauses[str] = Pauses()
        self.status = status

    def replace(self, status: Status, *, is_current: bool, is_doubtful: bool) -> bool:
        """Replace the value; True when the broker holds the one that was told last.

        `is_current`: the broker may be told. `is_doubtful`: it may hold another value than the last one published.
        """
        self.status = status
        now_s = self._clocks.monotonic()
        if now_s >= self._again_at and status != self._told:
            self._again_at = now_s + _PAUSE_S
            self._tell(status)
        if not is_current:
            return False
        if self._published == self._told and not (is_doubtful and self._guarding.begin("fb/lic", now_s)):
            return not is_doubtful
        if not self._outbox.status(self._told):
            return False
        self._published = self._told
        return True

    @property
    def due_at(self) -> float | None:
        """When a change is to be told (monotonic seconds), or None."""
        return self._again_at if self.status != self._told else None

    def _tell(self, status: Status) -> None:
        was, self._told = self._told, status
        self._announcer.publish(status)
        self._notifier.status(line(status))
        _tell_excess(was, status)
        if status.state is State.REBIND_NEEDED and was.state is not State.REBIND_NEEDED:
            tell(messages.REBIND_NEEDED, INSTALL_CODE=status.install_code)
        if status.clock is Clock.SET_BACK and was.clock is not Clock.SET_BACK:
            tell(messages.CLOCK_SET_BACK)


def line(status: Status) -> str:
    """The one line that `systemctl status` shows."""
    totals = status.totals
    seats = f"{totals.used} of {totals.capacity} devices" if totals.capacity else "no license"
    parts = [f"{status.state.value}: {seats}"]
    if totals.reserved:
        parts.append(f"{totals.reserved} reserved")
    if totals.waiting:
        parts.append(f"{totals.waiting} waiting")
    if not status.is_broker_connected:
        parts.append("the broker is away")
    if not status.storage.is_writable:
        parts.append(f"storage {status.storage.value}")
    return ", ".join(parts)


def _tell_excess(was: Status, now: Status) -> None:
    begun = now.state is State.OVER_CAPACITY
    if begun == (was.state is State.OVER_CAPACITY):
        return
    message = messages.OVER_CAPACITY_BEGUN if begun else messages.OVER_CAPACITY_ENDED
    tell(message, CAPACITY=now.totals.capacity, USED=now.totals.used)
