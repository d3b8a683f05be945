"""The shapes of the D-Bus interface: plain values and Status ↔ typed values, without a D-Bus library.

Rules (`com.enocean.SmartServer.License1.xml` is the contract):
- a typed value is a pair (signature, value); fixed rules for what a dictionary holds: str → `s`, bool → `b`,
  int → `x` (always, so that no key changes its type with its value), list of str → `as`, dict → `a{sv}`;
- the status's properties have the types of `vocabulary` (counts are `u`);
- D-Bus strings hold neither NUL nor half a surrogate pair, and the bus disconnects who sends one: both become U+FFFD;
- an option's (or a filter's) unknown key or wrong type is an ArgumentError, never ignored.

What this module does not do: it sends nothing and checks no caller (`adapters.dbus`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

from smartserver_licensed.domain.errors import ArgumentError, LicensedError, dbus_error_suffix
from smartserver_licensed.domain.status import Status

from .vocabulary import VOCABULARY

NAME = "com.enocean.SmartServer.License1"
PATH = "/com/enocean/SmartServer/License1"
INTERFACE = NAME
ERROR_PREFIX = f"{INTERFACE}.Error."
MAX_DOCUMENT_BYTES = 64 * 1024
MAX_ARMORED_BYTES = 96 * 1024  # the same document as a block of ASCII; what InstallDocument and VerifyDocument take
MAX_ROWS = 1_000
MAX_AFFECTED = 1_000  # devices that a preview of a return names

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

    def list_notices(self) -> list[dict[str, Plain]]:
        """One row a notice in force: kind, key, threshold, sentence, due."""

    def check_update(self, version: str, kind: str, released: str) -> dict[str, Plain]:
        """Whether an update may be installed: allowed, code, sentence, license_id, installed.

        `kind`: feature, update or platform; `released`: an ISO date or time, "" is today. Raises ArgumentError.
        """

    def list_returns(self) -> list[dict[str, Plain]]:
        """One row a return that was made: number, license_id, devices, made_at, acknowledged."""

    def get_return(self, number: int) -> bytes:
        """The proof of a return again, the same bytes. Raises UnknownContactError."""

    def preview_return(self, license_id: str, devices: int) -> dict[str, Plain]:
        """What a return would do; changes nothing. `devices` 0: all. Raises ContactError.

        capacity_before, capacity_after, used, excess, grace_days, and devices_affected: what would run beyond the
        capacity, the newest first, at most `MAX_AFFECTED`.
        """

    async def acknowledge_repair(self) -> str:
        """Take the condition `degraded` back; what was repaired, empty where nothing was."""

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        """Verify and install a document, plain or armored; returns when it is durable."""

    async def create_request(
        self, customer_id: str, licenses: Sequence[str], *, is_new_key: bool, is_fresh: bool
    ) -> bytes:
        """An activation request; the one that is pending where nothing else is asked for.

        `licenses`: `ID` or `ID=N`. `is_new_key`: with a new device key. `is_fresh`: a new one in any case. Raises
        ArgumentError or ContactError.
        """

    async def create_return(
        self, license_id: str, devices: int, *, over_capacity: bool, revoke_excess: bool, another: bool
    ) -> bytes:
        """Return a license, or `devices` of it (0: all); the proof, once the return is durable.

        What runs beyond the capacity runs on for the grace (`over_capacity`), or stops (`revoke_excess`); with neither
        ReturnLeavesExcessError. `another`: also where the same return was just made. Raises ContactError.
        """

    async def confirm_update(self, version: str, kind: str) -> dict[str, Plain]:
        """Take note that an update is installed; consumes an upgrade license where that allowed it.

        The answer has the keys of `check_update`. Raises ArgumentError.
        """

    async def set_notice_days(self, days: Sequence[int]) -> None:
        """How many days before an end there is a notice. Raises ArgumentError."""


@dataclass(frozen=True, slots=True)
class DeviceFilter:
    """The argument of `ListDevices`, checked."""

    waiting_only: bool = False
    after: str = ""
    limit: int = MAX_ROWS


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """The argument of `CreateActivationRequest`, checked; `licenses` are `ID` or `ID=N`."""

    customer_id: str = ""
    licenses: tuple[str, ...] = ()
    is_new_key: bool = False
    is_fresh: bool = False


@dataclass(frozen=True, slots=True)
class ReturnOptions:
    """The last argument of `CreateReturn`, checked."""

    over_capacity: bool = False
    revoke_excess: bool = False
    another: bool = False


def parse_filter(given: Mapping[str, Typed]) -> DeviceFilter:
    """The filter that a caller asks for. Raises ArgumentError: unknown key, wrong type, or limit out of range."""
    values = _options(given, {"waiting": "b", "after": "s", "limit": "u"}, doing="list devices", kind="filter")
    limit = int(str(values.get("limit", MAX_ROWS)))
    if not 1 <= limit <= MAX_ROWS:
        raise ArgumentError(f"cannot list devices: limit is {limit}, expected 1 to {MAX_ROWS}")
    return DeviceFilter(waiting_only=values.get("waiting") is True, after=str(values.get("after", "")), limit=limit)


def parse_request_options(given: Mapping[str, Typed]) -> RequestOptions:
    """What a caller wants requested. Raises ArgumentError: unknown key, wrong type, or a customer and licenses."""
    known = {"customer_id": "s", "licenses": "as", "new_key": "b", "fresh": "b"}
    values = _options(given, known, doing="make a request", kind="option")
    customer_id, licenses = str(values.get("customer_id", "")), values.get("licenses")
    if customer_id and licenses:
        raise ArgumentError("cannot make a request: it names a customer and licenses, expected one of them")
    return RequestOptions(
        customer_id=customer_id,
        licenses=tuple(map(str, licenses)) if isinstance(licenses, list) else (),
        is_new_key=values.get("new_key") is True,
        is_fresh=values.get("fresh") is True,
    )


def parse_return_options(given: Mapping[str, Typed]) -> ReturnOptions:
    """What a caller wants to become of the excess. Raises ArgumentError: unknown key, wrong type, or both."""
    known = {each.name: "b" for each in fields(ReturnOptions)}
    values = _options(given, known, doing="return a license", kind="option")
    options = ReturnOptions(**{key: value is True for key, value in values.items()})
    if options.over_capacity and options.revoke_excess:
        raise ArgumentError("cannot return a license: over_capacity and revoke_excess, expected one of them")
    return options


def _options(given: Mapping[str, Typed], known: Mapping[str, str], *, doing: str, kind: str) -> dict[str, object]:
    for key, (signature, _) in given.items():
        if key not in known:
            raise ArgumentError(f"cannot {doing}: unknown {kind} {key!r}, known are {', '.join(known)}")
        if signature != known[key]:
            raise ArgumentError(f"cannot {doing}: {kind} {key!r} has type {signature!r}, expected {known[key]!r}")
    return {key: value for key, (_, value) in given.items()}


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
