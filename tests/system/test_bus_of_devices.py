"""Many devices, a restarted broker, a second daemon: the whole daemon on real parts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time

import pytest

from engines.runner import Engine
from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(600)]
PROMISED_S = 5.0
PATIENCE = 10  # a test waits up to ten times what is promised
DO = f"glp/0/{INSTALL_CODE}/rq/dev/example"
FB = f"glp/0/{INSTALL_CODE}/fb/dev/example"
RECORDED_STS = {
    "state": "unlicensed",
    "unid": "",
    "health": "normal",
    "cat": "i/o",
    "type": "9B0001050004ED00",
    "interface": "static",
    "usage": "controller",
    "product": "example_xif",
    "manufacturer": "Dialog",
    "blocks": 1,
    "mru": "2026-11-24 03:51:11.450 UTC",
}


def last_said(client: Client) -> dict[str, bool]:
    said: dict[str, bool] = {}
    for message in client.messages:
        if message.topic.startswith(FB) and message.topic.endswith("/lic"):
            said[message.topic.split("/")[6]] = json.loads(message.payload)["licensed"]
    return said


def states(client: Client) -> dict[str, str]:
    shown: dict[str, str] = {}
    for message in client.messages:
        if message.topic.startswith(FB) and message.topic.endswith("/sts") and message.payload:
            shown[message.topic.split("/")[6]] = json.loads(message.payload)["state"]
    return shown


@pytest.mark.parametrize("has_sid", [True, False], ids=["the SID is said again", "the SID is lost too"])
def test_the_broker_killed_and_restarted_empty_has_lic_and_status_again_and_nobody_running_heard_false(
    *, has_sid: bool
) -> None:
    with Box(capacity=4) as box, Engine(box.broker.port) as engine, Client(box.broker.port) as client:
        client.subscribe(f"{FB}/#")
        engine.create_devices(5, provision=True)
        wait_until(lambda: box.status()["used"] == 4, timeout_s=20, what="three devices provisioned")
        running = {handle for handle, state in states(client).items() if state == "provisioned"}
        before = last_said(client)
        box.broker.kill()
        box.broker.start()
        with Client(box.broker.port) as after:
            after.subscribe(f"{FB}/#", f"glp/0/{INSTALL_CODE}/fb/lic")
            if has_sid:
                after.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)
            start = time.monotonic()
            wait_until(
                lambda: (
                    {h for h, licensed in last_said(after).items() if licensed} == running
                    and any(each.topic.endswith("/fb/lic") for each in after.messages)
                ),
                timeout_s=PROMISED_S * PATIENCE,
                what="lic and fb/lic rebuilt",
            )
            assert time.monotonic() - start < PROMISED_S * PATIENCE
            time.sleep(0.5)
            said = [(h, licensed) for h, licensed in last_said(after).items() if h in running]
            assert said
            assert all(licensed for _, licensed in said)
            assert {h: v for h, v in last_said(after).items() if h in before} == {
                h: before[h] for h in last_said(after) if h in before
            }
            assert box.status()["used"] == 4


def test_a_second_daemon_on_one_state_directory_says_so_and_exits() -> None:
    with Box() as box:
        second = subprocess.run(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config)],
            check=False,
            capture_output=True,
            timeout=20,
        )
        assert second.returncode == 1
        assert "[storage-busy]" in second.stderr.decode()
        assert box.status()["storage"] == "ok"


def test_a_broker_that_already_holds_4000_devices_is_known_before_the_first_decision() -> None:
    with Box(sid=None, capacity=3) as box, Client(box.broker.port) as client:
        box.stop()
        for number in range(3_999):
            sts = RECORDED_STS | {"unid": f"{number:012}"}
            client.publish(f"{FB}/d{number}/sts", json.dumps(sts), retain=True, wait=False)
        client.publish(f"{FB}/last/sts", json.dumps({"state": "provisioned"}), retain=True)
        client.subscribe(f"{FB}/+/lic", f"glp/0/{INSTALL_CODE}/fb/lic")
        client.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)
        box.start()
        first = client.wait_for(lambda message: message.topic.endswith("/fb/lic"), timeout_s=60)
        assert sum(first.json()[key] for key in ("waiting", "used", "reserved")) == 1 + 4_000, (
            "known before the first decision"
        )
        wait_until(lambda: len(last_said(client)) == 4_000, timeout_s=60, what="an answer for everybody")
        assert box.status()["used"] == 2, "the one that runs is adopted or seated, whatever came before it"


def test_kill_at_random_instants_of_an_import_loses_nothing_announced() -> None:
    """1,000 devices, 500 seats, ten kills; LICENSED_KILLS=100 for more."""
    kill_during_import(kills=int(os.environ.get("LICENSED_KILLS", "10")), seed=1)


def kill_during_import(*, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with Box(capacity=501) as box, Engine(box.broker.port) as engine, Client(box.broker.port) as client:
        client.subscribe(f"{FB}/+/lic")
        for cycle in range(kills):
            engine.create_devices(1_000 // kills, prefix=f"c{cycle}.", provision=True)
            time.sleep(chance.uniform(0.0, 0.4))
            box.kill()
            announced = {handle for handle, licensed in last_said(client).items() if licensed}
            box.start()
            wait_until(lambda: box.status()["state"] != "starting", timeout_s=30, what="a snapshot")
            check_count(box, announced)
        wait_until(lambda: len(last_said(client)) == 1_000, timeout_s=60, what="an answer for everybody")
        wait_until(lambda: sum(last_said(client).values()) == 500, timeout_s=60, what="500 licensed")
        check_count(box, {handle for handle, licensed in last_said(client).items() if licensed})


def check_count(box: Box, announced: set[str]) -> None:
    """Nothing announced is lost, never more seats than capacity, the count equals a recount."""
    status = box.status()
    devices = box.devices()
    seated = {name.split("/", 1)[1] for name, row in devices.items() if row["seat"] in {"reserved", "provisioned"}}
    assert announced <= seated, "nobody asked, so nobody's seat is taken"
    assert len(seated) <= status["capacity"] - 1
    assert status["used"] <= status["capacity"]
    recount = sum(row["seat"] == "provisioned" for row in devices.values())
    later = box.status()
    assert recount in range(status["used"] - 1, later["used"]), "the count equals a recount"


def test_a_thousand_unprovisioned_devices_and_any_four_can_be_provisioned_with_one_press() -> None:
    chance = random.Random(7)
    with Box(capacity=5, settle_s=2) as box, Engine(box.broker.port) as engine, Client(box.broker.port) as client:
        client.subscribe(f"{FB}/+/sts")
        unreachable = [f"gone{n}" for n in range(1, 7)]
        engine.set_unreachable(unreachable)
        engine.create_devices(994, prefix="d")
        for handle in unreachable:
            args = {"unid": handle, "type": "9B0001050004ED00", "provision": True}
            client.publish(f"{DO}/{handle}/do", json.dumps({"action": "create", "args": args}))
        wait_until(lambda: box.status()["waiting"] == 996, timeout_s=60, what="all known")
        assert box.status()["used"] == 1, "the dashboard says 1 of 5"
        time.sleep(1)
        pressed = chance.sample([f"d{n}" for n in range(1, 995)], 4)
        for handle in pressed:
            client.publish(f"{DO}/{handle}/do", '{"action":"provision"}')
        wait_until(
            lambda: all(states(client).get(handle) == "provisioned" for handle in pressed),
            timeout_s=120,
            what="all four provisioned with one press",
        )
        assert box.status()["used"] == 5


def test_stop_is_clean_and_leaves_every_retained_lic_as_it_is() -> None:
    with Box(capacity=3) as box, Engine(box.broker.port) as engine, Client(box.broker.port) as client:
        engine.create_devices(3)
        client.subscribe(f"{FB}/+/lic")
        wait_until(lambda: len(last_said(client)) == 3, timeout_s=20, what="an answer for everybody")
        before = last_said(client)
        client.clear()
        start = time.monotonic()
        assert box.stop() == 0
        assert time.monotonic() - start < 1.0
        time.sleep(0.3)
        assert last_said(client) == {}
        with Client(box.broker.port) as after:
            after.subscribe(f"{FB}/+/lic")
            wait_until(lambda: last_said(after) == before, timeout_s=5, what="the retained values")
