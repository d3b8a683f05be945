"""What each device hears: says `lic` where the broker or the device does not show what `withholding` answers.

Rules (WIRE.md 5, "What the daemon does"; LICENSING §3):
- in one batch every `false` leaves before any `true`;
- `lic` is said when the broker holds something else, and again when a device that should be licensed shows
  `unlicensed` (or the other way round), with growing pauses: an engine that did not know the handle dropped it;
- never cleared with an empty payload; a deleted device gets `false` and is forgotten once the broker has it;
- a provision request that the engine refused while we had not answered is repeated once.

What this module does not do: it does not decide who hears what (`domain.withholding`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smartserver_licensed.domain.devices import Action, DeviceId, DeviceState
from smartserver_licensed.domain.facts import Device
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer, Reason
from smartserver_licensed.formats import iap_said

from .outbox import Outbox

_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0


@dataclass(slots=True)
class _Said:
    answer: Answer
    pause_s: float
    again_at: float


class Speaker:
    """Says `lic` and remembers when to say it again. Bounded by the number of devices known."""

    def __init__(self, outbox: Outbox, answer: Callable[[Device], Answer]) -> None:
        self._outbox = outbox
        self._answer = answer
        self._said: dict[DeviceId, _Said] = {}
        self._due: list[tuple[float, DeviceId]] = []

    def reset(self, protocol: str | None = None) -> None:
        """Forget what was said: to everybody on a new connection, to a protocol's devices when its engine starts."""
        for device_id in [each for each in self._said if protocol in {None, each.protocol}]:
            del self._said[device_id]

    def speak(self, devices: Iterable[Device], *, totals: Totals, now_s: float) -> list[Device]:
        """Say what is to be said to these devices; returns the deleted ones whose `false` the broker has."""
        answers = [(device, self._answer(device)) for device in devices]
        for wanted in (False, True):
            for device, answer in answers:
                if answer.licensed is wanted and self._is_wrong(device, answer):
                    self._say(device, answer, totals, now_s)
        for device, answer in answers:
            if answer.licensed and device.repeat is not None:
                self._repeat(device, now_s)
        return [
            device
            for device, answer in answers
            if device.state is DeviceState.DELETED and answer.licensed is False and device.broker_licensed is False
        ]

    def due(self, now_s: float) -> list[DeviceId]:
        """The devices whose pause is over; look at them again."""
        due = []
        while self._due and self._due[0][0] <= now_s:
            due.append(heapq.heappop(self._due)[1])
        return due

    def next_due_at(self) -> float | None:
        """When the next pause is over (monotonic seconds), or None."""
        return self._due[0][0] if self._due else None

    def _is_wrong(self, device: Device, answer: Answer) -> bool:
        if device.broker_licensed is not answer.licensed:
            return True
        if answer.licensed:
            return device.state is DeviceState.UNLICENSED
        return device.state in {DeviceState.PROVISIONED, DeviceState.UNPROVISIONED} or not _says(device, answer)

    def _say(self, device: Device, answer: Answer, totals: Totals, now_s: float) -> None:
        said = self._said.get(device.id)
        if said is not None and said.answer == answer:
            if now_s < said.again_at:
                return
            quiet = now_s > said.again_at + said.pause_s
            said.pause_s = _FIRST_PAUSE_S if quiet else min(said.pause_s * 2, _MAX_PAUSE_S)
        else:
            said = self._said[device.id] = _Said(answer, _FIRST_PAUSE_S, 0.0)
        said.again_at = now_s + said.pause_s
        if not self._outbox.lic(device, answer, totals):
            return
        heapq.heappush(self._due, (said.again_at, device.id))
        device.broker_licensed = answer.licensed
        device.broker_reason = answer.reason.value if answer.reason else None
        if device.state is DeviceState.DELETED:
            del self._said[device.id]

    def _repeat(self, device: Device, now_s: float) -> None:
        payload, until_s = device.repeat or (b"", 0.0)
        if now_s > until_s or device.state is DeviceState.PROVISIONED:
            device.repeat = None
        elif device.state is DeviceState.UNPROVISIONED:
            device.repeat = None
            self._outbox.do(device.id, payload or iap_said.request(Action.PROVISION))


def _says(device: Device, answer: Answer) -> bool:
    """Whether the broker's reason will do; who asked is kept in memory only, so an older `capacity-exceeded` stands."""
    reason = answer.reason.value if answer.reason else None
    return device.broker_reason == reason or (
        answer.reason is Reason.NOT_ASKED and device.broker_reason == Reason.CAPACITY_EXCEEDED.value
    )
