"""What each device hears: says `lic` where the broker or the device does not show what `withholding` answers.

Rules (WIRE.md 5, "What the daemon does"; LICENSING §3):
- in one batch every `false` leaves before any `true`;
- `lic` is said when the broker holds something else, and again when a device that should be licensed shows
  `unlicensed` (or the other way round), with growing pauses: an engine that did not know the handle dropped it;
- a value that somebody else wrote is overwritten at once, and with growing pauses if it happens again and again;
- never cleared with an empty payload; a deleted device gets `false` and is forgotten once the broker has it;
- a provision request that the engine refused while we had not answered is repeated once;
- no faster than `pacing` allows: what may not leave yet waits, in order, and is looked at anew when its turn comes.

What this module does not do: it does not decide who hears what (`domain.withholding`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from smartserver_licensed.domain.devices import Action, DeviceId, DeviceState
from smartserver_licensed.domain.facts import Device, Facts
from smartserver_licensed.domain.seats import HUNDRED
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer, Reason
from smartserver_licensed.formats import iap_said

from .outbox import Outbox
from .pacing import Pace
from .pauses import Pauses


class Speaker:
    """Says `lic` and remembers when to say it again. Bounded by the number of devices known."""

    def __init__(self, outbox: Outbox, reads_lic: Callable[[str], bool | None]) -> None:
        """`reads_lic`: whether a protocol's engine reads `lic`, None while that is not known."""
        self._outbox = outbox
        self._reads_lic = reads_lic
        self._pauses: Pauses[DeviceId] = Pauses()
        self._guarding: Pauses[DeviceId] = Pauses()
        self._pace = Pace()
        self._unsaid: dict[DeviceId, None] = {}
        self._left = 0  # how many may be said in this call

    def reset(self, protocol: str | None = None) -> None:
        """Forget what was said: to everybody on a new connection, to a protocol's devices when its engine starts."""
        self._pauses.forget_all(lambda device_id: protocol in {None, device_id.protocol})
        if protocol is None:
            self._unsaid.clear()

    def speak(self, answers: Sequence[tuple[Device, Answer]], *, totals: Totals, now_s: float) -> list[Device]:
        """Say these answers where that is needed; returns the deleted devices whose `false` the broker has."""
        self._left = min(self._pace.left(now_s), HUNDRED)
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
            if device.state is DeviceState.DELETED and answer.licensed is False and not self._is_wrong(device, answer)
        ]

    def due(self, facts: Facts, now_s: float) -> list[Device]:
        """The devices whose pause is over, or whose turn has come; look at them again."""
        turns = list(itertools.islice(self._unsaid, min(self._pace.left(now_s), HUNDRED)))
        for device_id in turns:
            del self._unsaid[device_id]
        due = (*turns, *self._pauses.ended(now_s), *self._guarding.ended(now_s))
        return [device for device_id in due if (device := facts.device(device_id)) is not None]

    def next_due_at(self) -> float | None:
        """When a pause is over, or more may leave (monotonic seconds), or None."""
        turn_at = self._pace.more_at() if self._unsaid else None
        moments = (turn_at, self._pauses.next_end_at(), self._guarding.next_end_at())
        return min((each for each in moments if each is not None), default=None)

    def _is_wrong(self, device: Device, answer: Answer) -> bool:
        if device.broker_licensed is not answer.licensed or device.is_lic_doubtful:
            return True
        if answer.licensed:
            return device.state is DeviceState.UNLICENSED
        if device.state is DeviceState.UNPROVISIONED and self._reads_lic(device.id.protocol):
            return True
        return device.state is DeviceState.PROVISIONED or not _says(device, answer)

    def _say(self, device: Device, answer: Answer, totals: Totals, now_s: float) -> None:
        if device.said != answer:
            self._pauses.forget(device.id)
            self._guarding.forget(device.id)
        pauses = self._guarding if device.is_lic_doubtful else self._pauses
        if not pauses.is_over(device.id, now_s):
            return
        if self._left <= 0:
            self._unsaid[device.id] = None
            return
        pauses.begin(device.id, now_s)
        device.said = answer
        if not self._outbox.lic(device, answer, totals):
            return
        self._pace.spend()
        self._left -= 1
        device.broker_licensed = answer.licensed
        device.broker_reason = answer.reason.value if answer.reason else None
        device.is_lic_doubtful = False

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
