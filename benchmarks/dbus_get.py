"""(f) D-Bus `Get` of `UsedCapacity` against an empty dbus-fast service, idle and while a burst is being admitted.

Rules: one client asks both in turn over one private bus; the burst comes out of a process of its own, and whatever it
takes away from the machine it takes away from both.

What this module does not do: other methods and signals are not measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from benchmarks.smartserver import ROOT, Field, Measured, beside
from benchmarks.table import Aim, Figures, Row
from smartserver_licensed.formats.bus import INTERFACE, NAME, PATH

_US = 1e6
_AIM = Aim("<= 1.3x", at_most=1.3)
_DAEMON = (NAME, PATH, INTERFACE)
_EMPTY = ("bare.Empty", "/bare", "bare.Empty")
_LIMIT_WHAT = "an empty dbus-fast service, asked in turn"
_BURST = 800


def measure(box: Measured, *, is_short: bool) -> list[Row]:
    """The rows of (f)."""
    idle, burst = (200, 2) if is_short else (3_000, 20)
    with beside("reference", "get", box.bus.address):
        quiet = asyncio.run(_compare(box.bus.address, idle, None))
        with _feeding(box.broker.port, burst) as feeder:
            busy = asyncio.run(_compare(box.bus.address, 1 << 30, feeder))
    return [
        _row("f", "D-Bus Get UsedCapacity", quiet, ""),
        _row(
            "f.burst", f"  while {_BURST} devices come and go", busy, f"{burst} bursts, {len(busy[0])} questions each"
        ),
    ]


def _row(key: str, what: str, both: tuple[list[float], list[float]], note: str) -> Row:
    ours, limit = (Figures.of(each, scale=_US) for each in both)
    return Row(key, what, "us", ours, limit, _LIMIT_WHAT, _AIM, note=note)


async def _compare(
    address: str, count: int, while_runs: subprocess.Popen[bytes] | None
) -> tuple[list[float], list[float]]:
    """Seconds of each answer: the daemon's, the empty service's."""
    bus = await MessageBus(bus_address=address).connect()
    ours: list[float] = []
    limit: list[float] = []
    try:
        while len(ours) < count and (while_runs is None or while_runs.poll() is None):
            ours.append(await _get(bus, *_DAEMON))
            limit.append(await _get(bus, *_EMPTY))
    finally:
        bus.disconnect()
    return ours, limit


async def _get(bus: MessageBus, name: str, path: str, interface: str) -> float:
    question = Message(
        destination=name,
        path=path,
        interface="org.freedesktop.DBus.Properties",
        member="Get",
        signature="ss",
        body=[interface, "UsedCapacity"],
    )
    start = time.perf_counter()
    answer = await bus.call(question)
    seconds = time.perf_counter() - start
    assert answer is not None
    assert answer.message_type is MessageType.METHOD_RETURN, answer.body
    return seconds


@contextlib.contextmanager
def _feeding(port: int, bursts: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lets devices come and go, until it has done so as often as asked."""
    command = [sys.executable, "-m", "benchmarks.dbus_get", str(port), str(bursts)]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
    try:
        yield process
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()


def _feed(port: int, bursts: int) -> None:
    field = Field(port)
    handles = [f"f{device}" for device in range(_BURST)]
    for _ in range(bursts):
        field.ask_all(handles)
        field.ask_all(handles, "deleted")
    field.close()


if __name__ == "__main__":
    _feed(int(sys.argv[1]), int(sys.argv[2]))
