"""The shapes of the D-Bus interface: plain values and Status ↔ typed values, without a D-Bus library.

Rules (`com.enocean.SmartServer.License1.xml` is the contract):
- a typed value is a pair (signature, value); fixed rules for what a dictionary holds: str → `s`, bool → `b`,
  int → `x` (always, so that no key changes its type with its value), list of str → `as`, dict → `a{sv}`;
- the status's properties have the types of `vocabulary` (counts are `u`);
- D-Bus strings hold neither NUL nor half a surrogate pair, and the bus disconnects who sends one: both become U+FFFD;
- a filter's unknown key or wrong type is an ArgumentError, never ignored.

What this module does not do: it sends nothing and checks no caller (`adapters.dbus`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from smartserver_licensed.domain.errors import ArgumentError, LicensedError, dbus_error_suffix
from smartserver_licensed.domain.status import Status

from .vocabulary import VOCABULARY

NAME = "com.enocean.SmartServer.License1"
PATH = "/com/enocean/SmartServer/License1"
INTERFACE = NAME
ERROR_PREFIX = f"{INTERFACE}.Error."
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_ROWS = 1_000

Plain: TypeAlias = str | int | bool | list[str] | dict[str, "Plain"]
Typed: TypeAlias = tuple[str, object]

_NOT_IN_A_STRING = re.compile("[\x00\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)
_UINT32_MAX = 2**32 - 1


class LicenseService(Protocol):
    """What answers behind the interface; the daemon passes its controller's in.

    Every method raises a LicensedError to refuse; its code becomes the name of the D-Bus error.
    """

    def status(self) -> Status:
        """The status as of the last batch; never waits."""

    def list_licenses(self) -> list[dict[str, Plain]]:
        """One row a license."""

    def list_devices(self, *, waiting_only: bool, after: str, limit: int) -> list[dict[str, Plain]]:
        """Up to `limit` rows in the order of their `name`, after the one named `after`."""

    def explain(self, device: str) -> dict[str, Plain]:
        """The rule, the documents and the numbers behind a device's answer. Raises UnknownDeviceError."""

    def plan(self, count: int) -> dict[str, Plain]:
        """How many of `count` more devices fit, and what is missing."""

    def verify_document(self, data: bytes) -> dict[str, Plain]:
        """What a document is; changes nothing. Raises DocumentError."""

    def describe_storage(self) -> dict[str, Plain]:
        """The ledger on its device: fill, wear, anchor."""

    async def acknowledge_repair(self) -> str:
        """Take the condition `degraded` back; what was repaired, empty where nothing was."""

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        """Verify and install a document; returns when it is durable."""


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """The argument of `ListDevices`, checked."""

    waiting_only: bool = False
    after: str = ""
    limit: int = MAX_ROWS


def parse_filter(given: Mapping[str, Typed]) -> DeviceFilter:
    """The filter that a caller asks for. Raises ArgumentError: unknown key, wrong type, or limit out of range."""
    expected = {"waiting": "b", "after": "s", "limit": "u"}
    for key, (signature, value) in given.items():
        if key not in expected:
            raise ArgumentError(f"cannot list devices: unknown filter {key!r}, known are {', '.join(expected)}")
        if signature != expected[key]:
            raise ArgumentError(
                f"cannot list devices: filter {key!r} has type {signature!r}, expected {expected[key]!r}"
            )
        if key == "limit" and value not in range(1, MAX_ROWS + 1):
            raise ArgumentError(f"cannot list devices: limit is {value}, expected 1 to {MAX_ROWS}")
    values = {key: value for key, (_, value) in given.items()}
    return DeviceFilter(
        waiting_only=values.get("waiting") is True,
        after=str(values.get("after", "")),
        limit=int(str(values.get("limit", MAX_ROWS))),
    )


def properties(status: Status) -> dict[str, Typed]:
    """All properties of the interface, by name."""
    return {
        word.property: (word.signature, _basic(word.signature, word.of(status))) for word in VOCABULARY if word.property
    }


def typed(plain: Plain) -> Typed:
    """A plain value by the rules above. Raises TypeError or OverflowError for what has no type: an error of ours."""
    if isinstance(plain, str):
        return "s", clean(plain)
    if isinstance(plain, bool):  # before int: a bool is one
        return "b", plain
    if isinstance(plain, int):
        if plain not in _INT64:
            raise OverflowError(f"cannot send {plain}: more than 64 bits")
        return "x", plain
    if isinstance(plain, list):
        return "as", [clean(each) for each in plain]
    if isinstance(plain, dict):
        return "a{sv}", typed_row(plain)
    raise TypeError(f"cannot send a {type(plain).__name__}: no D-Bus type is agreed for it")


def typed_row(row: Mapping[str, Plain]) -> dict[str, Typed]:
    """The content of an `a{sv}`."""
    return {clean(key): typed(value) for key, value in row.items()}


def clean(text: str) -> str:
    """The text as a D-Bus string can hold it."""
    return _NOT_IN_A_STRING.sub("\N{REPLACEMENT CHARACTER}", text)


def error_name(error: LicensedError) -> str:
    """`GrantStale` and so on, under the interface's own prefix."""
    return ERROR_PREFIX + dbus_error_suffix(error.code)


def error_code(name: str) -> str | None:
    """The stable code in the name of a D-Bus error; None where the error is not one of ours."""
    if not name.startswith(ERROR_PREFIX):
        return None
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name.removeprefix(ERROR_PREFIX)).lower()


def _basic(signature: str, value: str | int | bool) -> str | int | bool:
    if isinstance(value, str):
        return clean(value)
    return min(max(value, 0), _UINT32_MAX) if signature == "u" else value
