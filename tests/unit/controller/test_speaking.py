"""What devices hear, and when they hear it again."""

from __future__ import annotations

import itertools
import json

from smartserver_licensed.controller.outbox import Outbox
from smartserver_licensed.controller.pacing import BURST, PER_SECOND
from smartserver_licensed.controller.speaking import Speaker
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId, DeviceReport, DeviceState
from smartserver_licensed.domain.facts import Device, Facts
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer, Reason
from support.ports import RecordingBroker, SetClocks

TOTALS = Totals(capacity=3, provisioned=0, reserved=2, waiting=1)
YES = Answer(licensed=True)
NO = Answer(licensed=False, reason=Reason.CAPACITY_EXCEEDED)


class Stage:
    """A speaker, the answers it is to give, and what was heard."""

    def __init__(self) -> None:
        self.broker, self.clocks = RecordingBroker(), SetClocks()
        self.answers: dict[str, Answer] = {}
        outbox = Outbox(self.broker, self.clocks.wall_ms)
        outbox.sid = "17qtest"
        self.readers = {"modbus"}
        self.facts = Facts(max_devices=4_000)
        self.speaker = Speaker(outbox, self.readers.__contains__)

    def device(self, handle: str, answer: Answer, state: DeviceState = DeviceState.UNLICENSED) -> Device:
        self.answers[handle] = answer
        name = DeviceId("modbus", handle)
        self.facts.report(name, DeviceReport(state), is_retained=False, now_s=self.clocks.now_s, internal=set())
        device = self.facts.device(name)
        return device or Device(name, UnitId(f"modbus/{handle}"), state=state)

    def answer(self, *devices: Device) -> list[Device]:
        answers = [(each, self.answers[each.id.handle]) for each in devices]
        return self.speaker.speak(answers, totals=TOTALS, now_s=self.clocks.now_s)

    def speak(self, *devices: Device) -> list[tuple[str, bool]]:
        self.answer(*devices)
        return self.broker.said()


def test_in_one_batch_every_false_leaves_before_any_true() -> None:
    stage = Stage()
    devices = [stage.device("1", YES), stage.device("2", NO), stage.device("3", YES), stage.device("4", NO)]
    assert stage.speak(*devices) == [("2", False), ("4", False), ("1", True), ("3", True)]


def test_lic_is_retained_qos_1_and_says_why() -> None:
    stage = Stage()
    stage.answer(stage.device("1", NO))
    ((topic, payload, qos, retain),) = stage.broker.published
    assert (topic, qos, retain) == ("glp/0/17qtest/fb/dev/modbus/1/lic", 1, True)
    assert json.loads(payload)["reason"] == "capacity-exceeded"


def test_what_the_broker_holds_and_the_device_shows_is_not_said_again() -> None:
    stage = Stage()
    device = stage.device("1", YES, DeviceState.PROVISIONED)
    device.broker_licensed = True
    assert stage.speak(device) == []


def test_a_device_that_should_be_licensed_and_shows_unlicensed_hears_it_again_with_growing_pauses() -> None:
    stage = Stage()
    device = stage.device("1", YES)
    times = []
    start_s = stage.clocks.now_s
    for _ in range(4_000):
        if stage.speak(device):
            times.append(stage.clocks.now_s - start_s)
        stage.clocks.now_s += 0.1
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert set(pauses[6:]) == {60}


def test_a_device_that_obeyed_and_dips_later_hears_it_at_once() -> None:
    stage = Stage()
    device = stage.device("1", YES)
    stage.speak(device)
    device.state = DeviceState.PROVISIONED
    stage.clocks.now_s += 100
    assert stage.speak(device) == []
    device.state = DeviceState.UNLICENSED
    assert stage.speak(device) == [("1", True)]


def test_a_changed_answer_waits_for_no_pause() -> None:
    stage = Stage()
    device = stage.device("1", NO)
    stage.speak(device)
    stage.answers["1"] = YES
    assert stage.speak(device) == [("1", True)]


def test_a_value_that_somebody_else_wrote_is_overwritten_and_who_keeps_writing_meets_pauses() -> None:
    stage = Stage()
    device = stage.device("1", NO)
    stage.speak(device)
    device.is_lic_doubtful = True
    assert stage.speak(device) == [("1", False)], "at once, whatever was said just before"
    said = 0
    for _ in range(600):
        stage.clocks.now_s += 0.1
        device.is_lic_doubtful = True
        said += len(stage.speak(device))
    assert 3 <= said <= 8, "in a minute, not 600 times"


def test_the_pauses_make_a_device_due_again() -> None:
    stage = Stage()
    device = stage.device("1", YES)
    stage.speak(device)
    assert stage.speaker.due(stage.facts, stage.clocks.now_s) == []
    due_at = stage.speaker.next_due_at()
    assert due_at is not None
    assert stage.speaker.due(stage.facts, due_at) == [device]


