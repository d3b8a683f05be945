"""The broker: paho-mqtt driven by the asyncio loop, without a thread.

Rules (WIRE.md, ADR 0003):
- MQTT 3.1.1, clean sessions, and a fresh paho client for each connection: nothing stale is sent after a reconnect;
- callbacks do one thing only: they append to the queue. What happened comes out of `take`, in order of arrival;
- bounded: a payload is cut one byte above 64 KiB, which is too long for whoever reads it; what exceeds the queue, in
  messages or bytes, is dropped and counted, and a `Dropped` event says so in its place. More than `backlog_limit`
  messages without an acknowledgment end the connection: the snapshot after the next one repairs what was not said;
- reconnecting with growing pauses and jitter, for ever; a failure is an event, never an exception. Only a connection
  that lasted starts the pauses anew: two clients of one id throw each other out as fast as they come back;
- no turn of the loop takes longer than some milliseconds, however much the broker has to say; no thread, but for
  looking up a host that is given by name.

What this module does not do: it reads no payload and knows no topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes

from smartserver_licensed.formats.connection import BrokerEvent, Connected, Disconnected, Dropped, Received

CLIENT_ID = "smartserver-licensed"
MAX_PAYLOAD_BYTES = 64 * 1024
_ANSWER_LIMIT_S = 5.0  # for the TCP connection, and again for CONNACK
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.25, 30.0
_STEADY_S = 10.0  # a connection that lasted so long was a good one
_MISC_INTERVAL_S = 1.0  # with paho's own loop off, keepalive lives by this
_QUEUE_BYTES = 8 * 1024 * 1024  # of topics and payloads; four times the retained `sts` of 4,000 devices
_IN_FLIGHT = 128
_READ_BYTES = 64 * 1024
_TURN_S = 0.005  # reading before other work of the loop has its turn


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
        self._session: _Session | None = None
        self._drops: Counter[str] = Counter()

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection."""
        return self._session is not None and self._session.is_open

    async def run(self) -> None:
        """Connect, serve, connect again; until cancelled."""
        pause_s = _FIRST_PAUSE_S / 2
        while True:
            session = _Session(self, self._keepalive_s)
            try:
                reason = await self._serve(session)
            finally:
                self._session = None
                session.close()
            self.put(Disconnected(reason))
            pause_s = _FIRST_PAUSE_S if session.has_lasted else min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret

    async def _serve(self, session: _Session) -> str:
        try:
            connection = await asyncio.wait_for(_connected(self._host, self._port), _ANSWER_LIMIT_S)
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
        session.publish(_Outgoing(topic, payload, qos, retain))
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


class _Client(paho.Client):
    """paho with a connection that was made elsewhere, and with fewer calls of the system; relies on paho 2's names.

    Reading comes to an end, and takes 64 KiB at once: paho asks the socket for the first byte of a packet, for each of
    its length, and for the rest. Packets that wait to be written are joined: paho sends each by itself.
    """

    made: socket.socket
    trouble = ""  # the last error that paho would log: above all the socket's, which `on_disconnect` is not told
    _arrived = memoryview(b"")

    @property
    def has_arrived(self) -> bool:
        """Whether something was taken from the socket and not read yet."""
        return bool(self._arrived)

    @property
    def in_flight(self) -> int:
        """Messages of QoS 1 that are not acknowledged."""
        return len(self._out_messages)

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self._arrived:
            self._arrived = memoryview(super()._sock_recv(_READ_BYTES))
            # The broker's Nagle holds its next packet until this is acknowledged: at once, not in 40 ms (tcp(7)).
            self.made.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        taken, self._arrived = self._arrived[:bufsize], self._arrived[bufsize:]
        return taken.tobytes()

    def _handle_publish(self) -> MQTTErrorCode:
        """Not at QoS 2, which nobody asked for: paho would keep each payload until the broker releases it."""
        if self._in_packet["command"] & 0x04:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        return super()._handle_publish()

    def _packet_queue(self, command: int, packet: Any, mid: int, qos: int, info: Any = None) -> MQTTErrorCode:  # noqa: ANN401 - paho's
        last = self._out_packet[-1] if self._out_packet else None
        if not (last and _is_plain(last["command"], last["qos"]) and _is_plain(command, qos)):
            return super()._packet_queue(command, bytearray(packet), mid, qos, info)
        if last["pos"] or last["to_process"] > _READ_BYTES:
            return super()._packet_queue(command, bytearray(packet), mid, qos, info)
        last["packet"] += packet  # in place: a bytearray, see above
        last["to_process"] += len(packet)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _easy_log(self, level: LogLevel, fmt: str, *args: object) -> None:
        """Errors only, and not by `on_log`: for that each packet would be described in a text (10 % of the time)."""
        if level == LogLevel.MQTT_LOG_ERR:
            self.trouble = fmt % args

    def _create_socket_connection(self) -> socket.socket:
        """Not paho's own, which blocks until the host answers."""
        return self.made

    def read(self, until_s: float) -> None:
        """Packets, until there is none left or the time (monotonic seconds) is up.

        Not paho's `loop_read`: it takes as many packets a call as there are messages without an acknowledgment.
        """
        code = MQTTErrorCode.MQTT_ERR_SUCCESS
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and self.socket() is not None:
            code = self._packet_read()
            if time.monotonic() > until_s:
                break
        if code > MQTTErrorCode.MQTT_ERR_SUCCESS:  # below are "again" and the like
            self._loop_rc_handle(code)


