"""Older engines, which know no `lic`: a device that runs without a seat is stopped by its engine's own means.

Rules (WIRE.md "What the daemon does", LICENSING §3; `withholding.must_stop` says who):
- the device first hears `lic`: an engine that reads it obeys within the second, and is never asked for anything else;
- then `enforcement` decides: "deprovision" asks its engine to deprovision it, again with pauses of 1…60 s while it
  does not obey; "report" only reports;
- nobody is asked before something live came from its engine: it may be one that reads `lic` and is away;
- at QoS 0: what the broker keeps for an engine that is away would stop a device that has a seat by then;
- either way the request that nobody was asked for is refused as any other: one `ev/error`, one `ev/lic`.

What this module does not do: it takes no seat and does not say `lic` (`speaking`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from smartserver_licensed.domain import withholding
from smartserver_licensed.domain.devices import Action, DeviceId
from smartserver_licensed.domain.facts import REPEAT_LIFE_S, Device, Facts
from smartserver_licensed.domain.messages import RUNS_WITHOUT_SEAT
from smartserver_licensed.domain.refusal import SeatRequest
from smartserver_licensed.domain.withholding import Answer
from smartserver_licensed.formats import iap_said

from .outbox import Outbox
from .pauses import FIRST_PAUSE_S, Pauses
from .rationing import Ration


class Enforcer:
    """Looks at each device that is spoken to. Keeps pauses only; how often an engine was asked is the device's."""

    def __init__(
        self,
        outbox: Outbox,
        reads_lic: Callable[[str], bool | None],
        *,
        is_reporting_only: bool,
    ) -> None:
        """`reads_lic`: whether a protocol's engine reads `lic`, None while that is not known."""
        self._outbox = outbox
        self._reads_lic = reads_lic
        self._is_reporting_only = is_reporting_only
        self._pauses: Pauses[DeviceId] = Pauses()
        self.ration = Ration(RUNS_WITHOUT_SEAT)

    def due(self, facts: Facts, now_s: float) -> list[Device]:
        """The devices whose pause is over; look at them again."""
        return [device for each in self._pauses.ended(now_s) if (device := facts.device(each)) is not None]

    def next_due_at(self) -> float | None:
        """When the next pause is over (monotonic seconds), or None."""
        return self._pauses.next_end_at()

    def look(self, answers: Iterable[tuple[Device, Answer]], now_s: float) -> list[SeatRequest]:
        """Ask the engines of those that run without a seat; returns what is to be refused for it."""
        refused = []
        for device, answer in answers:
            reads_lic = self._reads_lic(device.id.protocol)
            if not withholding.must_stop(answer, state=device.state, reads_lic=reads_lic):
                if self._pauses.is_over(device.id, now_s):  # it obeyed, or has a seat, and did not come back at once
                    device.stops = None
            elif device.stops is None:
                device.stops = 0
                self._pauses.wait(device.id, FIRST_PAUSE_S, now_s)
            elif self._pauses.begin(device.id, now_s):
                device.stops += 1
                refused += self._stop(device, device.stops, now_s)
        return refused

    def _stop(self, device: Device, times: int, now_s: float) -> list[SeatRequest]:
        if not self._is_reporting_only:
            self._outbox.do(device.id, iap_said.request(Action.DEPROVISION), is_kept=False)
            device.repeat = (iap_said.request(Action.PROVISION), now_s + REPEAT_LIFE_S)  # should a seat come meanwhile
        elif times > 1:
            return []
        if times & (times - 1) == 0:  # 1, 2, 4, 8, …: it does not fall silent, and fills no journal
            enforcement = "report" if self._is_reporting_only else "deprovision"
            self.ration.tell(now_s, DEVICE=device.id, ENFORCEMENT=enforcement, TIMES=times)
        return [SeatRequest(device.unit, device.id, Action.PROVISION, now_s)] if times == 1 else []
