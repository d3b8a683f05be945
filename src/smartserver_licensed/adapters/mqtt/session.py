"""One connection to the broker, from the socket to its end, driven by the asyncio loop.

Rules (WIRE.md, ADR 0003):
- paho's callbacks do one thing only: they tell the bus;
- no turn of the loop takes longer than some milliseconds, however much the broker has to say;
- at most 128 messages are in flight; the others wait here, in order. A broker that acknowledges nothing for the time of
  the keepalive is given up;
- with paho's own loop off, `loop_misc` runs every second, or keepalive dies.

What this module does not do: it does not reconnect (`bus`), and keeps no message that came.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from smartserver_licensed.formats.connection import BrokerEvent, Connected

from .client import Client

CLIENT_ID = "smartserver-licensed"
ANSWER_LIMIT_S = 5.0  # for the TCP connection, and again for CONNACK
_STEADY_S = 10.0  # a connection that lasted so long was a good one
_MISC_INTERVAL_S = 1.0
_IN_FLIGHT = 128
_COMPANY_S = 0.002  # acknowledgments wait so long for an answer to go with; sent at once they delay the commit (0.2 ms)
_TURN_S = 0.005  # reading before other work of the loop has its turn


class Outgoing(NamedTuple):
    """As paho's `publish` takes it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Session:
    """One connection, from the socket to its end."""

    def __init__(
        self, tell: Callable[[BrokerEvent], None], on_message: Callable[[paho.MQTTMessage], None], *, keepalive_s: int
    ) -> None:
        """`tell` hears that the broker has accepted; the end is `ended`'s."""
        self._tell = tell
        self._keepalive_s = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[str] = self._loop.create_future()  # the reason
        self._connection: socket.socket | None = None
        self._accepted_at: float | None = None
        self._outgoing: deque[Outgoing] = deque()
        self._moved_at = self._loop.time()
        self._next_read: asyncio.Handle | None = None
        client = self.client = Client(CallbackAPIVersion.VERSION2, client_id=CLIENT_ID, clean_session=True)
        client.max_inflight_messages_set(0)  # `publish` holds the limit: paho would walk over all at each PUBACK
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = lambda _client, _data, message: on_message(message)
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

    def publish(self, message: Outgoing | None = None) -> None:
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
        answer_by = self._loop.time() + ANSWER_LIMIT_S
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
        self._loop.call_later(_COMPANY_S, self._write, sock)

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
            self._tell(Connected())

    def _on_disconnect(self, _client: object, _data: object, _flags: object, code: object, _props: object) -> None:
        self.end(f"the connection was lost: {self.client.trouble or code}")
