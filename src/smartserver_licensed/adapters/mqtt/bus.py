"""The broker: paho-mqtt driven by the asyncio loop, without a thread.

Rules (WIRE.md, ADR 0003):
- MQTT 3.1.1, clean sessions, and a fresh session for each connection: nothing stale is sent after a reconnect;
- what happened comes out of `take`, in order of arrival;
- bounded: a payload is cut one byte above 64 KiB, which is too long for whoever reads it; what exceeds the queue, in
  messages or bytes, is dropped and counted, and a `Dropped` event says so in its place. More than `backlog_limit`
  messages without an acknowledgment end the connection: the snapshot after the next one repairs what was not said;
- reconnecting with growing pauses and jitter, for ever; a failure is an event, never an exception. Only a connection
  that lasted starts the pauses anew: two clients of one id throw each other out as fast as they come back;
- no thread, but for looking up a host that is given by name.

What this module does not do: it reads no payload and knows no topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import paho.mqtt.client as paho

from smartserver_licensed.formats.connection import BrokerEvent, Disconnected, Dropped, Received
from smartserver_licensed.formats.iap import MAX_PAYLOAD_BYTES

from .session import ANSWER_LIMIT_S, Outgoing, Session

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 30.0
_QUEUE_BYTES = 8 * 1024 * 1024  # of topics and payloads; four times the retained `sts` of 4,000 devices


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
        queue_limit_bytes: int = _QUEUE_BYTES,
        backlog_limit: int = 20_000,
    ) -> None:
        self._host, self._port = host, port
        self._username, self._password = username, password
        self._keepalive_s = keepalive_s
        self._queue_limit = queue_limit
        self._queue_limit_bytes = queue_limit_bytes
        self._queued_bytes = 0
        self._backlog_limit = backlog_limit
        self._events: deque[BrokerEvent] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._session: Session | None = None
        self._drops: Counter[str] = Counter()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._session is not None and self._session.is_open

    async def run(self) -> None:
        """Connect, serve, connect again; until cancelled."""
        pause_s = _FIRST_PAUSE_S / 2
        while True:
            session = Session(self.put, self.put_message, keepalive_s=self._keepalive_s)
            try:
                reason = await self._serve(session)
            finally:
                self._session = None
                session.close()
            self.put(Disconnected(reason))
            pause_s = _FIRST_PAUSE_S if session.has_lasted else min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    async def _serve(self, session: Session) -> str:
        try:
            connection = await asyncio.wait_for(_connected(self._host, self._port), ANSWER_LIMIT_S)
        except asyncio.TimeoutError:  # before OSError: from Python 3.11 on it is one
            return "the broker's host does not answer"
        except socket.gaierror as error:
            return error.strerror or str(error)
        except OSError as error:  # asyncio writes a text of its own into it
            return os.strerror(error.errno) if error.errno else str(error)
        except UnicodeError:  # the codec's answer to a label over 63 characters
            return f"{self._host[:200]!r} is no host name"
        if self._username is not None:
            session.client.username_pw_set(self._username, self._password)
        session.open(connection, self._host, self._port)
        self._session = session
        return await session.ended()

    # -- what comes --------------------------------------------------------------------------------------------------

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        """Up to `limit` events in order of arrival; waits for one, at most `timeout_s` seconds. For one caller only."""
        if not self._events:
            # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event. Nor
            # asyncio.wait: it takes three turns of the loop for what this does in one.
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = None if timeout_s is None else loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                if timer is not None:
                    timer.cancel()
        taken = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
        self._queued_bytes -= sum(len(each.topic) + len(each.payload) for each in taken if isinstance(each, Received))
        return taken

    def take_drops(self) -> Mapping[str, int]:
        """What was dropped since the last call, by reason."""
        drops, self._drops = self._drops, Counter()
        return drops

    def put(self, event: BrokerEvent) -> None:
        """Queue an event of the connection."""
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def put_message(self, message: paho.MQTTMessage) -> None:
        """Queue a message, or drop and count it."""
        try:
            topic = message.topic  # a property that decodes: mosquitto checks topics, another broker may not
        except UnicodeDecodeError:
            self._drop("topic-invalid", "a topic that is not UTF-8", is_incomplete=False)
            return
        payload = bytes(message.payload[: MAX_PAYLOAD_BYTES + 1])
        size_bytes = len(topic) + len(payload)
        if len(self._events) >= self._queue_limit or self._queued_bytes + size_bytes > self._queue_limit_bytes:
            self._drop("queue-full", f"{len(self._events)} messages wait", is_incomplete=True)
            return
        self._queued_bytes += size_bytes
        self.put(Received(topic, payload, message.retain))

    def _drop(self, why: str, text: str, *, is_incomplete: bool) -> None:
        """Count, and say so once for all that are dropped in a row; that facts are missing is always said."""
        self._drops[why] += 1
        match self._events[-1] if self._events else None:
            case Dropped(_, was_incomplete) if was_incomplete or not is_incomplete:
                pass
            case _:
                self.put(Dropped(text, is_incomplete))

    # -- what goes ---------------------------------------------------------------------------------------------------

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs; nothing without a connection."""
        if self._session is not None and self._session.is_open and filters:
            self._session.client.subscribe(list(filters))

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe from filters; nothing without a connection."""
        if self._session is not None and self._session.is_open and filters:
            self._session.client.unsubscribe(list(filters))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none."""
        session = self._session
        if session is None or not session.is_open:
            return False
        if session.backlog >= self._backlog_limit:
            session.end(f"{session.backlog} messages are not acknowledged")
            return False
        session.publish(Outgoing(topic, payload, qos, retain))
        return True

    def flush(self) -> None:
        """Write what was handed over now, as far as the socket takes it, and not in the loop's next turn."""
        if self._session is not None and self._session.is_open:
            self._session.client.loop_write()


async def _connected(host: str, port: int) -> socket.socket:
    """A TCP connection to the first address of the host that takes one. Raises OSError or UnicodeError.

    Not in a thread: it could not be cancelled, and a stop would wait for it.
    """
    loop = asyncio.get_running_loop()
    failure = OSError(f"cannot connect to {host[:200]!r}: it has no address")
    for family, kind, _, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with contextlib.ExitStack() as undo:
            connection = undo.enter_context(socket.socket(family, kind))
            connection.setblocking(False)
            # Acknowledgments are small: Nagle's rule would hold each back for the peer's 40 ms of delay (measured).
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await loop.sock_connect(connection, address)
            except OSError as error:
                failure = error
                continue
            undo.pop_all()
            return connection
    raise failure
