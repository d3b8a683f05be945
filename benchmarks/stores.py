"""The stores that are measured beside each other, and what they commit: our ledger, and no store at all.

Rules: every store holds 4,000 devices and makes the same commits durable before `commit` returns; the bodies are those
of the daemon.

What this module does not do: it measures nothing but the seconds of a commit.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.ledger_state import LedgerState, Seat, SeatGiven, SeatKind, TimeMarked
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.formats.ledger import encode_events, encode_snapshot
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import AREA_BYTES, Place
from smartserver_licensed.store.log import Ledger, create
from smartserver_licensed.store.record import SLOT_BYTES

DEVICES = 4_000
_MARK = TimeMarked(1_795_544_600, Grace())


@dataclass(frozen=True, slots=True)
class Commit:
    """What becomes durable at once: the events, and the same as the ledger's body."""

    events: Sequence[SeatGiven]
    body: bytes


def a_commit(devices: int) -> Commit:
    """Some of the 4,000, as a group forms: no two the same."""
    events = [_seat(number) for number in random.sample(range(DEVICES), devices)]
    return Commit(events, encode_events(events, _MARK))


def every_seat() -> list[SeatGiven]:
    """The events by which the 4,000 have come to be there."""
    return [_seat(number) for number in range(DEVICES)]


def full_state() -> LedgerState:
    """A SmartServer with the 4,000."""
    state = LedgerState("17qa1x8yf000000", _MARK.mark_s)
    for event in every_seat():
        state.apply(event)
    return state


def _seat(number: int) -> SeatGiven:
    return SeatGiven(UnitId(f"modbus/device-{number:04}"), Seat(SeatKind.PROVISIONED, has_run=True, number=number + 1))


# -- stores ------------------------------------------------------------------------------------------------------------


class Store(Protocol):
    """Whatever makes commits durable."""

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""

    def close(self) -> None:
        """Give it back."""


class OurLedger:
    """The real one, called as the writer's thread calls it. On a device, or two files in an empty directory."""

    def __init__(self, path: Path) -> None:
        self._snapshot = encode_snapshot(full_state())
        create(path, self._snapshot)
        self._place = Place(path)
        self._ledger = Ledger(self._place.areas())
        self._ledger.settle(self._snapshot)

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""
        start = time.perf_counter()
        self._ledger.append(commit.body, lambda: self._snapshot)
        return time.perf_counter() - start

    def close(self) -> None:
        """Give it back."""
        self._place.close()


class OurWriter:
    """The real one with its thread, called as the daemon does."""

    def __init__(self, path: Path) -> None:
        self._snapshot = encode_snapshot(full_state())
        create(path, self._snapshot)
        self._loop = asyncio.new_event_loop()
        self._writer = LedgerWriter(path)
        self._loop.run_until_complete(self._open())

    async def _open(self) -> None:
        await self._writer.open()
        await self._writer.settle(self._snapshot)

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took, seen from the loop."""
        return self._loop.run_until_complete(self._append(commit.body))

    async def _append(self, body: bytes) -> float:
        start = time.perf_counter()
        await self._writer.append(body, lambda: self._snapshot)
        return time.perf_counter() - start

    def close(self) -> None:
        """Give it back."""
        self._loop.run_until_complete(self._writer.close())
        self._loop.close()


class Bare:
    """No store at all: a slot written at two places behind the ledger on the same device, and one sync for both."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._slot = os.urandom(SLOT_BYTES)
        self._end = 0

    def commit(self, _commit: Commit) -> float:
        """Write and sync; the seconds it took."""
        start = time.perf_counter()
        for place in (2, 3):
            os.pwrite(self._fd, self._slot, place * AREA_BYTES + self._end)
        os.fdatasync(self._fd)
        seconds = time.perf_counter() - start
        self._end = (self._end + SLOT_BYTES) % AREA_BYTES
        return seconds

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)
