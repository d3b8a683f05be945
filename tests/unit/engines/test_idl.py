"""The simulated engine against the recordings of the real one, and where those are silent, against WIRE.md's facts.

Compared is what each device gets to say, in order, with its time: the interleaving *between* devices differs in bursts
(the real engine answers the bus from several threads), so that each device is a sequence of its own. The texts of
`cfg`, `if`, `mru`, `product` and `about` are not compared.
"""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from engines.idl import DEVICE_TYPE, IdlEngine, Publish
from engines.replay import RECORDINGS, Recorded, Replay, read

TOLERANCE_S = 1.5
NAMES = sorted(path.stem for path in RECORDINGS.glob("idl_*.jsonl"))

Said = tuple[object, ...]


def by_device(messages: list[Recorded]) -> dict[str, list[tuple[float, Said]]]:
    """What was said of each device (and by the engine itself), as comparable values with their times."""
    said: dict[str, list[tuple[float, Said]]] = defaultdict(list)
    for each in messages:
        whose, value = comparable(each)
        said[whose].append((each.time_s, (*value, each.qos, each.retain)))
    return said


def comparable(message: Recorded) -> tuple[str, Said]:
    levels = message.topic.split("/")
    if message.topic.endswith("/ev/error"):
        error = json.loads(message.payload)
        return error["topic"].split("/")[6], ("error", error["topic"], error["message"], tuple(error))
    if "/=engine/" in message.topic:
        return "engine", (message.topic, tuple(json.loads(message.payload)))
    handle, resource = levels[6], "/".join(levels[7:])
    if resource == "sts":
        sts = json.loads(message.payload)
        values = tuple(sts.get(key) for key in ("state", "unid", "provisioned", "health", "blocks"))
        return handle, ("sts", values, tuple(sts))
    return handle, (resource, "cleared" if message.payload == "" else "written")


@pytest.mark.parametrize("name", NAMES)
def test_each_device_says_what_it_said_in_the_recording_at_the_same_time(name: str) -> None:
    recording = read(name)
    real = by_device([each for each in recording if not each.is_mark and each.is_from_engine])

    simulated = by_device(Replay().run(recording))

    assert set(simulated) == set(real)
    for whose, sequence in real.items():
        assert [value for _, value in simulated[whose]] == [value for _, value in sequence], whose
        times = [(mine, theirs) for (mine, _), (theirs, _) in zip(simulated[whose], sequence, strict=True)]
        assert all(abs(mine - theirs) <= TOLERANCE_S for mine, theirs in times), (whose, times)


def test_there_are_recordings_to_compare_with() -> None:
    assert len(NAMES) == 7


# -- where the recordings are silent -----------------------------------------------------------------------------------

BASE = "glp/0/17qtest/{}/dev/example/{}/{}"


class Driver:
    """An engine under test, past its start-up window unless told otherwise."""

    def __init__(self, *, start_window_s: float = 5.0, unreachable: tuple[str, ...] = ()) -> None:
        self.engine = IdlEngine(start_window_s=start_window_s, unreachable=unreachable)
        self.now_s = 1_000.0
        self.engine.start(self.now_s)

    def do(self, handle: str, action: str, **args: object) -> list[Publish]:
        value = {"action": action, "args": args} if args else {"action": action}
        return self.engine.receive(self.now_s, BASE.format("rq", handle, "do"), json.dumps(value), retain=False)

    def create(self, handle: str, unid: str, **args: object) -> list[Publish]:
        return self.do(handle, "create", unid=unid, type=DEVICE_TYPE, **args)

    def license(self, handle: str, payload: str = '{"licensed":true}') -> list[Publish]:
        return self.engine.receive(self.now_s, BASE.format("fb", handle, "lic"), payload, retain=False)

    def wait(self, duration_s: float) -> list[Publish]:
        self.now_s += duration_s
        return self.engine.tick(self.now_s)


@pytest.fixture
def driver() -> Driver:
    driver = Driver(unreachable=("far.away-1",))
    driver.create("first", "F")
    driver.wait(5)
    return driver


def states(messages: list[Publish]) -> list[str]:
    return [json.loads(each.payload)["state"] for each in messages if each.topic.endswith("/sts")]


def test_a_duplicate_unid_creates_the_device_without_unid(driver: Driver) -> None:
    driver.create("a", "1")

    messages = driver.create("b", "1")

    assert states(messages) == ["unlicensed", "unlicensed"]
    assert all("unid" not in json.loads(each.payload) for each in messages if each.topic.endswith("/sts"))


def test_a_unid_is_free_again_when_its_device_is_deleted(driver: Driver) -> None:
    driver.create("a", "1")
    driver.do("a", "delete")

    assert json.loads(driver.create("b", "1")[0].payload)["unid"] == "1"


