"""The D-Bus service: answers calls from the introspection XML, tells changes, comes back when the bus was away.

Rules:
- `com.enocean.SmartServer.License1.xml` is the contract: names, signatures and Introspect's answer come from it;
- the interface is there before the name is, so that nobody who waits for the name is answered "unknown object";
- every LicensedError becomes the error of its code; anything else `Error.InternalError`, logged once, without details
  for the caller;
- administration is allowed to root and to the daemon's own user, as the bus knows the caller;
- bounded: documents of 64 KiB, 50 unsent messages before calls are refused, 1,000 before the connection is given up.

What this module does not do: it decides nothing (`formats.bus.LicenseService` answers) and shapes no values
(`formats.bus`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import select
from collections import deque
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
    DocumentTooLargeError,
    LicensedError,
    NotPermittedError,
    NotReadyError,
)
from smartserver_licensed.domain.messages import BUS_CONNECTED, BUS_LOST, INTERNAL_ERROR
from smartserver_licensed.domain.status import Status
from smartserver_licensed.formats.bus import (
    ERROR_PREFIX,
    INTERFACE,
    MAX_DOCUMENT_BYTES,
    NAME,
    PATH,
    LicenseService,
    Plain,
    Typed,
    clean,
    error_name,
    parse_filter,
    properties,
    typed_row,
)

_LOGGER = logging.getLogger(__name__)
_PROPERTIES = "org.freedesktop.DBus.Properties"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_PEER = "org.freedesktop.DBus.Peer"
_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_CONNECT_TIMEOUT_S = 10.0
_CALL_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 0.5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_BUSY_AT = 50
_GIVE_UP_AT = 1_000


class DbusService:
    """The daemon's end of the bus. `address` is "system" (DBUS_SYSTEM_BUS_ADDRESS is honored) or a D-Bus address.

    Who answers comes with `start`, because the controller that answers tells its changes here.
    """

    def __init__(self, *, address: str) -> None:
        self._address = address
        self._service: LicenseService
        self._xml = (Path(__file__).parents[1] / f"{INTERFACE}.xml").read_text("utf-8")  # importlib.resources: 6 ms
        self._interfaces = {each.name: each for each in intr.Node.parse(self._xml).interfaces}
        self._handlers: dict[tuple[str, str], Callable[[Message], list[object]]] = {
            (INTERFACE, "ListLicenses"): self._list_licenses,
            (INTERFACE, "ListDevices"): self._list_devices,
            (INTERFACE, "Explain"): self._explain,
            (INTERFACE, "Plan"): self._plan,
            (INTERFACE, "VerifyDocument"): self._verify_document,
            (INTERFACE, "DescribeStorage"): self._describe_storage,
            (_PROPERTIES, "Get"): self._get,
            (_PROPERTIES, "Set"): self._set,
            (_PROPERTIES, "GetAll"): self._get_all,
            (_INTROSPECTABLE, "Introspect"): lambda _: [self._xml],
            (_PEER, "Ping"): lambda _: [],
            (_PEER, "GetMachineId"): lambda _: [_machine_id()],
        }
        self._published: dict[str, Typed] = {}
        self._bus: _SteadyBus | None = None
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
            self._emit(_PROPERTIES, "PropertiesChanged", "sa{sv}as", [INTERFACE, _variants(changed), []])

    def rejected(self, device: str, reason: str, details: Mapping[str, Plain]) -> None:
        """Emit AdmissionRejected."""
        body = [clean(device), clean(reason), _variants(typed_row(details))]
        self._emit(INTERFACE, "AdmissionRejected", "ssa{sv}", body)

    def license_changed(self, summary: Mapping[str, Plain]) -> None:
        """Emit LicenseChanged."""
        self._emit(INTERFACE, "LicenseChanged", "a{sv}", [_variants(typed_row(summary))])

    def tampered(self, topic: str, details: Mapping[str, Plain]) -> None:
        """Emit TamperDetected."""
        self._emit(INTERFACE, "TamperDetected", "sa{sv}", [clean(topic), _variants(typed_row(details))])

    def _emit(self, interface: str, member: str, signature: str, body: Sequence[object]) -> None:
        if self._bus is not None:
            self._bus.tell(Message.new_signal(PATH, interface, member, signature, list(body)))

    # -- the connection ------------------------------------------------------------------------------------------

    async def _connect(self) -> _SteadyBus:
        try:
            bus = _SteadyBus(bus_type=BusType.SYSTEM, bus_address=None if self._address == "system" else self._address)
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

    async def _keep_connected(self, bus: _SteadyBus) -> None:
        while True:
            await bus.lost()
            if self._is_stopping:
                return
            self._bus = None
            _LOGGER.warning(BUS_LOST.sentence, extra={"fields": {"MESSAGE_ID": BUS_LOST.id, "ADDRESS": self._address}})
            bus = self._bus = await self._connect_again()
            _LOGGER.info(BUS_CONNECTED.sentence, extra={"fields": {"MESSAGE_ID": BUS_CONNECTED.id}})

    async def _connect_again(self) -> _SteadyBus:
        pause_s = _FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                return await self._connect()
            except LicensedError as error:
                _LOGGER.debug("D-Bus is not there yet", extra={"fields": {"REASON": str(error)}})
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    # -- calls ---------------------------------------------------------------------------------------------------

    def _on_message(self, bus: _SteadyBus, message: Message) -> bool:
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

    def _answer(self, bus: _SteadyBus, message: Message) -> list[object] | Coroutine[Any, Any, list[object]]:
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
        if method.name == "InstallDocument":
            return self._install_document(bus, message)
        if method.name == "AcknowledgeRepair":
            return self._acknowledge_repair(bus, message)
        return self._handlers[interface, method.name](message)

    def _method(self, message: Message) -> tuple[str, intr.Method]:
        """The method that a call means; D-Bus lets callers leave the interface out."""
        if message.interface and message.interface not in self._interfaces:
            raise DBusError(ErrorType.UNKNOWN_INTERFACE, f"cannot call {message.interface}: no such interface here")
        for name in [message.interface] if message.interface else self._interfaces:
            for method in self._interfaces[name].methods:
                if method.name == message.member:
                    return name, method
        raise DBusError(ErrorType.UNKNOWN_METHOD, f"cannot call {message.member}: no such method here")

    async def _finish(self, bus: _SteadyBus, message: Message, answer: Coroutine[Any, Any, list[object]]) -> None:
        try:
            self._reply(bus, message, await answer)
        except Exception as error:  # noqa: BLE001 - every call gets an answer; it is logged there
            _reply_error(bus, message, error)

    def _reply(self, bus: _SteadyBus, message: Message, body: list[object]) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            signature = "s" if message.path != PATH else self._method(message)[1].out_signature
            bus.tell(Message.new_method_return(message, signature, body))

    def _list_licenses(self, _: Message) -> list[object]:
        return [[_variants(typed_row(row)) for row in self._service.list_licenses()]]

    def _list_devices(self, message: Message) -> list[object]:
        wanted = parse_filter({key: (value.signature, value.value) for key, value in message.body[0].items()})
        rows = self._service.list_devices(waiting_only=wanted.waiting_only, after=wanted.after, limit=wanted.limit)
        return [[_variants(typed_row(row)) for row in rows]]

    def _explain(self, message: Message) -> list[object]:
        return [_variants(typed_row(self._service.explain(message.body[0])))]

    def _plan(self, message: Message) -> list[object]:
        return [_variants(typed_row(self._service.plan(message.body[0])))]

    def _verify_document(self, message: Message) -> list[object]:
        return [_variants(typed_row(self._service.verify_document(_document(message))))]

    async def _install_document(self, bus: MessageBus, message: Message) -> list[object]:
        await _require_administrator(bus, message)
        return [_variants(typed_row(await self._service.install_document(_document(message))))]

    def _describe_storage(self, _: Message) -> list[object]:
        return [_variants(typed_row(self._service.describe_storage()))]

    async def _acknowledge_repair(self, bus: MessageBus, message: Message) -> list[object]:
        await _require_administrator(bus, message)
        return [clean(await self._service.acknowledge_repair())]

    # -- org.freedesktop.DBus.Properties -------------------------------------------------------------------------

    def _get(self, message: Message) -> list[object]:
        self._require_property(*message.body)
        return [_variant(properties(self._service.status())[message.body[1]])]

    def _set(self, message: Message) -> list[object]:
        self._require_property(*message.body[:2])
        raise DBusError(ErrorType.PROPERTY_READ_ONLY, f"cannot set {message.body[1]}: it can only be read")

    def _get_all(self, message: Message) -> list[object]:
        if message.body[0] == INTERFACE or not message.body[0]:
            return [_variants(properties(self._service.status()))]
        self._require_interface(message.body[0])
        return [{}]

    def _require_property(self, interface: str, name: str) -> None:
        if interface:  # the standard lets callers leave it empty
            self._require_interface(interface)
        if name not in {each.name for each in self._interfaces[interface or INTERFACE].properties}:
            raise DBusError(ErrorType.UNKNOWN_PROPERTY, f"cannot find property {name!r} of {interface or INTERFACE}")

    def _require_interface(self, interface: str) -> None:
        if interface not in self._interfaces:
            raise DBusError(ErrorType.UNKNOWN_INTERFACE, f"cannot find interface {interface!r} here")


class _SteadyBus(MessageBus):
    """A connection that survives a bus that is slow to read.

    dbus-fast (5.0 to 5.2) writes without asking whether the socket takes more and gives the connection up at EAGAIN,
    with some 200 KB on their way. So messages go out one at a time, and only when poll(2) says that there is room: the
    kernel then takes at least a part of the next one, and dbus-fast waits properly for the rest.
    """

    def __init__(self, *, bus_type: BusType, bus_address: str | None) -> None:
        super().__init__(bus_address=bus_address, bus_type=bus_type)
        self._unsent: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self._is_sending = False
        self._watched_fd: int | None = None

    @property
    def unsent(self) -> int:
        """How many messages wait."""
        return len(self._unsent)

    async def lost(self) -> None:
        """Return when the connection has ended, however it did."""
        with contextlib.suppress(Exception):
            await self.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def tell(self, message: Message) -> None:
        """Send and forget; `lost` tells of the connection's end."""
        if self.connected:
            self.send(message).add_done_callback(_forget)

    def send(self, msg: Message) -> asyncio.Future[None]:  # type: ignore[override]  # as the asyncio bus does
        """As in dbus-fast; all its own messages come this way too."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._unsent.append((msg, future))
        if len(self._unsent) > _GIVE_UP_AT:
            self.disconnect()
        self._pump()
        return future

    def _pump(self) -> None:
        while self._unsent and not self._is_sending and not self._disconnected:
            if not self._has_room():
                return
            message, future = self._unsent.popleft()
            try:
                sent = super().send(message)
            except OSError:  # the socket was closed under dbus-fast while it wrote; `lost` tells
                future.cancel()
                return
            self._is_sending = True
            if sent.done():
                self._sent(future, sent)
            else:
                sent.add_done_callback(functools.partial(self._sent_later, future))

    def _sent_later(self, future: asyncio.Future[None], sent: asyncio.Future[None]) -> None:
        self._sent(future, sent)
        self._pump()

    def _sent(self, future: asyncio.Future[None], sent: asyncio.Future[None]) -> None:
        self._is_sending = False
        error = None if sent.cancelled() else sent.exception()
        if not future.done():
            future.set_exception(error) if error else future.set_result(None)

    def _has_room(self) -> bool:
        """Whether the socket takes more; else see to it that `_pump` is called when it does."""
        if self._watched_fd is not None or self._sock is None:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if poll.poll(0):
            return True
        self._watched_fd = os.dup(self._sock.fileno())  # a descriptor of our own: dbus-fast watches its own one
        self._loop.add_writer(self._watched_fd, self._room_again)
        return False

    def _room_again(self) -> None:
        self._stop_watching()
        self._pump()

    def _stop_watching(self) -> None:
        if self._watched_fd is not None:
            self._loop.remove_writer(self._watched_fd)
            os.close(self._watched_fd)
            self._watched_fd = None

    def _finalize(self, err: Exception | None = None) -> None:
        self._stop_watching()
        super()._finalize(err)
        for _, future in self._unsent:
            future.cancel()
        self._unsent.clear()


async def _require_administrator(bus: MessageBus, message: Message) -> None:
    """Raise NotPermittedError for all but root and the daemon's own user. Polkit will be asked here."""
    question = Message(
        destination="org.freedesktop.DBus",
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="GetConnectionUnixUser",
        signature="s",
        body=[message.sender],
    )
    try:
        answer = await asyncio.wait_for(bus.call(question), _CALL_TIMEOUT_S)
    except Exception as error:
        raise NotPermittedError(f"cannot {message.member}: the bus does not say who asks: {_why(error)}") from error
    if answer.message_type is not MessageType.METHOD_RETURN:
        raise NotPermittedError(f"cannot {message.member}: the bus does not say who asks: {answer.error_name}")
    if answer.body[0] not in {0, os.geteuid()}:
        raise NotPermittedError(f"cannot {message.member}: user {answer.body[0]} asks, only root may")


