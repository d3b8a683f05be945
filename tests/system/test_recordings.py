"""The recorded traffic of real engines, of both kinds, replayed into the real daemon through a real mosquitto.

What came from the engines and from outside is published as it was recorded, under a protocol of the case's own, but for
`lic`: the daemon says its own. Pauses are shortened; at each remark in a recording the real engine had been left alone
for seconds, and there the daemon must have come to rest. A trailing blank tells what a recording asks of an engine from
what the daemon asks.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator

import pytest

from engines.machine import PROTOCOL, Kind
from engines.replay import Recorded, kind_of, names, read
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client, Message

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(300)]
SPEED = 40.0
LONGEST_PAUSE_S = 0.05
PATIENCE_S = 20.0
AMPLE, TIGHT = 100, 3  # the SmartServer itself takes one: two devices
NAMES = [*names("idl"), *names("js")]
DEPROVISION = '{"action":"deprovision"}'
EMPTY = {"used": 1, "reserved": 0, "waiting": 0}

serial = itertools.count(1)


# -- what is seen on the bus -------------------------------------------------------------------------------------------


def story(messages: list[Message], protocol: str) -> Iterator[tuple[str, str, object]]:
    """(handle, "sts" | "lic" | "do", state | licensed | payload) in the order of the broker."""
    for message in messages:
        levels = message.topic.split("/")
        if len(levels) != 8 or levels[5] != protocol or not message.payload:
            continue
        handle, kind = levels[6:]
        if kind == "do":
            yield handle, kind, message.payload
        elif kind in {"sts", "lic"}:
            value = json.loads(message.payload).get("licensed" if kind == "lic" else "state")
            if value is not None:  # an older engine's ghost has no state
                yield handle, kind, value


def is_empty(messages: list[Message]) -> bool:
    """The daemon's last word on itself: it knows no device."""
    said = [each for each in messages if each.topic.endswith("/fb/lic") and each.payload]
    return bool(said) and all(said[-1].json()[key] == count for key, count in EMPTY.items())