@pytest.mark.parametrize("payload", ['{"licensed":true,"reason":"x","capacity":5}', '{"licensed":"true"}'])
def test_a_license_may_be_a_word_and_other_keys_are_ignored(driver: Driver, payload: str) -> None:
    driver.create("a", "1")

    assert states(driver.license("a", payload)) == ["unprovisioned"]
    assert driver.license("a", payload) == []
    assert states(driver.license("a", '{"licensed":"false"}')) == ["unlicensed"]


@pytest.mark.parametrize("payload", ["", "{}", "[]", "null", "garbage", '{"licensed":1}', '{"licensed":null}', "\x00"])
def test_an_odd_license_changes_nothing(driver: Driver, payload: str) -> None:
    driver.create("a", "1")

    assert driver.license("a", payload) == []


def test_a_device_that_cannot_be_reached_stays_unprovisioned_with_health_down(driver: Driver) -> None:
    driver.create("far.away-1", "1", provision=True)

    messages = driver.license("far.away-1")

    assert states(messages) == ["unprovisioned", "unprovisioned"]
    assert [json.loads(each.payload)["health"] for each in messages] == ["normal", "down"]
    driver.engine.unreachable.clear()
    last = driver.do("far.away-1", "provision")[-1]
    assert json.loads(last.payload)["state"] == "provisioned"
    assert json.loads(last.payload)["health"] == "normal"


def test_deprovision_takes_the_restore_mark(driver: Driver) -> None:
    driver.create("a", "1", provision=True)
    driver.license("a")

    (status,) = driver.do("a", "deprovision")

    assert json.loads(status.payload)["state"] == "unprovisioned"
    assert "provisioned" not in json.loads(status.payload)
    driver.license("a", '{"licensed":false}')
    assert states(driver.license("a")) == ["unprovisioned"]


def test_licenses_are_not_listened_to_before_the_window_ends() -> None:
    driver = Driver(start_window_s=0.5)
    assert not any(each.endswith("/lic") for each in driver.engine.subscriptions)
    driver.wait(60)
    assert driver.engine.deadline_s is None  # no device yet: no window

    driver.create("a", "1")

    assert driver.license("a") == []
    driver.wait(0.5)
    assert any(each.endswith("/lic") for each in driver.engine.subscriptions)
    assert states(driver.license("a")) == ["unprovisioned"]


def test_anybodys_sts_creates_a_device_but_not_one_that_was_deleted_here(driver: Driver) -> None:
    topic = BASE.format("fb", "ghost", "sts")
    sts = '{"state":"provisioned","unid":"9","type":"T"}'

    created = driver.engine.receive(driver.now_s, topic, sts, retain=False)

    assert states(created) == ["unlicensed", "unlicensed"]
    assert states(driver.do("ghost", "delete")) == ["deleted", "deleted"]
    assert driver.engine.receive(driver.now_s, topic, sts, retain=False) == []


@pytest.mark.parametrize("payload", ["", "null", '{"state":"deleted"}', "garbage"])
def test_an_empty_or_deleted_sts_creates_nothing(driver: Driver, payload: str) -> None:
    assert driver.engine.receive(driver.now_s, BASE.format("fb", "x", "sts"), payload, retain=True) == []


def test_without_a_fixed_sid_the_engine_waits_for_the_one_on_the_bus() -> None:
    engine = IdlEngine(sid=None)
    assert engine.subscriptions == ("glp/0/././sid",)

    for nothing in ('""', "null", "garbage"):
        engine.receive(1.0, "glp/0/././sid", nothing, retain=True)
        assert engine.subscriptions == ("glp/0/././sid",)
    engine.receive(1.0, "glp/0/././sid", '"17qei61"', retain=True)

    assert "glp/0/17qei61/rq/dev/example/+/do" in engine.subscriptions
    create = json.dumps({"action": "create", "args": {"type": DEVICE_TYPE}})
    messages = engine.receive(2.0, "glp/0/17qei61/rq/dev/example/a.b-1/do", create, retain=False)
    assert messages[0].topic == "glp/0/17qei61/fb/dev/example/a.b-1/sts"


def test_deletions_of_provisioned_devices_wait_and_those_of_others_do_not(driver: Driver) -> None:
    for handle in "abc":
        driver.create(handle, handle, provision=True)
        driver.license(handle)

    assert states(driver.do("a", "delete")) == ["deleted", "deleted"]
    assert driver.do("b", "delete") == []
    assert states(driver.do("first", "delete")) == ["deleted", "deleted"]
    assert driver.do("c", "delete") == []
    assert driver.wait(4.9) == []
    assert [each.topic.split("/")[6] for each in driver.wait(0.2)] == ["b"] * 4
    assert [each.topic.split("/")[6] for each in driver.wait(5)] == ["c"] * 4
    driver.wait(5)
    assert driver.engine.deadline_s is None


def test_mru_is_written_without_padding() -> None:
    engine = IdlEngine()
    create = json.dumps({"action": "create", "args": {"type": DEVICE_TYPE}})

    messages = engine.receive(1_764_000_000.04801, BASE.format("rq", "a", "do"), create, retain=False)

    assert json.loads(messages[0].payload)["mru"] == "2025-11-24 16:00:00.48 UTC"
