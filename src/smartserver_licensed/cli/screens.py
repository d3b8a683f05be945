"""What people read: plain text for terminals and serial consoles, and the one JSON form of the status.

Rules:
- what needs attention stands first, with what to do about it;
- machine interfaces are UTC; people see local time with its offset;
- names come from devices and documents: no control character of theirs reaches the terminal.

What this module does not do: it asks nobody and writes nowhere; every function returns its text.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from smartserver_licensed.formats.vocabulary import VOCABULARY, nested

Row = Mapping[str, Any]

_BAR_WIDTH = 40
_TEXT_WIDTH = 80  # a serial console
_NEARLY_FULL_PERCENT = 90
_DATE = len("2026-02-03")
_TEMPORARY = {"emergency": "Emergency capacity", "trial": "Trial"}
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_COMMAND = re.compile(r"licensectl [a-z-]+(?: -o)?(?: [A-Z]+| --[a-z]+)?")
_NO_BREAK = "\N{NO-BREAK SPACE}"
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
STATE_ADVICE = {
    "starting": "The daemon is starting; ask again in a moment.",
    "storage-fault": "The ledger cannot be used: what runs keeps running, nothing new is admitted.",
    "rebind-needed": "The licenses belong to other hardware: what runs keeps running, nothing new is admitted. "
    "To mend it: licensectl request -o FILE, have the vendor answer it, and licensectl install FILE",
    "over-capacity": "More devices run than the licenses allow. Install a license, or deprovision devices.",
    "unlicensed": "No capacity license is installed: licensectl request -o FILE, have the vendor answer it, and "
    "licensectl install FILE",
    "full": "All seats are in use. Install a license, or deprovision devices.",
}
STORAGE_ADVICE = {
    "degraded": "it was damaged and is repaired from its twin; everything goes on",
    "read-only": "a write failed; the daemon tries again by itself",
    "missing": "there is no partition, or no ledger on it",
    "foreign": "it is the ledger of another SmartServer",
    "corrupt": "it is damaged beyond repair",
    "newer": "a newer version wrote it",
    "rolled-back": "it is an old copy, or was made anew: its anchor has counted more license events",
    "anchor-lost": "its anchor does not answer, or does not know it",
}
STORAGE_TODO = {
    "degraded": "note it, then licensectl acknowledge; when it comes again, plan a hardware swap",
    "read-only": "look for errors of the device: journalctl -k",
    "missing": "put it back; or make a new one (packaging/partition DISK, or smartserver-licensed --init-state PATH), "
    "which the vendor licenses anew",
    "foreign": "put the right card in, or ask the vendor for a hardware swap",
    "corrupt": "keep it for the vendor; a new ledger needs a new grant",
    "newer": "install that version of smartserver-licensed",
    "rolled-back": "licensectl request -o FILE, give it to the vendor, licensectl install ANSWER",
    "anchor-lost": "mend the anchor; where it is lost, licensectl request -o FILE, then licensectl install ANSWER",
}
CLOCK_ADVICE = {
    "unsynchronised": "the clock is not synchronised: licenses are judged by the time since the last known one",
    "set-back": "the clock was set back: licenses are judged by the later time that is known",
}


def status_json(properties: Row, licenses: Sequence[Row]) -> dict[str, object]:
    """The status in the words of `vocabulary`, and the licenses."""
    pairs = [(word.json, properties[word.property]) for word in VOCABULARY if word.property and word.json]
    return nested([*pairs, ("licenses", list(licenses))])


def status_screen(status: Row) -> str:
    """The whole status; takes what `status_json` gives."""
    capacity, used = status["capacity"], status["used"]
    maintenance = status["maintenance"]
    lines = [f"SmartServer {printable(status['segment_id'] or status['install_code'])}: {status['state']}", ""]
    lines += [line for each in attention(status) for line in item("!", each)]
    lines += [""] if lines[-1] else []
    lines += [
        f"  {bar(capacity=capacity, used=used, reserved=status['reserved'])}  {used} of {capacity} in use",
        f"  {status['available']} available, {status['reserved']} reserved, {status['waiting']} waiting",
        "",
    ]
    is_active = maintenance["status"] == "Active" and maintenance["expires"]  # else the status names the day
    expiry = f", until {maintenance['expires']}" if is_active else ""
    facts = [
        ("Maintenance", f"{maintenance['status']}{expiry}"),
        ("Customer", status["customer_id"] or "-"),
        ("Segment", status["segment_id"] or "-"),
        ("Install code", status["install_code"] or "-"),
        ("Storage", status["storage"]),
        ("Clock", status["clock"]),
        ("Broker", "connected" if status["broker_connected"] else "not connected"),
        ("Assurance", status["assurance"]),
        ("Version", status["version"]),
    ]
    lines += [f"  {name:<14}{printable(value)}" for name, value in facts]
    if status["licenses"]:
        lines += ["", *(f"  {line}" for line in licenses_table(status["licenses"]).splitlines())]
    return "\n".join(lines)


def attention(status: Row) -> list[str]:
    """What an administrator should look at, the most urgent first."""
    found = []
    if status["state"] in STATE_ADVICE:
        found.append(STATE_ADVICE[status["state"]])
    if status["storage"] != "ok":
        found.append(_storage_trouble(status["storage"]))
    if not status["broker_connected"]:
        found.append("The MQTT broker is not connected: nothing can be admitted (systemctl status mosquitto).")
    if status["clock"] != "ok":
        found.append(f"Clock: {CLOCK_ADVICE.get(status['clock'], status['clock'])}.")
    if status["waiting"]:
        found.append(f"{status['waiting']} waiting for a seat (licensectl devices --waiting).")
    if status["state"] == "licensed" and status["used"] * 100 >= status["capacity"] * _NEARLY_FULL_PERCENT:
        found.append(f"{status['used'] * 100 // status['capacity']} % of the capacity is in use.")
    if str(status["maintenance"]["status"]).startswith("Exp"):  # Expiring …, Expired …
        found.append(f"Maintenance: {printable(status['maintenance']['status'])}.")
    return [*found, *_missing_cover(status["licenses"]), *_temporary(status["licenses"])]


def _temporary(licenses: Sequence[Row]) -> list[str]:
    """Capacity that ends by itself, called what it is."""
    running = [row for row in licenses if row.get("type") in _TEMPORARY and not _has_ended(row)]
    return [
        printable(
            f"{_TEMPORARY[row['type']]}: {row.get('usable', row['devices'])} devices of {row['license_id']} "
            f"end on {row['expires_at'][:_DATE]}."
        )
        for row in running
    ]


def _missing_cover(licenses: Sequence[Row]) -> list[str]:
    """Whether maintenance is there, but for fewer devices than the capacity licenses (LICENSING §1)."""
    renewed = {row.get("replaces") for row in licenses}
    capacity = _usable(row for row in licenses if row.get("type") == "capacity")
    current = [row for row in licenses if row.get("type") == "maintenance" and not _has_ended(row)]
    cover = _usable(row for row in current if row["license_id"] not in renewed)
    if not current or cover >= capacity:
        return []
    why = f"Maintenance covers {cover} of {capacity} licensed devices, {capacity - cover} are missing"
    return [f"{why}: feature releases cannot be installed."]


def _usable(rows: Iterable[Row]) -> int:
    return sum(row.get("usable", row["devices"]) for row in rows)


def _has_ended(row: Row) -> bool:
    return str(row["status"]).startswith("Expired")


def _storage_trouble(condition: str) -> str:
    todo = STORAGE_TODO.get(condition, "licensectl doctor may know more")
    means = STORAGE_ADVICE.get(condition, "a condition that this version does not know")
    return f"Storage is {condition}: {means}. What to do: {todo}."


def bar(*, capacity: int, used: int, reserved: int) -> str:
    """`[####==....]`: used, reserved, free. Something in use is never shown as nothing, and full only when it is."""
    if capacity <= 0:
        return "[" + "." * _BAR_WIDTH + "]"
    used_width = _width(used, capacity)
    reserved_width = min(_width(reserved, capacity), _BAR_WIDTH - used_width)
    return "[" + ("#" * used_width + "=" * reserved_width).ljust(_BAR_WIDTH, ".") + "]"


def _width(part: int, whole: int) -> int:
    if part <= 0:
        return 0
    if part >= whole:
        return _BAR_WIDTH
    return min(max(1, part * _BAR_WIDTH // whole), _BAR_WIDTH - 1)


def licenses_table(licenses: Sequence[Row]) -> str:
    """The columns of the CMS's Manage Licenses dialog, with what else is to be known of each license."""
    if not licenses:
        return "No license is installed."
    lines = [
        (row["license_id"], _description(row), _status(row), row.get("activation_date", ""), row.get("note", ""))
        for row in licenses
    ]
    return table(("LICENSE", "DESCRIPTION", "STATUS", "ACTIVATED", "NOTE"), lines)


