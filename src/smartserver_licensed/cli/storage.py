"""What `licensectl` says of the ledger: its condition, how full it is, how long the flash will last, and its anchor.

Rules:
- every condition but `ok` comes with what it means and what to do; one that is not known is shown as it is;
- wear is never wrong, only worth a look: what is worn out shows itself as a condition;
- figures that the daemon did not give (an older one) are left out.

What this module does not do: it asks nobody; it is given what `DescribeStorage` answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smartserver_licensed.domain.status import Storage

from .findings import JOURNAL, Daemon, Finding, Level
from .screens import STORAGE_ADVICE, STORAGE_TODO, printable

_NEW_GRANT = {Storage.ROLLED_BACK.value, Storage.ANCHOR_LOST.value}
USABLE = {each.value for each in Storage if each.is_writable}
_FEW_YEARS = 5
_MANY_YEARS = 100
_DAYS_A_YEAR = 365.25
_KILO = 1_000


def findings(daemon: Daemon) -> Iterator[Finding]:
    """What the daemon says of its ledger; wear and anchor only where one is open."""
    condition = str(daemon.properties["StorageState"])
    yield ledger(condition, daemon.storage)
    if daemon.storage.get("log_bytes"):
        yield wear(daemon.storage)
        yield anchor(condition, daemon.storage)


def ledger(condition: str, known: Mapping[str, Any]) -> Finding:
    """The condition of the ledger; `known` is empty where the daemon says no more."""
    if condition == Storage.OK.value:
        return Finding("ledger", Level.OK, f"both logs are whole{_fill(known)}")
    level = Level.WARN if condition in USABLE else Level.FAIL
    why = f"{condition}: {STORAGE_ADVICE.get(condition, 'a condition that this version does not know')}"
    if said := known.get("repair") or known.get("reason"):
        why += f" ({said})"
    if level is Level.FAIL:
        why += "; what runs keeps running, nothing new is admitted"
    else:
        why += _fill(known)
    return Finding("ledger", level, why, f"{STORAGE_TODO.get(condition, 'ask the vendor')}; {JOURNAL}")


def _fill(known: Mapping[str, Any]) -> str:
    if not known.get("log_bytes"):
        return ""
    return f"; {known['sequence']:,} commits so far, each log {known['fill_bytes'] * 100 // known['log_bytes']} % full"


def wear(known: Mapping[str, Any]) -> Finding:
    """What was written ever, and how long the flash takes it at today's rate."""
    written, a_day = known["written_bytes"], known["written_per_day"]
    if not a_day:
        return Finding("wear", Level.OK, f"{size(written)} written so far; how much a day is not known yet")
    years = max(0, known["life_bytes"] - written) / a_day / _DAYS_A_YEAR
    left = f"more than {_MANY_YEARS}" if years > _MANY_YEARS else f"about {years:.0f}"
    why = f"{size(written)} written so far, {size(a_day)} a day: {left} years left at this rate"
    if years < _FEW_YEARS:
        todo = "does something create and delete devices all the time? else plan a hardware swap"
        return Finding("wear", Level.WARN, why, todo)
    return Finding("wear", Level.OK, why)


def anchor(condition: str, known: Mapping[str, Any]) -> Finding:
    """What an old copy of the ledger is told by."""
    if known["anchor"] == "none":
        why = "none is set up: an old copy of the ledger that is put back is found by the vendor, not here"
        return Finding("anchor", Level.OK, why)
    why = f"{known['anchor']}, {known['anchor_count']:,} license events counted"
    if condition in _NEW_GRANT:
        return Finding("anchor", Level.FAIL, f"{why}; the ledger does not fit", STORAGE_TODO[condition])
    return Finding("anchor", Level.OK, why)


def size(count: int) -> str:
    """Bytes as people read them."""
    if count < _KILO:
        return f"{count} B"
    value, unit = count / _KILO, "kB"
    for larger in ("MB", "GB", "TB"):
        if value < _KILO:
            break
        value, unit = value / _KILO, larger
    return f"{value:.1f} {unit}"


def acknowledged_screen(answer: Mapping[str, Any]) -> str:
    """What was acknowledged, or that there was nothing to."""
    if not answer["acknowledged"]:
        return "There is nothing to acknowledge: the ledger was not repaired."
    return f"Acknowledged: {printable(answer['repair'])}."
