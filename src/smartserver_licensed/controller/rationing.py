"""Journal entries of a kind that anybody on the bus can cause: so many a minute, the rest is counted.

Rules: the first 20 in a minute are told one by one; at its end one entry says how many more there were. 10,000 refused
devices leave 21 entries, and their events on the bus.

What this module does not do: it rations no message on the bus; who asked there is answered there.
"""

from __future__ import annotations

from smartserver_licensed.domain.messages import ENTRIES_LEFT_OUT, Message

from .telling import tell

PER_MINUTE = 20
_MINUTE_S = 60.0


class Ration:
    """The entries of one message. Times are monotonic seconds."""

    def __init__(self, message: Message) -> None:
        self._message = message
        self._minute_ends_at: float | None = None
        self._told = self._left_out = 0

    def tell(self, now_s: float, **fields: object) -> bool:
        """Write an entry, or count it; whether it was written."""
        self.on_time(now_s)
        if self._minute_ends_at is None:
            self._minute_ends_at = now_s + _MINUTE_S
        if self._told >= PER_MINUTE:
            self._left_out += 1
            return False
        self._told += 1
        tell(self._message, **fields)
        return True

    def on_time(self, now_s: float) -> None:
        """At the end of a minute, say what was left out."""
        if self._minute_ends_at is None or now_s < self._minute_ends_at:
            return
        if self._left_out:
            tell(ENTRIES_LEFT_OUT, WHICH=self._message.name, COUNT=self._left_out)
        self._minute_ends_at = None
        self._told = self._left_out = 0

    @property
    def due_at(self) -> float | None:
        """When something left out is to be said, or None."""
        return self._minute_ends_at if self._left_out else None
