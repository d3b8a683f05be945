"""Documents in and out, and the password: what the commands read and write.

Rules:
- a document comes in plain or armored, from a file or stdin, and never more of it than one could have;
- an output is opened before anything is remembered, so that a wrong path uses nothing up; what was there stays until
  the new document is whole in memory. It is written in place, since it may be a pipe: half a document verifies nowhere.

What this module does not do: it looks into no document.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from smartserver_licensed.documents.armor import MAX_ARMOR_BYTES, unwrap, wrap

from .errors import FileAccessError, PasswordNeededError

Write: TypeAlias = "Callable[[bytes], None]"

_MAX_PASSWORD_BYTES = 4_096


def read_document(file: str) -> bytes:
    """The document of a file, or of stdin for `-`, without its armor. Raises FileAccessError, ArmorError."""
    return unwrap(_read(file, MAX_ARMOR_BYTES))


def read_password(file: Path | None) -> bytes | None:
    """The first line of a file, without its end; None without a file. Raises FileAccessError, PasswordNeededError."""
    if file is None:
        return None
    password = _read(str(file), _MAX_PASSWORD_BYTES).split(b"\n", 1)[0].rstrip(b"\r")
    if not password:
        raise PasswordNeededError(f"cannot read the password: {file} has none on its first line")
    return password


@contextmanager
def output(file: str, *, is_armored: bool = False) -> Iterator[Write]:
    """Somewhere to write one document, open already; `-` is stdout. Raises FileAccessError.

    Where nothing is written, an old file is as it was, and a new one is gone.
    """

    def write(document: bytes) -> None:
        is_file = file != "-" and stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
        if is_file:
            stream.truncate()
        stream.write(wrap(document).encode() if is_armored else document)
        stream.flush()
        if is_file:
            os.fsync(stream.fileno())

    try:
        if file == "-":
            stream: BinaryIO = sys.stdout.buffer
            yield write
            return
        was_there = os.path.lexists(file)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666), "wb") as stream:
            try:
                yield write
            finally:
                if not was_there and os.fstat(stream.fileno()).st_size == 0:
                    Path(file).unlink(missing_ok=True)
    except OSError as error:
        raise FileAccessError(f"cannot write {file}: {error.strerror or error}") from error


def _read(file: str, limit: int) -> bytes:
    """At most one byte more than the limit: enough to refuse it."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(limit + 1)
        with Path(file).open("rb") as opened:
            return opened.read(limit + 1)
    except OSError as error:
        raise FileAccessError(f"cannot read {file}: {error.strerror}") from error
