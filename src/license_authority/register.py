"""The issuer's memory: for each install code the last grant, and so its seq, customer and every license ever given.

Rules (LICENSING §4):
- what is issued is remembered before the document leaves: a cut in between costs a number, never a double use;
- one issue at a time: a lock file, held from reading to writing;
- a damaged register issues nothing: it would forget trials and give a seq twice.

One JSON file for now, each entry in the form of the grant's own payload, so that there is one encoding.

What this module does not do: it decides nothing (`issuing`) and signs nothing.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from smartserver_licensed.documents import strict_json
from smartserver_licensed.documents.payloads import encode_grant, parse_grant
from smartserver_licensed.documents.strict_json import JsonValue
from smartserver_licensed.domain.errors import DocumentError, StrictJsonError
from smartserver_licensed.domain.licenses import Grant

from .durable import OWNER_ONLY, replace_file
from .errors import FileAccessError, RegisterBusyError, RegisterCorruptError

LOCK_WAIT_S = 10.0

_FILE = "register.json"
_LOCK = "register.lock"
_FORMAT = 1
_MAX_BYTES = 256 * 1024 * 1024
_MAX_DEPTH = 10


class Register:
    """The register of one authority while it is locked; made by `open_register`."""

    def __init__(self, path: Path, grants: Mapping[str, Grant]) -> None:
        self._path = path
        self._grants = dict(grants)

    def last_grant(self, install_code: str) -> Grant | None:
        """The last grant issued to a SmartServer."""
        return self._grants.get(install_code)

    def remember(self, grant: Grant) -> None:
        """Make a grant the last one of its SmartServer, durably. Raises FileAccessError; then nothing must leave."""
        grants = {**self._grants, grant.install_code: grant}
        try:
            replace_file(self._path, _encode(grants))
        except OSError as error:
            raise FileAccessError(f"cannot write the register {self._path}: {error}") from error
        self._grants = grants


@contextmanager
def open_register(directory: Path, *, wait_s: float = LOCK_WAIT_S) -> Iterator[Register]:
    """The register, locked against every other process until the end of the block.

    Raises RegisterBusyError after `wait_s` seconds, RegisterCorruptError, FileAccessError.
    """
    path = directory / _FILE
    try:
        # Beside the register, not on it: a rename would leave the lock on the old file.
        descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
    except OSError as error:
        raise FileAccessError(f"cannot lock the register in {directory}: {error}") from error
    try:
        _lock(descriptor, directory, wait_s)
        yield Register(path, _read(path))
    finally:
        os.close(descriptor)  # which unlocks; so does the end of the process


def _lock(descriptor: int, directory: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not _try_lock(descriptor, directory):
        if time.monotonic() >= deadline:
            raise RegisterBusyError(
                f"cannot lock the register in {directory}: another one has held it for {wait_s:g} s"
            )
        time.sleep(0.02)


def _try_lock(descriptor: int, directory: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise FileAccessError(f"cannot lock the register in {directory}: {error}") from error
    return True


def _read(path: Path) -> dict[str, Grant]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return {}  # nothing issued yet
    except OSError as error:
        raise FileAccessError(f"cannot read the register {path}: {error}") from error
    try:
        return _decode(data)
    except (StrictJsonError, DocumentError) as error:
        raise RegisterCorruptError(f"cannot read the register {path}: {error}") from error


def _encode(grants: Mapping[str, Grant]) -> bytes:
    # Taken apart again so that a person can read the register; the form stays the payload's own.
    last: list[JsonValue] = [
        strict_json.parse(encode_grant(grant), max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH) for grant in grants.values()
    ]
    return strict_json.dump({"format": _FORMAT, "last_grants": last})


def _decode(data: bytes) -> dict[str, Grant]:
    value = strict_json.parse(data, max_bytes=_MAX_BYTES, max_depth=_MAX_DEPTH)
    last = value.get("last_grants") if isinstance(value, dict) and value.get("format") == _FORMAT else None
    if not isinstance(last, list):
        raise RegisterCorruptError(f"cannot read the register: it is none of format {_FORMAT}")
    grants = [parse_grant(strict_json.dump(each)) for each in last]
    by_code = {grant.install_code: grant for grant in grants}
    if len(by_code) != len(grants):
        raise RegisterCorruptError("cannot read the register: an install code stands in it twice")
    return by_code
