"""The snapshot as a dialogue with a broker that loses things."""

from __future__ import annotations

import pytest

from smartserver_licensed.controller.snapshot import ASKED_AT_ONCE, MARKER_WAIT_S, Snapshot
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.formats import iap
from support.ports import RecordingBroker

SID = "17qtest"


class Dialogue:
    def __init__(self, unseen: int = 0) -> None:
        self.broker = RecordingBroker()
        devices = [DeviceId("modbus", str(number)) for number in range(unseen)]
        self.snapshot = Snapshot(self.broker, SID, unseen=lambda: devices, salt="t")
        self.now_s = 0.0
        self.snapshot.start(self.now_s)

    @property
    def marker(self) -> tuple[str, int]:
        """The newest marker and its QoS."""
        topic, payload, qos, retain = self.broker.published[-1]
        assert (topic, retain) == (iap.MARKER_TOPIC, False)
        return payload.decode(), qos

    def return_marker(self) -> None:
        self.snapshot.on_marker(self.marker[0], self.now_s)

    def lose_marker(self) -> None:
        self.now_s = self.snapshot.due_at
        self.snapshot.on_time(self.now_s)


def test_live_first_then_each_kind_at_qos_0_then_done() -> None:
    dialogue = Dialogue()
    assert {(each, 1) for each in iap.live_filters(SID)} <= set(dialogue.broker.subscribed)
    assert dialogue.marker[1] == 1, "behind the queue of QoS 1"
    for kind in ("sts", "lic", "cfg"):
        dialogue.return_marker()
        assert not dialogue.snapshot.is_done
        assert (iap.snapshot_filter(SID, kind), 0) in dialogue.broker.subscribed
        assert dialogue.marker[1] == 0, "behind the stream of QoS 0"
    dialogue.return_marker()
    assert dialogue.snapshot.is_done
    assert {each for each, _ in dialogue.broker.subscribed} == {iap.MARKER_TOPIC, *iap.live_filters(SID)}


def test_a_lost_marker_makes_it_read_again_with_growing_pauses() -> None:
    dialogue = Dialogue()
    dialogue.return_marker()
    pauses = []
    for _ in range(4):
        asked = dialogue.broker.subscribed.count((iap.snapshot_filter(SID, "sts"), 0))
        before = dialogue.now_s
        dialogue.lose_marker()
        pauses.append(dialogue.now_s - before)
        assert dialogue.broker.subscribed.count((iap.snapshot_filter(SID, "sts"), 0)) == asked + 1
    assert pauses == [MARKER_WAIT_S * factor for factor in (1, 2, 4, 8)]
    assert not dialogue.snapshot.is_truncated


def test_a_broker_that_always_drops_the_rest_does_not_stop_it_for_ever() -> None:
    dialogue = Dialogue()
    dialogue.return_marker()
    for _ in range(5):
        dialogue.lose_marker()
    assert dialogue.snapshot.is_truncated
    for _ in range(3):
        dialogue.return_marker()
    assert dialogue.snapshot.is_done


def test_handles_that_nothing_showed_are_asked_for_50_at_a_time() -> None:
    dialogue = Dialogue(unseen=120)
    for _ in range(4):
        dialogue.return_marker()
    sizes = []
    while not dialogue.snapshot.is_done:
        asked = [each for each, qos in dialogue.broker.subscribed if qos == 0]
        assert all(each.endswith("/sts") for each in asked)
        sizes.append(len(asked))
        dialogue.return_marker()
    assert sizes == [ASKED_AT_ONCE, ASKED_AT_ONCE, 20]


@pytest.mark.parametrize("nonce", ["", "somebody-1", "t-0"])
def test_a_marker_of_somebody_else_changes_nothing(nonce: str) -> None:
    dialogue = Dialogue()
    before = list(dialogue.broker.published)
    dialogue.snapshot.on_marker(nonce, 0.0)
    assert dialogue.broker.published == before
