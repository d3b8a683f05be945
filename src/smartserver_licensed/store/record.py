"""One record of a log: its layout, its seal and its place in the chain.

Rules (STATE.md "How"; docs/architecture.md):
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
import hmac
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
    """A record that was read and is whole. `size_bytes` counts the slots it fills."""

    kind: Kind
    seq: int
    prev: bytes
    body: bytes
    size_bytes: int

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
    record = header + _tag(secret, header, body) + body
    return record + bytes(size_on_disk(len(body)) - len(record))


def read(buffer: memoryview, offset: int, *, secret: bytes | None) -> Record | None:
    """The whole record at an offset, or None. Without a secret only a SNAPSHOT, which brings its own, is whole.

    Raises LedgerNewerError where a whole record is of a newer major format; a damaged format byte is damage.
    """
    start = offset + OVERHEAD_BYTES
    if start > len(buffer) or bytes(buffer[offset : offset + 4]) != MAGIC:
        return None
    _, version, kind, seq, length, prev = _HEADER.unpack_from(buffer, offset)
    if start + length > len(buffer):
        return None
    body = bytes(buffer[start : start + length])
    key = secret if secret is not None else body[:SECRET_BYTES]
    if (secret is None and kind != Kind.SNAPSHOT) or len(key) != SECRET_BYTES:
        return None
    header = bytes(buffer[offset : offset + _HEADER.size])
    if not hmac.compare_digest(_tag(key, header, body), bytes(buffer[start - _TAG_BYTES : start])):
        return None
    if version > FORMAT:
        raise newer(version)
    if version != FORMAT or kind not in set(Kind):
        return None
    return Record(Kind(kind), seq, prev, body, size_on_disk(length))


def claimed_format(buffer: memoryview, offset: int) -> int:
    """The format that a record claims, whole or not; 0 where there is none."""
    return buffer[offset + len(MAGIC)] if bytes(buffer[offset : offset + len(MAGIC)]) == MAGIC else 0


def first_snapshot_bytes(buffer: memoryview) -> int:
    """Bytes that the very first snapshot of a ledger fills, as its header says, whole or not; 0 where there is none."""
    if len(buffer) < SLOT_BYTES:
        return 0
    magic, version, kind, seq, length, prev = _HEADER.unpack_from(buffer)
    is_first = (magic, version, kind, seq, prev) == (MAGIC, FORMAT, Kind.SNAPSHOT, 0, FIRST_HEAD)
    return size_on_disk(length) if is_first else 0


def newer(version: int) -> LedgerNewerError:
    """The error for a format that this version cannot read."""
    return LedgerNewerError(f"cannot read the ledger: it has format {version}, this version reads up to {FORMAT}")


def _tag(secret: bytes, header: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(header + body, key=secret, digest_size=_TAG_BYTES).digest()