class World:
    """All that is not the daemon, for one recording: speaks for the engine and everybody else, and hears everything."""

    def __init__(self, box: Box, name: str, capacity: int) -> None:
        self.box = box
        self.capacity = capacity
        self.recording = read(name)
        self.kind: Kind = kind_of(name)
        self.protocol = f"{PROTOCOL[self.kind]}{next(serial)}"
        self._fb = f"glp/0/{INSTALL_CODE}/fb/dev/{self.protocol}"
        self._before: list[Message] = []  # heard from earlier runs of the broker
        self._has_restarted = False
        self._client = self._listen()

    def _listen(self) -> Client:
        client = Client(self.box.broker.port)
        client.subscribe("glp/0/+/fb/#", "glp/0/+/rq/dev/#")
        return client

    def close(self) -> None:
        self._client.close()

    @property
    def messages(self) -> list[Message]:
        return self._before + self._client.messages

    def states(self) -> dict[str, object]:
        """What each device shows."""
        return self._last("sts", self.messages)

    def licensed(self) -> set[str]:
        return {handle for handle, value in self._last("lic", self.messages).items() if value}

    def live(self) -> set[str]:
        """The devices that the daemon can know: shown to this run of the broker, or with a seat from before."""
        shown = self._last("sts", self._client.messages).keys() | self.licensed()
        return {handle for handle, state in self.states().items() if state != "deleted" and handle in shown}

    def running(self) -> set[str]:
        return {handle for handle in self.live() if self.states()[handle] == "provisioned"}

    def asked(self) -> set[str]:
        """Those whose engine was asked to deprovision them, by the daemon."""
        return {handle for handle, _, value in story(self.messages, self.protocol) if value == DEPROVISION}

    def _last(self, which: str, messages: list[Message]) -> dict[str, object]:
        return {handle: value for handle, kind, value in story(messages, self.protocol) if kind == which}

    # -- what it does --------------------------------------------------------------------------------------------------

    def replay(self, trouble: Callable[[World], None]) -> None:
        """The whole recording, with trouble where most devices run, nearest to the middle."""
        index = self._peak()
        before_s = self.recording[0].time_s
        for number, each in enumerate(self.recording):
            if number == index:
                trouble(self)
            time.sleep(min((each.time_s - before_s) / SPEED, LONGEST_PAUSE_S))
            before_s = each.time_s
            if each.is_mark:
                self.wait_for_rest()
            elif not each.topic.endswith("/lic"):
                self._publish(each)
        self.wait_for_rest()

    def _peak(self) -> int:
        running: set[str] = set()
        best = (0, 0, 0)
        for index, each in enumerate(self.recording):
            distance = -abs(index - len(self.recording) // 2)
            best = max(best, (len(running), distance, index))
            if each.topic.endswith("/sts"):
                is_running = '"state":"provisioned"' in each.payload
                (running.add if is_running else running.discard)(each.topic)
        return best[2]

    def _publish(self, each: Recorded) -> None:
        topic = each.topic.replace(f"/{PROTOCOL[self.kind]}/", f"/{self.protocol}/")
        payload = f"{each.payload} " if topic.endswith("/do") else each.payload
        self._client.publish(topic, payload, qos=each.qos, retain=each.retain, wait=False)

    def wait_for_rest(self) -> None:
        """As many are licensed as live, or as the capacity allows; an older engine was asked to stop the others."""
        wait_until(
            lambda: self.licensed() <= self.live() and len(self.licensed()) == min(self.capacity - 1, len(self.live())),
            timeout_s=PATIENCE_S,
            what="every live device licensed, or as many as the capacity allows",
        )
        if self.kind == "js" and not self._has_restarted:
            wait_until(
                lambda: self.running() - self.licensed() <= self.asked(),
                timeout_s=PATIENCE_S,
                what="a deprovision for whatever runs without a seat",
            )

    def seats(self) -> dict[str, str]:
        return {name: row["seat"] for name, row in self.box.devices().items()}

    def restart_daemon(self) -> None:
        """Killed; what only a retained `sts` shows to run, after a `false`, now has a minute to say more."""
        self._has_restarted = True
        self.box.kill()
        self.box.start()

    def restart_broker(self) -> None:
        """Killed and started empty. What is retained comes again from whom it belongs to; engines do not say theirs.

        Whoever has a seat has its `lic` again, though the daemon sees nothing of it.
        """
        self._client.publish("glp/0/test", "all before has arrived")
        time.sleep(0.1)  # at the daemon too: what it did not hear before is lost, and not what is tested here
        self._before += self._client.messages
        self._client.close()  # before the broker ends: paho takes a second to notice otherwise
        self.box.broker.kill()
        self.box.broker.start()
        self._client = self._listen()
        licensed = self.licensed() & self.live()
        self._client.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)
        self._client.wait_until(lambda messages: licensed <= self._last("lic", messages).keys(), PATIENCE_S)

    def restart_engine(self, *, unheard: str) -> None:
        """The engine is away while somebody asks this of every device; then its `about`, and the dip of what ran.

        No seat moves, not even for a moment. No recording of an older engine shows a dip; one would move none either.
        """
        running, seats = self.running(), self.seats()
        last = {each.topic: each.payload for each in self.messages if each.topic.endswith("/sts") and each.payload}
        for handle in self.live():
            self._client.publish(f"glp/0/{INSTALL_CODE}/rq/dev/{self.protocol}/{handle}/do", f"{unheard} ")
        about = f"glp/0/./=engine/{self.protocol}/about" if self.kind == "idl" else "glp/0/./=engine/about"
        self._client.publish(about, {})
        for state in ("unprovisioned", "provisioned"):
            for handle in running:
                topic = f"{self._fb}/{handle}/sts"
                self._client.publish(topic, json.loads(last[topic]) | {"state": state}, retain=True)
            self.wait_until_seen()
            assert self.seats() == seats

    def wait_until_seen(self) -> None:
        """The daemon knows of each device what was said last."""
        wait_until(
            lambda: {handle: self.states()[handle] for handle in self.live()} == self._seen(),
            timeout_s=PATIENCE_S,
            what="every state is seen",
        )

    def _seen(self) -> dict[str, object]:
        return {row["name"].split("/", 1)[1]: row["state"] for row in self.box.devices().values()}

    def leave(self) -> None:
        """Every device is deleted, and forgotten by the broker but for its last `lic`."""
        handles = self.states()
        for payload in ('{"state":"deleted"}', ""):
            for handle in handles:
                self._client.publish(f"{self._fb}/{handle}/sts", payload, retain=True)
            self._client.wait_until(lambda messages: is_empty(messages) and not self.licensed(), PATIENCE_S)


