"""The journal: a handler of Python's logging that sends native fields, or writes readable lines where there is none.

Rules (systemd.journal-fields(7), "Native Journal Protocol"):
- log calls say a constant sentence and `extra={"fields": {"MESSAGE_ID": …, "DEVICE": …}}`; the fields go out as they
  are, and once more behind the sentence in MESSAGE: plain `journalctl` shows nothing else;
- a value with a line break goes in the length-prefixed form; a value is cut at 16 KiB and an entry at 64 KiB: so no
  entry needs a memfd;
- writing never blocks and never raises: what the journal does not take is counted, and the next entry tells the number.

What this module does not do: it decides no levels of other loggers and knows no messages but by their priority.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import traceback
from collections.abc import Mapping
from typing import TextIO

from smartserver_licensed.domain.messages import MESSAGES

SOCKET_PATH = "/run/systemd/journal/socket"
IDENTIFIER = "smartserver-licensed"
_MAX_VALUE_BYTES = 16 * 1024
_MAX_ENTRY_BYTES = 64 * 1024
_SEND_BUFFER_BYTES = 1024 * 1024
_FIELD_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PRIORITIES = {message.id: message.priority for message in MESSAGES}


def install(level: str, *, stream: TextIO = sys.stderr, path: str = SOCKET_PATH) -> logging.Handler:
    """Let the root logger write to the journal if `stream` is connected to it, else to `stream`; replaces a handler
    that an earlier call made.
    """
    handler: logging.Handler
    if is_journal(stream, os.environ):
        handler = JournalHandler(path)
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LineFormatter())
    handler.set_name(IDENTIFIER)
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == IDENTIFIER]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    return handler


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `stream` leads to the journal: JOURNAL_STREAM names its device and inode (systemd.exec(5))."""
    try:
        device, inode = map(int, environment.get("JOURNAL_STREAM", "").split(":"))
        status = os.fstat(stream.fileno())
    except (ValueError, OSError):
        return False
    return (status.st_dev, status.st_ino) == (device, inode)


class JournalHandler(logging.Handler):
    """Sends each record as one datagram of fields."""

    def __init__(self, path: str = SOCKET_PATH) -> None:
        super().__init__()
        self._path = path
        self._lost = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def emit(self, record: logging.LogRecord) -> None:
        """Send; never raises. An entry that cannot go is counted."""
        try:
            entry = _entry(record, self._lost)
            self._socket.sendto(entry, self._path)
            self._lost = 0
        except OSError:
            self._lost += 1
        except Exception:  # noqa: BLE001 - logging's own rule: a record that cannot be formatted must not stop the program
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


class LineFormatter(logging.Formatter):
    """One readable line, and the traceback under it where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """`warning: sentence [DEVICE=lon/d1 CAPACITY=5]`."""
        line = f"{record.levelname.lower()}: {_line(record)}"
        return f"{line}\n{_traceback(record)}".rstrip()


def _entry(record: logging.LogRecord, lost: int) -> bytes:
    fields: dict[str, object] = {
        "MESSAGE": _line(record),
        "PRIORITY": _priority(record),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
        "LOGGER": record.name,
    }
    if lost:
        fields["LOST_ENTRIES"] = lost
    if record.exc_info:
        fields["EXCEPTION_TEXT"] = _traceback(record)
    # What a caller names wrongly, or like one of ours, is not sent: a field is never two things.
    fields = {name: value for name, value in _fields(record).items() if _FIELD_NAME.fullmatch(name)} | fields
    entry = b""
    for name, value in sorted(fields.items(), key=lambda field: field[0] != "MESSAGE"):  # MESSAGE first: never cut off
        field = _field(name, value)
        if len(entry) + len(field) <= _MAX_ENTRY_BYTES:
            entry += field
    return entry


def _field(name: str, value: object) -> bytes:
    data = str(value).encode("utf-8", "replace")[:_MAX_VALUE_BYTES]
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


def _line(record: logging.LogRecord) -> str:
    shown = [f"{name}={value}" for name, value in _fields(record).items() if name != "MESSAGE_ID"]
    if record.exc_info and record.exc_info[0]:
        shown.append(f"EXCEPTION={record.exc_info[0].__name__}: {record.exc_info[1]}")
    text = record.getMessage() + (f" [{' '.join(shown)}]" if shown else "")
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _priority(record: logging.LogRecord) -> int:
    """The priority of the known message, else that of the level."""
    known = _PRIORITIES.get(str(_fields(record).get("MESSAGE_ID")))
    if known is not None:
        return known
    for level, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if record.levelno >= level:
            return priority
    return 7


def _traceback(record: logging.LogRecord) -> str:
    return "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
