"""The measuring side of MQTT: 3.1.1 written by hand over one socket, so that measuring costs little and never waits.

Rules:
- QoS 1, clean session, TCP_NODELAY (Nagle's algorithm on our side would be measured as the daemon's);
- mosquitto's own Nagle holds the second small packet to a client back until the first one is acknowledged, up to 40 ms:
  so publishing and hearing are two connections, and what is read is acknowledged at once (TCP_QUICKACK);
- no thread and no callback: whoever waits reads.

What this module does not do: no reconnecting, no QoS 0 or 2 to send, no packet over 256 MiB; it knows no topic.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

LIMIT_S = 60.0
_CONNACK, _PUBLISH, _PUBACK, _SUBACK = 0x20, 0x30, 0x40, 0x90


@dataclass(frozen=True, slots=True)
class Heard:
    """A message as it came. `at_s` is `time.perf_counter()` right after the read that brought it."""

    at_s: float
    topic: str
    payload: bytes


class Wire:
    """One connected client."""

    def __init__(self, port: int, *, client_id: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._mid = 0
        self._is_accepted = False
        self._subscribed: set[int] = set()
        self.in_flight = 0  # published and not acknowledged
        self.heard: deque[Heard] = deque()
        self._socket.sendall(_packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00" + _text(client_id)))
        while not self._is_accepted:
            self.read()

    def __enter__(self) -> Wire:  # noqa: PYI034 - typing.Self is Python 3.11's
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendall(b"\xe0\x00")
        self._socket.close()

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def subscribe(self, pattern: str) -> None:
        """Subscribe at QoS 1; returns when the broker has acknowledged."""
        mid = self._next_mid()
        self._socket.sendall(_packet(0x82, struct.pack(">H", mid) + _text(pattern) + b"\x01"))
        while mid not in self._subscribed:
            self.read()

    def publish(self, topic: str, payload: bytes, *, retain: bool = True) -> None:
        """Send at QoS 1; does not wait."""
        self.in_flight += 1
        body = _text(topic) + struct.pack(">H", self._next_mid()) + payload
        self._socket.sendall(_packet(0x33 if retain else 0x32, body))

    def wait_acknowledged(self, at_most: int = 0) -> None:
        """Read until no more than so many are in flight."""
        while self.in_flight > at_most:
            self.read()

    def wait_heard(self, topic: str) -> Heard:
        """The next message on the topic; what comes before it is dropped. Raises TimeoutError."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            while self.heard:
                message = self.heard.popleft()
                if message.topic == topic:
                    return message
            self.read()
        raise TimeoutError(f"nothing on {topic} within {LIMIT_S} s")

    def read(self, timeout_s: float = LIMIT_S) -> bool:
        """Read once what is there, waiting for it; False when nothing came in time."""
        if not select.select([self], [], [], timeout_s)[0]:
            return False
        data = self._socket.recv(1 << 16)
        at_s = time.perf_counter()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # holds for this time only: tcp(7)
        if not data:
            raise ConnectionError("the broker has closed the connection")
        self._buffer += data
        answers = bytearray()
        for kind, body in self._packets():
            self._take(kind, body, at_s, answers)
        if answers:
            self._socket.sendall(answers)
        return True

    def drain(self) -> None:
        """Read what is there already, and forget all that was heard."""
        while self.read(0.0):
            pass
        self.heard.clear()

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        start = 0
        while (end := _end(self._buffer, start)) is not None:
            first, last = end
            yield self._buffer[start], bytes(self._buffer[first:last])
            start = last
        del self._buffer[:start]

    def _take(self, kind: int, body: bytes, at_s: float, answers: bytearray) -> None:
        match kind & 0xF0:
            case 0x30:
                after = 2 + int.from_bytes(body[:2], "big")
                topic = body[2:after].decode()
                if kind & 0x06:
                    answers += _packet(_PUBACK, body[after : after + 2])
                    after += 2
                self.heard.append(Heard(at_s, topic, body[after:]))
            case 0x40:
                self.in_flight -= 1
            case 0x90:
                self._subscribed.add(int.from_bytes(body[:2], "big"))
            case 0x20:
                assert body[1] == 0, f"the broker refused the connection: {body[1]}"
                self._is_accepted = True

    def _next_mid(self) -> int:
        self._mid = self._mid % 0xFFFF + 1
        return self._mid


def wait_any(*wires: Wire, timeout_s: float = LIMIT_S) -> None:
    """Read from those that have something."""
    ready = select.select(wires, [], [], timeout_s)[0]
    if not ready:
        raise TimeoutError(f"nothing from the broker within {timeout_s} s")
    for wire in ready:
        wire.read()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def _packet(kind: int, body: bytes) -> bytes:
    length, size = len(body), bytearray()
    while True:
        length, digit = length >> 7, length & 0x7F
        size.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((kind,)) + bytes(size) + body


def _end(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Where the body of the packet at `start` begins and ends; None while it is not all there."""
    length = shift = 0
    for place in range(start + 1, min(start + 5, len(buffer))):
        length |= (buffer[place] & 0x7F) << shift
        shift += 7
        if not buffer[place] & 0x80:
            return (place + 1, place + 1 + length) if place + 1 + length <= len(buffer) else None
    return None
