"""How all retained facts are learned at the broker's default limits, before anything is decided.

Rules (WIRE.md "Snapshot", ADR 0007; measured): a QoS 1 subscription delivers 1,020 retained messages and drops the
rest, and live messages with them. So the live QoS 1 subscriptions come first and their flood is waited out with a
marker; then `sts`, `lic` and `cfg` are read at QoS 0 through an overlapping filter, each followed by a marker of its
own and repeated until the marker returns; then each handle that the ledger knows and nothing showed is asked for, 50
at a time. The retained copies that the QoS 0 pass delivers are newer than anything the flood dropped.

What this module does not do: it reads no payload but the marker's and decides nothing.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence

from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.formats import iap, iap_said

from .ports import Broker

ASKED_AT_ONCE = 50
MARKER_WAIT_S = 1.0
_MAX_WAIT_S = 30.0
_FULL_REPEATS = 4


class _Phase(enum.Enum):
    LIVE = "live"
    STS = "sts"
    LIC = "lic"
    CFG = "cfg"
    ASK = "ask"
    DONE = "done"


_KINDS = {_Phase.STS: "sts", _Phase.LIC: "lic", _Phase.CFG: "cfg"}
_NEXT = {_Phase.LIVE: _Phase.STS, _Phase.STS: _Phase.LIC, _Phase.LIC: _Phase.CFG, _Phase.CFG: _Phase.ASK}
_serial = itertools.count(1)


class Snapshot:
    """One pass over the broker's retained facts under one SID. Driven by `on_marker` and `on_time`."""

    def __init__(self, broker: Broker, sid: str, *, unseen: Callable[[], Sequence[DeviceId]], salt: str) -> None:
        """`unseen` gives the handles to ask for, once the wide passes are done; `salt` tells our markers apart."""
        self._broker = broker
        self._sid = sid
        self._unseen = unseen
        self._salt = salt
        self._phase = _Phase.LIVE
        self._asked: list[str] = []
        self._to_ask: list[DeviceId] = []
        self._marker = ""
        self._tries = 0
        self._due_at = self._marked_at = 0.0
        self.is_truncated = False

    @property
    def is_done(self) -> bool:
        """Whether everything has been read."""
        return self._phase is _Phase.DONE

    @property
    def due_at(self) -> float:
        """When the marker is given up and the pass repeated (monotonic seconds)."""
        return self._due_at

    def start(self, now_s: float) -> None:
        """Subscribe to the live topics; everything else follows from the markers that return."""
        self._broker.subscribe([(iap.MARKER_TOPIC, 1), *((each, 1) for each in iap.live_filters(self._sid))])
        self._mark(now_s)

    def on_marker(self, nonce: str, now_s: float) -> None:
        """A marker came back; an older one of ours, or anybody's, changes nothing."""
        if nonce != self._marker or self.is_done:
            return
        self._tries = 0
        if self._phase in _KINDS:
            self._broker.unsubscribe([iap.snapshot_filter(self._sid, _KINDS[self._phase])])
        if self._phase is _Phase.ASK:
            self._broker.unsubscribe(self._asked)
            self._asked = []
        else:
            self._phase = _NEXT[self._phase]
            if self._phase is _Phase.ASK:
                self._to_ask = list(self._unseen())
        if self._phase is _Phase.ASK and not self._to_ask:
            self._phase = _Phase.DONE
            return
        self._read()
        self._mark(now_s)

    def on_retained(self, now_s: float) -> None:
        """A retained message came: the pass is still under way, and is not to be repeated on top of itself."""
        self._due_at = max(self._due_at, min(now_s + MARKER_WAIT_S, self._marked_at + _MAX_WAIT_S))

    def on_time(self, now_s: float) -> None:
        """The marker did not come back in time: read again and mark again, with growing pauses."""
        if self.is_done or now_s < self._due_at:
            return
        self._tries += 1
        if self._tries > _FULL_REPEATS:
            self.is_truncated = True  # the broker drops at the same place each time: go on with what it gives
        elif self._phase in _KINDS:
            self._broker.subscribe([(iap.snapshot_filter(self._sid, _KINDS[self._phase]), 0)])
        self._mark(now_s)

    def _read(self) -> None:
        if self._phase in _KINDS:
            self._broker.subscribe([(iap.snapshot_filter(self._sid, _KINDS[self._phase]), 0)])
            return
        asked, self._to_ask = self._to_ask[:ASKED_AT_ONCE], self._to_ask[ASKED_AT_ONCE:]
        self._asked = [iap.sts_topic(self._sid, device) for device in asked]
        self._broker.subscribe([(topic, 0) for topic in self._asked])

    def _mark(self, now_s: float) -> None:
        self._marker = f"{self._salt}-{next(_serial)}"
        qos = 1 if self._phase is _Phase.LIVE else 0  # behind what it marks: the queue of QoS 1, or the stream of QoS 0
        self._broker.publish(iap.MARKER_TOPIC, iap_said.marker(self._marker), qos=qos)
        self._marked_at = now_s
        self._due_at = now_s + min(MARKER_WAIT_S * 2**self._tries, _MAX_WAIT_S)
