"""The recorded traffic of a real engine, replayed into the real daemon through a real mosquitto."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from engines.replay import RECORDINGS, Recorded, read
from support.box import Box, wait_until
from support.broker import Client, Message

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(300)]
SPEED = 40.0
IDL = sorted(path.stem for path in RECORDINGS.glob("idl_*.jsonl"))


def replay(recording: list[Recorded], client: Client, *, at_middle: Callable[[], None] = lambda: None) -> None:
    """Publish what came from outside the daemon, in recorded order, `SPEED` times as fast."""
    middle = len(recording) // 2
    before = recording[0].time_s
    for number, message in enumerate(recording):
        if number == middle:
            at_middle()
        time.sleep((message.time_s - before) / SPEED)
        before = message.time_s
        if not message.is_mark and not message.topic.endswith("/lic"):
            client.publish(message.topic, message.payload, qos=message.qos, retain=message.retain, wait=False)


def device_of(topic: str) -> str:
    return "/".join(topic.split("/")[5:7])


def story(messages: list[Message]) -> Iterator[tuple[str, str, object]]:
    """(device, "sts" | "lic", state or licensed) in the order of the broker."""
    for message in messages:
        kind = message.topic.rsplit("/", 1)[-1]
        if "/fb/dev/" in message.topic and kind in {"sts", "lic"} and message.payload:
            value = json.loads(message.payload)
            yield device_of(message.topic), kind, value["licensed" if kind == "lic" else "state"]


def live(messages: list[Message]) -> set[str]:
    states = {device: value for device, kind, value in story(messages) if kind == "sts"}
    return {device for device, state in states.items() if state != "deleted"}


def licensed(messages: list[Message]) -> set[str]:
    said = {device: value for device, kind, value in story(messages) if kind == "lic"}
    return {device for device, value in said.items() if value}


@pytest.mark.parametrize("is_killed", [False, True], ids=["in peace", "killed in the middle"])
@pytest.mark.parametrize("name", IDL)
def test_with_ample_capacity_every_live_device_ends_licensed_and_none_ever_hears_false(
    name: str, is_killed: bool
) -> None:
    with Box(capacity=100) as box, Client(box.broker.port) as client:
        client.subscribe("glp/0/+/fb/dev/#")
        replay(read(name), client, at_middle=lambda: kill_and_start(box) if is_killed else None)
        wait_until(
            lambda: licensed(client.messages) == live(client.messages), timeout_s=20, what="every live device licensed"
        )
        state: dict[str, object] = {}
        for device, kind, value in story(client.messages):
            if kind == "sts":
                state[device] = value
            elif value is False:
                assert state[device] == "deleted", f"{device} was {state[device]} and heard false"


@pytest.mark.parametrize("is_killed", [False, True], ids=["in peace", "killed in the middle"])
@pytest.mark.parametrize("name", IDL)
def test_with_capacity_for_two_never_more_are_licensed_and_two_at_the_end_where_two_live(
    name: str, is_killed: bool
) -> None:
    with Box(capacity=3) as box, Client(box.broker.port) as client:
        client.subscribe("glp/0/+/fb/dev/#")
        replay(read(name), client, at_middle=lambda: kill_and_start(box) if is_killed else None)
        wait_until(lambda: is_settled(client), timeout_s=20, what="two devices licensed where two live")
        hearing: set[str] = set()
        for device, kind, value in story(client.messages):
            if kind == "lic":
                (hearing.add if value else hearing.discard)(device)
                assert len(hearing) <= 2, f"{sorted(hearing)} are licensed at once"


def is_settled(client: Client) -> bool:
    """Two devices are licensed, or all where fewer live, and only devices that live."""
    messages = client.messages
    return len(licensed(messages)) == min(2, len(live(messages))) and licensed(messages) <= live(messages)


def kill_and_start(box: Box) -> None:
    box.kill()
    box.start()
