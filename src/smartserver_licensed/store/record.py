"""One record of a log: its layout, its seal and its place in the chain (docs/storage.md has it byte by byte).

Rules:
- `magic 4 | format 1 | kind 1 | seq 8 | length 4 | prev 32 | tag 32 | body`, little-endian, padded with zeros to whole
  slots of 4 KiB: a torn write can hurt only the newest record;
- `tag` = BLAKE2b-256, keyed with the ledger's secret, over everything before it and the body; `head` = SHA-256 of prev,
  seq and body; each record holds the head before it, so damage in the middle is never taken for a torn tail;
- a SNAPSHOT's body begins with the secret (in clear): it seals itself, and all EVENTs after it.

What this module does not do: no I/O; it knows nothing of what bodies mean.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass

from smartserver_licensed.domain.errors import LedgerNewerError

SLOT_BYTES = 4096
SECRET_BYTES = 32
MAGIC = b"SSLG"
FORMAT = 1
FIRST_HEAD = bytes(32)
_HEADER = struct.Struct("<4sBBQI32s")
_TAG_BYTES = 32
OVERHEAD_BYTES = _HEADER.size + _TAG_BYTES


class Kind(enum.IntEnum):
    """A SNAPSHOT holds the whole state, an EVENT one commit."""

    SNAPSHOT = 1
    EVENT = 2


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was read and is whole; or only what its header claims (`body` is empty then)."""

    kind: int
    seq: int
    prev: bytes
    body: bytes
    size_bytes: int  # of the slots it fills

    @property
    def head(self) -> bytes:
        """The head of the chain after this record."""
        return next_head(self.prev, self.seq, self.body)


def next_head(prev: bytes, seq: int, body: bytes) -> bytes:
    """The head of the chain after a record."""
    return hashlib.sha256(prev + struct.pack("<Q", seq) + body).digest()


def size_on_disk(body_bytes: int) -> int:
    """Bytes that a record with such a body fills, in whole slots."""
    return -(-(OVERHEAD_BYTES + body_bytes) // SLOT_BYTES) * SLOT_BYTES


def frame(kind: Kind, seq: int, prev: bytes, body: bytes, *, secret: bytes) -> bytes:
    """The bytes of a record."""
    header = _HEADER.pack(MAGIC, FORMAT, kind, seq, len(body), prev)
    return (header + _tag(secret, header, body) + body).ljust(size_on_disk(len(body)), b"\0")


def claimed(buffer: memoryview, offset: int) -> Record | None:
    """What the header at an offset claims, whole or not, of any format; None where no record begins."""
    if offset + _HEADER.size > len(buffer) or buffer[offset : offset + len(MAGIC)] != MAGIC:
        return None
    _, _, kind, seq, length, prev = _HEADER.unpack_from(buffer, offset)
    return Record(kind, seq, prev, b"", size_on_disk(length))


def read(buffer: memoryview, offset: int, *, secret: bytes | None) -> Record | None:
    """The whole record at an offset, or None. Without a secret only a SNAPSHOT, which brings its own, is whole.

    Raises LedgerNewerError where a whole record is of a newer major format; a damaged format byte is damage.
    """
    if offset + OVERHEAD_BYTES > len(buffer) or buffer[offset : offset + len(MAGIC)] != MAGIC:
        return None
    _, version, kind, seq, length, prev = _HEADER.unpack_from(buffer, offset)
    start = offset + OVERHEAD_BYTES
    body = bytes(buffer[start : start + length])
    key = secret if secret is not None else body[:SECRET_BYTES]
    if len(body) < length or len(key) != SECRET_BYTES or (secret is None and kind != Kind.SNAPSHOT):
        return None
    header, tag = bytes(buffer[offset : offset + _HEADER.size]), bytes(buffer[start - _TAG_BYTES : start])
    if _tag(key, header, body) != tag:
        return None
    if version > FORMAT:
        raise newer(version)
    return Record(kind, seq, prev, body, size_on_disk(length)) if version == FORMAT else None


def claimed_format(buffer: memoryview) -> int:
    """The format that the first record claims, whole or not; 0 where there is none."""
    return buffer[len(MAGIC)] if buffer[: len(MAGIC)] == MAGIC else 0


def newer(version: int) -> LedgerNewerError:
    """The error for a format that this version cannot read."""
    return LedgerNewerError(f"cannot read the ledger: it has format {version}, this version reads up to {FORMAT}")


def _tag(secret: bytes, header: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(header + body, key=secret, digest_size=_TAG_BYTES).digest()
