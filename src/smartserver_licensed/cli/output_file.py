"""The file that a command writes a document to: its place is sure before the document is asked for.

Rules:
- opened and filled with zeros before anything is asked: a wrong path or a full disk must not cost a return;
- durable: a temporary file beside it, sync, rename; until then nothing of that name is there, or what was there;
- a link is followed (never in circles), and what is no file (a device, a pipe) is refused; `-` is stdout.

What this module does not do: it knows no documents.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path
from types import TracebackType

from smartserver_licensed.domain.errors import ArgumentError, LicensedError
from smartserver_licensed.formats.bus import MAX_ARMORED_BYTES

STDOUT = "-"


class OutputError(LicensedError):
    """A document that is there could not be written."""

    code = "output-unwritable"


class OutputFile:
    """A context manager around the making of one document; without a `write` nothing is left behind.

    Entering raises ArgumentError: the file cannot be made, or one is there with content and `may_replace` is not said.
    """

    def __init__(self, name: str, *, may_replace: bool) -> None:
        self.name = name
        self._may_replace = may_replace
        self._path = Path()
        self._temporary: Path | None = None

    def __enter__(self) -> OutputFile:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        if self.name == STDOUT:
            return self
        try:
            self._path = Path(self.name).resolve()
            self._check()
            self._temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            with self._temporary.open("xb") as file:
                file.write(bytes(MAX_ARMORED_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except (
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # a circle of links (RuntimeError until Python 3.13); a NUL, or no name at all
            self._remove()
            why = error.strerror if isinstance(error, OSError) else error
            raise ArgumentError(f"cannot write {self.name}: {why}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def write(self, data: bytes) -> None:
        """Put the document in its place. Raises OutputError."""
        try:
            if self._temporary is None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                return
            with self._temporary.open("r+b") as file:
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
        except OSError as error:
            raise OutputError(f"cannot write {self.name}: {error.strerror}") from error
        self._temporary = None
        _sync_directory(self._path.parent)

    def _check(self) -> None:
        if self._path.is_symlink():
            raise ArgumentError(f"cannot write {self.name}: its links lead in a circle")
        if not self._path.exists():
            return
        if not self._path.is_file():
            raise ArgumentError(f"cannot write {self.name}: it is no file (- is stdout)")
        if not self._may_replace and self._path.stat().st_size:
            raise ArgumentError(f"cannot write {self.name}: it is there already; name another file")

    def _remove(self) -> None:
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    """Not every file system of a USB stick can: the file itself is there and synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
