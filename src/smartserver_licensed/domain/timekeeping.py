"""Instants as whole seconds since 1970 UTC, and their texts.

Rules: nothing here goes through the C library's time_t, which has 32 bits on armhf: an end in 2038 or later is an end
like any other. Texts are ISO 8601 in UTC with a `Z`, one form only.

What this module does not do: it reads no clock and decides nothing (`trusted_time`).
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from .errors import ArgumentError

Timestamp: TypeAlias = int
"""Seconds since 1970-01-01T00:00:00Z, leap seconds not counted."""

DAY_S = 86_400
LATEST: Timestamp = 253_402_300_799  # 9999-12-31T23:59:59Z

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z")


def to_iso(seconds: Timestamp) -> str:
    """As in "2026-11-24T03:22:42Z". Raises ArgumentError outside the years 1970 to 9999."""
    return f"{_moment(seconds):%Y-%m-%dT%H:%M:%SZ}"


def to_iso_date(seconds: Timestamp) -> str:
    """As in "2026-11-24", the day in UTC. Raises ArgumentError outside the years 1970 to 9999."""
    return f"{_moment(seconds):%Y-%m-%d}"


def from_iso(text: str) -> Timestamp:
    """The instant of a text of exactly the form that `to_iso` writes. Raises ArgumentError."""
    match = _ISO.fullmatch(text)
    if match is None:
        raise ArgumentError(f"cannot read the time {text[:40]!r}: it is not of the form 2026-11-24T03:22:42Z")
    year, month, day, hour, minute, second = (int(part) for part in match.groups())
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    except ValueError as error:
        raise ArgumentError(f"cannot read the time {text!r}: {error}") from error
    if moment < _EPOCH:
        raise ArgumentError(f"cannot read the time {text!r}: it is before 1970")
    return (moment - _EPOCH) // timedelta(seconds=1)


def mru_text(milliseconds: int) -> str:
    """As in "2026-11-24 03:22:42.746 UTC", the form of `mru` on MQTT (WIRE.md). Raises ArgumentError as `to_iso`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_moment(seconds):%Y-%m-%d %H:%M:%S}.{rest:03d} UTC"


def _moment(seconds: Timestamp) -> datetime:
    if not 0 <= seconds <= LATEST:
        raise ArgumentError(f"cannot write the time {seconds}: it is not between 1970 and 9999")
    return _EPOCH + timedelta(seconds=seconds)