def _document(message: Message) -> bytes:
    data = bytes(message.body[0])
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLargeError(
            f"cannot read the document: it has {len(data)} bytes, at most {MAX_DOCUMENT_BYTES} are allowed"
        )
    return data


def _answer_elsewhere(message: Message) -> list[object]:
    """Introspect at the object's ancestors, so that `busctl tree` finds the way down; nothing else is there."""
    above = "" if message.path == "/" else message.path
    if message.member == "Introspect" and f"{PATH}/".startswith(f"{above}/"):
        child = PATH.removeprefix(f"{above}/").split("/")[0]
        return [f'<node><node name="{child}"/></node>']
    raise DBusError(ErrorType.UNKNOWN_OBJECT, f"cannot find object {message.path}: the only one is {PATH}")


def _reply_error(bus: _SteadyBus, message: Message, error: Exception) -> None:
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


def _variants(row: Mapping[str, Typed]) -> dict[str, Variant]:
    return {key: _variant(value) for key, value in row.items()}


def _variant(value: Typed) -> Variant:
    signature, content = value
    return Variant(signature, _variants(content) if isinstance(content, dict) else content)


def _machine_id() -> str:
    for path in _MACHINE_ID_FILES:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            return file.read().strip()
    raise DBusError(ErrorType.FILE_NOT_FOUND, "cannot read the machine id: none of its files is there")


def _forget(sent: asyncio.Future[None]) -> None:
    if not sent.cancelled():
        sent.exception()


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
