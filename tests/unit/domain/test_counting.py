"""Each kind of device, and the counting unit it belongs to (LICENSING §2)."""

from __future__ import annotations

import pytest

from smartserver_licensed.domain.counting import (
    INTERNAL_LIMIT,
    SMARTSERVER,
    UnitId,
    counting_unit,
    may_be_internal,
    only_device,
)
from smartserver_licensed.domain.devices import DeviceId

KINDS = [
    ("a LON device", "lon/lon.1", "lon/lon.1"),
    ("a device imported in Independent Management Mode", "lon/imm-7", "lon/imm-7"),
    ("a BACnet device with dots and dashes", "bacnet/acme-wm2000.d-0", "bacnet/acme-wm2000.d-0"),
    ("a Modbus device", "modbus/5", "modbus/5"),
    ("a Modbus device behind an IOX", "modbus/iox.411b19.dio", "modbus/iox.411b19.dio"),
    ("an IOX's inputs, current naming", "iap/iox.411b19.dio", "iox/411b19"),
    ("an IOX's system part, current naming", "iap/iox.411b19.sys", "iox/411b19"),
    ("an IOX's meter, current naming", "iap/iox.411b19.meter", "iox/411b19"),
    ("an IOX's inputs, older naming", "iox.411b19/dio", "iox/411b19"),
    ("an IOX's meter, older naming", "iox.411b19/meter", "iox/411b19"),
    ("the one IOX of the oldest naming", "iox/dio", "iox/iox"),
    ("no IOX: another handle of protocol iap", "iap/lamp.dio", "iap/lamp.dio"),
    ("no IOX: an unknown part", "iap/iox.411b19.fan", "iap/iox.411b19.fan"),
    ("no IOX: a handle that imitates a module's key", "iox/411b19", "iox//411b19"),
    ("no IOX: a protocol that only begins like one", "ioxx/dio", "ioxx/dio"),
]


@pytest.mark.parametrize(("kind", "device", "unit"), KINDS, ids=[kind for kind, _, _ in KINDS])
def test_each_kind_of_device_has_its_counting_unit(kind: str, device: str, unit: str) -> None:
    protocol, _, handle = device.partition("/")
    assert counting_unit(DeviceId(protocol, handle)) == unit


def test_an_internal_device_counts_with_the_smartserver() -> None:
    app = DeviceId("lon", "app.1")
    assert counting_unit(app, {app}) == SMARTSERVER


INTERNAL = [
    ("the LON system device", "lon/lon.sys", False, False, True),
    ("the Modbus system device", "modbus/sys", False, False, True),
    ("an internal application", "lon/app.1", True, False, True),
    ("a local attach of another protocol", "bacnet/app.1", True, False, False),
    ("a sys handle whose cat says so", "bacnet/sys", False, True, True),
    ("a {P}.sys handle whose cat says so", "bacnet/bacnet.sys", False, True, True),
    ("a sys handle without the cat", "bacnet/sys", False, False, False),
    ("a cat alone is anybody's claim", "bacnet/7", False, True, False),
    ("the system part of an IOX", "iox.411b19/sys", False, True, False),
]


@pytest.mark.parametrize(("kind", "device", "local", "cat", "expected"), INTERNAL, ids=[each[0] for each in INTERNAL])
def test_what_counts_with_the_smartserver(kind: str, device: str, *, local: bool, cat: bool, expected: bool) -> None:
    protocol, _, handle = device.partition("/")
    assert (
        may_be_internal(DeviceId(protocol, handle), is_local_attach=local, is_infrastructure=cat, internal=set())
        is expected
    )


def test_only_one_system_handle_a_protocol_counts_with_the_smartserver() -> None:
    first, second = DeviceId("bacnet", "sys"), DeviceId("bacnet", "bacnet.sys")
    assert not may_be_internal(second, is_local_attach=False, is_infrastructure=True, internal={first})


def test_the_thirty_third_internal_device_counts() -> None:
    internal = {DeviceId("lon", f"app.{n}") for n in range(INTERNAL_LIMIT)}
    assert not may_be_internal(
        DeviceId("lon", "app.x"), is_local_attach=True, is_infrastructure=False, internal=internal
    )
    assert may_be_internal(DeviceId("lon", "app.1"), is_local_attach=True, is_infrastructure=False, internal=internal)


@pytest.mark.parametrize("name", ["modbus/5", "iox//411b19", "bacnet/acme-wm2000.d-0"])
def test_a_unit_of_one_device_names_it(name: str) -> None:
    device = only_device(UnitId(name))
    assert device is not None
    assert counting_unit(device) == name


@pytest.mark.parametrize("name", ["smartserver", "iox/411b19"])
def test_a_unit_of_several_devices_names_none(name: str) -> None:
    assert only_device(UnitId(name)) is None