def _description(row: Row) -> str:
    parts = [
        str(row.get("description", "")),
        f" to {row.get('release')}" * bool(row.get("release")),
        f" for {row.get('host')}" * bool(row.get("host")),
        f", renews {row.get('replaces')}" * bool(row.get("replaces")),
        f", {row.get('returned')} returned" * bool(row.get("returned")),
        ", used" * bool(row.get("consumed")),
    ]
    return "".join(parts)


def _status(row: Row) -> str:
    """With the end, where there is one."""
    status, end = str(row.get("status", "")), str(row.get("expires_at", ""))[:_DATE]
    return f"{status} until {end}" if end and status == "Active" else status


def devices_table(rows: Iterable[Row]) -> str:
    """One line a device; where it is one of several of a counting unit, the unit too."""
    lines = []
    for row in rows:
        seat = f"{row['seat']} (absent)" if row.get("absent") and row["seat"] != "absent" else row["seat"]
        unit = row.get("unit", "")
        lines.append(
            [row["name"], row["state"], seat, "yes" if row["licensed"] else "no", unit * (unit != row["name"])]
        )
    return table(("DEVICE", "STATE", "SEAT", "LICENSED", "UNIT"), lines) if lines else "No such device."


def doctor_screen(report: Row) -> str:
    """A line a check, and the verdict; takes what `doctor.report` gives."""
    checks = report["checks"]
    width = max(len(each["check"]) for each in checks)
    lines = []
    for each in checks:
        level = each["level"].upper() if each["level"] == "fail" else each["level"]
        todo = f" -> {each['todo']}" * bool(each["todo"])
        lines.append(printable(f"{level:<4}  {each['check']:<{width}}  - {each['why']}{todo}"))
    counts = {level: sum(each["level"] == level for each in checks) for level in ("fail", "warn")}
    verdict = f"{counts['fail']} wrong, {counts['warn']} to look at" if any(counts.values()) else "all is well"
    left_out = "" if report["daemon"] else "; what needs the daemon was left out"
    return "\n".join([*lines, "", f"{len(checks)} checks: {verdict}{left_out}."])


