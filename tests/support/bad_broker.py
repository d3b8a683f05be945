"""Brokers that behave badly, a proxy that spoils a good one, and a client that publishes faster than any engine.

Rules:
- MQTT 3.1.1 is read as far as needed: the fixed header, the remaining length, of a PUBLISH its topic;
- whatever a broker does badly is one function of `Behaviour`: it has one connection, and ends when told to or when the
  peer has gone;
- order within one topic is kept, also by the proxy that delivers twice and late; between topics it is not;
- every thread ends with its context manager.

What this module does not do: it knows nothing of the daemon, and reads no payload.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, PINGREQ = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90, 0xC0
_DUP, _RETAIN, _QOS = 0x08, 0x01, 0x06
_POLL_S = 0.2
_CHUNK_BYTES = 1 << 18

Behaviour = Callable[["Connection"], None]


# -- packets -----------------------------------------------------------------------------------------------------------


def packet(first: int, body: bytes) -> bytes:
    """One packet: the first byte, the remaining length, the rest."""
    length, left = bytearray(), len(body)
    while True:
        left, digit = divmod(left, 128) if left >= 128 else (0, left)
        length.append(digit | 0x80 if left else digit)
        if not left:
            return bytes([first]) + bytes(length) + body


def publish(topic: str, payload: bytes, *, retain: bool = False, mid: int | None = None, qos: int = 1) -> bytes:
    """A PUBLISH: at QoS 0, or with a packet identifier at `qos`."""
    name = topic.encode()
    flags = (retain and _RETAIN) | (0 if mid is None else qos << 1)
    identifier = b"" if mid is None else mid.to_bytes(2, "big")
    return packet(PUBLISH | flags, len(name).to_bytes(2, "big") + name + identifier + payload)


def topic_of(body: bytes) -> bytes:
    """The topic of a PUBLISH."""
    return body[2 : 2 + int.from_bytes(body[:2], "big")]


class Connection:
    """One accepted connection, packet by packet. Reading ends with EOFError when the peer or the test is done."""

    def __init__(self, sock: socket.socket, ended: threading.Event) -> None:
        self.socket = sock
        self.ended = ended
        self._stream = sock.makefile("rb", buffering=_CHUNK_BYTES)
        self._writing = threading.Lock()

    def read(self) -> tuple[int, bytes]:
        """The first byte of the next packet, and what follows its length. Raises EOFError."""
        first = self._exactly(1)[0]
        length = shift = 0
        while True:
            digit = self._exactly(1)[0]
            length |= (digit & 0x7F) << shift
            shift += 7
            if not digit & 0x80:
                return first, self._exactly(length)

    def send(self, data: bytes) -> None:
        """Send it all, however long the peer takes. Raises OSError."""
        with self._writing:
            self.socket.sendall(data)

    def accept(self) -> None:
        """Read CONNECT and answer it. Raises EOFError."""
        self.read()
        self.send(packet(CONNACK, b"\0\0"))

    def close(self) -> None:
        """Close the stream and the socket."""
        self._stream.close()
        self.socket.close()

    def wait_for_end(self) -> None:
        """Without reading or writing anything."""
        self.ended.wait()

    def _exactly(self, count: int) -> bytes:
        try:
            data: bytes | None = self._stream.read(count)
        except OSError as error:
            raise EOFError from error
        if data is None or len(data) < count:
            raise EOFError
        return data


# -- bad brokers -------------------------------------------------------------------------------------------------------


def never_answers(connection: Connection) -> None:
    """TCP is accepted, and that is all."""
    connection.wait_for_end()


def closes_after_each_packet(connection: Connection) -> None:
    """CONNACK, and the end with the next packet."""
    connection.accept()
    connection.read()


def never_acknowledges(connection: Connection) -> None:
    """CONNACK, and then it reads all and answers nothing: no SUBACK, no PUBACK, no PINGRESP."""
    connection.accept()
    while True:
        connection.read()


def never_reads(connection: Connection) -> None:
    """CONNACK, and then the peer's socket fills."""
    connection.accept()
    connection.wait_for_end()


def floods_with(packets: Callable[[], Iterable[bytes]]) -> Behaviour:
    """CONNACK, then these bytes, anew for each connection, as fast as the peer takes them; all it sends is read."""

    def flood(connection: Connection) -> None:
        connection.accept()
        reader = threading.Thread(target=_drain, args=(connection,), daemon=True)
        reader.start()
        try:
            for each in packets():
                connection.send(each)
            connection.wait_for_end()
        finally:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            reader.join(10)

    return flood


