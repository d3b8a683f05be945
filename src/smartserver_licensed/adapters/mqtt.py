"""The broker: paho-mqtt driven by the asyncio loop, without a thread.

Rules (WIRE.md, ADR 0003):
- MQTT 3.1.1, clean sessions, and a fresh paho client for each connection: nothing stale is sent after a reconnect;
- callbacks do one thing only: they append to the queue. What happened comes out of `take`, in order of arrival;
- bounded: a payload over 64 KiB, and what exceeds the queue, is dropped and counted; a `Dropped` event says
  so in its place. More than `backlog_limit` messages without an acknowledgment end the connection: the snapshot
  after the next one repairs what was not said;
- reconnecting with growing pauses and jitter, for ever; a failure is an event, never an exception.

What this module does not do: it reads no payload and knows no topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import select
import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from smartserver_licensed.formats.connection import BrokerEvent, Connected, Disconnected, Dropped, Received

CLIENT_ID = "smartserver-licensed"
MAX_PAYLOAD_BYTES = 64 * 1024
_ANSWER_LIMIT_S = 5.0  # for the TCP connection, and again for CONNACK
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 30.0
_MISC_INTERVAL_S = 1.0  # with paho's own loop off, keepalive lives by this
_IN_FLIGHT = 64
_READS_A_TURN = 100  # packets read before other work of the loop has its turn; a packet takes some 30 µs


class MqttBus:
    """One connection at a time to one broker; implements `controller.ports.Broker`."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str | None = None,
        password: str | None = None,
        keepalive_s: int = 30,
        queue_limit: int = 20_000,
        backlog_limit: int = 20_000,
    ) -> None:
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._keepalive_s = keepalive_s
        self._queue_limit = queue_limit
        self._backlog_limit = backlog_limit
        self._events: deque[BrokerEvent] = deque()
        self._has_events = asyncio.Event()
        self._session: _Session | None = None
        self._drops: Counter[str] = Counter()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._session is not None and self._session.is_accepted

    async def run(self) -> None:
        """Connect, serve, connect again; until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            session = _Session(self, self._keepalive_s)
            try:
                reason = await self._serve(session)
            finally:
                self._session = None
                session.close()
            self.put(Disconnected(reason))
            pause_s = _FIRST_PAUSE_S if session.is_accepted else min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    async def _serve(self, session: _Session) -> str:
        loop = asyncio.get_running_loop()
        address = (self._host, self._port)
        try:  # paho's own connect would block the loop for as long as the broker's host does not answer
            connection = await loop.run_in_executor(None, lambda: socket.create_connection(address, _ANSWER_LIMIT_S))
        except OSError as error:
            return error.strerror or str(error)
        if self._username is not None:
            session.client.username_pw_set(self._username, self._password)
        session.open(connection, self._host, self._port)
        self._session = session
        return await session.ended()

    # -- what comes --------------------------------------------------------------------------------------------------

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        """Up to `limit` events in order of arrival; waits for one, at most `timeout_s` seconds."""
        if not self._events:
            self._has_events.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._has_events.wait(), timeout_s)
        return [self._events.popleft() for _ in range(min(limit, len(self._events)))]

    def take_drops(self) -> Mapping[str, int]:
        """What was dropped since the last call, by reason."""
        drops, self._drops = self._drops, Counter()
        return drops

    def put(self, event: BrokerEvent) -> None:
        """Queue an event of the connection."""
        self._events.append(event)
        self._has_events.set()

    def put_message(self, message: paho.MQTTMessage) -> None:
        """Queue a message, or drop and count it."""
        try:
            topic = message.topic  # a property that decodes: mosquitto checks topics, another broker may not
        except UnicodeDecodeError:
            self._drop("topic-invalid", "a topic that is not UTF-8", is_incomplete=False)
            return
        if len(message.payload) > MAX_PAYLOAD_BYTES:
            self._drop("payload-too-large", f"{len(message.payload)} bytes on {topic[:200]!r}", is_incomplete=False)
        elif len(self._events) < self._queue_limit:
            self.put(Received(topic, bytes(message.payload), message.retain))
        else:
            self._drop("queue-full", f"more than {self._queue_limit} messages wait", is_incomplete=True)

    def _drop(self, why: str, text: str, *, is_incomplete: bool) -> None:
        """Count, and say so once for all that are dropped in a row."""
        self._drops[why] += 1
        if not self._events or not isinstance(self._events[-1], Dropped):
            self.put(Dropped(text, is_incomplete))

    # -- what goes ---------------------------------------------------------------------------------------------------

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs; nothing without a connection."""
        if self._session is not None and filters:
            self._session.client.subscribe(list(filters))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe from filters; nothing without a connection."""
        if self._session is not None and filters:
            self._session.client.unsubscribe(list(filters))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none."""
        session = self._session
        if session is None or not session.is_accepted:
            return False
        if session.backlog >= self._backlog_limit:
            session.end(f"{session.backlog} messages are not acknowledged")
            return False
        if qos:
            session.backlog += 1
        session.client.publish(topic, payload, qos=qos, retain=retain)
        return True


