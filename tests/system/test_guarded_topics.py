"""What only the daemon may write is guarded: a forgery lives for milliseconds, is reported, and pays with pauses."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from engines.runner import Engine
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client, Message

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon", "busctl"), pytest.mark.timeout(120)]
FB = f"glp/0/{INSTALL_CODE}/fb/dev/example"
STATUS = f"glp/0/{INSTALL_CODE}/fb/lic"
EVENTS = f"glp/0/{INSTALL_CODE}/ev/lic"
FORGED = {"licensed": True, "forged": 1}


@pytest.fixture
def box() -> Iterator[Box]:
    """Two devices of an engine that reads lic; there is a seat for one: d1 runs, d2 is refused."""
    with Box(capacity=2) as box, Engine(box.broker.port) as engine:
        engine.create_devices(1, provision=True)
        wait_until(lambda: box.status()["used"] == 2, timeout_s=20, what="d1 runs")
        engine.create_devices(1, first=2, provision=True)
        wait_until(lambda: box.status()["waiting"] == 1, timeout_s=20, what="d2 waits")
        yield box


@pytest.fixture
def client(box: Box) -> Iterator[Client]:
    with Client(box.broker.port) as client:
        client.subscribe(f"{FB}/+/lic", f"{FB}/+/sts", STATUS, EVENTS)
        client.wait_for(lambda each: each.topic == STATUS)
        client.clear()
        yield client


def lic(client: Client, handle: str) -> list[Message]:
    return [each for each in client.messages if each.topic == f"{FB}/{handle}/lic"]


def tampering(client: Client) -> list[Message]:
    return [each for each in client.messages if each.topic == EVENTS and each.json()["event"] == "tamper"]


def test_a_forged_true_lives_for_milliseconds_and_is_reported_on_mqtt_on_dbus_and_in_the_journal(
    box: Box, client: Client
) -> None:
    with (
        subprocess.Popen(
            ["busctl", f"--address={box.bus.address}", "--json=short", "monitor", "com.enocean.SmartServer.License1"],
            stdout=subprocess.PIPE,
            text=True,
        ) as monitor,
        contextlib.ExitStack() as at_last,
    ):
        at_last.callback(monitor.kill)
        time.sleep(0.5)
        client.publish(f"{FB}/d2/lic", FORGED, retain=True)
        client.wait_until(lambda _: len(lic(client, "d2")) == 2)
        forged, mended = lic(client, "d2")
        assert (forged.json(), mended.json()["licensed"]) == (FORGED, False)
        assert mended.time_s - forged.time_s < 0.5, "promised are milliseconds; a test waits ten times longer"
        client.wait_until(lambda _: bool(tampering(client)))
        (event,) = tampering(client)
        assert (event.json()["device"], event.json()["topic"]) == ("example/d2", f"{FB}/d2/lic")
        assert "Somebody else wrote what only the daemon may write" in box.log
        time.sleep(0.5)
        monitor.send_signal(signal.SIGTERM)
        heard = monitor.communicate(timeout=10)[0]
        assert "TamperDetected" in heard
        assert f"{FB}/d2/lic" in heard
        assert box.status()["used"] == 2


def test_a_forged_false_for_a_running_device_is_mended_and_it_runs_again(box: Box, client: Client) -> None:
    client.publish(f"{FB}/d1/lic", {"licensed": False}, retain=True)
    client.wait_for(lambda each: each.topic == f"{FB}/d1/sts" and each.json()["state"] == "provisioned")
    assert lic(client, "d1")[-1].json()["licensed"] is True
    assert (box.status()["used"], box.status()["waiting"]) == (2, 1), "no seat moved"


@pytest.mark.parametrize("payload", ["", "garbage", '{"licensed":null}', '{"licensed":true}' + " " * 70_000])
def test_an_emptied_or_spoiled_lic_is_written_anew(client: Client, payload: str) -> None:
    client.publish(f"{FB}/d1/lic", payload, retain=True)
    client.wait_until(lambda _: len(lic(client, "d1")) == 2)
    assert lic(client, "d1")[-1].json()["licensed"] is True


def test_a_forged_status_is_overwritten_at_once_and_reported(client: Client) -> None:
    client.publish(STATUS, {"state": "licensed", "capacity": 9_999}, retain=True)
    client.wait_until(lambda messages: sum(each.topic == STATUS for each in messages) == 2)
    forged, mended = [each for each in client.messages if each.topic == STATUS]
    assert (forged.json()["capacity"], mended.json()["capacity"]) == (9_999, 2)
    client.wait_until(lambda _: bool(tampering(client)))
    assert tampering(client)[0].json()["topic"] == STATUS


def test_whoever_keeps_writing_meets_growing_pauses_and_the_reports_are_rationed(box: Box, client: Client) -> None:
    end = time.monotonic() + 6
    written = 0
    while time.monotonic() < end:
        client.publish(f"{FB}/d2/lic", {"licensed": True, "n": written}, retain=True)
        written += 1
        time.sleep(0.01)
    client.wait_until(lambda _: len(lic(client, "d2")) >= written)
    mended = [each for each in lic(client, "d2") if "n" not in each.json()]
    assert 2 <= len(mended) <= 6, f"{len(mended)} answers to {written} forgeries; pauses of 1, 2, 4 s"
    assert len(tampering(client)) <= 20
    assert box.log.count("Somebody else wrote") <= 20
    wait_until(lambda: "n" not in lic(client, "d2")[-1].json(), timeout_s=40, what="the right value stands at the end")


def test_the_daemons_own_words_are_no_tampering_also_over_restarts(box: Box, client: Client) -> None:
    for _ in range(2):
        box.kill()
        box.start()
        wait_until(lambda: box.status()["state"] == "full", timeout_s=20, what="a snapshot")
    assert tampering(client) == []
    box.broker.restart()
    with Client(box.broker.port) as after:
        after.subscribe(f"{FB}/+/lic", STATUS, EVENTS)
        after.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)
        after.wait_for(lambda each: each.topic == STATUS, timeout_s=50)
        after.wait_until(lambda _: bool(lic(after, "d1") and lic(after, "d2")))
        assert tampering(after) == []
    assert "Somebody else wrote" not in box.log