def _drain(connection: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            connection.read()


class BadBroker:
    """Listens on a port and treats every connection the same way. A context manager."""

    def __init__(self, port: int, behaviour: Behaviour) -> None:
        self.connections = 0
        self.behaviour = behaviour  # of the connections to come
        self._ended = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._listener.settimeout(_POLL_S)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> BadBroker:  # noqa: PYI034 - typing.Self is Python 3.11's
        self._spawn(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(10)

    def drop(self) -> None:
        """End the connections that are open; the peers may come again."""
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes whoever reads or writes it

    def _spawn(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            sock.settimeout(None)
            self.connections += 1
            self._open.add(sock)
            self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock, self._ended)
        try:
            with contextlib.suppress(EOFError, OSError):
                self.behaviour(connection)
        finally:
            self._open.discard(sock)
            connection.close()


# -- a good broker, spoiled --------------------------------------------------------------------------------------------


def through(port: int, *, down: Callable[[Connection, Connection], None], acknowledges: bool = False) -> Behaviour:
    """A proxy in front of the broker on `port`: up as it comes, `down(broker, client)` as it likes.

    `acknowledges`: `down` does, and the client's own PUBACKs end here: out of their order, or doubled, they make
    mosquitto 2.0.11 reorder the messages of one topic (measured).
    """

    def relay(client: Connection) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            broker = Connection(sock, client.ended)
            downward = threading.Thread(target=_quietly, args=(down, broker, client), daemon=True)
            downward.start()
            with contextlib.suppress(EOFError, OSError):
                while True:
                    first, body = client.read()
                    if not (acknowledges and first & 0xF0 == PUBACK):
                        broker.send(packet(first, body))
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            downward.join(10)
            broker.close()

    return relay


def _quietly(down: Callable[[Connection, Connection], None], broker: Connection, client: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        down(broker, client)
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_RDWR)


def faithfully(broker: Connection, client: Connection) -> None:
    """As it comes."""
    while True:
        client.send(packet(*broker.read()))


def without_acknowledgments(broker: Connection, client: Connection) -> None:
    """No PUBACK goes down; all else does."""
    while True:
        first, body = broker.read()
        if first & 0xF0 != PUBACK:
            client.send(packet(first, body))


def twice_and_late(broker: Connection, client: Connection) -> None:
    """Every PUBLISH comes twice, and 0…2 s late; all else at once. To be used with `acknowledges=True`."""
    late = _Late(client)
    try:
        while True:
            first, body = broker.read()
            if first & 0xF0 == PUBLISH:
                if first & _QOS:
                    name_ends_at = 2 + len(topic_of(body))
                    broker.send(packet(PUBACK, body[name_ends_at : name_ends_at + 2]))
                late.put(first, body)
            else:
                client.send(packet(first, body))
    finally:
        late.end()


class _Late:
    """Holds messages and sends them twice: those of one topic in order, those of different topics in any."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self._changed = threading.Condition()
        self._held: list[tuple[float, int, bytes]] = []
        self._last: dict[bytes, float] = {}
        self._serial = itertools.count()
        self._is_ended = False
        self._random = random.Random(4)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, first: int, body: bytes) -> None:
        topic, now_s = topic_of(body), time.monotonic()
        delay_s = self._random.choice((0.0, 0.0, self._random.uniform(0.2, 2.0)))
        send_at = max(now_s + delay_s, self._last.get(topic, 0.0))
        again_at = send_at + self._random.choice((0.0, 0.1))
        self._last[topic] = again_at
        second = first | _DUP if first & _QOS else first
        with self._changed:
            heapq.heappush(self._held, (send_at, next(self._serial), packet(first, body)))
            heapq.heappush(self._held, (again_at, next(self._serial), packet(second, body)))
            self._changed.notify()

    def end(self) -> None:
        with self._changed:
            self._is_ended = True
            self._changed.notify()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._is_ended and not (self._held and self._held[0][0] <= time.monotonic()):
                    self._changed.wait(self._held[0][0] - time.monotonic() if self._held else None)
                if self._is_ended:
                    return
                data = heapq.heappop(self._held)[2]
            try:
                self._client.send(data)
            except OSError:
                return


# -- a client that floods ----------------------------------------------------------------------------------------------


def flood(port: int, packets: Iterable[bytes]) -> int:
    """Publish these packets (QoS 0) as fast as the broker on `port` takes them; how many. Joined in large pieces."""
    count, piece = 0, bytearray()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        connection = Connection(sock, threading.Event())
        connection.send(packet(CONNECT, b"\0\4MQTT\4\2\0\0\0\0"))  # clean session, no keepalive, no name
        connection.read()
        for each in packets:
            piece += each
            count += 1
            if len(piece) >= _CHUNK_BYTES:
                connection.send(bytes(piece))
                piece.clear()
        connection.send(bytes(piece) + packet(0xE0, b""))  # DISCONNECT: the broker has read all before it
        with contextlib.suppress(OSError):
            sock.recv(1)  # its end of the connection
        connection.close()
    return count
