"""Older engines: who runs without a seat is deprovisioned, but nobody who could have obeyed `lic`."""

from __future__ import annotations

import itertools
import logging

import pytest

from smartserver_licensed.controller.enforcing import Enforcer
from smartserver_licensed.controller.outbox import Outbox
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId, DeviceState
from smartserver_licensed.domain.facts import Device, Facts
from smartserver_licensed.domain.messages import RUNS_WITHOUT_SEAT
from smartserver_licensed.domain.withholding import SILENCE, YES, Answer, Reason
from support.ports import RecordingBroker, SetClocks

NO = Answer(licensed=False, reason=Reason.CAPACITY_EXCEEDED)
DO = "glp/0/17qtest/rq/dev/xyz/d1/do"


class Stage:
    """An enforcer and one device of an older engine, which runs."""

    def __init__(self, answer: Answer = NO, *, is_reporting_only: bool = False) -> None:
        self.broker, self.clocks = RecordingBroker(), SetClocks()
        outbox = Outbox(self.broker, self.clocks.wall_ms)
        outbox.sid = "17qtest"
        self.answer = answer
        self.readers: set[str] = set()
        self.knows = True
        self.enforcer = Enforcer(outbox, self.reads_lic, is_reporting_only=is_reporting_only)
        self.device = Device(DeviceId("xyz", "d1"), UnitId("xyz/d1"), state=DeviceState.PROVISIONED, is_live=True)
        self.refused = 0

    def reads_lic(self, protocol: str) -> bool | None:
        return protocol in self.readers if self.knows else None

    def look(self) -> int:
        """How many deprovisions left."""
        before = len(self.broker.published)
        self.refused += len(self.enforcer.look([(self.device, self.answer)], self.clocks.now_s))
        return len(self.broker.published) - before

    def times(self, duration_s: int) -> list[float]:
        """When deprovisions left within this time; looks ten times a second."""
        start_s, times = self.clocks.now_s, []
        for _ in range(duration_s * 10):
            if self.look():
                times.append(round(self.clocks.now_s - start_s, 1))
            self.clocks.now_s += 0.1
        return times


def test_it_first_hears_lic_for_a_second_then_its_engine_is_asked_with_growing_pauses() -> None:
    stage = Stage()
    times = stage.times(250)
    assert times[0] == pytest.approx(1.0, abs=0.11)
    assert [round(later - earlier) for earlier, later in itertools.pairwise(times)][:7] == [2, 4, 8, 16, 32, 60, 60]
    assert set(stage.broker.published) == {(DO, b'{"action":"deprovision"}', 0, False)}
    assert stage.refused == 1, "one ev/error for it, not one each time"


def test_an_engine_that_obeys_is_asked_once() -> None:
    stage = Stage()
    assert len(stage.times(2)) == 1
    stage.device.state = DeviceState.UNPROVISIONED
    assert stage.times(200) == []


def test_an_engine_that_obeys_and_provisions_again_at_once_meets_growing_pauses_too() -> None:
    stage = Stage()
    times = []
    for turn in range(1_000):
        stage.device.state = DeviceState.UNPROVISIONED if turn % 5 == 0 else DeviceState.PROVISIONED
        if stage.look():
            times.append(turn)
        stage.clocks.now_s += 0.1
    assert len(times) <= 7


def test_the_next_time_is_a_new_time() -> None:
    stage = Stage()
    stage.times(2)
    stage.device.state = DeviceState.UNPROVISIONED
    stage.times(5)
    stage.device.state = DeviceState.PROVISIONED
    assert stage.times(2) == [pytest.approx(1.0, abs=0.11)]
    assert stage.refused == 2


@pytest.mark.parametrize("answer", [YES, SILENCE])
def test_who_hears_true_or_nothing_is_never_asked(answer: Answer) -> None:
    assert Stage(answer).times(100) == []


@pytest.mark.parametrize(
    "state", [None, DeviceState.UNLICENSED, DeviceState.UNPROVISIONED, DeviceState.DELETED, DeviceState.UNKNOWN]
)
def test_who_does_not_run_is_never_asked(state: DeviceState | None) -> None:
    stage = Stage()
    stage.device.state = state
    assert stage.times(100) == []


def test_an_engine_that_reads_lic_is_never_asked_also_if_that_is_learned_late() -> None:
    stage = Stage()
    stage.times(1)
    stage.readers.add("xyz")
    assert stage.times(100) == []


def test_a_seat_in_the_first_second_saves_it() -> None:
    stage = Stage()
    stage.look()
    stage.answer = YES
    assert stage.times(100) == []


def test_while_nobody_knows_whether_its_engine_reads_lic_it_is_not_asked() -> None:
    stage = Stage()
    stage.knows = False
    assert stage.times(100) == []
    stage.knows = True
    assert stage.times(2) == [pytest.approx(1.0, abs=0.11)]


def test_with_report_nobody_is_asked_and_it_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage(is_reporting_only=True)
    assert stage.times(200) == []
    assert stage.refused == 1
    (entry,) = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    assert entry["MESSAGE_ID"] == RUNS_WITHOUT_SEAT.id
    assert entry["ENFORCEMENT"] == "report"


def test_the_journal_falls_neither_silent_nor_is_it_filled(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    stage.times(3_000)
    assert [record.fields["TIMES"] for record in caplog.records] == ["1", "2", "4", "8", "16", "32"]  # type: ignore[attr-defined]


def test_the_pauses_make_a_device_due_and_one_that_is_gone_is_let_go() -> None:
    stage = Stage()
    stage.look()
    due_at = stage.enforcer.next_due_at()
    assert due_at is not None
    assert stage.enforcer.due(Facts(max_devices=1), due_at) == []
    assert stage.enforcer.next_due_at() is None
