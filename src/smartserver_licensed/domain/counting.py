"""Which counting unit a device belongs to: the thing that takes one seat.

Rules (LICENSING §2; the facts are the vendor's FAQ, the limits are ours):
- the SmartServer itself is one counting unit, and with it internal applications (`"lon.attach":"local"`, protocol
  `lon` only) and infrastructure: `lon/lon.sys`, `modbus/sys`, and at most one `sys` or `{P}.sys` per protocol whose
  `cat` says so. A `cat` alone is anybody's claim. Together at most 32; the next one counts;
- an IOX module is one counting unit although it shows as two or three devices, under three namings;
- every other device is a counting unit of its own; `replace` keeps the handle and so the unit.

What this module does not do: it keeps no table. The set of internal devices is durable and lives in `ledger_state`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NewType

from .devices import DeviceId

UnitId = NewType("UnitId", str)

SMARTSERVER = UnitId("smartserver")
INTERNAL_LIMIT = 32
_IOX_MEMBERS = frozenset({"dio", "sys", "meter"})
_KNOWN_INFRASTRUCTURE = frozenset({DeviceId("lon", "lon.sys"), DeviceId("modbus", "sys")})


def counting_unit(device: DeviceId, internal: Collection[DeviceId] = ()) -> UnitId:
    """The counting unit of a device; `internal` are the devices counted with the SmartServer itself.

    Keys: `smartserver`, `iox/{id}` for every naming of a module, `{protocol}/{handle}` for the rest. A device of
    protocol `iox` that is no member of a module gets `iox//{handle}`: no handle can imitate a module's key.
    """
    if device in internal:
        return SMARTSERVER
    module = _iox_module(device)
    if module is not None:
        return UnitId(f"iox/{module}")
    if device.protocol == "iox":
        return UnitId(f"iox//{device.handle}")
    return UnitId(str(device))


def only_device(unit: UnitId) -> DeviceId | None:
    """The device a unit consists of, where its key says so: not for the SmartServer and IOX modules."""
    protocol, slash, handle = unit.partition("/")
    if not slash or (protocol == "iox" and not handle.startswith("/")):
        return None
    return DeviceId(protocol, handle.removeprefix("/") if protocol == "iox" else handle)


def may_be_internal(
    device: DeviceId, *, is_local_attach: bool, is_infrastructure: bool, internal: Collection[DeviceId]
) -> bool:
    """Whether a device may join those counted with the SmartServer.

    `is_local_attach` is the mark of an internal application, `is_infrastructure` what its `cat` claims; `internal`
    are those already in. A device of an IOX module never is, whatever it claims.
    """
    if device in internal:
        return True
    if len(internal) >= INTERNAL_LIMIT or _iox_module(device) is not None:
        return False
    if device in _KNOWN_INFRASTRUCTURE or (is_local_attach and device.protocol == "lon"):
        return True
    return (
        is_infrastructure
        and _is_system_handle(device)
        and not any(other.protocol == device.protocol and _is_system_handle(other) for other in internal)
    )


def _is_system_handle(device: DeviceId) -> bool:
    return device.handle in {"sys", f"{device.protocol}.sys"}


def _iox_module(device: DeviceId) -> str | None:
    """The id of the IOX module a device is part of: `iap/iox.411b19.dio`, `iox.411b19/dio` and `iox/dio`."""
    if device.protocol == "iap":
        module, dot, member = device.handle.rpartition(".")
        if not dot or not module.startswith("iox"):
            return None
        protocol = module
    else:
        protocol, member = device.protocol, device.handle
        if protocol != "iox" and not protocol.startswith("iox."):
            return None
    if member not in _IOX_MEMBERS:
        return None
    return protocol.removeprefix("iox").removeprefix(".") or "iox"
