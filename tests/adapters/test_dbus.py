"""The D-Bus service on a real, private dbus-daemon, seen by dbus-fast, busctl, gdbus, pydbus and another user."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.resources
import json
import logging
import os
import signal
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast import introspection as intr
from dbus_fast.aio import MessageBus

from smartserver_licensed.adapters.dbus import DbusService
from smartserver_licensed.domain.errors import BusNameTakenError, BusUnavailableError
from smartserver_licensed.domain.status import State
from smartserver_licensed.formats.bus import INTERFACE, NAME, PATH, Plain, properties
from support.bus import STATUS, LicenseAnswers, PrivateBus, on_bus, private_bus

pytestmark = pytest.mark.needs("dbus-daemon")

PROPERTIES = "org.freedesktop.DBus.Properties"
ERROR = f"{INTERFACE}.Error."
CONTRACT = (importlib.resources.files("smartserver_licensed") / f"{INTERFACE}.xml").read_text("utf-8")
POLICY = Path(__file__).parents[2] / "etc" / f"{INTERFACE}.conf"
CMS_CLIENT = Path(__file__).parents[2] / "docs/examples/cms_client.py"
needs_pydbus = pytest.mark.needs("/usr/lib/python3/dist-packages/pydbus")


class Client:
    """A caller that keeps the signals it hears."""

    def __init__(self, connection: MessageBus) -> None:
        self.connection = connection
        self.signals: asyncio.Queue[Message] = asyncio.Queue()
        connection.add_message_handler(self._hear)

    def _hear(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.path == PATH:
            self.signals.put_nowait(message)

    async def ask(
        self, member: str, signature: str = "", *body: object, interface: str = INTERFACE, path: str = PATH
    ) -> Message:
        call = Message(
            destination=NAME, path=path, interface=interface, member=member, signature=signature, body=list(body)
        )
        return await asyncio.wait_for(self.connection.call(call), 10)

    async def refused(self, member: str, signature: str = "", *body: object, interface: str = INTERFACE) -> str:
        """The name of the error that a call is answered with."""
        reply = await self.ask(member, signature, *body, interface=interface)
        assert reply.message_type is MessageType.ERROR
        return str(reply.error_name)

    async def follow(self) -> None:
        rule = f"type='signal',path='{PATH}'"
        call = Message(
            destination="org.freedesktop.DBus",
            path="/org/freedesktop/DBus",
            interface="org.freedesktop.DBus",
            member="AddMatch",
            signature="s",
            body=[rule],
        )
        assert (await self.connection.call(call)).message_type is MessageType.METHOD_RETURN

    async def hear(self) -> Message:
        return await asyncio.wait_for(self.signals.get(), 10)


@pytest.fixture
async def client(bus: PrivateBus) -> AsyncIterator[Client]:
    connection = await MessageBus(bus_address=bus.address).connect()
    yield Client(connection)
    connection.disconnect()
    with contextlib.suppress(Exception):
        await connection.wait_for_disconnect()  # type: ignore[no-untyped-call]


def plain(value: object) -> object:
    """Variants taken out, for comparison."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def shape(xml: str) -> object:
    """An introspection tree as comparable values."""

    def tree(element: ET.Element) -> tuple[object, ...]:
        return element.tag, sorted(element.attrib.items()), sorted((tree(each) for each in element), key=repr)

    return tree(ET.fromstring(xml))


async def run(*command: str, bus: PrivateBus) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *command, env=on_bus(bus.address), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, output.decode()


# -- the contract --------------------------------------------------------------------------------------------------


async def test_introspection_is_the_contract(service: DbusService, client: Client) -> None:
    reply = await client.ask("Introspect", interface="org.freedesktop.DBus.Introspectable")
    assert shape(reply.body[0]) == shape(CONTRACT)


@pytest.mark.needs("busctl")
async def test_busctl_sees_the_contract_and_finds_the_object(service: DbusService, bus: PrivateBus) -> None:
    address = f"--address={bus.address}"
    code, xml = await run("busctl", address, "introspect", "--xml-interface", NAME, PATH, bus=bus)
    assert code == 0
    assert shape(xml) == shape(CONTRACT)
    code, tree = await run("busctl", address, "tree", "--list", NAME, bus=bus)
    assert code == 0
    assert PATH in tree.split()