class _Client(paho.Client):
    """paho with a connection that was made elsewhere: its own `connect` opens the socket itself, and blocks."""

    made: socket.socket

    def _create_socket_connection(self) -> socket.socket:
        return self.made


class _Session:
    """One connection, from the socket to its end."""

    def __init__(self, bus: MqttBus, keepalive_s: int) -> None:
        self._bus = bus
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._reason = "the connection was lost"
        self._connection: socket.socket | None = None
        self.is_accepted = False
        self.backlog = 0  # published, not acknowledged
        client = self.client = _Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=True)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _client, _data, message: bus.put_message(message)
        client.on_publish = self._on_publish
        client.on_socket_open = self._on_open
        client.on_socket_close = lambda _client, _data, sock: self._forget(sock)
        client.on_socket_register_write = lambda _client, _data, sock: self._loop.add_writer(sock, client.loop_write)
        client.on_socket_unregister_write = self._on_written

    def open(self, connection: socket.socket, host: str, port: int) -> None:
        """Start MQTT on a connected socket."""
        self._connection = self.client.made = connection
        self.client.connect(host, port, self._keepalive_s)

    async def ended(self) -> str:
        """Wait for the end; why it came."""
        answer_by = self._loop.time() + _ANSWER_LIMIT_S
        while not self._ended.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _MISC_INTERVAL_S)
            self.client.loop_misc()
            if not self.is_accepted and self._loop.time() > answer_by:
                self.end("the broker does not answer")
        return self._reason

    def end(self, reason: str) -> None:
        """Give the connection up."""
        if not self._ended.is_set():
            self._reason = reason
            self._ended.set()

    def close(self) -> None:
        """Say goodbye if the broker still listens, and close the socket."""
        self.client.disconnect()
        self.client.loop_write()  # DISCONNECT, if the socket takes it at once
        if self._connection is not None and self._connection.fileno() >= 0:  # paho keeps it open if it could not send
            self._forget(self._connection)
            self._connection.close()

    def _on_open(self, _client: object, _data: object, sock: Any) -> None:  # noqa: ANN401 - paho's own type is not exported
        self._loop.add_reader(sock, self._read, sock)

    def _read(self, sock: socket.socket) -> None:
        for _ in range(_READS_A_TURN):  # loop_read takes one packet a call
            self.client.loop_read()
            if sock.fileno() < 0 or not select.select([sock], [], [], 0)[0]:
                return

    def _forget(self, sock: Any) -> None:  # noqa: ANN401 - as above
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_written(self, _client: object, _data: object, sock: Any) -> None:  # noqa: ANN401 - as above
        self._loop.remove_writer(sock)

    def _on_connect(self, _client: object, _data: object, _flags: object, code: Any, _props: object) -> None:  # noqa: ANN401
        if code.is_failure:
            self.end(f"the broker refused the connection: {code}")
        else:
            self.is_accepted = True
            self._bus.put(Connected())

    def _on_disconnect(self, _client: object, _data: object, _flags: object, code: object, _props: object) -> None:
        self.end(f"the connection was lost: {code}")

    def _on_publish(self, _client: object, _data: object, _mid: object, _code: object, _props: object) -> None:
        self.backlog = max(0, self.backlog - 1)