def _is_plain(command: int, qos: int) -> bool:
    """Whether paho does nothing after writing it: it does after a DISCONNECT, and after a PUBLISH at QoS 0."""
    return command >> 4 != PacketTypes.DISCONNECT and not (command >> 4 == PacketTypes.PUBLISH and qos == 0)


class _Outgoing(NamedTuple):
    """As paho's `publish` takes it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class _Session:
    """One connection, from the socket to its end."""

    def __init__(self, bus: MqttBus, keepalive_s: int) -> None:
        self._bus = bus
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()  # the reason
        self._connection: socket.socket | None = None
        self._accepted_at: float | None = None
        self._outgoing: deque[_Outgoing] = deque()
        self._moved_at = self._loop.time()
        self._next_read: asyncio.Handle | None = None
        client = self.client = _Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=True)
        client.max_inflight_messages_set(0)  # `publish` holds the limit: paho would walk over all at each PUBACK
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _client, _data, message: bus.put_message(message)
        client.on_socket_open = self._on_open
        client.on_socket_close = lambda _client, _data, sock: self._forget(sock)
        client.on_socket_register_write = self._on_unwritten
        client.on_socket_unregister_write = self._on_written

    @property
    def is_open(self) -> bool:
        """Whether the broker has accepted it, and it has not ended."""
        return self._accepted_at is not None and not self._ended.done()

    @property
    def has_lasted(self) -> bool:
        """Whether it was accepted long ago enough to be called a good one."""
        return self._accepted_at is not None and self._loop.time() - self._accepted_at >= _STEADY_S

    @property
    def backlog(self) -> int:
        """Messages that are not acknowledged, or wait for their turn."""
        return self.client.in_flight + len(self._outgoing)

    def publish(self, message: _Outgoing | None = None) -> None:
        """Hand over, in order, what has room in flight: who publishes faster than it reads drowns in its own echo."""
        if message is not None:
            self._outgoing.append(message)
        while self._outgoing and self.client.in_flight < _IN_FLIGHT:
            self.client.publish(*self._outgoing.popleft())
            self._moved_at = self._loop.time()

    def open(self, connection: socket.socket, host: str, port: int) -> None:
        """Start MQTT on a connected socket."""
        self._connection = self.client.made = connection
        self.client.connect(host, port, self._keepalive_s)

    async def ended(self) -> str:
        """Wait for the end; why it came."""
        answer_by = self._loop.time() + _ANSWER_LIMIT_S
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=_MISC_INTERVAL_S)
            self.client.loop_misc()
            if self._accepted_at is None and self._loop.time() > answer_by:
                self.end("the broker does not answer")
            if self._outgoing and self._loop.time() - self._moved_at > self._keepalive_s:
                self.end(f"the broker has acknowledged nothing for {self._keepalive_s} s")
        return self._ended.result()

    def end(self, reason: str) -> None:
        """Give the connection up."""
        if not self._ended.done():
            self._ended.set_result(reason)

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
        if self._ended.done():
            return
        if self._next_read is not None:  # the rest of what arrived has its own turn: one chain of them, not many
            return
        try:
            self.client.read(time.monotonic() + _TURN_S)
            self.publish()
        except Exception as error:  # noqa: BLE001 - paho keeps a packet that fails, and would fail on it for ever
            self._forget(sock)
            self.end(f"cannot read what the broker sent: {error!r}")
        if self.client.has_arrived and not self._ended.done():  # the loop looks at the socket only
            self._next_read = self._loop.call_soon(self._read_rest, sock)

    def _read_rest(self, sock: socket.socket) -> None:
        self._next_read = None
        self._read(sock)

    def _on_unwritten(self, _client: object, _data: object, sock: Any) -> None:  # noqa: ANN401 - as above
        self._loop.call_soon(self._write, sock)

    def _write(self, sock: socket.socket) -> None:
        """Write what the socket takes at once, which is nearly always all; wait for the socket only with the rest."""
        self.client.loop_write()
        if self.client.want_write() and self.client.socket() is sock:
            self._loop.add_writer(sock, self.client.loop_write)

    def _forget(self, sock: Any) -> None:  # noqa: ANN401 - as above
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _on_written(self, _client: object, _data: object, sock: Any) -> None:  # noqa: ANN401 - as above
        self._loop.remove_writer(sock)

    def _on_connect(self, _client: object, _data: object, _flags: object, code: Any, _props: object) -> None:  # noqa: ANN401
        if code.is_failure:
            self.end(f"the broker refused the connection: {code}")
        else:
            self._accepted_at = self._loop.time()
            self._bus.put(Connected())

    def _on_disconnect(self, _client: object, _data: object, _flags: object, code: object, _props: object) -> None:
        self.end(f"the connection was lost: {self.client.trouble or code}")