@pytest.mark.needs("busctl")
async def test_busctl_introspect_shows_the_members_types_and_flags_of_the_contract(
    service: DbusService, bus: PrivateBus
) -> None:
    code, table = await run("busctl", f"--address={bus.address}", "introspect", NAME, PATH, INTERFACE, bus=bus)
    assert code == 0
    shown = {
        (name, kind, signature, "" if kind == "property" else result, flags)
        for name, kind, signature, result, flags in (line.split() for line in table.splitlines()[1:])
    }
    contract = intr.Node.parse(CONTRACT).interfaces[0]
    methods = {
        (f".{each.name}", "method", each.in_signature or "-", each.out_signature or "-", "-")
        for each in contract.methods
    }
    readable = {(f".{each.name}", "property", each.signature, "", "emits-change") for each in contract.properties}
    signals = {(f".{each.name}", "signal", each.signature or "-", "-", "-") for each in contract.signals}
    assert shown == methods | readable | signals


@pytest.mark.needs("gdbus")
async def test_gdbus_sees_every_member_of_the_contract(service: DbusService, bus: PrivateBus) -> None:
    code, text = await run("gdbus", "introspect", "--address", bus.address, "-d", NAME, "-o", PATH, bus=bus)
    assert code == 0
    interface = intr.Node.parse(CONTRACT).interfaces[0]
    members = [each.name for each in interface.methods] + [each.name for each in interface.signals]
    for name in members + [each.name for each in interface.properties]:
        assert name in text


async def test_every_method_of_the_contract_is_answered_in_its_own_type(service: DbusService, client: Client) -> None:
    arguments: dict[str, list[object]] = {
        "ListDevices": [{}],
        "Explain": ["lon/d00001"],
        "Plan": [5],
        "VerifyDocument": [b"{}"],
        "InstallDocument": [b"{}"],
        "CreateActivationRequest": [{}],
        "PreviewReturn": ["L-1", 100],
        "CreateReturn": ["L-1", 100, {}],
        "GetReturn": [1],
        "CheckUpdate": ["4.0", "feature", "2026-10-01"],
        "ConfirmUpdate": ["4.0", "feature"],
        "SetNoticeDays": [[30, 7]],
        "Get": [INTERFACE, "State"],
        "GetAll": [INTERFACE],
    }
    for interface in intr.Node.parse(CONTRACT).interfaces:
        for method in interface.methods:
            if method.name == "Set":
                continue  # nothing can be set
            reply = await client.ask(
                method.name, method.in_signature, *arguments.get(method.name, []), interface=interface.name
            )
            assert (method.name, reply.message_type) == (method.name, MessageType.METHOD_RETURN)
            assert (method.name, reply.signature) == (method.name, method.out_signature)


async def test_every_property_of_the_contract_can_be_read_in_its_own_type(service: DbusService, client: Client) -> None:
    everything = (await client.ask("GetAll", "s", INTERFACE, interface=PROPERTIES)).body[0]
    declared = intr.Node.parse(CONTRACT).interfaces[0].properties
    assert {each.name: each.signature for each in declared} == {key: each.signature for key, each in everything.items()}
    for each in declared:
        value = (await client.ask("Get", "ss", INTERFACE, each.name, interface=PROPERTIES)).body[0]
        assert value == everything[each.name]
    assert everything["UsedCapacity"] == Variant("u", 37)
    assert everything["AvailableCapacity"] == Variant("u", 163)
    assert everything["BrokerConnected"] == Variant("b", True)


async def test_the_interface_may_be_left_out_as_d_bus_allows(service: DbusService, client: Client) -> None:
    call = Message(destination=NAME, path=PATH, member="ListLicenses")
    reply = await client.connection.call(call)
    assert plain(reply.body[0])[0]["license_id"] == "L-1"  # type: ignore[index]
    reply = await client.ask("Get", "ss", "", "State", interface=PROPERTIES)
    assert reply.body[0].value == "licensed"


# -- methods -------------------------------------------------------------------------------------------------------


async def test_values_have_fixed_types(service: DbusService, client: Client) -> None:
    explanation = (await client.ask("Explain", "s", "lon/d00001")).body[0]
    assert {key: value.signature for key, value in explanation.items()} == {
        "name": "s",
        "licensed": "b",
        "rule": "s",
        "capacity": "x",
        "documents": "as",
        "numbers": "a{sv}",
    }
    assert explanation["numbers"].value["big"] == Variant("x", 2**40)


