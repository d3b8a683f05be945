"""A block device that notes every write, every flush and what it is told to note, in one log and in their order.

Rules:
- beneath a loop device stands a file of `disk_server`, a FUSE file system in a process of its own; the log holds what
  *reached* it: what is in the page cache of the loop device only dies with the power, and is not in the log;
- a mark is noted when `mark` returns, also while a flush is under way;
- the device is kept open for as long as the disk is: the last close of a device would write back what nobody synced;
- everything is given back at the end, whatever happened: loop device, mount, process.

What this module does not do: it knows nothing of what is on the disk, and cuts nothing (`power_cut`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from crash import disk_server
from support.loop import loop

FLUSH_DELAY_MS = 10.0
_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that reached the disk; durable after a flush that began later."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """A flush that is complete: the events before number `began` are durable."""

    began: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that the test noted."""

    text: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A write that was answered EIO."""

    offset: int


Event = Write | Flush | Mark | Failed


class RecordedDisk:
    """A context manager: `device` is the block device over a copy of `image`."""

    def __init__(self, directory: Path, image: bytes, *, flush_delay_ms: float = FLUSH_DELAY_MS) -> None:
        self._image = directory / "disk.img"
        self._image.write_bytes(image)
        self._log = directory / "disk.log"
        self._mount_point = directory / "disk"
        self._flush_delay_ms = flush_delay_ms
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> RecordedDisk:  # noqa: PYI034 - typing.Self is Python 3.11's
        with contextlib.ExitStack() as exit_:
            self._mount_point.mkdir(exist_ok=True)
            server = self._serve()
            exit_.callback(server.wait, _LIMIT_S)  # it ends when it is unmounted
            exit_.callback(_unmount, self._mount_point)
            self._wait_for(server)
            self.device = exit_.enter_context(loop(self._mount_point / "disk"))
            exit_.callback(os.close, os.open(self.device, os.O_RDWR))
            self._mark = os.open(self._mount_point / "mark", os.O_WRONLY)
            exit_.callback(os.close, self._mark)
            self._exit = exit_.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _serve(self) -> subprocess.Popen[bytes]:
        arguments = (self._mount_point, self._image, self._log, self._flush_delay_ms)
        with self._log.with_suffix(".stderr").open("wb") as said:
            return subprocess.Popen([sys.executable, disk_server.__file__, *map(str, arguments)], stderr=said)

    def _wait_for(self, server: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _LIMIT_S
        while not (self._mount_point / "disk").exists():
            if server.poll() is not None or time.monotonic() > end:
                raise TimeoutError(f"cannot serve a disk on {self._mount_point} within {_LIMIT_S} s")
            time.sleep(0.01)

    def mark(self, text: str) -> None:
        """Note this, after all that has reached the disk by now."""
        os.write(self._mark, text.encode())

    def fail_writes(self, nth: int, *, always: bool = False) -> None:
        """From the n-th write from now on answer EIO: to that one, or to all from there."""
        self._control(f"{nth} {'always' if always else 'once'}")

    def heal(self) -> None:
        """No write fails any more."""
        self._control("0 once")

    def _control(self, text: str) -> None:
        (self._mount_point / "control").write_text(text)

    @property
    def failures(self) -> int:
        """How many writes were answered EIO so far."""
        return sum(isinstance(each, Failed) for each in self.log())

    def log(self) -> list[Event]:
        """All events so far."""
        return read_log(self._log.read_bytes())


def read_log(data: bytes) -> list[Event]:
    """The events in a log of `disk_server`; one that is being written still is left out."""
    events: list[Event] = []
    offset = 0
    while offset + disk_server.ENTRY.size <= len(data):
        kind, number, length = disk_server.ENTRY.unpack_from(data, offset)
        offset += disk_server.ENTRY.size
        body = data[offset : offset + length]
        if len(body) < length:
            break
        offset += length
        events.append(_event(kind, number, body))
    return events


def write_log(events: Iterable[Event]) -> bytes:
    """The log in which these events stand."""
    return b"".join(
        disk_server.ENTRY.pack(kind, number, len(data)) + data for kind, number, data in map(_parts, events)
    )


def _parts(event: Event) -> tuple[bytes, int, bytes]:
    match event:
        case Write(offset, data):
            return disk_server.WRITE, offset, data
        case Flush(began):
            return disk_server.FLUSH, began, b""
        case Mark(text):
            return disk_server.MARK, 0, text.encode()
        case Failed(offset):
            return disk_server.FAILED, offset, b""


def _event(kind: bytes, number: int, body: bytes) -> Event:
    if kind == disk_server.WRITE:
        return Write(number, body)
    if kind == disk_server.FLUSH:
        return Flush(number)
    return Mark(body.decode()) if kind == disk_server.MARK else Failed(number)


def _unmount(mount_point: Path) -> None:
    """Also where it was never mounted."""
    end = time.monotonic() + _LIMIT_S
    while os.path.ismount(mount_point):
        if subprocess.run(["umount", str(mount_point)], check=False, capture_output=True).returncode == 0:
            return
        if time.monotonic() > end:
            subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
            return
        time.sleep(0.05)  # the loop device lets go of its file a moment later
