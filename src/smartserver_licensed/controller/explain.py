"""Rows and explanations for people and programs: why a device is licensed, or is not.

Rules (OVERVIEW "The D-Bus interface"): reads the live table on the loop, at most 1,000 rows a call; every explanation
names the rule, the documents and the numbers behind an answer, and what an administrator can do: whoever reads it
needs no other page.

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
from smartserver_licensed.domain.queues import REQUEST_LIFE_S, TAKEABLE, WAITING, Queues
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.withholding import Answer
from smartserver_licensed.formats.bus import Plain

_RULES = {
    "internal": "The SmartServer itself counts as one device, with its internal applications and infrastructure.",
    "provisioned": "A device counts when it is provisioned; it holds a seat.",
    "reserved": "It is licensed and holds a seat; it counts as used once it is provisioned. Until then a request to "
    "provision another device may take the seat.",
    "absent": "It holds a seat, but has not been seen since the daemon looked at the broker; a request to provision "
    "another device may take the seat.",
    "held": "It may be a device that runs already; it hears nothing until that is known.",
    "waiting": "It has no seat. A free seat goes to the device that was asked for first, then by arrival. A request to "
    "provision a device (pressing Provision) takes a seat from one that does not run.",
    "deleted": "Its engine has deleted it; it holds no seat.",
    "gone": "It has not been seen since the daemon looked at the broker, and holds no seat.",
    "storage-fault": "The ledger cannot be used: what runs keeps running, nothing new is admitted.",
}
_RUNS_WITHOUT = (
    "It runs without a seat: an engine that reads lic stops it; an older engine is asked to deprovision it, "
    'or it is only reported (enforcement = "report").'
)
_ADVICE = {
    "reserved": "Provision it when it shall run.",
    "absent": "Nothing has to be done. If it is only switched off, it is licensed as before when its engine shows it "
    "again; if it is gone for good, its seat goes to the next device that somebody provisions.",
    "held": "Wait; within a minute it is known.",
    "deleted": "Create it again if it is still wanted.",
    "gone": "Look whether its engine runs: it is judged anew when the engine shows it again.",
    "storage-fault": "See what is wrong with the ledger, and what to do: licensectl doctor",
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
        if name > after and (not waiting_only or queues.where(unit) in WAITING)
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
    if queues.where(unit):
        return "waiting"
    return "deleted" if view.is_released else "gone"


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
    runs_without = word == "waiting" and view.state is DeviceState.PROVISIONED
    place, takeable = _place(unit, queues), _takeable(queues, now_s)
    asked_s = int(now_s - view.asked_at) if view.asked_at is not None else None
    explanation = _row(name, unit, facts, state, queues) | {
        "seat": word,
        "rule": _RULES[word] + (f" {_RUNS_WITHOUT}" if runs_without else ""),
        "reason": answer.reason.value if answer and answer.reason else "",
        "capacity": totals.capacity,
        "used": totals.used,
        "reserved": totals.reserved,
        "available": totals.available,
        "waiting": totals.waiting,
        "takeable": takeable,
        "documents": [f"{each.id}: {describe(each)}, {license_status(each, now)}" for each in licenses],
        "advice": _advice(word, totals, place=place, takeable=takeable, asked_s=asked_s),
    }
    if word == "waiting":
        explanation["place"] = place
    if asked_s is not None:
        explanation["asked_seconds_ago"] = asked_s
        explanation["request_is_fresh"] = asked_s < REQUEST_LIFE_S
    return explanation


def _place(unit: UnitId, queues: Queues) -> int:
    """The number in the queue for the next seat, from 1; 0 where it does not wait."""
    if queues.where(unit) not in WAITING:
        return 0
    return next(number for number, each in enumerate(queues.units(*WAITING), start=1) if each == unit)


def _takeable(queues: Queues, now_s: float) -> int:
    """How many seats a request could take now from units that do not run; looks at each of them."""
    return len({unit for queue in TAKEABLE for unit in queues.ripe(queue, now_s)})


def _advice(word: str, totals: Totals, *, place: int, takeable: int, asked_s: int | None) -> list[str]:
    """What an administrator can do, in sentences; empty where nothing is to be done."""
    if word in _ADVICE:
        return [_ADVICE[word]]
    if totals.excess and word in {"provisioned", "waiting"}:
        return _advice_over_capacity(word, totals)
    return _advice_for_waiting(totals, place=place, takeable=takeable, asked_s=asked_s) if word == "waiting" else []


def _advice_over_capacity(word: str, totals: Totals) -> list[str]:
    what = "the newest lose their seats when the grace is over" if word == "provisioned" else "nothing new is admitted"
    return [
        f"More devices run than are licensed ({totals.used} of {totals.capacity}): {what}.",
        _install(totals.used - totals.capacity + (word == "waiting")),
        "Or deprovision or delete devices that are not needed.",
    ]


def _advice_for_waiting(totals: Totals, *, place: int, takeable: int, asked_s: int | None) -> list[str]:
    install = _install(totals.used + totals.reserved + place - totals.capacity)
    if totals.capacity == 0:
        return [install]
    if totals.free > 0:
        return ["A seat is free, and it gets one once the broker can be asked; see what is wrong: licensectl doctor"]
    if takeable:
        again = "again" if asked_s is not None else "now"
        return [
            f"Provision it {again}: that takes a seat from a device that does not run ({takeable} can be taken).",
            f"Or leave those their seats. {install}",
        ]
    return [
        f"No seat can be taken: all are of devices that run, are down, or were asked for in {REQUEST_LIFE_S:.0f} s.",
        "Deprovision or delete a device that is not needed; number 1 in the queue gets its seat.",
        f"Or more seats. {install}",
    ]


def _install(devices: int) -> str:
    return f"Install a capacity license of at least {devices} device{'s' * (devices != 1)}: licensectl install FILE"


def device_of(name: str) -> DeviceId:
    """The device named `protocol/handle`; also the name of a unit that consists of one device."""
    return only_device(UnitId(name)) or DeviceId(*name.partition("/")[::2])
