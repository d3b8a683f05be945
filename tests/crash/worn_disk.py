"""A block device some of whose pages cannot be read until they are written again, as worn flash has them.

Rules: it is a recorded disk (`recorded_disk`) with one more file, `worn`, that takes the numbers of 4 KiB pages; a read
that touches one is answered EIO; a write of the whole page mends it.

What this module does not do: it knows nothing of what is on the disk.
"""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]

if __name__ == "__main__":  # as a program it stands in no package
    sys.path.insert(0, str(Path(__file__).parents[1]))

from crash import disk_server
from crash.recorded_disk import RecordedDisk

PAGE_BYTES = 4096


class WearingDisk(disk_server.NotingDisk):
    """The file system."""

    def __init__(self, image: Path, log: Path, flush_delay_s: float) -> None:
        super().__init__(image, log, flush_delay_s)
        self._worn: set[int] = set()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        return super().getattr("/control" if path == "/worn" else path, fh)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        if self._worn.intersection(range(offset // PAGE_BYTES, -(-(offset + size) // PAGE_BYTES))):
            raise mfusepy.FuseOSError(errno.EIO)
        return super().read(path, size, offset, fh)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        if path == "/worn":
            self._worn.update(map(int, data.split()))
            return len(data)
        count = super().write(path, data, offset, fh)
        if path == "/disk":
            self._worn.difference_update(range(-(-offset // PAGE_BYTES), (offset + count) // PAGE_BYTES))
        return count


class WornDisk(RecordedDisk):
    """A context manager, as `RecordedDisk`."""

    def __enter__(self) -> WornDisk:  # noqa: PYI034 - typing.Self is Python 3.11's
        super().__enter__()
        return self

    def wear_out(self, pages: Iterable[int]) -> None:
        """From now on these pages cannot be read until they are written."""
        (self._mount_point / "worn").write_text(" ".join(map(str, pages)))

    def _serve(self) -> subprocess.Popen[bytes]:
        arguments = (self._mount_point, self._image, self._log, self._flush_delay_ms)
        with self._log.with_suffix(".stderr").open("wb") as said:
            return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stderr=said)


def main() -> None:
    """Serve until unmounted; called as `disk_server` is."""
    mount_point, image, log, delay_ms = sys.argv[1:]
    disk = WearingDisk(Path(image), Path(log), float(delay_ms) / 1_000)
    mfusepy.FUSE(disk, mount_point, foreground=True, direct_io=True, fsname="worn-disk")


if __name__ == "__main__":
    main()
