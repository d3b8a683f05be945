"""Rows and explanations for people and programs: why a device is licensed, or is not.

Rules (OVERVIEW "The D-Bus interface"): reads the live table on the loop, at most 1,000 rows a call; every explanation
names the rule, the documents and the numbers behind an answer.

What this module does not do: it changes nothing and words no screen (`cli.screens`).
"""

from __future__ import annotations

import itertools

from smartserver_licensed.domain.counting import SMARTSERVER, UnitId, only_device
from smartserver_licensed.domain.devices import DeviceId, DeviceState
from smartserver_licensed.domain.errors import UnknownDeviceError
from smartserver_licensed.domain.facts import Facts, UnitView
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import License, describe, license_status
from smartserver_licensed.domain.queues import REQUEST_LIFE_S, Queue, Queues
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer
from smartserver_licensed.formats.bus import Plain

_RULES = {
    "internal": "The SmartServer itself counts as one device, with its internal applications and infrastructure.",
    "provisioned": "A device counts when it is provisioned; it holds a seat.",
    "reserved": "It is licensed and holds a seat; it counts as used once it is provisioned.",
    "absent": "It holds a seat, but was not seen since the last look at the broker; a request may take its seat.",
    "held": "It may be a device that runs; it hears nothing until that is known.",
    "waiting": "All seats are taken; it gets the next seat that becomes free. A request to provision it takes a seat "
    "from a device that does not run.",
    "deleted": "Its engine has deleted it.",
    "storage-fault": "The ledger cannot be used: what runs keeps running, nothing new is admitted.",
}


def device_rows(
    facts: Facts, state: LedgerState | None, queues: Queues, *, waiting_only: bool, after: str, limit: int
) -> list[dict[str, Plain]]:
    """Rows of live devices in the order of their names, then of units the ledger holds and nobody saw."""
    names = {str(each.id): each.unit for each in facts.devices() if each.state is not DeviceState.DELETED}
    shown = set(names.values())
    for unit in state.seats if state else ():
        if unit not in shown:
            names[str(unit)] = unit
    rows = (
        _row(name, unit, facts, state, queues)
        for name, unit in sorted(names.items())
        if name > after and (not waiting_only or queues.where(unit) in {Queue.FRESH, Queue.ASKED, Queue.ARRIVED})
    )
    return list(itertools.islice(rows, limit))


def _row(name: str, unit: UnitId, facts: Facts, state: LedgerState | None, queues: Queues) -> dict[str, Plain]:
    view = facts.view(unit)
    device = facts.device(device_of(name))
    return {
        "name": name,
        "unit": str(unit),
        "state": device.state.value if device and device.state else "unknown",
        "seat": _seat_word(unit, view, state, queues),
        "absent": view.is_absent,
        "licensed": unit == SMARTSERVER or (state is not None and unit in state.seats),
    }


def _seat_word(unit: UnitId, view: UnitView, state: LedgerState | None, queues: Queues) -> str:
    if state is None:
        return "storage-fault"
    if unit == SMARTSERVER:
        return "internal"
    seat = state.seats.get(unit)
    if seat is not None:
        return "absent" if view.is_absent else seat.kind.value
    if view.is_held:
        return "held"
    return "waiting" if queues.where(unit) else "deleted"


def explain(
    name: str,
    facts: Facts,
    state: LedgerState | None,
    queues: Queues,
    answer: Answer | None,
    *,
    totals: Totals,
    licenses: tuple[License, ...],
    now: int,
    now_s: float,
) -> dict[str, Plain]:
    """Why a device hears what it hears. Raises UnknownDeviceError."""
    device = facts.device(device_of(name))
    unit = device.unit if device else UnitId(name)
    if device is None and (state is None or unit not in state.seats):
        raise UnknownDeviceError(f"cannot explain {name!r}: no device or counting unit of that name is known")
    view = facts.view(unit)
    word = "deleted" if device and device.state is DeviceState.DELETED else _seat_word(unit, view, state, queues)
    explanation = _row(name, unit, facts, state, queues) | {
        "seat": word,
        "rule": _RULES[word],
        "reason": answer.reason.value if answer and answer.reason else "",
        "capacity": totals.capacity,
        "used": totals.used,
        "reserved": totals.reserved,
        "waiting": totals.waiting,
        "documents": [f"{each.id}: {describe(each)}, {license_status(each, now)}" for each in licenses],
    }
    if view.asked_at is not None:
        explanation["asked_seconds_ago"] = int(now_s - view.asked_at)
        explanation["request_is_fresh"] = now_s - view.asked_at < REQUEST_LIFE_S
    return explanation


def device_of(name: str) -> DeviceId:
    """The device named `protocol/handle`; also the name of a unit that consists of one device."""
    return only_device(UnitId(name)) or DeviceId(*name.partition("/")[::2])
