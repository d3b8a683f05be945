"""The simulated older engine against the recordings of a real one, and where those are silent, against WIRE.md's facts.

Compared is all that is said of each device, in order, with its time, to the last key; only the stamps `mru` are left
out. What the real engine tells its logger is not simulated.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from engines.idl import Publish
from engines.js import DEVICE_TYPE, JsEngine
from engines.replay import Recorded, Replay, names, read

TOLERANCE_S = 1.5
NAMES = names("js")


def by_device(messages: list[Recorded]) -> dict[str, list[tuple[float, str]]]:
    """What was said of each device (and by the engine itself), with its time."""
    said: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for each in messages:
        value = json.loads(each.payload) if each.payload else {}
        value.pop("mru", None)
        whose = "engine" if "=engine" in each.topic else each.topic.split("/")[6]
        said[whose].append((each.time_s, f"{each.topic} {each.qos} {each.retain} {json.dumps(value)}"))
    return said


@pytest.mark.parametrize("name", NAMES)
def test_each_device_says_what_it_said_in_the_recording_at_the_same_time(name: str) -> None:
    recording = read(name)
    real = by_device([each for each in recording if not each.is_mark and each.is_from_engine])

    simulated = by_device(Replay("js").run(recording))

    assert set(simulated) == set(real)
    for whose, sequence in real.items():
        assert [text for _, text in simulated[whose]] == [text for _, text in sequence], whose
        times = [(mine, theirs) for (mine, _), (theirs, _) in zip(simulated[whose], sequence, strict=True)]
        assert all(abs(mine - theirs) <= TOLERANCE_S for mine, theirs in times), (whose, times)


def test_there_are_recordings_to_compare_with() -> None:
    assert len(NAMES) == 3


# -- where the recordings are silent -----------------------------------------------------------------------------------


class Driver:
    """An engine under test, and the broker that hands its own requests back to it."""

    def __init__(self, engine: JsEngine | None = None) -> None:
        self.engine = engine or JsEngine()
        self.engine.start(1_000.0)

    def do(self, handle: str, action: str, **args: object) -> list[Publish]:
        value = {"action": action, "args": args} if args else {"action": action}
        return self.hear(self.engine.do_topic(handle), json.dumps(value))

    def create(self, handle: str, *, provision: bool = True) -> list[Publish]:
        return self.do(handle, "create", unid=f"unid-{handle}", type=DEVICE_TYPE, provision=provision)

    def hear(self, topic: str, payload: str) -> list[Publish]:
        messages = self.engine.receive(1_000.0, topic, payload, retain=False)
        own = [each for each in messages if each.topic.endswith("/do")]
        return messages + [answer for each in own for answer in self.hear(each.topic, each.payload)]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def shown(messages: list[Publish]) -> list[dict[str, Any]]:
    return [json.loads(each.payload) for each in messages if each.topic.endswith("/sts")]


def states(messages: list[Publish]) -> list[str]:
    return [each["state"] for each in shown(messages)]


def test_a_device_is_deprovisioned_by_anybody_and_provisioned_again(driver: Driver) -> None:
    assert states(driver.create("a.b-1")) == ["unprovisioned", "provisioned"]

    assert states(driver.do("a.b-1", "deprovision")) == ["unprovisioned"]
    assert driver.do("a.b-1", "deprovision") == []
    assert states(driver.do("a.b-1", "provision")) == ["provisioned"]


def test_an_engine_that_does_not_obey_goes_on_without_a_word() -> None:
    driver = Driver(JsEngine(is_obedient=False))
    driver.create("a")

    assert driver.do("a", "deprovision") == []
    assert driver.do("a", "provision") == [], "it still runs"
    assert states(driver.do("a", "delete")) == ["deleted"]


def test_a_license_is_not_even_listened_to(driver: Driver) -> None:
    assert driver.engine.subscriptions == ("glp/0/17qtest/rq/dev/xyz/+/do",)
    driver.create("a")

    assert driver.hear("glp/0/17qtest/fb/dev/xyz/a/lic", '{"licensed":false}') == []


def test_a_restart_forgets_nothing_and_says_nothing(driver: Driver) -> None:
    driver.create("runs")
    driver.create("idle", provision=False)

    after = Driver(JsEngine(devices=driver.engine.devices))

    assert [each.topic for each in after.engine.start(2_000.0)] == ["glp/0/./=engine/about"]
    assert after.do("runs", "provision") == [], "it still runs"
    assert states(after.do("idle", "provision")) == ["provisioned"]
    assert after.do("other", "create", unid="unid-runs") == [], "its unids are remembered too"


def test_a_run_does_not_change_what_the_one_before_it_had(driver: Driver) -> None:
    driver.create("a")
    Driver(JsEngine(devices=driver.engine.devices)).do("a", "delete")

    assert "a" in driver.engine.devices


def test_a_replaced_device_keeps_its_state_and_its_old_unid_is_free(driver: Driver) -> None:
    driver.create("a")

    (status,) = shown(driver.do("a", "replace", unid="new"))

    assert (status["state"], status["unid"]) == ("provisioned", "new")
    assert states(driver.do("b", "create", unid="unid-a")) == ["unprovisioned"]
    assert driver.do("b", "replace", unid="new") == []


def test_a_device_that_cannot_be_reached_stays_unprovisioned_with_health_down() -> None:
    driver = Driver(JsEngine(unreachable=["a"]))

    assert [(each["state"], each["health"]) for each in shown(driver.create("a"))] == [
        ("unprovisioned", "normal"),
        ("unprovisioned", "down"),
    ]
    driver.engine.unreachable.clear()
    assert states(driver.do("a", "provision")) == ["provisioned"]


def test_a_device_that_was_never_provisioned_has_no_interface_to_clear(driver: Driver) -> None:
    driver.create("a", provision=False)

    assert [each.topic.rpartition("/")[2] for each in driver.do("a", "delete")] == ["sts", "cfg"]


@pytest.mark.parametrize("payload", ["", "null", "[]", "garbage", "5", '{"action":5}', '{"action":"fly"}'])
def test_what_cannot_be_understood_changes_nothing(driver: Driver, payload: str) -> None:
    driver.create("a")

    assert driver.hear(driver.engine.do_topic("a"), payload) == []
    assert driver.engine.devices["a"].is_provisioned


def test_without_a_fixed_sid_the_engine_waits_for_the_one_on_the_bus() -> None:
    driver = Driver(JsEngine(sid=None, protocol="lon"))
    for nothing in ('""', "null", "garbage"):
        driver.hear("glp/0/././sid", nothing)
        assert driver.engine.subscriptions == ("glp/0/././sid",)

    driver.hear("glp/0/././sid", '"17qei61"')

    assert driver.engine.subscriptions == ("glp/0/././sid", "glp/0/17qei61/rq/dev/lon/+/do")
    assert driver.create("a.b-1")[0].topic == "glp/0/17qei61/fb/dev/lon/a.b-1/sts"
    driver.hear("glp/0/././sid", '"17qnew1"')
    assert driver.engine.devices == {}, "a new SID is a new beginning"
