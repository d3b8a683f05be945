"""Feeds a simulated engine what came from outside in a recording, in recorded time, and says what it answered.

Rules:
- a small broker stands between: retained messages are kept, subscriptions get them with the flag set, live messages
  come without it (MQTT 3.1.1), own messages come back;
- `_mark` "driver start" begins a new run, "driver stopped" ends it; a `lic` reader knows what is retained, an older
  engine what it had;
- the name of a recording says which kind of engine spoke.

What this module does not do: it judges nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import topic_matches_sub

from engines.idl import Publish
from engines.machine import Kind, Machine, succeed

RECORDINGS = Path(__file__).parent.parent / "recordings"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A line of a recording; `qos` and `retain` are the publisher's."""

    time_s: float
    topic: str
    qos: int
    retain: bool
    payload: str

    @property
    def is_mark(self) -> bool:
        return self.topic == "_mark"

    @property
    def is_from_engine(self) -> bool:
        """See the README beside the recordings; an older engine's own requests are its only QoS 2."""
        levels = self.topic.split("/")
        is_device = len(levels) > 4 and levels[3:5] == ["fb", "dev"] and levels[-1] != "lic"
        is_own_request = self.topic.endswith("/do") and self.qos == 2
        return is_device or is_own_request or self.topic.endswith("/ev/error") or "/=engine/" in self.topic


def names(kind: Kind) -> list[str]:
    """The recordings of a kind of engine."""
    return sorted(path.stem for path in RECORDINGS.glob(f"{kind}_*.jsonl"))


def kind_of(name: str) -> Kind:
    """Which kind of engine spoke in a recording."""
    return "js" if name.startswith("js_") else "idl"


def read(name: str) -> list[Recorded]:
    """A recording by the name of its file without ending."""
    lines = (RECORDINGS / f"{name}.jsonl").read_text().splitlines()
    values = (json.loads(line) for line in lines)
    return [Recorded(v["t"], v["topic"], v["qos"], bool(v["retain"]), v["payload"]) for v in values]


class Replay:
    """One recording's outside traffic through engines; `published` grows."""

    def __init__(self, kind: Kind = "idl", *, start_window_s: float = 5.0) -> None:
        self.published: list[Recorded] = []
        self._kind = kind
        self._window_s = start_window_s
        self._engine: Machine | None = None
        self._last: Machine | None = None  # the run before
        self._subscribed: tuple[str, ...] = ()
        self._retained: dict[str, str] = {}

    def run(self, recording: list[Recorded]) -> list[Recorded]:
        """Returns what the engines published."""
        for message in recording:
            self._let_time_pass(message.time_s)
            if message.is_mark and message.payload == "driver start":
                self._engine = succeed(self._last, self._kind, start_window_s=self._window_s)
                self._last, self._subscribed = self._engine, ()
                self._send(message.time_s, self._engine.start(message.time_s))
            elif message.is_mark and message.payload == "driver stopped":
                self._engine = None
            elif not message.is_mark and not message.is_from_engine:
                self._keep(message.topic, message.payload, is_kept=message.retain)
                self._hand_over(message.time_s, message.topic, message.payload)
        return self.published

    def _let_time_pass(self, until_s: float) -> None:
        while self._engine and self._engine.deadline_s is not None and self._engine.deadline_s <= until_s:
            now_s = self._engine.deadline_s
            self._send(now_s, self._engine.tick(now_s))

    def _keep(self, topic: str, payload: str, *, is_kept: bool) -> None:
        if is_kept and payload:
            self._retained[topic] = payload
        elif is_kept:
            self._retained.pop(topic, None)

    def _hand_over(self, now_s: float, topic: str, payload: str) -> None:
        if self._engine and any(topic_matches_sub(each, topic) for each in self._subscribed):
            self._send(now_s, self._engine.receive(now_s, topic, payload, retain=False))

    def _send(self, now_s: float, messages: list[Publish]) -> None:
        for each in messages:
            self.published.append(Recorded(now_s, each.topic, each.qos, each.retain, each.payload))
            self._keep(each.topic, each.payload, is_kept=each.retain)
        for each in messages:
            self._hand_over(now_s, each.topic, each.payload)
        if self._engine is None:
            return
        new = [each for each in self._engine.subscriptions if each not in self._subscribed]
        self._subscribed = self._engine.subscriptions
        for pattern in new:
            for topic, payload in list(self._retained.items()):
                if topic_matches_sub(pattern, topic):
                    self._send(now_s, self._engine.receive(now_s, topic, payload, retain=True))