def labeled(label: str, text: object) -> list[str]:
    """A label and a text that may take several lines; nothing where there is no text."""
    head = f"  {label:<13}"
    return _wrapped(head, " " * len(head), str(text)) if text else []


def item(mark: str, text: object) -> list[str]:
    """A marked paragraph, as the lines it takes."""
    return _wrapped(f"  {mark} ", "    ", str(text))


def _wrapped(head: str, indent: str, text: str) -> list[str]:
    """A command of ours stays on one line, so that it can be copied."""
    whole = _COMMAND.sub(lambda command: command[0].replace(" ", _NO_BREAK), printable(local_time(text)))
    lines = textwrap.wrap(
        whole,
        _TEXT_WIDTH,
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def facts_screen(facts: Row) -> str:
    """Keys and values, one a line; lists one item a line under their key."""
    width = max((len(key) for key in facts), default=0) + 2
    lines = []
    for key, value in facts.items():
        shown = value if isinstance(value, list) else [value]
        label = printable(key.replace("_", " "))
        for each in shown or [""]:
            lines.append(f"  {label:<{width}}{_text(each)}".rstrip())
            label = ""
    return "\n".join(lines)


def table(head: Iterable[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns, two spaces apart."""
    lines = [list(head), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def printable(text: object) -> str:
    """The text without anything that a terminal would obey."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def local_time(text: str) -> str:
    """`2026-02-03T04:05:06Z` as local time with its offset; any other text as it is."""
    if not _INSTANT.fullmatch(text):
        return text
    return datetime.fromisoformat(text[:-1] + "+00:00").astimezone().isoformat(" ", "minutes")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{printable(key)} {_text(each)}" for key, each in value.items())
    return printable(local_time(value) if isinstance(value, str) else value)
