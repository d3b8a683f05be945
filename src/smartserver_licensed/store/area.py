"""Where a log's bytes are: two areas on a block device, in an image file, or two files in a directory.

Rules (docs/storage.md):
- reads bypass the page cache (O_DIRECT): a process that was killed, or whose sync failed, finds its record in the cache
  and not on the disk;
- a page that cannot be read reads as zeros and is named: it is damage, to be repaired from the twin;
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
_ABSENT = {errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM}


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
        """All of it, as it is on the disk; zeros where a file ends early, or where a page cannot be read."""
        self.unreadable = []
        content = memoryview(mmap.mmap(-1, self.size_bytes))  # O_DIRECT wants memory on a page's border
        fd = self._open_past_the_cache()
        try:
            at, step = 0, self.size_bytes
            while at < self.size_bytes:
                count = _read_some(fd, content[at : at + step], self._offset + at)
                if count is None and step == _PAGE_BYTES:
                    self.unreadable.append(at)
                    count = _PAGE_BYTES
                elif count is None:
                    step, count = _PAGE_BYTES, 0  # from here on page by page
                elif count == 0:
                    break  # a file that ends early
                at += count
        finally:
            os.close(fd)
        return content

    def _open_past_the_cache(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise _open_error(self._path, error) from error
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)  # tmpfs has no O_DIRECT: the next best thing
        return _open(self._path, os.O_RDONLY)

    def write(self, offset: int, data: bytes) -> None:
        """Write; durable after `sync` only. Raises WriteFailedError."""
        rest = memoryview(data)
        with _as_ours(WriteFailedError, f"write {self._path}"):
            while rest:
                done = os.pwrite(self._fd, rest, self._offset + offset)
                offset, rest = offset + done, rest[done:]

    def sync(self) -> None:
        """Make all writes durable. Raises WriteFailedError."""
        with _as_ours(WriteFailedError, f"sync {self._path}"):
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)


class Place:
    """A path that holds a ledger, held by this process until `close`. Raises LedgerMissing- or LedgerBusyError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._areas: list[FileArea] = []
        self._fd = _open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would let us wait
        try:
            if stat.S_IFMT(os.fstat(self._fd).st_mode) not in {stat.S_IFDIR, stat.S_IFREG, stat.S_IFBLK}:
                raise LedgerMissingError(f"cannot use {path} for a ledger: no block device, file or directory")
            with _as_ours(StorageError, f"lock {path}"):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except StorageError as error:
            os.close(self._fd)
            if isinstance(error.__cause__, BlockingIOError):
                raise LedgerBusyError(f"cannot use the ledger {path}: another process holds it") from error
            raise

    def areas(self) -> tuple[FileArea, FileArea]:
        """The two areas, opened."""
        self._close_areas()
        if self.path.is_dir():
            places = [(self.path / name, 0) for name in FILES]
        else:
            places = [(self.path, 0), (self.path, AREA_BYTES)]
            if os.lseek(self._fd, 0, os.SEEK_END) < 2 * AREA_BYTES:
                raise LedgerMissingError(f"cannot use {self.path} for a ledger: less than {2 * AREA_BYTES} bytes")
        for path, offset in places:
            self._areas.append(FileArea(path, offset=offset))
        a, b = self._areas
        return a, b

    def make_room(self) -> None:
        """Prepare a path for a new ledger. Raises LedgerOccupiedError where it holds anything; nothing is touched."""
        is_directory = self.path.is_dir()
        with _as_ours(WriteFailedError, f"make a ledger at {self.path}"):
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
        os.close(self._fd)

    def _close_areas(self) -> None:
        while self._areas:
            self._areas.pop().close()


def _read_some(fd: int, into: memoryview, offset: int) -> int | None:
    try:
        return os.preadv(fd, [into], offset)
    except OSError:
        return None


def _is_zeros(path: Path) -> bool:
    if not (path.is_file() or path.is_block_device()):
        return False
    with path.open("rb") as file:
        return not any(any(data) for data in iter(lambda: file.read(1 << 20), b""))


def _make_file(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:  # zeros are written, not only allocated: else the first sync of each page changes extents (20 %)
        for offset in range(0, AREA_BYTES, _PAGE_BYTES):
            os.pwrite(fd, bytes(_PAGE_BYTES), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise _open_error(path, error) from error


def _open_error(path: Path, error: OSError) -> StorageError:
    kind = LedgerMissingError if error.errno in _ABSENT else StorageError
    return kind(f"cannot open the ledger {path}: {error.strerror}")


@contextlib.contextmanager
def _as_ours(kind: type[StorageError], doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(f"cannot {doing}: {error.strerror}") from error
