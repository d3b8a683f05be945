"""Where a log's bytes are: two areas on a block device, in an image file, or two files in a directory.

Rules (STATE.md):
- reads bypass the page cache (O_DIRECT): a process that was killed, or whose sync failed, finds its record in the cache
  and not on the disk;
- a failed write or sync is final for this opening: a retry may say OK while the data are gone;
- one process holds the ledger (flock); nothing is ever formatted but by `create`, and that refuses what holds anything.

What this module does not do: it knows no records. Faults can be injected by another form of `Area`.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
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


class Area(Protocol):
    """The bytes of one log."""

    @property
    def size_bytes(self) -> int:
        """How much fits in."""

    def read(self) -> memoryview:
        """All of it, as it is on the disk."""

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after `sync` only."""

    def sync(self) -> None:
        """Make all writes durable."""

    def close(self) -> None:
        """Give it back."""


class FileArea:
    """A range of a file or block device."""

    def __init__(self, path: Path, *, offset: int = 0, size_bytes: int = AREA_BYTES) -> None:
        self._path = path
        self._offset = offset
        self._size_bytes = size_bytes
        self._has_failed = False
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _open_error(path, error) from error

    @property
    def size_bytes(self) -> int:
        """How much fits in."""
        return self._size_bytes

    def read(self) -> memoryview:
        """All of it, as it is on the disk; shorter where the file is."""
        try:
            return self._read(os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        try:  # a file system without O_DIRECT (tmpfs): the next best thing
            os.posix_fadvise(self._fd, self._offset, self._size_bytes, os.POSIX_FADV_DONTNEED)
            return self._read(0)
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error

    def _read(self, flags: int) -> memoryview:
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | flags)
        try:
            buffer = memoryview(mmap.mmap(-1, self._size_bytes))  # O_DIRECT wants memory on a page's border
            got = 0
            while got < self._size_bytes and (count := os.preadv(fd, [buffer[got:]], self._offset + got)):
                got += count
            return buffer[:got]
        finally:
            os.close(fd)

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after `sync` only. Raises WriteFailedError, and then for ever."""
        self._check()
        rest = memoryview(data)
        try:
            while rest:
                done = os.pwrite(self._fd, rest, self._offset + offset)
                offset, rest = offset + done, rest[done:]
        except OSError as error:
            raise self._failed("write", error) from error

    def sync(self) -> None:
        """Make all writes durable. Raises WriteFailedError, and then for ever."""
        self._check()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failed("sync", error) from error

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)

    def _check(self) -> None:
        if self._has_failed:
            raise WriteFailedError(f"cannot write {self._path}: an earlier write or sync failed, which is final")

    def _failed(self, what: str, error: OSError) -> WriteFailedError:
        self._has_failed = True
        return WriteFailedError(f"cannot {what} {self._path}: {error.strerror}")


class Place:
    """A path that holds a ledger, held by this process until `close`. Raises LedgerMissingError, LedgerBusyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _open_error(path, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if isinstance(error, BlockingIOError):
                raise LedgerBusyError(f"cannot use the ledger {path}: another process holds it") from error
            raise StorageError(f"cannot lock the ledger {path}: {error.strerror}") from error

    def areas(self) -> tuple[FileArea, FileArea]:
        """The two areas, opened."""
        first, second = self._places()
        a = FileArea(first[0], offset=first[1])
        try:
            return a, FileArea(second[0], offset=second[1])
        except StorageError:
            a.close()
            raise

    def _places(self) -> tuple[tuple[Path, int], tuple[Path, int]]:
        if self.path.is_dir():
            return (self.path / FILES[0], 0), (self.path / FILES[1], 0)
        if self._size_bytes() < 2 * AREA_BYTES:
            raise LedgerMissingError(f"cannot use {self.path} for a ledger: it has less than {2 * AREA_BYTES} bytes")
        return (self.path, 0), (self.path, AREA_BYTES)

    def _size_bytes(self) -> int:
        return os.lseek(self._lock, 0, os.SEEK_END)

    def make_room(self) -> None:
        """Prepare a path that holds nothing for a new ledger.

        Raises LedgerOccupiedError where it holds something; then nothing was touched.
        """
        try:
            held = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
            for each in held:
                if (self.path.is_dir() and each.name not in FILES) or not _is_zeros(each):
                    raise LedgerOccupiedError(
                        f"cannot make a ledger at {self.path}: {each.name!r} holds something else than zeros"
                    )
            if self.path.is_dir():
                for name in FILES:
                    _make_file(self.path / name)
                os.fsync(self._lock)
        except OSError as error:
            raise WriteFailedError(f"cannot make a ledger at {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Let others use it."""
        os.close(self._lock)


def _is_zeros(path: Path) -> bool:
    if not (path.is_file() or path.is_block_device()):
        return False
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            if any(data):
                return False
    return True


def _make_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR)
    try:
        os.posix_fallocate(fd, 0, AREA_BYTES)
        rest = memoryview(bytes(AREA_BYTES))  # written too: else the first sync of each page changes extents (20 %)
        while rest:
            rest = rest[os.pwrite(fd, rest, AREA_BYTES - len(rest)) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _open_error(path: Path, error: OSError) -> StorageError:
    if error.errno in {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}:
        return LedgerMissingError(f"cannot open the ledger {path}: {error.strerror}")
    return StorageError(f"cannot open the ledger {path}: {error.strerror}")
