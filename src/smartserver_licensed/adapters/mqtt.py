"""(lead's fallback) paho-mqtt on the asyncio loop."""

from __future__ import annotations

import asyncio
import collections
import random
from collections.abc import Mapping, Sequence

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from smartserver_licensed.formats.connection import BrokerEvent, Connected, Disconnected, Overrun, Received

MAX_PAYLOAD = 64 * 1024


class MqttBus:
    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        queue_limit: int = 20_000,
    ) -> None:
        self._host, self._port, self._auth = host, port, (username, password)
        self._limit = queue_limit
        self._events: collections.deque[BrokerEvent] = collections.deque()
        self._wake = asyncio.Event()
        self._client: paho.Client | None = None
        self.is_connected = False
        self._drops: collections.Counter[str] = collections.Counter()
        self._lost = asyncio.Event()

    def _put(self, event: BrokerEvent) -> None:
        self._events.append(event)
        self._wake.set()

    async def run(self) -> None:
        pause = 0.25
        while True:
            reason = await self._session()
            if self.is_connected:
                pause = 0.25
            self.is_connected = False
            self._put(Disconnected(reason))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 30)

    async def _session(self) -> str:
        loop = asyncio.get_running_loop()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="smartserver-licensed", clean_session=True)
        client.max_inflight_messages_set(64)
        self._lost = lost = asyncio.Event()
        why = ["lost"]

        def on_connect(c, u, flags, rc, props) -> None:
            if rc.is_failure:
                why[0] = str(rc)
                lost.set()
            else:
                self.is_connected = True
                self._put(Connected())

        def on_disconnect(c, u, flags, rc, props) -> None:
            why[0] = str(rc)
            lost.set()

        def on_message(c, u, m) -> None:
            if len(m.payload) > MAX_PAYLOAD:
                self._drops["payload-too-large"] += 1
                return
            if len(self._events) >= self._limit:
                self._drops["queue-full"] += 1
                if not isinstance(self._events[-1], Overrun):
                    self._put(Overrun())
                return
            try:
                topic = m.topic
            except UnicodeDecodeError:
                return
            self._put(Received(topic, m.payload, m.retain))

        def readable() -> None:
            for _ in range(50):
                client.loop_read()

        client.on_connect, client.on_disconnect, client.on_message = on_connect, on_disconnect, on_message
        client.on_socket_open = lambda c, u, s: loop.call_soon_threadsafe(lambda: loop.add_reader(s, readable))
        client.on_socket_close = lambda c, u, s: loop.remove_reader(s)
        client.on_socket_register_write = lambda c, u, s: loop.add_writer(s, client.loop_write)
        client.on_socket_unregister_write = lambda c, u, s: loop.remove_writer(s)
        try:
            client.connect(self._host, self._port, keepalive=30)
        except OSError as error:
            return str(error)
        self._client = client
        try:
            while not lost.is_set():
                client.loop_misc()
                try:
                    await asyncio.wait_for(lost.wait(), 1)
                except asyncio.TimeoutError:
                    pass
        finally:
            self._client = None
            client.disconnect()
        return why[0]

    async def take(self, limit: int = 1000, timeout_s: float | None = None) -> list[BrokerEvent]:
        if not self._events:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), timeout_s)
            except asyncio.TimeoutError:
                return []
        return [self._events.popleft() for _ in range(min(limit, len(self._events)))]

    def take_drops(self) -> Mapping[str, int]:
        drops, self._drops = self._drops, collections.Counter()
        return drops

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        if self._client:
            self._client.subscribe(list(filters))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        if self._client:
            self._client.unsubscribe(list(filters))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if self._client is None or not self.is_connected:
            return False
        self._client.publish(topic, payload, qos=qos, retain=retain)
        return True
