"""The MQTT adapter on a real mosquitto, and on servers that misbehave as no broker should."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

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


async def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: writers.append(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with running(MqttBus(host="127.0.0.1", port=port)) as bus:
            events = await take_until(bus, Disconnected, timeout_s=30)
            assert events == [Disconnected("the broker does not answer")]
            assert not bus.publish("t", b"")
        for writer in writers:
            writer.close()
            await writer.wait_closed()


async def test_an_idle_connection_is_kept_alive(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, keepalive_s=2)) as bus:
        await take_until(bus, Connected)
        assert await bus.take(timeout_s=7) == []
        assert bus.is_connected


async def test_a_huge_payload_is_dropped_and_counted_and_the_next_message_arrives(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port)) as bus:
        await subscribe(bus, "t/x", 1)
        await asyncio.to_thread(publish_many, broker.port, [b"x" * 10_000_000, b"x" * 65_536])
        events = await take_until(bus, 1)
        assert [type(event) for event in events] == [Dropped, Received]
        assert bus.take_drops() == {"payload-too-large": 1}
        assert bus.take_drops() == {}


async def test_over_the_limit_of_the_queue_the_newest_are_dropped_and_that_is_said_once(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, queue_limit=100)) as bus:
        await subscribe(bus, "t/x", 1)
        payloads = [str(number).encode() for number in range(500)]
        await asyncio.to_thread(publish_many, broker.port, payloads)
        await asyncio.sleep(0.5)
        events = await bus.take(10_000, timeout_s=5)
        assert [event.payload for event in events if isinstance(event, Received)] == payloads[:100]
        assert events[100:] == [Dropped("more than 100 messages wait", is_incomplete=True)]
        assert bus.take_drops() == {"queue-full": 400}


async def test_a_broker_that_acknowledges_nothing_is_given_up_over_the_backlog_limit(broker: Broker) -> None:
    async with running(MqttBus(host="127.0.0.1", port=broker.port, backlog_limit=50)) as bus:
        await take_until(bus, Connected)
        sent = [bus.publish("t/x", b"") for _ in range(60)]
        assert sent.count(True) == 50
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