# -- what may happen in the middle -------------------------------------------------------------------------------------


def nothing(_world: World) -> None:
    pass


def engine_restarts_after_a_stale_deprovision(world: World) -> None:
    world.wait_for_rest()
    world.wait_until_seen()
    world.restart_engine(unheard=DEPROVISION)


TROUBLES = {
    "in peace": nothing,
    "daemon killed": World.restart_daemon,
    "broker empty": World.restart_broker,
    "stale deprovision": engine_restarts_after_a_stale_deprovision,
}


# -- the tests ---------------------------------------------------------------------------------------------------------


class Boxes:
    """One SmartServer for each capacity, left clean by each case; a new one after a case that failed."""

    def __init__(self) -> None:
        self._boxes: dict[int, Box] = {}

    def at(self, capacity: int) -> Box:
        if capacity not in self._boxes:
            self._boxes[capacity] = Box(capacity=capacity).__enter__()
        box = self._boxes[capacity]
        if box.log.rpartition("has started")[2].count("broker is not connected") > 1:
            box.kill()  # it waits longer and longer for a broker that ends again and again
            box.start()
            wait_until(lambda: box.status()["state"] != "starting", timeout_s=PATIENCE_S, what="a snapshot")
        return box

    def drop(self, capacity: int) -> None:
        self._boxes.pop(capacity).__exit__()

    def close(self) -> None:
        for box in self._boxes.values():
            box.__exit__()


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    boxes = Boxes()
    yield boxes
    boxes.close()


@contextlib.contextmanager
def replayed(boxes: Boxes, name: str, capacity: int, trouble: str) -> Iterator[World]:
    """A world after its recording; nobody who runs on a seat was ever stopped, and the count is right."""
    world = World(boxes.at(capacity), name, capacity)
    is_clean = False
    try:
        world.replay(TROUBLES[trouble])
        check_nobody_on_a_seat_was_stopped(world)
        check_count(world, capacity)
        yield world
        world.leave()
        is_clean = True
    finally:
        world.close()
        if not is_clean:
            boxes.drop(capacity)


def check_nobody_on_a_seat_was_stopped(world: World) -> None:
    state: dict[str, object] = {}
    seated: set[str] = set()
    for handle, kind, value in story(world.messages, world.protocol):
        if kind == "sts":
            state[handle] = value
        elif kind == "lic":
            is_running = state.get(handle) == "provisioned" and handle in seated
            assert value or not is_running, f"{handle} ran on a seat and heard false"
            (seated.add if value else seated.discard)(handle)
        elif value == DEPROVISION:
            assert world.kind == "js", f"{handle} reads lic and was asked to deprovision"
            assert handle not in seated, f"{handle} ran on a seat and was asked to deprovision"


def check_count(world: World, capacity: int) -> None:
    seats, status = world.seats(), world.box.status()
    taken = [name for name, seat in seats.items() if seat in {"provisioned", "reserved"}]
    assert status["used"] + status["reserved"] == 1 + len(taken)
    assert len(taken) <= capacity - 1
    assert {f"{world.protocol}/{handle}" for handle in world.licensed()} == set(taken)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", NAMES)
def test_with_ample_capacity_every_live_device_ends_licensed_and_none_ever_hears_false(
    name: str, trouble: str, boxes: Boxes
) -> None:
    with replayed(boxes, name, AMPLE, trouble) as world:
        state: dict[str, object] = {}
        for handle, kind, value in story(world.messages, world.protocol):
            if kind == "sts":
                state[handle] = value
            elif kind == "lic":
                assert value or state[handle] == "deleted", f"{handle} was {state[handle]} and heard false"
            else:
                assert value != DEPROVISION, f"{handle} was asked to deprovision"


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("name", NAMES)
def test_with_capacity_for_two_never_more_are_licensed_and_two_at_the_end_where_two_live(
    name: str, trouble: str, boxes: Boxes
) -> None:
    with replayed(boxes, name, TIGHT, trouble) as world:
        hearing: set[str] = set()
        for handle, kind, value in story(world.messages, world.protocol):
            if kind == "lic":
                (hearing.add if value else hearing.discard)(handle)
                assert len(hearing) <= TIGHT - 1, f"{sorted(hearing)} are licensed at once"


def test_there_are_recordings_of_both_kinds() -> None:
    assert len(names("idl")) == 7
    assert len(names("js")) == 3