def test_a_false_is_not_repeated_to_an_unprovisioned_device_of_an_older_engine() -> None:
    stage = Stage()
    device = stage.device("1", NO, DeviceState.UNPROVISIONED)
    stage.readers.clear()
    assert stage.speak(device) == [("1", False)]
    stage.clocks.now_s += 100
    assert stage.speak(device) == []
    device.state = DeviceState.PROVISIONED
    assert stage.speak(device) == [("1", False)]


def test_a_burst_fits_a_subscribers_queue_and_the_rest_follows_in_order_at_a_steady_pace() -> None:
    stage = Stage()
    devices = [stage.device(str(number), NO if number <= 1_200 else YES) for number in range(1, 2_301)]
    heard = stage.speak(*devices)
    start_s = stage.clocks.now_s
    while len(heard) < 2_300:
        due_at = stage.speaker.next_due_at()
        assert due_at is not None
        stage.clocks.now_s = max(stage.clocks.now_s, due_at)
        some = stage.speak(*stage.speaker.due(stage.facts, stage.clocks.now_s))
        assert len(some) <= 100, "others have their turn between"
        heard += some
        assert len(heard) <= BURST + (stage.clocks.now_s - start_s) * PER_SECOND + 1
        assert len(heard) >= BURST or stage.clocks.now_s == start_s, "a burst does not wait"
    assert heard == [(str(number), number > 1_200) for number in range(1, 2_301)]
    assert stage.clocks.now_s - start_s < 1.1 * (2_300 - BURST) / PER_SECOND


def test_what_waits_for_its_turn_is_looked_at_anew() -> None:
    stage = Stage()
    devices = [stage.device(str(number), YES) for number in range(101)]
    stage.speak(*devices)
    stage.answers["100"] = NO
    assert stage.speak(*stage.speaker.due(stage.facts, stage.clocks.now_s)) == [("100", False)]


def test_after_an_engine_started_its_devices_hear_it_at_once() -> None:
    stage = Stage()
    device = stage.device("1", YES)
    stage.speak(device)
    stage.speaker.reset("bacnet")
    assert stage.speak(device) == []
    stage.speaker.reset("modbus")
    assert stage.speak(device) == [("1", True)]


def test_an_older_capacity_exceeded_stands_where_nobody_knows_who_asked_any_more() -> None:
    stage = Stage()
    device = stage.device("1", Answer(licensed=False, reason=Reason.NOT_ASKED))
    device.broker_licensed, device.broker_reason = False, "capacity-exceeded"
    assert stage.speak(device) == []
    device.broker_reason = "deleted"
    assert stage.speak(device) == [("1", False)]


def test_a_deleted_device_that_heard_false_can_be_forgotten() -> None:
    stage = Stage()
    device = stage.device("1", Answer(licensed=False, reason=Reason.DELETED), DeviceState.DELETED)
    assert stage.answer(device) == [device]


def test_without_a_connection_nothing_counts_as_said() -> None:
    stage = Stage()
    device = stage.device("1", YES)
    stage.broker.is_connected = False
    assert stage.speak(device) == []
    assert device.broker_licensed is None


def test_a_refused_provision_is_repeated_once_and_only_in_time() -> None:
    stage = Stage()
    device = stage.device("1", YES, DeviceState.UNPROVISIONED)
    device.broker_licensed, device.repeat = True, (b'{"action":"provision"}', stage.clocks.now_s + 1)
    stage.answer(device)
    assert [(topic, payload) for topic, payload, _, _ in stage.broker.published] == [
        ("glp/0/17qtest/rq/dev/modbus/1/do", b'{"action":"provision"}')
    ]
    stage.broker.published.clear()
    stage.answer(device)
    device.repeat = (b"{}", stage.clocks.now_s - 1)
    stage.answer(device)
    assert stage.broker.published == []


def test_an_own_message_is_recognised_among_the_last_32_and_an_own_request_once() -> None:
    broker, clocks = RecordingBroker(), SetClocks()
    outbox = Outbox(broker, clocks.wall_ms)
    outbox.sid = "17qtest"
    device = DeviceId("modbus", "1")
    outbox.do(device, b"{}")
    topic = "glp/0/17qtest/rq/dev/modbus/1/do"
    assert outbox.is_own(topic, b"{}", once=True)
    assert not outbox.is_own(topic, b"{}", once=True), "a person may send the same bytes"
    for number in range(33):
        outbox.do(device, b"%d" % number)
    assert not outbox.is_own(topic, b"0")
    assert outbox.is_own(topic, b"1")
