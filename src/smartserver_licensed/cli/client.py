"""The daemon as licensectl sees it: a blocking D-Bus client with plain values.

Rules:
- the bus is DBUS_SYSTEM_BUS_ADDRESS where it is set, else the system bus;
- every wait has a limit; a bus or a daemon that is not there is DaemonUnreachableError;
- what the daemon refuses is a RefusedError with the daemon's own code and sentence.

What this module does not do: it prints nothing and knows no exit codes. It is the only one of the command line that
imports dbus-fast, which costs more than all the rest together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from smartserver_licensed.domain.errors import DaemonUnreachableError, LicensedError
from smartserver_licensed.formats.bus import INTERFACE, MAX_ROWS, NAME, PATH, error_code

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 15.0
_STANDARD = "org.freedesktop.DBus.Error."
_NOBODY_THERE = {
    _STANDARD + name for name in ("ServiceUnknown", "NameHasNoOwner", "NoReply", "Disconnected", "Timeout")
}

Row = dict[str, Any]


class RefusedError(LicensedError):
    """The daemon, or the bus's policy, said no; `code` is the daemon's own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A connection for one command; a context manager. Raises DaemonUnreachableError where there is no bus."""

    def __enter__(self) -> Client:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        self._loop = asyncio.new_event_loop()
        try:
            self._bus = self._loop.run_until_complete(asyncio.wait_for(_connect(), _CONNECT_TIMEOUT_S))
        except Exception as error:
            self._loop.close()
            why = str(error) or type(error).__name__
            raise DaemonUnreachableError(f"cannot ask the daemon: no D-Bus: {why}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bus.disconnect()
        with contextlib.suppress(Exception):  # how it ended does not matter any more
            self._loop.run_until_complete(self._bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        self._loop.close()

    def properties(self) -> Row:
        """All properties of the interface by name."""
        properties: Row = self._ask("GetAll", "s", INTERFACE, interface="org.freedesktop.DBus.Properties")
        return properties

    def licenses(self) -> list[Row]:
        """One row a license."""
        rows: list[Row] = self._ask("ListLicenses")
        return rows

    def devices(self, *, waiting_only: bool) -> Iterator[Row]:
        """All devices, page by page; bounded memory however many there are."""
        after = ""
        while True:
            wanted = {
                "waiting": Variant("b", waiting_only),
                "after": Variant("s", after),
                "limit": Variant("u", MAX_ROWS),
            }
            page: list[Row] = self._ask("ListDevices", "a{sv}", wanted)
            yield from page
            if len(page) < MAX_ROWS:
                return
            after = page[-1]["name"]

    def explain(self, device: str) -> Row:
        """Why a device is licensed, or is not."""
        explanation: Row = self._ask("Explain", "s", device)
        return explanation

    def plan(self, count: int) -> Row:
        """How many of so many more devices fit."""
        planned: Row = self._ask("Plan", "u", count)
        return planned

    def storage(self) -> Row:
        """What the ledger lies on, its fill, its wear and its anchor."""
        described: Row = self._ask("DescribeStorage")
        return described

    def acknowledge_repair(self) -> str:
        """Take note of a repair: what it was; empty where there was none."""
        repair: str = self._ask("AcknowledgeRepair")
        return repair

    def verify(self, document: bytes) -> Row:
        """What a document is."""
        findings: Row = self._ask("VerifyDocument", "ay", document)
        return findings

    def install(self, document: bytes) -> Row:
        """Install a document; returns when it is durable."""
        summary: Row = self._ask("InstallDocument", "ay", document)
        return summary

    def create_request(self, customer_id: str, licenses: Sequence[str], *, is_new_key: bool, is_fresh: bool) -> bytes:
        """A request; what is left out of its options is left to the daemon."""
        options = {"new_key": Variant("b", is_new_key), "fresh": Variant("b", is_fresh)}
        if customer_id:
            options["customer_id"] = Variant("s", customer_id)
        if licenses:
            options["licenses"] = Variant("as", list(licenses))
        return bytes(self._ask("CreateActivationRequest", "a{sv}", options))

    def preview_return(self, license_id: str, devices: int) -> Row:
        """What a return would do; 0 devices are all."""
        preview: Row = self._ask("PreviewReturn", "su", license_id, devices)
        return preview

    def create_return(
        self, license_id: str, devices: int, *, over_capacity: bool, revoke_excess: bool, another: bool
    ) -> bytes:
        """The proof of a return that is made by this."""
        given = {"over_capacity": over_capacity, "revoke_excess": revoke_excess, "another": another}
        options = {key: Variant("b", value) for key, value in given.items()}
        return bytes(self._ask("CreateReturn", "sua{sv}", license_id, devices, options))

    def returns(self) -> list[Row]:
        """One row a return."""
        rows: list[Row] = self._ask("ListReturns")
        return rows

    def get_return(self, number: int) -> bytes:
        """The proof of a return again."""
        return bytes(self._ask("GetReturn", "u", number))

    def check_update(self, version: str, kind: str, released: str) -> Row:
        """Whether an update may be installed, and why."""
        verdict: Row = self._ask("CheckUpdate", "sss", version, kind, released)
        return verdict

    def confirm_update(self, version: str, kind: str) -> Row:
        """Take note that an update is installed."""
        summary: Row = self._ask("ConfirmUpdate", "ss", version, kind)
        return summary

    def notices(self) -> list[Row]:
        """One row a notice in force."""
        rows: list[Row] = self._ask("ListNotices")
        return rows

    def set_notice_days(self, days: Sequence[int]) -> None:
        """How many days before an end there is a notice."""
        self._ask("SetNoticeDays", "au", list(days))

    def _ask(self, member: str, signature: str = "", *body: object, interface: str = INTERFACE) -> Any:  # noqa: ANN401 - the XML says
        call = Message(
            destination=NAME, path=PATH, interface=interface, member=member, signature=signature, body=list(body)
        )
        try:
            reply = self._loop.run_until_complete(asyncio.wait_for(self._bus.call(call), _ANSWER_TIMEOUT_S))
        except asyncio.TimeoutError as error:
            raise DaemonUnreachableError(f"cannot ask the daemon: no answer in {_ANSWER_TIMEOUT_S:.0f} s") from error
        except Exception as error:  # dbus-fast hands on whatever ended the connection
            why = str(error) or type(error).__name__
            raise DaemonUnreachableError(f"cannot ask the daemon: the bus hung up: {why}") from error
        if reply.message_type is MessageType.ERROR:
            raise _error(reply)
        return _plain(reply.body[0]) if reply.body else None


async def _connect() -> MessageBus:
    return await MessageBus(bus_type=BusType.SYSTEM).connect()


def _error(reply: Message) -> LicensedError:
    name = reply.error_name or ""
    text = str(reply.body[0]) if reply.body else name
    if name in _NOBODY_THERE:
        return DaemonUnreachableError("cannot ask the daemon: it does not run (systemctl status smartserver-licensed)")
    if name == _STANDARD + "AccessDenied":
        return RefusedError("not-permitted", f"cannot ask the daemon: the policy of D-Bus forbids it: {text}")
    return RefusedError(error_code(name) or "internal-error", text)


def _plain(value: object) -> object:
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
