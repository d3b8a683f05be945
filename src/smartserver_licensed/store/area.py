"""Where a log's bytes are: two areas on a block device, in an image file, or two files in a directory.

Rules (docs/storage.md):
- reads bypass the page cache (O_DIRECT): a process that was killed, or whose sync failed, finds its record in the cache
  and not on the disk;
- a page whose content the device has lost reads as zeros and is named: it is damage, to be repaired from the twin; any
  other error, and too much of it, is a fault: it may go away;
- one process holds the ledger (flock); nothing is formatted but by `log.create`, which refuses what holds anything.

What this module does not do: it knows no records, and does not remember that a write failed (`log`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from smartserver_licensed.domain.errors import (
    LedgerBusyError,
    LedgerMissingError,
    LedgerOccupiedError,
    StorageError,
    WriteFailedError,
)

AREA_BYTES = 4 << 20
FILES = ("ledger.a", "ledger.b")
_PAGE_BYTES = 4096
_MOST_UNREADABLE = 256  # a mebibyte; a device that answers each page after a while must not keep us for minutes
_ABSENT = {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}
_LOST = {errno.EIO, errno.EBADMSG, errno.EILSEQ, errno.ENODATA, errno.EUCLEAN}


class Area(Protocol):
    """The bytes of one log."""

    @property
    def size_bytes(self) -> int:
        """How much fits in."""

    @property
    def device(self) -> object:
        """The same for two areas of which one `sync` makes the writes of both durable."""

    @property
    def unreadable(self) -> list[int]:
        """Offsets of the pages that the last `read` could not read; who clears one takes it out."""

    def read(self) -> memoryview:
        """All of it, as it is on the disk; zeros where a page cannot be read."""

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after `sync` only."""

    def sync(self) -> None:
        """Make all writes durable."""


class FileArea:
    """A range of a file or block device. Raises LedgerMissingError or another StorageError."""

    def __init__(self, path: Path, *, offset: int = 0, size_bytes: int = AREA_BYTES) -> None:
        self.size_bytes = size_bytes
        self.device = path
        self.unreadable: list[int] = []
        self._path = path
        self._offset = offset
        self._fd = _open(path, os.O_RDWR)

    def read(self) -> memoryview:
        """All of it, as it is on the disk; zeros where a page is lost. Raises a StorageError."""
        self.unreadable = []
        content = memoryview(mmap.mmap(-1, self.size_bytes))  # O_DIRECT wants memory on a page's border
        fd = self._open_past_the_cache()
        try:
            at, step = 0, self.size_bytes
            while at < self.size_bytes:
                count = self._read_some(fd, content[at : at + step], at)
                if count is None and step == _PAGE_BYTES:
                    self.unreadable.append(at)
                    count = _PAGE_BYTES
                elif count is None:
                    step, count = _PAGE_BYTES, 0  # from here on page by page
                elif count == 0:
                    raise LedgerMissingError(f"cannot read the ledger {self._path}: it ends early")
                if len(self.unreadable) > _MOST_UNREADABLE:
                    raise StorageError(f"cannot read the ledger {self._path}: too much of it is lost")
                at += count
        finally:
            _close(fd)
        return content

    def _read_some(self, fd: int, into: memoryview, at: int) -> int | None:
        """How much was read; None where the device has lost it."""
        with _as_ours(f"read {self._path}"):
            try:
                return os.preadv(fd, [into], self._offset + at)
            except OSError as error:
                if error.errno not in _LOST:
                    raise
                return None

    def _open_past_the_cache(self) -> int:
        with _as_ours(f"open the ledger {self._path}"):
            try:
                return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)  # tmpfs has no O_DIRECT: the next best thing
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after `sync` only. Raises WriteFailedError."""
        rest = memoryview(data)
        with _as_ours(f"write {self._path}", WriteFailedError):
            while rest:
                done = os.pwrite(self._fd, rest, self._offset + offset)
                offset, rest = offset + done, rest[done:]

    def sync(self) -> None:
        """Make all writes durable. Raises WriteFailedError."""
        with _as_ours(f"sync {self._path}", WriteFailedError):
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give it back."""
        _close(self._fd)


class Place:
    """A path that holds a ledger, held by this process until `close`. Raises LedgerMissing- or LedgerBusyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._areas: list[FileArea] = []
        self._fd = _open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would let us wait
        try:
            with _as_ours(f"use the ledger {path}"):
                self._kind = stat.S_IFMT(os.fstat(self._fd).st_mode)
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StorageError as error:
            _close(self._fd)
            if isinstance(error.__cause__, BlockingIOError):
                raise LedgerBusyError(f"cannot use the ledger {path}: another process holds it") from error
            raise

    def areas(self) -> tuple[FileArea, FileArea]:
        """The two areas, opened."""
        self._close_areas()
        places = [(self.path / name, 0) for name in FILES]
        if self._kind != stat.S_IFDIR:
            places = [(self.path, 0), (self.path, AREA_BYTES)]
            if self._size_bytes() < 2 * AREA_BYTES:
                why = f"less than {2 * AREA_BYTES} bytes, or no device, file or directory"
                raise LedgerMissingError(f"cannot use {self.path} for a ledger: {why}")
        for path, offset in places:
            self._areas.append(FileArea(path, offset=offset))
        a, b = self._areas
        return a, b

    def _size_bytes(self) -> int:
        if self._kind not in {stat.S_IFREG, stat.S_IFBLK}:
            return 0
        with _as_ours(f"use the ledger {self.path}"):
            return os.lseek(self._fd, 0, os.SEEK_END)

    def make_room(self) -> None:
        """Prepare a path for a new ledger. Raises LedgerOccupiedError where it holds anything; nothing is touched."""
        is_directory = self._kind == stat.S_IFDIR
        with _as_ours(f"make a ledger at {self.path}", WriteFailedError):
            for each in sorted(self.path.iterdir()) if is_directory else [self.path]:
                if (is_directory and each.name not in FILES) or not _is_zeros(each):
                    raise LedgerOccupiedError(
                        f"cannot make a ledger at {self.path}: {each.name!r} holds something else than zeros"
                    )
            for name in FILES if is_directory else ():
                _make_file(self.path / name)
            os.fsync(self._fd)

    def close(self) -> None:
        """Let others use it."""
        self._close_areas()
        _close(self._fd)

    def _close_areas(self) -> None:
        while self._areas:
            self._areas.pop().close()


def _is_zeros(path: Path) -> bool:
    if not (path.is_file() or path.is_block_device()):
        return False
    with path.open("rb") as file:
        return not any(any(data) for data in iter(lambda: file.read(1 << 20), b""))


def _make_file(path: Path) -> None:
    """Zeros are written, not only allocated: else the first sync of each page changes extents (20 %)."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    area = FileArea(path)
    try:
        for offset in range(0, AREA_BYTES, _PAGE_BYTES):
            area.write(offset, bytes(_PAGE_BYTES))
        area.sync()
    finally:
        area.close()


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):  # Linux has closed it, whatever it says; what matters was synced
        os.close(fd)


def _open(path: Path, flags: int) -> int:
    with _as_ours(f"open the ledger {path}"):
        return os.open(path, flags | os.O_CLOEXEC)


@contextlib.contextmanager
def _as_ours(doing: str, kind: type[StorageError] = StorageError) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = LedgerMissingError if error.errno in _ABSENT else kind
        raise kind(f"cannot {doing}: {error.strerror}") from error
