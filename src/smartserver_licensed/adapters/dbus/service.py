"""The D-Bus service: answers calls from the introspection XML, tells changes, comes back when the bus was away.

Rules:
- `com.enocean.SmartServer.License1.xml` is the contract: names, signatures and Introspect's answer come from it;
- the interface is there before the name is, so that nobody who waits for the name is answered "unknown object";
- every LicensedError becomes the error of its code; anything else `Error.InternalError`, logged once, without details
  for the caller;
- what is for administrators is allowed to root and to the daemon's own user (`caller`);
- bounded: 50 unsent messages before calls are refused, as many calls at a time.

What this module does not do: it decides nothing (`formats.bus.LicenseService` answers), knows no method of it by name
(`methods`) and shapes no values (`formats.bus`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbus_fast import (
    BusType,
    DBusError,
    ErrorType,
    Message,
    MessageFlag,
    MessageType,
    NameFlag,
    RequestNameReply,
    Variant,
)
from dbus_fast import introspection as intr
from dbus_fast.aio import MessageBus

from smartserver_licensed.domain.errors import (
    BusNameTakenError,
    BusUnavailableError,
    LicensedError,
    NotReadyError,
)
from smartserver_licensed.domain.messages import BUS_CONNECTED, BUS_LOST, INTERNAL_ERROR
from smartserver_licensed.domain.status import Status
from smartserver_licensed.formats.bus import (
    ERROR_PREFIX,
    INTERFACE,
    NAME,
    PATH,
    LicenseService,
    Plain,
    Typed,
    clean,
    error_name,
    properties,
    typed_row,
)

from .caller import require_administrator
from .methods import ADMINISTERING, READING, variant, variants
from .steady import SteadyBus

_LOGGER = logging.getLogger(__name__)
_PROPERTIES = "org.freedesktop.DBus.Properties"
_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_CONNECT_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 0.5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_BUSY_AT = 50


class DbusService:
    """The daemon's end of the bus. `address` is "system" (DBUS_SYSTEM_BUS_ADDRESS is honored) or a D-Bus address.

    Who answers comes with `start`, because the controller that answers tells its changes here.
    """

    def __init__(self, *, address: str) -> None:
        self._address = address
        self._service: LicenseService
        self._xml = (Path(__file__).parents[2] / f"{INTERFACE}.xml").read_text("utf-8")  # importlib.resources: 6 ms
        self._interfaces = {each.name: each for each in intr.Node.parse(self._xml).interfaces}
        self._standard: dict[str, Callable[..., list[object]]] = {
            "Get": self._get,
            "Set": self._set,
            "GetAll": self._get_all,
            "Introspect": lambda: [self._xml],
            "Ping": list,
            "GetMachineId": lambda: [_machine_id()],
        }
        self._published: dict[str, Typed] = {}
        self._bus: SteadyBus | None = None
        self._connection: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @property
    def is_connected(self) -> bool:
        """Whether the service is on the bus under its name."""
        return self._bus is not None and self._bus.connected

    async def start(self, service: LicenseService) -> None:
        """Connect, serve and take the name. Raises BusUnavailableError or BusNameTakenError; then nothing is open."""
        self._service = service
        self._bus = await self._connect()
        self._connection = asyncio.create_task(self._keep_connected(self._bus), name="dbus-connection")

    async def stop(self) -> None:
        """Finish the calls that are being answered, at most half a second, and leave the bus."""
        self._is_stopping = True
        if self._calls:
            _, late = await asyncio.wait(self._calls, timeout=_STOP_TIMEOUT_S)
            for task in late:
                task.cancel()
        if self._bus is not None:
            self._bus.disconnect()
        if self._connection is not None:
            await asyncio.wait({self._connection}, timeout=0 if self._bus is None else _STOP_TIMEOUT_S)
            self._connection.cancel()
            await asyncio.gather(self._connection, return_exceptions=True)
        self._bus = None

    def publish(self, status: Status) -> None:
        """Tell the properties that are others than at the last call.

        Without a connection nothing is lost: who sees the name come back reads them all.
        """
        fresh = properties(status)
        changed = {name: value for name, value in fresh.items() if value != self._published.get(name)}
        self._published = fresh
        if changed:
            self._emit(_PROPERTIES, "PropertiesChanged", "sa{sv}as", [INTERFACE, variants(changed), []])

    def rejected(self, device: str, reason: str, details: Mapping[str, Plain]) -> None:
        """Emit AdmissionRejected."""
        body = [clean(device), clean(reason), variants(typed_row(details))]
        self._emit(INTERFACE, "AdmissionRejected", "ssa{sv}", body)

    def license_changed(self, summary: Mapping[str, Plain]) -> None:
        """Emit LicenseChanged."""
        self._emit(INTERFACE, "LicenseChanged", "a{sv}", [variants(typed_row(summary))])

    def tampered(self, topic: str, details: Mapping[str, Plain]) -> None:
        """Emit TamperDetected."""
        self._emit(INTERFACE, "TamperDetected", "sa{sv}", [clean(topic), variants(typed_row(details))])

    def noticed(self, kind: str, details: Mapping[str, Plain]) -> None:
        """Emit Notice."""
        self._emit(INTERFACE, "Notice", "sa{sv}", [clean(kind), variants(typed_row(details))])

    def _emit(self, interface: str, member: str, signature: str, body: Sequence[object]) -> None:
        if self._bus is not None:
            self._bus.tell(Message.new_signal(PATH, interface, member, signature, list(body)))

    # -- the connection ------------------------------------------------------------------------------------------

    async def _connect(self) -> SteadyBus:
        try:
            bus = SteadyBus(bus_type=BusType.SYSTEM, bus_address=None if self._address == "system" else self._address)
            await asyncio.wait_for(bus.connect(), _CONNECT_TIMEOUT_S)
        except Exception as error:  # dbus-fast lets AttributeError out when the bus closes while it says Hello
            raise BusUnavailableError(f"cannot connect to D-Bus at {self._address!r}: {_why(error)}") from error
        self._published = properties(self._service.status())
        bus.add_message_handler(functools.partial(self._on_message, bus))
        try:
            await self._take_name(bus)
        except LicensedError:
            bus.disconnect()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(bus.lost(), _CALL_TIMEOUT_S)
            raise
        return bus

    async def _take_name(self, bus: MessageBus) -> None:
        try:
            reply = await asyncio.wait_for(bus.request_name(NAME, NameFlag.DO_NOT_QUEUE), _CALL_TIMEOUT_S)
        except Exception as error:
            raise BusUnavailableError(f"cannot own {NAME} on D-Bus: {_why(error)}") from error
        if reply is not RequestNameReply.PRIMARY_OWNER:
            raise BusNameTakenError(f"cannot own {NAME} on D-Bus: another process owns it")

    async def _keep_connected(self, bus: SteadyBus) -> None:
        while True:
            await bus.lost()
            if self._is_stopping:
                return
            self._bus = None
            _LOGGER.warning(BUS_LOST.sentence, extra={"fields": {"MESSAGE_ID": BUS_LOST.id, "ADDRESS": self._address}})
            bus = self._bus = await self._connect_again()
            _LOGGER.info(BUS_CONNECTED.sentence, extra={"fields": {"MESSAGE_ID": BUS_CONNECTED.id}})

    async def _connect_again(self) -> SteadyBus:
        pause_s = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                return await self._connect()
            except LicensedError as error:
                _LOGGER.debug("D-Bus is not there yet", extra={"fields": {"REASON": str(error)}})
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _on_message(self, bus: SteadyBus, message: Message) -> bool:
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        try:
            answer = self._answer(bus, message)
            if isinstance(answer, Coroutine):
                task = asyncio.create_task(self._finish(bus, message, answer), name=f"dbus-{message.member}")
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            else:
                self._reply(bus, message, answer)
        except Exception as error:  # noqa: BLE001 - every call gets an answer; it is logged there
            _reply_error(bus, message, error)
        return True  # answered, or being answered: dbus-fast has nothing to add

    def _answer(self, bus: SteadyBus, message: Message) -> list[object] | Coroutine[Any, Any, list[object]]:
        if message.path != PATH:
            return _answer_elsewhere(message)
        interface, method = self._method(message)
        if message.signature != method.in_signature:
            raise DBusError(
                ErrorType.INVALID_ARGS,
                f"cannot call {method.name}: arguments are {message.signature!r}, expected {method.in_signature!r}",
            )
        if interface == INTERFACE and (bus.unsent >= _BUSY_AT or len(self._calls) >= _BUSY_AT):
            raise NotReadyError(f"cannot call {method.name}: {_BUSY_AT} answers are waiting to be sent")
        if interface != INTERFACE:
            return self._standard[method.name](*message.body)
        if method.name in ADMINISTERING:
            return self._administer(bus, message, ADMINISTERING[method.name])
        return [READING[method.name](self._service, *message.body)]

    async def _administer(
        self, bus: MessageBus, message: Message, work: Callable[..., Coroutine[Any, Any, object]]
    ) -> list[object]:
        await require_administrator(bus, message)
        answer = await work(self._service, *message.body)
        return [] if answer is None else [answer]

    def _method(self, message: Message) -> tuple[str, intr.Method]:
        """The method that a call means; D-Bus lets callers leave the interface out."""
        if message.interface and message.interface not in self._interfaces:
            raise DBusError(ErrorType.UNKNOWN_INTERFACE, f"cannot call {message.interface}: no such interface here")
        for name in [message.interface] if message.interface else self._interfaces:
            for method in self._interfaces[name].methods:
                if method.name == message.member:
                    return name, method
        raise DBusError(ErrorType.UNKNOWN_METHOD, f"cannot call {message.member}: no such method here")

    async def _finish(self, bus: SteadyBus, message: Message, answer: Coroutine[Any, Any, list[object]]) -> None:
        try:
            self._reply(bus, message, await answer)
        except Exception as error:  # noqa: BLE001 - every call gets an answer; it is logged there
            _reply_error(bus, message, error)

    def _reply(self, bus: SteadyBus, message: Message, body: list[object]) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            signature = "s" if message.path != PATH else self._method(message)[1].out_signature
            bus.tell(Message.new_method_return(message, signature, body))

    # -- org.freedesktop.DBus.Properties -------------------------------------------------------------------------

    def _get(self, interface: str, name: str) -> list[object]:
        self._require_property(interface, name)
        return [variant(properties(self._service.status())[name])]

    def _set(self, interface: str, name: str, _: Variant) -> list[object]:
        self._require_property(interface, name)
        raise DBusError(ErrorType.PROPERTY_READ_ONLY, f"cannot set {name}: it can only be read")

    def _get_all(self, interface: str) -> list[object]:
        if interface == INTERFACE or not interface:
            return [variants(properties(self._service.status()))]
        self._require_interface(interface)
        return [{}]

    def _require_property(self, interface: str, name: str) -> None:
        if interface:  # the standard lets callers leave it empty
            self._require_interface(interface)
        if name not in {each.name for each in self._interfaces[interface or INTERFACE].properties}:
            raise DBusError(ErrorType.UNKNOWN_PROPERTY, f"cannot find property {name!r} of {interface or INTERFACE}")

    def _require_interface(self, interface: str) -> None:
        if interface not in self._interfaces:
            raise DBusError(ErrorType.UNKNOWN_INTERFACE, f"cannot find interface {interface!r} here")


def _answer_elsewhere(message: Message) -> list[object]:
    """Introspect at the object's ancestors, so that `busctl tree` finds the way down; nothing else is there."""
    above = "" if message.path == "/" else message.path
    if message.member == "Introspect" and f"{PATH}/".startswith(f"{above}/"):
        child = PATH.removeprefix(f"{above}/").split("/")[0]
        return [f'<node><node name="{child}"/></node>']
    raise DBusError(ErrorType.UNKNOWN_OBJECT, f"cannot find object {message.path}: the only one is {PATH}")


def _reply_error(bus: SteadyBus, message: Message, error: Exception) -> None:
    if isinstance(error, DBusError):
        name, text = error.type, error.text
    elif isinstance(error, LicensedError):
        name, text = error_name(error), str(error)
    else:
        name, text = f"{ERROR_PREFIX}InternalError", f"cannot answer {message.member}: internal error"
        fields = {"MESSAGE_ID": INTERNAL_ERROR.id, "DBUS_MEMBER": message.member}
        _LOGGER.error(INTERNAL_ERROR.sentence, exc_info=error, extra={"fields": fields})
    if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
        bus.tell(Message.new_error(message, name, clean(text)))


def _machine_id() -> str:
    for path in _MACHINE_ID_FILES:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            return file.read().strip()
    raise DBusError(ErrorType.FILE_NOT_FOUND, "cannot read the machine id: none of its files is there")


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
