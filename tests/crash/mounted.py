"""An ext4 on a loop device: mounted for a run, or with one image after the other for a sweep.

Rules: what was mounted is unmounted, whatever happens; between two images the kernel forgets what it has cached of the
device.

What this module does not do: it makes no file system and mends none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from smartserver_licensed.store.area import FileArea, Place
from support.loop import loop

_BLKFLSBUF = 0x1261


@contextlib.contextmanager
def mounted(device: Path, mount_point: Path) -> Iterator[Path]:
    """An ext4, mounted. Raises CalledProcessError where the kernel refuses it."""
    mount_point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", str(device), str(mount_point)], check=True, capture_output=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


class Images:
    """A context manager that mounts images and opens the two logs in each."""

    def __init__(self, directory: Path) -> None:
        self._image = directory / "cut.img"
        self._mount_point = directory / "cut"
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Images:  # noqa: PYI034 - typing.Self is Python 3.11's
        self._image.touch()
        self._exit.callback(self._image.unlink)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @contextlib.contextmanager
    def areas(self, image: bytes | bytearray) -> Iterator[Sequence[FileArea]]:
        """The logs in an image, as the kernel finds them after a power cut: its journal is replayed."""
        device = self._loaded(image)
        with mounted(device, self._mount_point) as path:
            place = Place(path)
            try:
                yield place.areas()
            finally:
                place.close()

    def _loaded(self, image: bytes | bytearray) -> Path:
        is_first = not self._image.stat().st_size
        with self._image.open("r+b") as file:
            file.write(image)
        if is_first:
            self._device = self._exit.enter_context(loop(self._image))
        else:
            device = os.open(self._device, os.O_RDONLY)
            fcntl.ioctl(device, _BLKFLSBUF)
            os.close(device)
        return self._device
