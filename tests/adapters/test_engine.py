"""The simulated engine on a real mosquitto: what the machine cannot know by itself, and that it is fast enough."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines import runner
from engines.idl import DEVICE_TYPE
from engines.runner import Engine
from support.broker import Broker, Client, Message

pytestmark = pytest.mark.needs("mosquitto")

WINDOW_S = 0.2
ALL = ("glp/0/17qtest/#", "glp/0/./=engine/#")
CREATE = {"action": "create", "args": {"unid": "1", "type": DEVICE_TYPE, "provision": True}}


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    with Client(broker.port) as client:
        client.subscribe(*ALL)
        yield client


def fb(handle: str, resource: str) -> str:
    return f"glp/0/17qtest/fb/dev/example/{handle}/{resource}"


def do(handle: str) -> str:
    return f"glp/0/17qtest/rq/dev/example/{handle}/do"


def states(client: Client, handle: str) -> list[str]:
    return [each.json()["state"] for each in client.messages if each.topic == fb(handle, "sts")]


def shows(handle: str, *expected: str) -> Callable[[list[Message]], bool]:
    def is_shown(messages: list[Message]) -> bool:
        return [each.json()["state"] for each in messages if each.topic == fb(handle, "sts")] == list(expected)

    return is_shown


def is_deleted(handle: str) -> Callable[[Message], bool]:
    return lambda each: each.topic == fb(handle, "sts") and each.json()["state"] == "deleted"


def test_a_device_is_created_licensed_and_deleted(broker: Broker, client: Client) -> None:
    with Engine(broker.port):
        client.publish(do("a.b-1"), CREATE)
        client.wait_until(shows("a.b-1", "unlicensed", "unlicensed"))
        client.publish(fb("a.b-1", "lic"), {"licensed": True}, retain=True)
        client.wait_until(shows("a.b-1", "unlicensed", "unlicensed", "unprovisioned", "provisioned"))
        client.clear()
        client.publish(do("a.b-1"), {"action": "delete"})
        client.wait_until(shows("a.b-1", "deleted", "deleted"))

    with Client(broker.port) as late:
        late.subscribe("glp/0/17qtest/fb/#")
        kept = {each.topic.rpartition("/")[2]: each for each in late.collect(0.1)}
    assert set(kept) == {"sts", "lic"}
    assert kept["sts"].json()["state"] == "deleted"


def test_in_the_start_up_window_only_a_retained_license_counts_and_only_at_its_end(
    broker: Broker, client: Client
) -> None:
    with Engine(broker.port, start_window_s=0.5):
        client.publish(do("kept"), CREATE)
        client.publish(do("said"), {**CREATE, "args": {"type": DEVICE_TYPE}})
        created = client.wait_for(lambda each: each.topic == fb("kept", "sts"))
        client.wait_until(shows("said", "unlicensed", "unlicensed"))
        client.publish(fb("kept", "lic"), {"licensed": True}, retain=True)
        client.publish(fb("said", "lic"), {"licensed": True})

        moved = client.wait_for(lambda each: each.topic == fb("kept", "sts") and "unprovisioned" in each.payload)

        assert 0.4 < moved.time_s - created.time_s < 2
        client.collect(0.2)
        assert states(client, "said") == ["unlicensed", "unlicensed"]


def test_a_license_for_a_handle_not_known_yet_is_dropped_until_it_is_said_again(broker: Broker, client: Client) -> None:
    with Engine(broker.port):
        client.publish(do("first"), {**CREATE, "args": {"type": DEVICE_TYPE}})
        client.collect(WINDOW_S + 0.2)
        client.publish(fb("late", "lic"), {"licensed": True}, retain=True)
        client.publish(do("late"), CREATE)
        client.wait_until(shows("late", "unlicensed", "unlicensed"))
        client.collect(WINDOW_S + 0.2)
        assert states(client, "late") == ["unlicensed", "unlicensed"]

        client.publish(fb("late", "lic"), {"licensed": True}, retain=True)

        client.wait_until(shows("late", "unlicensed", "unlicensed", "unprovisioned", "provisioned"))


def test_a_restart_shows_the_dip_and_nothing_of_deleted_devices(broker: Broker, client: Client) -> None:
    with Engine(broker.port) as engine:
        for handle in ("runs", "idle", "gone"):
            client.publish(
                do(handle), {"action": "create", "args": {"type": DEVICE_TYPE, "provision": handle == "runs"}}
            )
            client.publish(fb(handle, "lic"), {"licensed": True}, retain=True)
        client.publish(do("gone"), {"action": "delete"})
        client.wait_for(lambda each: each.topic == fb("runs", "sts") and '"state":"provisioned"' in each.payload)
        client.wait_for(lambda each: each.topic == fb("idle", "sts") and "unprovisioned" in each.payload)
        engine.kill()
        client.clear()

        engine.start()

        client.wait_until(shows("runs", "unprovisioned", "provisioned"))
        client.wait_until(shows("idle", "unlicensed", "unlicensed", "unprovisioned"))
        assert states(client, "gone") == []
        assert client.messages[0].topic == "glp/0/./=engine/example/about"


def test_deletions_of_provisioned_devices_take_their_time(broker: Broker, client: Client) -> None:
    with Engine(broker.port, start_window_s=0.4) as engine:
        handles = engine.create_devices(2, provision=True)
        for handle in handles:
            client.publish(fb(handle, "lic"), {"licensed": True}, retain=True)
        for handle in handles:
            client.wait_until(shows(handle, "unlicensed", "unlicensed", "unprovisioned", "provisioned"))
            client.publish(do(handle), {"action": "delete"})

        first, second = (client.wait_for(is_deleted(handle)) for handle in handles)

        assert 0.3 < second.time_s - first.time_s < 2


def test_an_unreachable_device_stays_down_until_it_can_be_reached(broker: Broker, client: Client) -> None:
    with Engine(broker.port, unreachable=["a"]) as engine:
        client.publish(do("a"), CREATE)
        client.publish(fb("a", "lic"), {"licensed": True}, retain=True)
        down = client.wait_for(lambda each: each.topic == fb("a", "sts") and '"down"' in each.payload)
        assert down.json()["state"] == "unprovisioned"

        engine.set_unreachable([])
        engine.wait_settled()
        client.publish(do("a"), {"action": "provision"})

        client.wait_for(lambda each: each.topic == fb("a", "sts") and '"state":"provisioned"' in each.payload)


def test_the_sid_on_the_bus_is_followed(broker: Broker, client: Client) -> None:
    client.subscribe("glp/0/+/fb/#")
    with Engine(broker.port, sid=None) as engine:
        engine.create_devices(1)
        assert not any("/fb/dev/" in each.topic for each in client.collect(0.1))

        client.publish("glp/0/././sid", '"17qei61"', retain=True)

        client.wait_for(lambda each: each.topic == "glp/0/17qei61/fb/dev/example/d1/sts")


def test_a_broker_that_was_killed_is_found_again_and_the_run_goes_on(broker: Broker, client: Client) -> None:
    with Engine(broker.port) as engine:
        engine.create_devices(1)
        engine.wait_settled()
        client.close()

        broker.kill()
        broker.start()

        with Client(broker.port) as late:
            late.subscribe(*ALL)
            _say_until_heard(late, fb("d1", "lic"), {"licensed": True}, fb("d1", "sts"))


def _say_until_heard(client: Client, topic: str, payload: object, answer: str) -> None:
    for _ in range(50):
        client.publish(topic, payload, retain=True)
        with contextlib.suppress(TimeoutError):
            client.wait_for(lambda each: each.topic == answer, 0.2)
            return
    raise AssertionError(f"nobody answered on {answer}")


def test_thousands_of_devices_are_created_licensed_and_restored_and_none_is_lost(broker: Broker) -> None:
    count = 4_000
    with Engine(broker.port) as engine, Client(broker.port) as client:
        began_s = time.monotonic()
        handles = engine.create_devices(count, provision=True)
        engine.wait_settled(60)
        created_s = time.monotonic()
        client.subscribe("glp/0/17qtest/fb/dev/example/+/sts", qos=0)
        client.wait_until(lambda messages: _count(messages, "unlicensed") >= count, 30)
        client.clear()

        licensed_from_s = time.monotonic()
        for handle in handles:
            client.publish(fb(handle, "lic"), {"licensed": True}, retain=True, wait=False)
        client.wait_until(lambda messages: _count(messages, "provisioned") == count, 60)
        licensed_s = time.monotonic()
        client.clear()

        engine.restart()
        client.wait_until(lambda messages: _count(messages, "provisioned") == count, 60)
        restored_s = time.monotonic()
    print(
        f"{count}: created {created_s - began_s:.1f} s, licensed {licensed_s - licensed_from_s:.1f} s, "
        f"restored {restored_s - licensed_s:.1f} s"
    )


def _count(messages: list[Message], state: str) -> int:
    wanted = f'{{"state":"{state}"'
    return len({each.topic for each in messages if each.payload.startswith(wanted)})


def xyz(handle: str, resource: str = "sts") -> str:
    return f"glp/0/17qtest/fb/dev/xyz/{handle}/{resource}"


def test_an_older_engine_provisions_by_a_request_to_itself_and_deprovisions_for_anybody(
    broker: Broker, client: Client
) -> None:
    with Engine(broker.port, kind="js") as engine:
        engine.create_devices(1, provision=True)
        client.wait_for(lambda each: each.topic == xyz("d1") and each.json()["state"] == "provisioned")
        requests = [each.json()["action"] for each in client.messages if each.topic.endswith("/d1/do")]
        assert requests == ["provision"]
        client.publish(xyz("d1", "lic"), {"licensed": False}, retain=True)
        client.clear()

        client.publish("glp/0/17qtest/rq/dev/xyz/d1/do", {"action": "deprovision"})

        answer = client.wait_for(lambda each: each.topic == xyz("d1"))
        assert answer.json()["state"] == "unprovisioned"
        assert [each.topic for each in client.messages if "/fb/" in each.topic] == [xyz("d1")], "one answer to one do"


def test_an_older_engine_says_nothing_after_a_restart_and_remembers_its_devices(broker: Broker, client: Client) -> None:
    with Engine(broker.port, kind="js") as engine:
        engine.create_devices(1, provision=True)
        client.wait_for(lambda each: each.topic == xyz("d1") and each.json()["state"] == "provisioned")
        engine.kill()
        client.clear()

        engine.start()

        client.wait_for(lambda each: each.topic == "glp/0/./=engine/about")
        assert [each.topic for each in client.collect(0.3)] == []
        client.publish("glp/0/17qtest/rq/dev/xyz/d1/do", {"action": "delete"})
        client.wait_for(lambda each: each.topic == xyz("d1") and each.json()["state"] == "deleted")


def test_an_older_engine_that_does_not_obey_answers_nothing(broker: Broker, client: Client) -> None:
    with Engine(broker.port, kind="js", is_obedient=False) as engine:
        engine.create_devices(1, provision=True)
        client.wait_for(lambda each: each.topic == xyz("d1") and each.json()["state"] == "provisioned")
        client.publish("glp/0/17qtest/rq/dev/xyz/d1/do", {"action": "deprovision"})

        assert [each for each in client.collect(0.3) if "/fb/" in each.topic] == []


def test_an_older_engine_runs_as_a_process_too(broker: Broker, client: Client) -> None:
    command = [sys.executable, str(Path(runner.__file__)), "--port", str(broker.port), "--sid", "17qtest"]
    with subprocess.Popen([*command, "--kind", "js", "--create", "1", "--provision"]) as process:
        client.wait_for(lambda each: each.topic == xyz("d1") and each.json()["state"] == "provisioned", 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_it_runs_as_a_process_that_may_be_killed(broker: Broker, client: Client) -> None:
    command = [sys.executable, str(Path(runner.__file__)), "--port", str(broker.port), "--sid", "17qtest"]
    command += ["--start-window", str(WINDOW_S), "--create", "2", "--provision"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        client.wait_until(shows("d2", "unlicensed", "unlicensed"))
        client.publish(fb("d2", "lic"), {"licensed": True}, retain=True)
        client.wait_for(lambda each: each.topic == fb("d2", "sts") and '"state":"provisioned"' in each.payload)
        process.kill()
    client.clear()

    with subprocess.Popen(command[:-3], stdout=subprocess.PIPE) as process:
        client.wait_until(shows("d2", "unprovisioned", "provisioned"), 10)
        assert states(client, "d1")[0] == "unlicensed"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_broker_keeps_nothing_over_a_restart_unless_it_is_persistent() -> None:
    kept = []
    for is_persistent in (False, True):
        with Broker(is_persistent=is_persistent) as broker:
            with Client(broker.port) as client:
                client.publish("a/b", "c", retain=True)
            broker.restart()
            with Client(broker.port) as client:
                client.subscribe("#")
                kept.append([each.payload for each in client.collect(0.2)])
    assert kept == [[], ["c"]]
