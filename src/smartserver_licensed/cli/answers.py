"""What people read of a plan and of an explanation: short texts that need no other page.

Rules:
- first the answer, then the rule and the numbers, at last what to do;
- a key that only a later daemon knows is shown as it is; one that is missing leaves its line out.

What this module does not do: it decides nothing (`domain.planning`, `controller.explain`) and writes nowhere.
"""

from __future__ import annotations

from typing import Any

from .screens import STATE_ADVICE, Row, facts_screen, item, labeled, printable

_SEAT_TEXTS = {
    "internal": "counted with the SmartServer",
    "provisioned": "holds a seat and runs",
    "reserved": "holds a seat, does not run",
    "absent": "holds a seat, not seen",
    "held": "not decided yet",
    "waiting": "waits for a seat",
    "deleted": "deleted",
    "gone": "not seen, without a seat",
    "storage-fault": "the ledger cannot be used",
}


def plan_screen(plan: Row) -> str:
    """How many more devices fit, and what is missing."""
    count, fits, missing = plan["count"], plan["fits"], plan["missing"]
    all_of = f"all {count}" if count > 1 else f"{count}"
    head = f"{_more(count)}: {all_of if not missing else f'{fits} of {count}' if fits else 'none'} can be provisioned"
    if plan["reason"] == "storage-fault":
        return "\n".join([f"{head}.", "", *item("!", f"{STATE_ADVICE['storage-fault']} See: licensectl doctor")])
    head += f", {missing} not ({plan['reason']})." if missing else "."
    reserved, waiting = plan["reserved"], plan["waiting"]
    lines = [head, ""]
    lines += labeled("In use", f"{plan['used']} of {plan['capacity']} seats; the SmartServer itself has one")
    available, free = plan["available"], plan["free"]
    held = f", {available - free} of devices that do not run: a request to provision another takes them"
    lines += labeled("Available", f"{available}: {free} that nobody holds{held * (available > free)}")
    if reserved or waiting:
        lines += labeled("Not running", f"{reserved} with a reserved seat, {waiting} waiting for one")
    needed, for_all = plan["license_devices"], plan["license_devices_for_all"]
    if plan["reason"] == "over-capacity":
        lines += ["", *item("!", STATE_ADVICE["over-capacity"])]
    if needed:
        lines += ["", *item("!", f"What helps: {_license(plan, needed)} (licensectl install FILE).")]
    if for_all > needed:
        others = "the devices that wait or have a reserved seat"
        lines += ["", *item(" ", f"For {others} to run as well: {_license(plan, for_all)}.")]
    return "\n".join(lines)


def _more(count: int) -> str:
    return f"{count} more device{'s' * (count != 1)}"


def _license(plan: Row, devices: int) -> str:
    return f"a {plan['license_type']} license of at least {devices} device{'s' * (devices != 1)}"


def explain_screen(explanation: Row) -> str:
    """Why a device is licensed or is not, and what to do; takes what the daemon says, keys of a later one included."""
    known = dict(explanation)
    name, seat = known.pop("name", ""), str(known.pop("seat", ""))
    licensed = "licensed" if known.pop("licensed", False) else "not licensed"
    lines = [f"{printable(name)}: {licensed}" + f", {printable(_SEAT_TEXTS.get(seat, seat))}" * bool(seat), ""]
    lines += labeled("Why", known.pop("rule", ""))
    lines += labeled("Request", _request_text(known))
    lines += labeled("Queue", _place_text(known))
    lines += labeled("Seats", _numbers_text(known))
    lines += labeled("Device", _device_text(str(name), known))
    for each in known.pop("documents", None) or ["none is installed"]:
        lines += labeled("License", each)
    advice = known.pop("advice", [])
    if known:
        lines += facts_screen(known).splitlines()
    if advice:
        lines += ["", "  What to do", *(line for each in advice for line in item("-", each))]
    return "\n".join(lines)


def _request_text(known: dict[str, Any]) -> str:
    """Takes what it shows out of the explanation, as all of these do."""
    reason, asked_s = str(known.pop("reason", "")), known.pop("asked_seconds_ago", None)
    is_fresh = known.pop("request_is_fresh", False)
    refused = f" and refused: {reason}" if reason == "capacity-exceeded" else ""
    if asked_s is None:
        return "nobody has asked that it be provisioned (not-asked)" if reason == "not-asked" else reason
    late = "" if is_fresh or not refused else "; too long ago to take a seat"
    return f"asked for {asked_s} s ago{refused}{late}"


def _place_text(known: dict[str, Any]) -> str:
    place, takeable = known.pop("place", None), known.pop("takeable", None)
    if place is None:
        return ""
    taken = "" if takeable is None else f"; a request can take {takeable or 'none'} now from devices that do not run"
    return f"number {place} of {known.get('waiting', place)} that wait for a seat{taken}"


def _numbers_text(known: dict[str, Any]) -> str:
    keys = ("used", "capacity", "reserved", "available", "waiting")
    if not known.keys() >= set(keys):
        return ""
    used, capacity, reserved, available, waiting = (known.pop(key) for key in keys)
    return (
        f"{used} of {capacity} in use (the SmartServer itself is one), {reserved} reserved, {available} available, "
        f"{waiting} waiting"
    )


def _device_text(name: str, known: dict[str, Any]) -> str:
    unit, state = str(known.pop("unit", name)), known.pop("state", "")
    absent = ", not seen" * bool(known.pop("absent", False))
    counted = f"; counted with {unit}" * (unit != name)
    return f"its engine says {state}{absent}{counted}" if state else ""
