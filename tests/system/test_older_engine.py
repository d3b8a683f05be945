"""Engines that know no `lic`: what runs over the limit is stopped by their own means, and nothing else ever is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest

from engines.runner import Engine
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client, Message

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(180)]
PATIENCE_S = 20.0
DEPROVISION = '{"action":"deprovision"}'
ALL = (f"glp/0/{INSTALL_CODE}/#",)


@pytest.fixture
def box() -> Iterator[Box]:
    """Seats for two devices."""
    with Box(capacity=3) as box:
        yield box


@pytest.fixture
def client(box: Box) -> Iterator[Client]:
    with listening(box) as client:
        yield client


def listening(box: Box) -> Client:
    client = Client(box.broker.port)
    client.subscribe(*ALL)
    return client


def states(client: Client) -> dict[str, str]:
    return {each.topic.split("/")[6]: each.json()["state"] for each in client.messages if each.topic.endswith("/sts")}


def asked(client: Client, handle: str | None = None) -> list[Message]:
    """What the daemon asked of engines; the engine's own requests have arguments."""
    return [
        each
        for each in client.messages
        if each.payload == DEPROVISION and (handle is None or each.topic.endswith(f"/{handle}/do"))
    ]


def errors(client: Client, handle: str) -> list[Message]:
    found = [each for each in client.messages if each.topic.endswith("/ev/error")]
    return [each for each in found if each.json()["topic"] == f"glp/0/{INSTALL_CODE}/rq/dev/xyz/{handle}/do"]


def run_two(box: Box, engine: Engine, client: Client) -> None:
    engine.create_devices(2, provision=True)
    wait_until(lambda: box.status()["used"] == 3, timeout_s=PATIENCE_S, what="two devices run")
    wait_until(lambda: len(states(client)) == 2, timeout_s=PATIENCE_S, what="and are seen")


def provision_outright(client: Client, handle: str) -> None:
    """A device that nobody asked the daemon for: its engine shows it, and then that it runs."""
    for state in ("unprovisioned", "provisioned"):
        client.publish(f"glp/0/{INSTALL_CODE}/fb/dev/xyz/{handle}/sts", {"state": state}, retain=True)


def test_what_is_provisioned_over_the_limit_is_deprovisioned_with_one_ev_error(box: Box, client: Client) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)

        engine.create_devices(1, first=3, provision=True)

        client.wait_until(lambda _: bool(asked(client, "d3")), PATIENCE_S)
        client.wait_until(lambda _: states(client)["d3"] == "unprovisioned", PATIENCE_S)
        time.sleep(2)
        assert states(client) == {"d1": "provisioned", "d2": "provisioned", "d3": "unprovisioned"}
        assert len(asked(client)) == 1, "it obeyed"
        (error,) = errors(client, "d3")
        assert (error.json()["code"], error.json()["source"]) == ("capacity-exceeded", "licensed")
        (rejection,) = [each for each in client.messages if '"event":"rejection"' in each.payload]
        assert rejection.json()["device"] == "xyz/d3"
        assert box.status()["used"] == 3
        assert "ENFORCEMENT=deprovision" in box.log


def test_what_was_never_asked_for_and_runs_over_the_limit_is_deprovisioned_with_an_ev_error(
    box: Box, client: Client
) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)

        provision_outright(client, "silent")

        client.wait_until(lambda _: bool(asked(client, "silent") and errors(client, "silent")), PATIENCE_S)
        assert errors(client, "silent")[0].json()["message"].startswith("provision-device capacity exceeded")
        assert {each.topic.split("/")[6] for each in asked(client)} == {"silent"}


def test_when_a_seat_is_free_again_within_a_minute_the_refused_device_runs_on_it_and_nobody_presses_twice(
    box: Box, client: Client
) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)
        engine.create_devices(1, first=3, provision=True)
        client.wait_until(lambda _: states(client).get("d3") == "unprovisioned" and bool(asked(client)), PATIENCE_S)

        client.publish(f"glp/0/{INSTALL_CODE}/rq/dev/xyz/d1/do", {"action": "delete"})
        client.wait_until(lambda _: states(client)["d3"] == "provisioned", PATIENCE_S)
        time.sleep(2)
        assert states(client)["d3"] == "provisioned"
        assert (box.status()["used"], box.status()["reserved"]) == (3, 0)
        assert len(asked(client)) == 1


def test_with_enforcement_report_it_is_reported_and_goes_on_running() -> None:
    with (
        Box(capacity=3, enforcement="report") as box,
        listening(box) as client,
        Engine(box.broker.port, kind="js") as engine,
    ):
        run_two(box, engine, client)

        engine.create_devices(1, first=3, provision=True)
        provision_outright(client, "silent")

        client.wait_until(lambda _: bool(errors(client, "d3") and errors(client, "silent")), PATIENCE_S)
        time.sleep(4)
        assert asked(client) == []
        assert states(client)["d3"] == "provisioned"
        assert (len(errors(client, "d3")), len(errors(client, "silent"))) == (1, 1)
        assert box.log.count("ENFORCEMENT=report") == 2
        assert box.status()["used"] == 3, "it takes no seat"


