"""Own messages are recognised when they come back, within bounds."""

from __future__ import annotations

from smartserver_licensed.controller.outbox import Outbox
from smartserver_licensed.domain.devices import DeviceId
from support.ports import RecordingBroker, SetClocks


def do_topic(number: int) -> str:
    return f"glp/0/17qtest/rq/dev/modbus/{number}/do"


def an_outbox() -> Outbox:
    outbox = Outbox(RecordingBroker(), SetClocks().wall_ms)
    outbox.sid = "17qtest"
    return outbox


def test_handles_that_come_and_go_leave_nothing_behind() -> None:
    outbox = an_outbox()
    for number in range(30_000):
        outbox.do(DeviceId("modbus", str(number)), b"{}")
    assert sum(outbox.is_own(do_topic(number), b"{}") for number in range(30_000)) <= 10_000
    assert all(outbox.is_own(do_topic(number), b"{}") for number in range(25_500, 30_000))


def test_an_echo_is_answered_once_also_where_the_topic_is_remembered_from_long_ago() -> None:
    outbox = an_outbox()
    for number in range(6_000):
        outbox.do(DeviceId("modbus", str(number)), b"{}")
    assert outbox.is_own(do_topic(1), b"{}", once=True)
    assert not outbox.is_own(do_topic(1), b"{}", once=True)
