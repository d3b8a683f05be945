"""A block device of our own, over an image file: what is written to it is counted by the kernel's block layer.

Rules: the image lies on a real disk, whole and not sparse, past the page cache of that disk; nobody else uses the
device, so its counters (/sys/block/loopN/stat) are ours alone; what was made is undone at the end, whatever happens.

What this module does not do: it writes nothing to the device but a file system where one is asked for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.loop import loop

DEVICE_BYTES = 16 << 20  # as the partition is
_SECTOR_BYTES = 512  # of the counters, whatever the device has
_SECTORS_WRITTEN, _FLUSHES = 6, 15  # columns: Documentation/admin-guide/iostats.rst


@dataclass(frozen=True, slots=True)
class Written:
    """What has gone to a device so far."""

    bytes: int
    flushes: int

    def __sub__(self, before: Written) -> Written:
        return Written(self.bytes - before.bytes, self.flushes - before.flushes)


@dataclass(frozen=True, slots=True)
class Device:
    """A loop device."""

    path: Path

    @property
    def written(self) -> Written:
        """By the block layer's own counters."""
        columns = Path("/sys/block", self.path.name, "stat").read_text().split()
        return Written(int(columns[_SECTORS_WRITTEN]) * _SECTOR_BYTES, int(columns[_FLUSHES]))


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[Device]:
    """A device over a new image of zeros."""
    with image.open("wb") as file:
        file.write(bytes(DEVICE_BYTES))
        os.fsync(file.fileno())
    with loop(image) as path:
        _run("losetup", "--direct-io=on", path)
        yield Device(path)
    image.unlink()


@contextlib.contextmanager
def ext4(device: Device, directory: Path) -> Iterator[Path]:
    """An empty directory on the device's new ext4 (blocks of 4 KiB), which is mounted at a new directory."""
    _run("mkfs.ext4", "-q", "-b", "4096", device.path)
    directory.mkdir()
    _run("mount", "-t", "ext4", device.path, directory)
    try:
        state = directory / "state"  # beside lost+found
        state.mkdir()
        yield state
    finally:
        _run("umount", "--lazy", directory)  # also when a store could not be closed: it goes with the process
        directory.rmdir()


def write_all(path: Path) -> None:
    """Have all written that was put off for a device, or for the file system that a directory lies on (syncfs)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if path.is_block_device():
            os.fsync(fd)
        elif ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), f"cannot sync {path}")
    finally:
        os.close(fd)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)
