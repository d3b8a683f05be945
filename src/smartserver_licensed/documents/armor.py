"""The second carrier of a document: a block of text to paste into an e-mail or a form.

Rules (LICENSING §4):
- a line is 64 characters of base64 and a checksum of them and of the line's number; the last line is a checksum of the
  whole. So a character that changed is found where it is, and so is a line that is missing, doubled or swapped;
- forgiving about what e-mail does to the room between characters: quoting, indents, blank lines, other line ends,
  a checksum that was wrapped to a line of its own, text before and after. Never about a character;
- what comes out is the document byte for byte, or ArmorError.

What this module does not do: it proves nothing. Checksums are against accidents, the signature is in the document.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence

from smartserver_licensed.domain.errors import ArmorError, EnvelopeError

from .envelope import MAX_DOCUMENT_BYTES, decode_base64, encode_base64

MAX_ARMOR_BYTES = 256 * 1024

_BEGIN = "-----BEGIN SMARTSERVER LICENSE DOCUMENT-----"
_END = "-----END SMARTSERVER LICENSE DOCUMENT-----"
_LINE = 64
_QUOTING = re.compile(r"[>\s]*")


def wrap(data: bytes) -> str:
    """The block of a document, with a line end after each line. Raises ArmorError for more than 64 KiB."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ArmorError(f"cannot write the block: {len(data)} bytes, the limit is {MAX_DOCUMENT_BYTES}")
    text = encode_base64(data)
    parts = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    lines = [f"{part} {_checksum(part, number)}" for number, part in enumerate(parts, 1)]
    return "".join(f"{line}\n" for line in (_BEGIN, *lines, _whole(data), _END))


def unwrap(data: bytes) -> bytes:
    """The document of a block, or the bytes as they are where they begin with "{": a document needs no block.

    Raises ArmorError, with the line of the block, counted from 1, that is not as it was written.
    """
    if data.lstrip().startswith(b"{"):
        return data
    if len(data) > MAX_ARMOR_BYTES:
        raise ArmorError(f"cannot read the block: {len(data)} bytes, the limit is {MAX_ARMOR_BYTES}")
    *words, whole = _words(data)
    parts, checksums = words[::2], words[1::2]
    for number, part in enumerate(parts, 1):
        is_last = number == len(parts)
        has_checksum = number <= len(checksums) and checksums[number - 1] == _checksum(part, number)
        if not has_checksum or (len(part) != _LINE and not is_last) or len(part) > _LINE:
            raise ArmorError(f"cannot read the block: line {number} has changed, or one before it is missing")
    document = _decoded(parts)
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ArmorError(f"cannot read the block: {len(document)} bytes in it, the limit is {MAX_DOCUMENT_BYTES}")
    if whole != _whole(document):
        raise ArmorError(f"cannot read the block: line {len(parts) + 1} has changed, or one before it is missing")
    return document


def _words(data: bytes) -> list[str]:
    """What stands between the first and the last line of the one block, in words; at least the last checksum."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # the text around it; the block itself is ASCII
    lines = [_QUOTING.sub("", line, count=1).rstrip() for line in text.splitlines()]
    if _BEGIN not in lines:
        raise ArmorError(f"cannot read the document: it is no JSON, and no block with the line {_BEGIN!r}")
    if lines.count(_BEGIN) != 1 or lines.count(_END) != 1:
        raise ArmorError(
            f"cannot read the block: its first line is there {lines.count(_BEGIN)} times, its last {lines.count(_END)} "
            "times; each has to be there once"
        )
    words = " ".join(lines[lines.index(_BEGIN) + 1 : lines.index(_END)]).split()
    if not words:
        raise ArmorError("cannot read the block: it is empty")
    return words


def _decoded(parts: Sequence[str]) -> bytes:
    try:
        return decode_base64("".join(parts), "the block")
    except EnvelopeError as error:
        raise ArmorError(str(error)) from error


def _checksum(part: str, number: int) -> str:
    """CRC-16, started with the line's number: no change within 16 bits, and no other number, has the same one."""
    return f"{binascii.crc_hqx(part.encode(), number):04x}"


def _whole(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()[:16]}"
