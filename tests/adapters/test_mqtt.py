"""The MQTT adapter on a real mosquitto, and on servers that misbehave as no broker should."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator

import paho.mqtt.client as paho
import pytest

from smartserver_licensed.adapters.mqtt import MqttBus
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Disconnected, Dropped, Received
from support.broker import Broker, Client, free_port

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as running:
        yield running


@contextlib.asynccontextmanager
async def running(bus: MqttBus) -> AsyncIterator[MqttBus]:
    task = asyncio.create_task(bus.run())
    try:
        yield bus
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def server(*, says: bytes, hangs_up: bool = False) -> AsyncIterator[tuple[int, list[float]]]:
    """A server that answers CONNECT with `says` and nothing else; its port, and when each connection came."""
    came: list[float] = []
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(time.monotonic())
        writers.append(writer)
        await reader.read(100)
        writer.write(says)
        if hangs_up:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], came
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def packet(topic: bytes, payload: bytes) -> bytes:
    """PUBLISH at QoS 0."""
    body = len(topic).to_bytes(2, "big") + topic + payload
    return bytes([0x30, len(body)]) + body


CONNACK = b"\x20\x02\x00\x00"


async def take_until(bus: MqttBus, wanted: type[BrokerEvent] | int, *, timeout_s: float = 20) -> list[BrokerEvent]:
    """Events until one of a type came, or so many messages."""
    events: list[BrokerEvent] = []
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        events += await bus.take(timeout_s=0.2)
        if isinstance(wanted, int):
            if sum(isinstance(event, Received) for event in events) >= wanted:
                return events
        elif any(isinstance(event, wanted) for event in events):
            return events
    raise AssertionError(f"no {wanted} within {timeout_s} s: {events[-3:]}")


async def subscribe(bus: MqttBus, filter_: str, qos: int) -> None:
    """Subscribe, and return when the broker has done it: an echo of our own came back."""
    await take_until(bus, Connected)
    bus.subscribe([(filter_, qos)])
    bus.subscribe([("t/probe", 1)])
    bus.publish("t/probe", b"")
    await take_until(bus, 1)


def publish_many(port: int, payloads: list[bytes], *, qos: int = 1) -> None:
    with Client(port) as client:
        for payload in payloads:
            client.publish("t/x", payload, qos=qos, wait=False)
        client.publish("t/last", b"")


async def test_messages_come_back_in_order(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await subscribe(bus, "t/x", 1)
        for number in range(5_000):
            assert bus.publish("t/x", str(number).encode())
        events = await take_until(bus, 5_000)
        payloads = [event.payload for event in events if isinstance(event, Received)]
        assert payloads == [str(number).encode() for number in range(5_000)]


async def test_a_retained_message_says_so_and_a_live_one_does_not(broker: Broker) -> None:
    with Client(broker.port) as client:
        client.publish("t/old", "1", retain=True)
        async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
            await take_until(bus, Connected)
            bus.subscribe([("t/#", 1)])
            await take_until(bus, 1)
            client.publish("t/new", "2", retain=True)
            (event,) = [each for each in await take_until(bus, 1) if isinstance(each, Received)]
            assert event == Received("t/new", b"2", is_retained=False)


async def test_a_killed_broker_is_found_again_and_nothing_stale_is_sent(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await take_until(bus, Connected)
        broker.kill()
        for number in range(100):
            bus.publish("t/stale", str(number).encode(), retain=True)
        events = await take_until(bus, Disconnected)
        assert isinstance(events[-1], Disconnected)
        assert not bus.publish("t/stale", b"refused")
        broker.start()
        await take_until(bus, Connected)
        with Client(broker.port) as client:
            client.subscribe("t/#")
            await asyncio.sleep(0.5)
            assert client.messages == []


async def test_without_a_broker_it_tries_again_and_says_why() -> None:
    async with running(MqttBus(host="127.0.0.1", port=free_port())) as bus:
        (event,) = await bus.take(timeout_s=5)
        assert event == Disconnected("Connection refused")
        assert not bus.is_connected
        await take_until(bus, Disconnected)


async def test_a_host_name_that_cannot_be_one_is_an_answer_and_no_exception() -> None:
    async with running(MqttBus(host="a" * 64 + ".example", port=1)) as bus:
        (event,) = await bus.take(timeout_s=5)
        assert isinstance(event, Disconnected)
        await take_until(bus, Disconnected)


async def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    async with server(says=b"") as (port, _), running(MqttBus(host="127.0.0.1", port=port)) as bus:
        events = await take_until(bus, Disconnected, timeout_s=30)
        assert events == [Disconnected("the broker does not answer")]
        assert not bus.publish("t", b"")


async def test_a_refused_connection_says_why() -> None:
    async with server(says=b"\x20\x02\x00\x05") as (port, _), running(MqttBus(host="127.0.0.1", port=port)) as bus:
        (event,) = await take_until(bus, Disconnected)
        assert event == Disconnected("the broker refused the connection: Not authorized")


async def test_a_server_that_hangs_up_after_each_welcome_is_asked_ever_more_rarely() -> None:
    async with server(says=CONNACK, hangs_up=True) as (port, came), running(MqttBus(host="127.0.0.1", port=port)):
        await asyncio.sleep(6)
        assert 3 <= len(came) <= 9, came  # pauses of 0.25, 0.5, 1, 2, 4 s, and down to half of each


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(b"\x30\x04\x00\x20ab", "Protocol error", id="topic over the end"),
        pytest.param(b"\x30\x01\x00", "Protocol error", id="no topic"),
        pytest.param(b"\x40\x00", "Protocol error", id="empty PUBACK"),
        pytest.param(b"\x90\x01\x00", "Protocol error", id="short SUBACK"),
        pytest.param(b"\xf0\x00", "Error: Unrecognised command 240", id="no such packet"),
        pytest.param(b"\x30\xff\xff\xff\xff\xff", "Protocol error", id="length of five bytes"),
    ],
)
async def test_a_packet_that_is_none_ends_the_connection(raw: bytes, why: str) -> None:
    async with server(says=CONNACK + raw) as (port, _), running(MqttBus(host="127.0.0.1", port=port)) as bus:
        events = await take_until(bus, Disconnected)
        assert events == [Connected(), Disconnected(f"the connection was lost: {why}")]


async def test_a_topic_that_is_not_utf8_is_dropped_and_counted_and_the_next_message_arrives() -> None:
    says = CONNACK + packet(b"t/\xff\xfe", b"1") + packet(b"t/good", b"2")
    async with server(says=says) as (port, _), running(MqttBus(host="127.0.0.1", port=port)) as bus:
        events = await take_until(bus, 1)
        assert [type(event) for event in events] == [Connected, Dropped, Received]
        assert events[-1] == Received("t/good", b"2", is_retained=False)
        assert bus.take_drops() == {"topic-invalid": 1}


async def test_a_bug_met_while_reading_ends_the_connection_with_its_name_and_does_not_spin() -> None:
    class Buggy(MqttBus):
        def put_message(self, message: paho.MQTTMessage) -> None:
            raise KeyError(message.payload)

    says = CONNACK + packet(b"t", b"1")
    async with server(says=says) as (port, came), running(Buggy(host="127.0.0.1", port=port)) as bus:
        events = await take_until(bus, Disconnected)
        assert events[-1] == Disconnected("cannot read what the broker sent: KeyError(b'1')")
        assert len(came) == 1


async def test_a_frozen_broker_is_found_out_by_keepalive(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, keepalive_s=2)) as bus:
        await take_until(bus, Connected)
        assert broker._process is not None
        os.kill(broker._process.pid, signal.SIGSTOP)
        try:
            events = await take_until(bus, Disconnected, timeout_s=8)
            assert events == [Disconnected("the connection was lost: Keep alive timeout")]
        finally:
            os.kill(broker._process.pid, signal.SIGCONT)
        await take_until(bus, Connected)


async def test_it_stops_at_once_while_it_is_connected(broker: Broker) -> None:
    bus = MqttBus(host="127.0.0.1", port=broker.port)
    task = asyncio.create_task(bus.run())
    await take_until(bus, Connected)
    before = time.monotonic()
    task.cancel()
    await asyncio.wait([task])
    assert time.monotonic() - before < 0.5
    assert task.cancelled()
    assert len(asyncio.all_tasks()) == 1
    await asyncio.sleep(0.2)
    assert "disconnected." in broker.log  # it said goodbye: no "closed its connection", no will, no waiting for it


def test_it_stops_at_once_while_the_host_does_not_answer() -> None:
    with socket.socket() as listening, contextlib.ExitStack() as fillers:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):  # a full backlog: the kernel drops what else comes
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())

        async def stop_early() -> None:
            async with running(MqttBus(host="127.0.0.1", port=listening.getsockname()[1])):
                await asyncio.sleep(0.3)

        before = time.monotonic()
        asyncio.run(stop_early())  # with what asyncio.run waits for at its end
        assert time.monotonic() - before < 0.8


async def test_take_is_cancelled_even_if_an_event_comes_in_the_same_moment() -> None:
    bus = MqttBus(host="127.0.0.1", port=1)

    async def consume() -> None:
        while True:
            await bus.take(timeout_s=10)

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.05)
    bus.put(Connected())
    await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=1)
    assert done == {task}


async def test_an_idle_connection_is_kept_alive(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, keepalive_s=2)) as bus:
        await take_until(bus, Connected)
        assert await bus.take(timeout_s=7) == []
        assert bus.is_connected


async def test_a_huge_payload_is_cut_one_byte_over_the_limit_and_the_next_message_arrives(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await subscribe(bus, "t/x", 1)
        await asyncio.to_thread(publish_many, broker.port, [b"x" * 10_000_000, b"x" * 65_536])
        events = await take_until(bus, 2)
        assert [len(event.payload) for event in events if isinstance(event, Received)] == [65_537, 65_536]
        assert bus.take_drops() == {}


async def test_the_queue_is_bounded_in_bytes_too_and_has_room_again_when_it_was_read(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, queue_limit_bytes=200_000)) as bus:
        await subscribe(bus, "t/x", 1)
        for _ in range(2):
            await asyncio.to_thread(publish_many, broker.port, [b"x" * 60_000] * 8)
            await asyncio.sleep(0.5)
            events = await bus.take(timeout_s=5)
            assert [type(event) for event in events] == [Received] * 3 + [Dropped]
            assert bus.take_drops() == {"queue-full": 5}


async def test_over_the_limit_of_the_queue_the_newest_are_dropped_and_that_is_said_once(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, queue_limit=100)) as bus:
        await subscribe(bus, "t/x", 1)
        payloads = [str(number).encode() for number in range(500)]
        await asyncio.to_thread(publish_many, broker.port, payloads)
        await asyncio.sleep(0.5)
        events = await bus.take(10_000, timeout_s=5)
        assert [event.payload for event in events if isinstance(event, Received)] == payloads[:100]
        assert events[100:] == [Dropped("100 messages wait", is_incomplete=True)]
        assert bus.take_drops() == {"queue-full": 400}


async def test_the_backlog_is_empty_once_all_is_acknowledged_whatever_the_qos(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, backlog_limit=50)) as bus:
        await take_until(bus, Connected)
        for _ in range(10):
            assert all(bus.publish("t/x", b"", qos=qos) for qos in (0, 1) for _ in range(25))
            await asyncio.sleep(0.2)
        assert bus.is_connected


async def test_acknowledgments_are_not_held_back_by_nagle(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await subscribe(bus, "t/x", 1)
        before = time.monotonic()
        for _ in range(40):  # with Nagle's rule each round takes 40 ms or more, 1.6 s in all
            for _ in range(64):
                bus.publish("t/x", b"")
            await take_until(bus, 64)
        assert time.monotonic() - before < 1.2


async def test_a_broker_that_acknowledges_nothing_is_given_up_after_a_while() -> None:
    connack = b"\x20\x02\x00\x00"
    async with server(says=connack) as (port, _), running(MqttBus(host="127.0.0.1", port=port, keepalive_s=2)) as bus:
        await take_until(bus, Connected)
        assert all(bus.publish("t/x", b"") for _ in range(200))
        (ended,) = [event for event in await take_until(bus, Disconnected) if isinstance(event, Disconnected)]
        assert "acknowledged nothing" in ended.reason or "Keep alive" in ended.reason


async def test_a_broker_that_acknowledges_nothing_is_given_up_over_the_backlog_limit(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, backlog_limit=50)) as bus:
        await take_until(bus, Connected)
        sent = [bus.publish("t/x", b"") for _ in range(60)]
        assert sent.count(True) == 50
        assert not bus.is_connected  # at once, not when the loop has noticed
        events = await take_until(bus, Disconnected)
        assert events == [Disconnected("50 messages are not acknowledged")]


async def test_the_loop_is_not_blocked_while_many_messages_come(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await subscribe(bus, "t/x", 0)
        longest = 0.0

        async def watch() -> None:
            nonlocal longest
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.001)
                longest = max(longest, time.monotonic() - before)

        watcher = asyncio.create_task(watch())
        await asyncio.to_thread(publish_many, broker.port, [b'{"number":1}' * 20] * 3_000)
        await take_until(bus, 2_000)
        watcher.cancel()
        assert longest < 0.5, f"the loop was blocked for {longest:.3f} s (promised: 0.05 s)"


def hold_up_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def test_after_the_loop_was_held_up_what_has_piled_up_is_read_in_short_turns(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, queue_limit=100_000)) as bus:
        await subscribe(bus, "t/x", 0)
        flood = asyncio.create_task(asyncio.to_thread(publish_many, broker.port, [b"{}" * 30] * 15_000, qos=0))
        await asyncio.sleep(0.1)
        for _ in range(2_000):  # with paho's loop_read, so many messages a call would be read
            bus.publish("t/other", b"")
        hold_up_the_loop(1.5)
        longest = 0.0
        for _ in range(1_000):
            before = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - before)
        await flood
        assert longest < 0.1, f"the loop was blocked for {longest:.3f} s (promised: 0.05 s)"