def test_an_engine_that_does_not_obey_is_asked_with_growing_pauses_and_one_ev_error(box: Box, client: Client) -> None:
    with Engine(box.broker.port, kind="js", is_obedient=False) as engine:
        run_two(box, engine, client)

        engine.create_devices(1, first=3, provision=True)

        client.wait_until(lambda _: len(asked(client)) >= 3, 60)
        times = [each.time_s for each in asked(client)]
        pauses = [after - before for before, after in pairwise(times)]
        assert all(after > 1.5 * before for before, after in pairwise(pauses)), pauses
        assert 0.8 < pauses[0] < 4, pauses
        assert {each.topic.split("/")[6] for each in asked(client)} == {"d3"}
        assert len(errors(client, "d3")) == 1
        assert box.status()["used"] == 3


def test_an_engine_that_reads_lic_is_never_asked_to_deprovision(box: Box, client: Client) -> None:
    with Engine(box.broker.port) as engine:
        engine.create_devices(4, provision=True)
        wait_until(lambda: box.status()["used"] == 3, timeout_s=PATIENCE_S, what="two devices run")
        engine.restart()
        box.kill()
        box.start()
        wait_until(lambda: box.status()["state"] == "full", timeout_s=PATIENCE_S, what="a snapshot")
        time.sleep(3)
        assert sorted(states(client).values()) == ["provisioned", "provisioned", "unlicensed", "unlicensed"]
        assert asked(client) == []


def test_an_engine_that_reads_lic_and_does_not_obey_is_told_again_and_never_asked_to_deprovision(
    box: Box, client: Client
) -> None:
    for state in ("unlicensed", "provisioned"):  # whatever it hears
        for handle in ("a", "b", "c"):
            sts = f"glp/0/{INSTALL_CODE}/fb/dev/example/{handle}/sts"
            client.publish(sts, {"state": state}, retain=True)
        client.wait_until(lambda _: len(licensed(client)) == 3, PATIENCE_S)

    client.wait_until(lambda _: len(refusals(client)) >= 4, PATIENCE_S * 2)

    assert {each.topic.split("/")[6] for each in refusals(client)} == {"c"}
    assert asked(client) == []


def refusals(client: Client) -> list[Message]:
    return [each for each in client.messages if each.topic.endswith("/lic") and '"licensed":false' in each.payload]


def test_after_a_restart_of_an_older_engine_nothing_is_lost(box: Box, client: Client) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)
        before = box.devices()
        engine.kill()
        client.publish(f"glp/0/{INSTALL_CODE}/rq/dev/xyz/d1/do", {"action": "deprovision", "args": {}})

        engine.start()

        time.sleep(2)
        assert box.devices() == before
        engine.create_devices(1, first=3, provision=True)
        client.wait_until(lambda _: bool(asked(client, "d3")), PATIENCE_S)
        assert {each.topic.split("/")[6] for each in asked(client)} == {"d3"}, "those with a seat still have it"
        client.publish(f"glp/0/{INSTALL_CODE}/rq/dev/xyz/d1/do", {"action": "delete"})
        client.wait_until(lambda _: states(client)["d1"] == "deleted", PATIENCE_S)


def test_nothing_that_runs_is_deprovisioned_when_the_daemon_restarts(box: Box, client: Client) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)
        for _ in range(3):
            box.kill()
            box.start()
            wait_until(lambda: box.status()["state"] == "full", timeout_s=PATIENCE_S, what="a snapshot")
        time.sleep(2)
        assert asked(client) == []
        assert refusals(client) == []
        assert box.status()["used"] == 3


@pytest.mark.parametrize("is_daemon_new", [False, True], ids=["the broker alone", "with the daemon"])
def test_nothing_that_runs_is_deprovisioned_when_the_broker_comes_back_empty(
    box: Box, client: Client, *, is_daemon_new: bool
) -> None:
    with Engine(box.broker.port, kind="js") as engine:
        run_two(box, engine, client)
        client.close()
        if is_daemon_new:
            box.kill()
        box.broker.kill()
        box.broker.start()
        if is_daemon_new:
            box.start()
        with listening(box) as after:
            after.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)
            after.wait_until(lambda _: len(licensed(after)) == 2, PATIENCE_S * 2)
            engine.create_devices(1, first=3, provision=True)
            after.wait_until(lambda _: bool(asked(after, "d3")), PATIENCE_S)
            time.sleep(2)
            assert {each.topic.split("/")[6] for each in asked(after)} == {"d3"}
            assert licensed(after) == {"d1": True, "d2": True, "d3": False}
            assert box.status()["used"] == 3


def licensed(client: Client) -> dict[str, bool]:
    return {
        each.topic.split("/")[6]: each.json()["licensed"]
        for each in client.messages
        if "/fb/dev/" in each.topic and each.topic.endswith("/lic")
    }


def test_a_daemon_that_is_new_to_a_running_site_lets_all_of_it_run_on() -> None:
    """An upgrade: five devices run, there are seats for two; they are adopted, none is stopped."""
    with Box(sid=None, capacity=3) as box, listening(box) as client, Engine(box.broker.port, kind="js") as engine:
        engine.create_devices(5, provision=True)
        client.wait_until(lambda _: list(states(client).values()) == ["provisioned"] * 5, PATIENCE_S)

        client.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)

        wait_until(lambda: box.status()["state"] == "over-capacity", timeout_s=PATIENCE_S, what="all are adopted")
        time.sleep(2)
        assert asked(client) == []
        assert set(states(client).values()) == {"provisioned"}
        assert box.status()["used"] == 6
