"""Files that are there whole or not at all, also after a power cut.

Rules: temporary file in the same directory, fsync, rename, fsync of the directory. Errors are OSError; callers
translate them, since only they know what it means.

What this module does not do: it locks nothing (`register`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

OWNER_ONLY = 0o600


def replace_file(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`, readable by its owner only.

    Raises OSError; then the old content is there, or, where only the last sync failed, the new one.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory for the owner only, durably; one that is there stays. Raises OSError."""
    path.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """The rename itself is durable only when the directory is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
