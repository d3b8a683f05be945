"""One SmartServer with its ledger on a loop device, begun again and again from the same ledger; what it says is noted.

Rules:
- at each announcement the image beneath the device is copied: what a power cut at that instant would leave, for the
  page cache of the device, which dies with the power, is above it;
- the device is kept open here: the last close would write back what nobody has synced;
- the ledger of a copy is read by the real code; looking is cheap, so it is done all the time.

What this module does not do: it breaks nothing; the modules of faults do.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import queue
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from smartserver_licensed import BUILD_TIME_S
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.formats.bus import INTERFACE, NAME, PATH
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_snapshot
from smartserver_licensed.store.area import AREA_BYTES
from smartserver_licensed.store.log import Ledger, create
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client
from support.disk import Disk
from support.loop import loop

_T = TypeVar("_T")
_R = TypeVar("_R")
IMAGE_BYTES = 16 << 20
CAPACITY = 4  # the SmartServer, the running device and two new ones
MORE = 3  # what one more license gives
RUNNING = "running"
USABLE = {each.value for each in Storage if each.is_writable}
_BUS_LIMIT_S = 5.0
_FB = f"glp/0/{INSTALL_CODE}/fb/dev/modbus"
_CONDITION = re.compile(r"The condition of the ledger has changed \[STORAGE=(\S+)")


@dataclass(frozen=True, slots=True)
class Announcement:
    """What was heard, when, and what a power cut would have left at that instant."""

    handle: str
    is_licensed: bool
    time_s: float
    image: bytes


@dataclass(frozen=True, slots=True)
class Condition:
    """A change of the storage condition: its journal entry, and when the D-Bus property said the same."""

    value: str
    time_s: float
    on_bus_at_s: float | None


class HastyBox(Box):
    """A box whose `start` can return before the daemon answers: with a fault it may never do."""

    is_hasty = False

    def _answers(self) -> bool:
        return self.is_hasty or super()._answers()

    def kill(self) -> None:
        """SIGKILL, also to what has ended by itself."""
        with contextlib.suppress(ProcessLookupError):
            super().kill()

    @property
    def has_ended(self) -> bool:
        """Whether the daemon has gone by itself."""
        return self._daemon is None or self._daemon.poll() is not None


class Bed:
    """A context manager. `begin` starts the daemon with the first ledger, an empty broker and one running device."""

    def __init__(self, directory: Path, name: str) -> None:
        self.trace, self.flag = directory / f"{name}.trace", directory / f"{name}.flag"  # for those who break things
        self._image_path = directory / f"{name}.img"
        self._exit = contextlib.ExitStack()
        self._client: Client | None = None
        self._forget()

    def __enter__(self) -> Bed:  # noqa: PYI034 - typing.Self is Python 3.11's
        with contextlib.ExitStack() as exit_:
            with self._image_path.open("wb") as file:
                exit_.callback(self._image_path.unlink)
                file.truncate(IMAGE_BYTES)
            self.device = exit_.enter_context(loop(self._image_path))
            self._held = os.open(self.device, os.O_RDWR)
            exit_.callback(os.close, self._held)
            create(self.device, encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=BUILD_TIME_S)))
            self.box = HastyBox(capacity=CAPACITY)
            self.box.state = self.device
            exit_.enter_context(self.box)
            exit_.callback(self._hang_up)
            self._make_first()
            self._exit = exit_.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _make_first(self) -> None:
        self._call_up()
        self.show(RUNNING, "provisioned")
        wait_until(lambda: self.box.status()["used"] == 2, timeout_s=20, what="the running device's seat")
        self.more = self.box.issue(MORE).read_bytes()
        self.box.stop()
        self._first = self.image()
        self.box.is_hasty = True

    # -- a run -------------------------------------------------------------------------------------------------------

    def begin(self, *under: str) -> None:
        """Start the daemon, perhaps under another program, as if nothing had been before."""
        self._hang_up()
        self.box.broker.restart()
        self._call_up()
        self.put(self._first)
        self.show(RUNNING, "provisioned")
        (self.box.directory / "daemon.log").unlink(missing_ok=True)
        self._forget()
        self.box.start(*under)

    def put(self, image: bytes) -> None:
        """Write an image to the device, durably."""
        os.pwrite(self._held, image, 0)
        os.fsync(self._held)

    def spoil(self, offset: int, data: bytes) -> None:
        """Change what is beneath the device; its page cache does not know it."""
        with self._image_path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def end(self) -> None:
        """SIGKILL, if it has not ended by itself."""
        self.box.kill()

    def _forget(self) -> None:
        self.announced: list[Announcement] = []
        self.conditions: list[Condition] = []
        self._seen_messages = 0

    def _call_up(self) -> None:
        self._client = Client(self.box.broker.port)
        self._client.subscribe(f"{_FB}/+/lic")
        self._client.publish("glp/0/././sid", json.dumps(INSTALL_CODE), retain=True)

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    # -- what devices and people do --------------------------------------------------------------------------------

    def show(self, handle: str, state: str) -> None:
        """A device shows its state."""
        assert self._client is not None
        self._client.publish(f"{_FB}/{handle}/sts", json.dumps({"state": state}), retain=True)

    def install(self) -> bool:
        """Install the license of three more devices; whether the daemon says that it is done."""
        data = [str(each) for each in self.more]
        return self._busctl("call", NAME, PATH, INTERFACE, "InstallDocument", "ay", str(len(data)), *data) is not None

    def on_bus(self, name: str) -> str | None:
        """A property on D-Bus as text; None where nobody answers."""
        answer = self._busctl("get-property", NAME, PATH, INTERFACE, name)
        return answer.split(" ", 1)[1].strip().strip('"') if answer else None

    def _busctl(self, *arguments: str) -> str | None:
        done = subprocess.run(
            ["busctl", f"--address={self.box.bus.address}", "--timeout=5", *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        return done.stdout if done.returncode == 0 else None

    # -- looking -----------------------------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Look until it holds; whether it came to hold within the limit."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() >= end:
                return False
            time.sleep(0.005)
            self.look()
        return True

    def look(self) -> None:
        """Note what was announced since, and whether the storage condition has changed."""
        assert self._client is not None
        messages = self._client.messages
        for message in messages[self._seen_messages :]:
            if message.payload:
                handle, is_licensed = message.topic.split("/")[6], bool(message.json()["licensed"])
                self.announced.append(Announcement(handle, is_licensed, time.time(), self.image()))
        self._seen_messages = len(messages)
        for value in _CONDITION.findall(self.box.log)[len(self.conditions) :]:
            said_at = time.time()
            self.conditions.append(Condition(value, said_at, self._seen_on_bus(value)))

    def _seen_on_bus(self, value: str) -> float | None:
        end = time.monotonic() + _BUS_LIMIT_S  # at its start the daemon is on the bus after the ledger was opened
        while time.monotonic() < end:
            if self.on_bus("StorageState") == value:
                return time.time()
            time.sleep(0.01)
        return None

    @property
    def is_usable(self) -> bool:
        """Whether the ledger can be used, as far as was said."""
        return not self.conditions or self.conditions[-1].value in USABLE

    @property
    def is_troubled(self) -> bool:
        """Whether anything else than `ok` was said last."""
        return bool(self.conditions) and self.conditions[-1].value != "ok"

    def answer(self, handle: str) -> bool | None:
        """What a device heard last."""
        return next((each.is_licensed for each in reversed(self.announced) if each.handle == handle), None)

    def image(self) -> bytes:
        """What is beneath the device now, at an instant in which nothing changes it."""
        with self._image_path.open("rb") as file:
            while True:
                first = file.read(2 * AREA_BYTES)
                file.seek(0)
                if file.read(2 * AREA_BYTES) == first:
                    return first
                file.seek(0)


def on_free_beds(
    number: int, directory: Path, name: str, work: Callable[[Bed, _T], _R], items: Iterable[_T]
) -> list[_R]:
    """Each item's work on whichever of some beds is free: most of it is waiting for the daemon's pauses."""
    free: queue.SimpleQueue[Bed] = queue.SimpleQueue()

    def work_on_free(item: _T) -> _R:
        bed = free.get()
        try:
            return work(bed, item)
        finally:
            free.put(bed)

    with contextlib.ExitStack() as exit_:
        for each in range(number):
            free.put(exit_.enter_context(Bed(directory, f"{name}{each}")))
        pool = exit_.enter_context(concurrent.futures.ThreadPoolExecutor(number))
        return list(pool.map(work_on_free, items))


def ledger_of(image: bytes) -> Ledger:
    """The ledger of an image, recovered by the real code. Raises a StorageError."""
    return Ledger([Disk(bytearray(image[:AREA_BYTES])), Disk(bytearray(image[AREA_BYTES : 2 * AREA_BYTES]))])


def state_of(image: bytes) -> LedgerState:
    """What the daemon makes of an image. Raises a StorageError."""
    recovered = ledger_of(image).recovered
    state = decode_snapshot(recovered.snapshot)
    for body in recovered.events:
        for event in decode_events(body):
            state.apply(event)
    return state


def unit_of(handle: str) -> UnitId:
    """The counting unit of a device."""
    return UnitId(f"modbus/{handle}")