async def test_devices_are_paged_and_filtered(service: DbusService, client: Client, answers: LicenseAnswers) -> None:
    answers.devices = 2_500
    first = (await client.ask("ListDevices", "a{sv}", {})).body[0]
    assert len(first) == 1_000
    after = {"after": first[-1]["name"], "limit": Variant("u", 2)}
    rest = (await client.ask("ListDevices", "a{sv}", after)).body[0]
    assert [row["name"].value for row in rest] == ["lon/d01000", "lon/d01001"]
    waiting = (await client.ask("ListDevices", "a{sv}", {"waiting": Variant("b", True)})).body[0]
    assert {row["seat"].value for row in waiting} == {"waiting"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"colour": Variant("s", "red")},
        {"limit": Variant("u", 0)},
        {"limit": Variant("u", 1_001)},
        {"limit": Variant("s", "10")},
        {"waiting": Variant("u", 1)},
    ],
)
async def test_a_wrong_filter_is_refused(service: DbusService, client: Client, wrong: dict[str, Variant]) -> None:
    assert await client.refused("ListDevices", "a{sv}", wrong) == ERROR + "ArgumentInvalid"


async def test_an_administrator_installs_a_document(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    reply = await client.ask("InstallDocument", "ay", b'{"payload":""}')
    assert plain(reply.body[0]) == {"seq": 7, "kind": "grant", "size": 14}
    assert answers.installed == [b'{"payload":""}']


async def test_a_request_is_made_with_what_the_options_say_and_gives_bytes(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    reply = await client.ask("CreateActivationRequest", "a{sv}", {})
    assert (reply.signature, reply.body) == ("ay", [b'{"request": 1}'])
    wanted = {"licenses": Variant("as", ["L-1", "L-2=30"]), "new_key": Variant("b", True), "fresh": Variant("b", True)}
    await client.ask("CreateActivationRequest", "a{sv}", wanted)
    await client.ask("CreateActivationRequest", "a{sv}", {"customer_id": Variant("s", "C-1")})
    assert answers.asked == [("", (), False, False), ("", ("L-1", "L-2=30"), True, True), ("C-1", (), False, False)]


async def test_a_return_can_be_looked_at_made_listed_and_had_again(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    preview = plain((await client.ask("PreviewReturn", "su", "L-1", 170)).body[0])
    assert preview == answers.preview_return("L-1", 170)
    assert await client.refused("CreateReturn", "sua{sv}", "L-1", 170, {}) == ERROR + "ReturnLeavesExcess"
    assert await client.refused("PreviewReturn", "su", "L-9", 0) == ERROR + "LicenseUnknown"
    proof = (await client.ask("CreateReturn", "sua{sv}", "L-1", 170, {"revoke_excess": Variant("b", True)})).body[0]
    assert answers.asked == [("L-1", 170, False, True, False)]
    (row,) = (await client.ask("ListReturns")).body[0]
    assert {key: value.signature for key, value in row.items()} == {
        "number": "x", "license_id": "s", "devices": "x", "made_at": "s", "acknowledged": "b",
    }  # fmt: skip
    assert (await client.ask("GetReturn", "u", 1)).body == [proof]
    assert await client.refused("GetReturn", "u", 2) == ERROR + "ContactUnknown"


async def test_an_option_that_is_not_known_is_refused_and_nothing_is_made(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    typo = {"over_capcity": Variant("b", True)}
    assert await client.refused("CreateActivationRequest", "a{sv}", typo) == ERROR + "ArgumentInvalid"
    assert await client.refused("CreateReturn", "sua{sv}", "L-1", 5, typo) == ERROR + "ArgumentInvalid"
    assert (answers.asked, answers.returns) == ([], [])


async def test_an_update_is_judged_and_confirmed(service: DbusService, client: Client, answers: LicenseAnswers) -> None:
    verdict = plain((await client.ask("CheckUpdate", "sss", "4.0", "platform", "2026-10-01")).body[0])
    assert verdict == answers.check_update("4.0", "platform", "2026-10-01")
    confirmed = plain((await client.ask("ConfirmUpdate", "ss", "4.0", "feature")).body[0])
    assert confirmed == answers.check_update("4.0", "feature", "") | {"installed": "4.0", "license_id": "U-1"}


async def test_the_days_of_notices_are_set_and_what_cannot_be_is_refused(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    reply = await client.ask("SetNoticeDays", "au", [60, 7, 0])
    assert (reply.message_type, reply.body, answers.notice_days) == (MessageType.METHOD_RETURN, [], [60, 7, 0])
    assert await client.refused("SetNoticeDays", "au", []) == ERROR + "ArgumentInvalid"
    assert plain((await client.ask("ListNotices")).body[0]) == answers.list_notices()


@pytest.mark.needs("root", "setpriv", "busctl")
async def test_another_user_may_read_but_administer_nothing(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    as_nobody = ("setpriv", "--reuid=65534", "--clear-groups", "busctl", f"--address={bus.address}")
    code, text = await run(*as_nobody, "get-property", NAME, PATH, INTERFACE, "State", bus=bus)
    assert (code, text.strip()) == (0, 's "licensed"')
    for method in (
        ("InstallDocument", "ay", "1", "123"),
        ("AcknowledgeRepair",),
        ("CreateActivationRequest", "a{sv}", "0"),
        ("CreateReturn", "sua{sv}", "L-1", "5", "0"),
        ("ConfirmUpdate", "ss", "4.0", "feature"),
        ("SetNoticeDays", "au", "1", "7"),
    ):
        code, text = await run(*as_nobody, "call", NAME, PATH, INTERFACE, *method, bus=bus)
        assert code != 0
        assert f"cannot {method[0]}: user 65534 asks" in text
    assert (answers.installed, answers.asked, answers.returns, answers.notice_days) == ([], [], [], [])


# -- errors --------------------------------------------------------------------------------------------------------


async def test_errors_have_the_name_of_their_code(service: DbusService, client: Client) -> None:
    assert await client.refused("Explain", "s", "bac/1") == ERROR + "DeviceUnknown"
    assert await client.refused("VerifyDocument", "ay", b"no") == ERROR + "EnvelopeMalformed"
    assert await client.refused("InstallDocument", "ay", b"no") == ERROR + "EnvelopeMalformed"


@pytest.mark.parametrize("method", ["VerifyDocument", "InstallDocument"])
async def test_a_document_that_can_be_an_armored_one_is_read_and_one_byte_more_is_refused(
    service: DbusService, client: Client, answers: LicenseAnswers, method: str
) -> None:
    limit = 96 * 1024
    assert (await client.ask(method, "ay", b"{" * limit)).body[0]["size"].value == limit
    assert await client.refused(method, "ay", b"{" * (limit + 1)) == ERROR + "DocumentTooLarge"
    assert all(len(each) == limit for each in answers.installed)


async def test_an_unexpected_error_is_logged_once_and_tells_the_caller_nothing(
    service: DbusService, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await client.ask("Explain", "s", "lon/broken")
    assert reply.error_name == ERROR + "InternalError"
    assert "secret" not in reply.body[0]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert (await client.ask("Explain", "s", "lon/d00001")).message_type is MessageType.METHOD_RETURN


async def test_what_is_not_in_the_contract_has_the_standard_errors(service: DbusService, client: Client) -> None:
    standard = "org.freedesktop.DBus.Error."
    assert await client.refused("Explain", "u", 3) == standard + "InvalidArgs"
    assert await client.refused("Explain") == standard + "InvalidArgs"
    assert await client.refused("ListLicenses", "s", "all") == standard + "InvalidArgs"
    assert await client.refused("Nonsense") == standard + "UnknownMethod"
    assert await client.refused("Explain", "s", "x", interface="com.other") == standard + "UnknownInterface"
    assert await client.refused("Get", "ss", INTERFACE, "Colour", interface=PROPERTIES) == standard + "UnknownProperty"
    assert await client.refused("GetAll", "s", "com.other", interface=PROPERTIES) == standard + "UnknownInterface"
    setting = ("Set", "ssv", INTERFACE, "State", Variant("s", "full"))
    assert await client.refused(*setting, interface=PROPERTIES) == standard + "PropertyReadOnly"
    reply = await client.ask("ListLicenses", path="/com/enocean")
    assert reply.error_name == standard + "UnknownObject"


async def test_text_that_d_bus_cannot_hold_reaches_the_client_and_the_connection_lives(
    service: DbusService, client: Client, answers: LicenseAnswers
) -> None:
    answers.current = dataclasses.replace(STATUS, customer_id="a\0b\ud800c")
    reply = await client.ask("Get", "ss", INTERFACE, "CustomerId", interface=PROPERTIES)
    assert reply.body[0].value == "a\ufffdb\ufffdc"
    assert service.is_connected


# -- signals -------------------------------------------------------------------------------------------------------


async def test_only_changed_properties_are_told(service: DbusService, client: Client) -> None:
    await client.follow()
    service.publish(STATUS)
    more = dataclasses.replace(STATUS.totals, provisioned=37, reserved=1)
    service.publish(dataclasses.replace(STATUS, totals=more))
    service.publish(dataclasses.replace(STATUS, totals=more))
    service.publish(dataclasses.replace(STATUS, totals=more, state=State.FULL))
    first, second = await client.hear(), await client.hear()
    assert (first.interface, first.member) == (PROPERTIES, "PropertiesChanged")
    assert first.body == [
        INTERFACE,
        {
            "UsedCapacity": Variant("u", 38),
            "ReservedCapacity": Variant("u", 1),
            "AvailableCapacity": Variant("u", 162),
        },
        [],
    ]
    assert second.body == [INTERFACE, {"State": Variant("s", "full")}, []]
    assert client.signals.empty()


async def test_notices_are_told(service: DbusService, client: Client, answers: LicenseAnswers) -> None:
    await client.follow()
    service.noticed("expiry", answers.list_notices()[0])
    heard = await client.hear()
    assert (heard.member, heard.signature) == ("Notice", "sa{sv}")
    assert plain(heard.body) == ["expiry", answers.list_notices()[0]]


async def test_rejections_and_license_changes_are_told(service: DbusService, client: Client) -> None:
    await client.follow()
    service.rejected("lon/d1", "capacity-exceeded", {"capacity": 5, "used": 5})
    service.license_changed({"seq": 8, "licenses": ["L-1: 5-device trial"]})
    rejected, changed = await client.hear(), await client.hear()
    assert (rejected.member, rejected.signature) == ("AdmissionRejected", "ssa{sv}")
    assert plain(rejected.body) == ["lon/d1", "capacity-exceeded", {"capacity": 5, "used": 5}]
    assert (changed.member, changed.signature) == ("LicenseChanged", "a{sv}")
    assert plain(changed.body) == [{"seq": 8, "licenses": ["L-1: 5-device trial"]}]


# -- the connection ------------------------------------------------------------------------------------------------


async def test_a_second_daemon_is_told_that_the_name_is_taken(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    with pytest.raises(BusNameTakenError):
        await DbusService(address=bus.address).start(answers)


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "nonsense", "carrier:pigeon=1"])
async def test_a_bus_that_is_not_there_is_an_error_of_ours(address: str, answers: LicenseAnswers) -> None:
    with pytest.raises(BusUnavailableError, match="cannot connect to D-Bus"):
        await DbusService(address=address).start(answers)


async def test_system_means_the_address_in_the_environment(
    bus: PrivateBus, answers: LicenseAnswers, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    service = DbusService(address="system")
    await service.start(answers)
    assert (await client.ask("Ping", interface="org.freedesktop.DBus.Peer")).message_type is MessageType.METHOD_RETURN
    await service.stop()
    assert not service.is_connected


async def test_after_the_bus_was_killed_the_service_comes_back_with_the_properties_of_now(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bus.kill()
    await asyncio.sleep(0.2)
    assert not service.is_connected
    answers.current = dataclasses.replace(STATUS, state=State.FULL)
    service.publish(answers.current)
    bus.start()
    for _ in range(100):
        if service.is_connected:
            break
        await asyncio.sleep(0.1)
    connection = await MessageBus(bus_address=bus.address).connect()
    reply = await Client(connection).ask("Get", "ss", INTERFACE, "State", interface=PROPERTIES)
    assert reply.body[0].value == "full"
    connection.disconnect()
    assert [each.message for each in caplog.records if each.name.startswith("smartserver_licensed.adapters.dbus")] == [
        "The D-Bus is not connected",
        "The D-Bus is connected again",
    ]


async def test_stopping_while_the_bus_is_away_ends_at_once(bus: PrivateBus, answers: LicenseAnswers) -> None:
    service = DbusService(address=bus.address)
    await service.start(answers)
    bus.kill()
    await asyncio.sleep(0.1)
    await asyncio.wait_for(service.stop(), 2)


async def test_stopping_finishes_the_installation_that_is_under_way(bus: PrivateBus, client: Client) -> None:
    class Slow(LicenseAnswers):
        async def install_document(self, data: bytes) -> dict[str, Plain]:
            await asyncio.sleep(0.3)
            return {"seq": 1}

    service = DbusService(address=bus.address)
    await service.start(Slow())
    call = asyncio.create_task(client.ask("InstallDocument", "ay", b"{}"))
    await asyncio.sleep(0.1)
    await service.stop()
    assert plain((await call).body) == [{"seq": 1}]


async def test_a_bus_that_is_slow_to_read_loses_nothing(service: DbusService, bus: PrivateBus, client: Client) -> None:
    """1 MB of signals while dbus-daemon stands still: several times the socket's buffer."""
    await client.follow()
    os.kill(bus.pid, signal.SIGSTOP)
    try:
        for number in range(500):
            service.rejected(f"lon/d{number}", "capacity-exceeded", {"text": "x" * 2_000})
            await asyncio.sleep(0)
        assert service.is_connected
    finally:
        os.kill(bus.pid, signal.SIGCONT)
    heard = [(await client.hear()).body[0] for _ in range(500)]
    assert heard == [f"lon/d{number}" for number in range(500)]
    assert (await client.ask("ListLicenses")).message_type is MessageType.METHOD_RETURN


async def test_a_bus_that_reads_no_more_is_given_up_and_memory_stays_bounded(
    service: DbusService, bus: PrivateBus
) -> None:
    os.kill(bus.pid, signal.SIGSTOP)
    try:
        for number in range(3_000):
            service.rejected(f"lon/d{number}", "capacity-exceeded", {"text": "x" * 2_000})
            if number % 50 == 0:
                await asyncio.sleep(0.001)
        assert not service.is_connected
    finally:
        os.kill(bus.pid, signal.SIGCONT)
    for _ in range(100):
        if service.is_connected:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the service did not come back")


# -- the bus's policy ----------------------------------------------------------------------------------------------


async def test_under_the_shipped_policy_only_the_daemons_user_owns_the_name(answers: LicenseAnswers) -> None:
    closed = '<policy context="default"><deny own="*"/><deny send_type="method_call"/></policy>'
    bus_itself = '<policy context="default"><allow send_destination="org.freedesktop.DBus"/></policy>'
    policies = ET.parse(POLICY).getroot()
    shipped = "".join(ET.tostring(each, encoding="unicode") for each in policies)
    refused = pytest.raises(BusUnavailableError, match="cannot own")
    with private_bus(more_config=closed + bus_itself + shipped) as bus, refused:
        await DbusService(address=bus.address).start(answers)
    ours = shipped.replace('user="smartserver-licensed"', f'user="{os.geteuid()}"')
    with private_bus(more_config=closed + bus_itself + ours) as bus:
        service = DbusService(address=bus.address)
        await service.start(answers)
        code, text = await run(
            "busctl", f"--address={bus.address}", "get-property", NAME, PATH, INTERFACE, "State", bus=bus
        )
        await service.stop()
    assert (code, text.strip()) == (0, 's "licensed"')


# -- pydbus: what CMS code in Python uses ----------------------------------------------------------------------------


class Cms:
    """Runs the example as a CMS would: with the system's Python and Debian's pydbus."""

    def __init__(self, address: str) -> None:
        self._command = ("/usr/bin/python3", str(CMS_CLIENT), "--bus", address)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )

    async def ask(self, *arguments: str) -> list[object]:
        """What it says, where all went well: a JSON value a line."""
        status, values, complaint = await self.run(*arguments)
        assert (status, complaint) == (0, "")
        return values

    async def run(self, *arguments: str) -> tuple[int | None, list[object], str]:
        process = await self.start(*arguments)
        output, complaint = await asyncio.wait_for(process.communicate(), 30)
        return process.returncode, [json.loads(line) for line in output.splitlines()], complaint.decode().strip()


@pytest.fixture
def cms(bus: PrivateBus) -> Cms:
    return Cms(bus.address)


@needs_pydbus
async def test_a_cms_reads_all_properties(service: DbusService, cms: Cms) -> None:
    assert await cms.ask("status") == [{name: value for name, (_, value) in properties(STATUS).items()}]


@needs_pydbus
async def test_a_cms_lists_licenses_in_their_own_types(service: DbusService, cms: Cms, answers: LicenseAnswers) -> None:
    assert await cms.ask("licenses") == answers.list_licenses()


@needs_pydbus
async def test_a_cms_lists_devices_page_by_page(service: DbusService, cms: Cms, answers: LicenseAnswers) -> None:
    for count in (0, 1, 500, 1_203):  # none, less than a page, just a page, more than two
        answers.devices = count
        assert await cms.ask("devices") == answers.list_devices(waiting_only=False, after="", limit=2_000)
    assert await cms.ask("devices", "--waiting") == answers.list_devices(waiting_only=True, after="", limit=2_000)


@needs_pydbus
async def test_a_cms_learns_why_a_device_is_licensed(service: DbusService, cms: Cms, answers: LicenseAnswers) -> None:
    assert await cms.ask("explain", "lon/d00002") == [answers.explain("lon/d00002")]


@needs_pydbus
async def test_a_cms_installs_a_document_byte_by_byte_the_same(
    service: DbusService, cms: Cms, answers: LicenseAnswers, tmp_path: Path
) -> None:
    document = tmp_path / "grant.json"
    document.write_bytes(b'{"\x00\xff')
    assert await cms.ask("install", str(document)) == [{"seq": 7, "kind": "grant", "size": 4}]
    assert answers.installed == [document.read_bytes()]


@needs_pydbus
async def test_a_cms_asks_for_a_request_judges_an_update_and_lists_notices(
    service: DbusService, cms: Cms, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    assert await cms.ask("request", str(file), "--license", "L-2=30") == [{"file": str(file), "size": 14}]
    assert file.read_bytes() == b'{"request": 1}'
    assert answers.asked == [("", ("L-2=30",), False, False)]
    assert await cms.ask("check-update", "4.0", "platform") == [answers.check_update("4.0", "platform", "")]
    assert await cms.ask("notices") == answers.list_notices()


@needs_pydbus
async def test_a_cms_sees_the_code_and_the_sentence_of_an_error(service: DbusService, cms: Cms) -> None:
    status, values, complaint = await cms.run("explain", "bac/1")
    assert (status, values) == (4, [])
    assert complaint == "DeviceUnknown: cannot explain 'bac/1': no device of that name is known"


@needs_pydbus
async def test_a_cms_sees_that_the_daemon_is_not_there(cms: Cms) -> None:
    status, values, complaint = await cms.run("status")
    assert (status, values) == (3, [])
    assert complaint.startswith("the licensing daemon is not there")


@needs_pydbus
async def test_a_cms_follows_every_signal_and_a_restart(
    service: DbusService, bus: PrivateBus, cms: Cms, answers: LicenseAnswers
) -> None:
    process = await cms.start("watch", "--seconds", "30")

    async def hear() -> dict[str, object]:
        assert process.stdout is not None
        value = json.loads(await asyncio.wait_for(process.stdout.readline(), 20))
        assert isinstance(value, dict)
        return value

    assert (await hear())["status"] == {name: value for name, (_, value) in properties(STATUS).items()}
    service.rejected("lon/d9", "capacity-exceeded", {"used": 5})
    service.license_changed({"seq": 8})
    service.tampered("glp/0/17qtest/fb/lic", {"shown": "x"})
    service.noticed("expiry", {"threshold": 7})
    answers.current = dataclasses.replace(STATUS, state=State.FULL)
    service.publish(answers.current)
    heard = [await hear() for _ in range(5)]
    assert heard == [
        {"signal": "AdmissionRejected", "values": ["lon/d9", "capacity-exceeded", {"used": 5}]},
        {"signal": "LicenseChanged", "values": [{"seq": 8}]},
        {"signal": "TamperDetected", "values": ["glp/0/17qtest/fb/lic", {"shown": "x"}]},
        {"signal": "Notice", "values": ["expiry", {"threshold": 7}]},
        {"signal": "PropertiesChanged", "values": {"State": "full"}},
    ]
    contract = {each.name for each in intr.Node.parse(CONTRACT).interfaces[0].signals}
    assert {each["signal"] for each in heard} == contract | {"PropertiesChanged"}

    await service.stop()
    assert await hear() == {"status": None}
    again = DbusService(address=bus.address)
    await again.start(answers)
    assert (await hear())["status"] == {name: value for name, (_, value) in properties(answers.current).items()}
    await again.stop()
    process.terminate()
    await process.communicate()


def test_the_published_properties_are_those_of_the_contract() -> None:
    declared = intr.Node.parse(CONTRACT).interfaces[0].properties
    assert {each.name: each.signature for each in declared} == {
        name: signature for name, (signature, _) in properties(STATUS).items()
    }
