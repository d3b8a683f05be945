"""The process behind a recorded disk: a FUSE file that notes every write and flush, and what it is told to note.

    python tests/crash/disk_server.py MOUNT_POINT IMAGE LOG FLUSH_DELAY_MS

Rules:
- three files: `disk` is the image, `mark` notes what is written to it, `control` takes "N once" or "N always": from the
  N-th write of the disk on, that one or all are answered EIO; "0 once" ends it;
- a write is noted when it is answered; a flush is noted when it is *complete*, after its delay, with the number of the
  events noted when it began: only those are durable by it;
- a flush that takes its time holds up no mark, so that one noted before the flush was announced before it was durable;
- the kernel keeps no copy of this file (`direct_io`): what the loop device writes and reads, it does here.

What this module does not do: it knows nothing of loop devices and of what is on the disk. `recorded_disk` starts it.
"""

from __future__ import annotations

import errno
import stat
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]

ENTRY = struct.Struct("<cQI")  # kind; offset, or of a flush the events before it began; length of the data that follow
WRITE, FLUSH, MARK, FAILED = b"W", b"F", b"M", b"E"
_ROOT = {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
_FILE = {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1}


class NotingDisk(mfusepy.Operations):  # type: ignore[misc]
    """The three files. Called by several threads at once."""

    use_ns = True

    def __init__(self, image: Path, log: Path, flush_delay_s: float) -> None:
        self._content = bytearray(image.read_bytes())
        self._log = log.open("wb", buffering=0)
        self._flush_delay_s = flush_delay_s
        self._noting = threading.Lock()
        self._noted = 0
        self._fails_in = 0  # writes; 0: none fails
        self._fails_always = False

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return _ROOT
        if path not in {"/disk", "/mark", "/control"}:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return _FILE | {"st_size": len(self._content) if path == "/disk" else 0}

    def open(self, path: str, flags: int) -> int:
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        """What opening a mark for writing does; the disk keeps its size."""

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return bytes(self._content[offset : offset + size]) if path == "/disk" else b""

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self._noting:
            if path == "/mark":
                self._note(MARK, 0, data)
            elif path == "/control":
                count, how = data.split()
                self._fails_in, self._fails_always = int(count), how == b"always"
            else:
                self._write(offset, data)
        return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        if path == "/disk":
            with self._noting:
                began = self._noted
            time.sleep(self._flush_delay_s)
            with self._noting:
                self._note(FLUSH, began, b"")
        return 0

    def flush(self, path: str, fh: int) -> int:
        """Somebody closes a file: no flush of the disk."""
        return 0

    def _write(self, offset: int, data: bytes) -> None:
        if self._fails_in:
            self._fails_in -= 1
            if self._fails_in == 0:
                self._fails_in = int(self._fails_always)
                self._note(FAILED, offset, b"")
                raise mfusepy.FuseOSError(errno.EIO)
        self._content[offset : offset + len(data)] = data
        self._note(WRITE, offset, data)

    def _note(self, kind: bytes, number: int, data: bytes) -> None:
        self._log.write(ENTRY.pack(kind, number, len(data)) + data)
        self._noted += 1


def main() -> None:
    """Serve until unmounted."""
    mount_point, image, log, delay_ms = sys.argv[1:]
    disk = NotingDisk(Path(image), Path(log), float(delay_ms) / 1_000)
    mfusepy.FUSE(disk, mount_point, foreground=True, direct_io=True, fsname="recorded-disk")


if __name__ == "__main__":
    main()
