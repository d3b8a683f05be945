"""What somebody should know in time: ends, capacity in use, cover that is missing, keys that were retired.

Rules (LICENSING §7):
- of several thresholds only the nearest passed one, once: first seen 8 days before an end, it is the notice of 14 days;
- what was noticed is remembered by a key that names the end; what is no longer true is forgotten: so a renewal silences
  at once, and the memory is no larger than what is true;
- maintenance ends on the day on which it covers the capacity no longer; a trial or emergency on its own, and 30 days
  after that nobody needs to know any more;
- a capacity threshold is armed again 5 points below it;
- over capacity, one notice a day *of running*: the grace is counted so, no clock hurries or hushes it. To be bound
  again, one a day of trusted time: there is no counter of its own, and trusted time never falls but by a grant;
- time that falls says nothing twice; where it falls by more than a week, a grant has mended a wrong clock: what was
  noticed under it was false, and is forgotten.

What this module does not do: it sends nothing, keeps no memory (`ledger_state`) and reads no clock.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from . import entitlement
from .errors import ArgumentError
from .licenses import License, LicenseType
from .overcapacity import Grace
from .status import Totals
from .timekeeping import DAY_S, Timestamp, to_iso_date

DEFAULT_DAYS = (90, 60, 30, 14, 7, 1, 0)
DEFAULT_PERCENTS = (90, 100)
MAX_THRESHOLDS = 10
MAX_DAYS = 366

_CAPACITY_KEY = "capacity"
_HOUR_S = 3_600
_ARMED_BELOW = 5  # points
_MENDED_DAYS = 7
_OVER_AFTER_DAYS = 30  # what ended so long ago is news to nobody
_ENDING = frozenset({LicenseType.TRIAL, LicenseType.EMERGENCY})


class NoticeKind(enum.Enum):
    """What a notice is about; stable words."""

    EXPIRY = "expiry"
    CAPACITY = "capacity"
    OVER_CAPACITY = "over-capacity"
    COVER_MISSING = "cover-missing"
    RENEW = "renew"
    REBIND_NEEDED = "rebind-needed"


@dataclass(frozen=True, slots=True)
class Notice:
    """One notice for people. `key` and `threshold` are what is remembered of it.

    `threshold`: of an end, days before it; of capacity, percent; of missing cover, devices; of over-capacity, the day
    of running beyond the capacity, of rebind-needed the day since 1970; of renew, the grant's seq. `due`: the end, or
    None. `license_id`: "" where it is about no single license.
    """

    kind: NoticeKind
    key: str
    threshold: int
    sentence: str
    due: Timestamp | None = None
    license_id: str = ""


@dataclass(frozen=True, slots=True)
class NoticeFacts:
    """All that notices are made of. `now` is trusted time; `grace` is as of now.

    `grant_seq`: of the installed grant, 0 where there is none. `has_retired_keys`: the keys that signed it are no
    longer trusted. `is_bound`: it belongs to this hardware.
    """

    now: Timestamp
    licenses: Sequence[License]
    returned: Mapping[str, int]
    totals: Totals
    grace: Grace = field(default_factory=Grace)
    grant_seq: int = 0
    has_retired_keys: bool = False
    is_bound: bool = True
    percents: Sequence[int] = DEFAULT_PERCENTS


def check_days(days: Sequence[int]) -> tuple[int, ...]:
    """The days before an end on which somebody wants a notice, most first.

    Raises ArgumentError unless they are 1 to 10 different numbers from 0 to 366.
    """
    if not 1 <= len(days) <= MAX_THRESHOLDS:
        raise ArgumentError(f"cannot set the notice days: {len(days)} numbers, not between 1 and {MAX_THRESHOLDS}")
    for each in days:
        if type(each) is not int or not 0 <= each <= MAX_DAYS:
            raise ArgumentError(f"cannot set the notice days: {str(each)[:40]} is not a number from 0 to {MAX_DAYS}")
    if len(set(days)) != len(days):
        raise ArgumentError("cannot set the notice days: one of them is there twice")
    return tuple(sorted(days, reverse=True))


def look(facts: NoticeFacts, noticed: Mapping[str, int], days: Sequence[int]) -> tuple[list[Notice], dict[str, int]]:
    """The notices that are new, and all that is to be remembered from now on; `noticed` stays unchanged.

    `days`: see `check_days`. Given once the new memory is durable, nothing is given twice.
    """
    new: list[Notice] = []
    memory: dict[str, int] = {}
    for notice in itertools.chain(_ends(facts, noticed, days), _daily(facts, noticed), _conditions(facts)):
        memory[notice.key] = notice.threshold
        if notice.threshold != noticed.get(notice.key):
            new.append(notice)
    known = noticed.get(_CAPACITY_KEY, 0)
    if in_use := _capacity(facts, known):
        memory[_CAPACITY_KEY] = in_use.threshold
        if in_use.threshold > known:
            new.append(in_use)
    return new, memory


def _ends(facts: NoticeFacts, noticed: Mapping[str, int], days: Sequence[int]) -> Iterator[Notice]:
    """Each end of which a threshold is passed, with the nearest one, or the one that was noticed already."""
    for key, end, what, license_id in _all_ends(facts):
        left_s = end - facts.now
        passed = [each for each in days if left_s <= each * DAY_S]
        known = noticed.get(key)
        if known is not None and left_s <= (known + _MENDED_DAYS) * DAY_S:
            passed.append(known)
        if passed:
            yield Notice(NoticeKind.EXPIRY, key, min(passed), f"{what} {_when(end, left_s)}.", end, license_id)


def _all_ends(facts: NoticeFacts) -> Iterator[tuple[str, Timestamp, str, str]]:
    """Key, end, what it is, and the license that ends."""
    for each in facts.licenses:
        devices = entitlement.usable(each, facts.returned)
        is_over = each.expires_at is not None and facts.now >= each.expires_at + _OVER_AFTER_DAYS * DAY_S
        if each.type in _ENDING and each.expires_at is not None and devices and not is_over:
            what = f"The {each.type.value} license {each.id} for {_devices(devices)}"
            yield f"expiry/{each.id}/{each.expires_at}", each.expires_at, what, each.id
    covered = entitlement.cover(facts.licenses, facts.now, facts.returned)
    if covered.ends_at is not None:
        is_whole = covered.falls_short_at is not None and covered.needed
        what = f"Maintenance for {_devices(covered.needed)}" if is_whole else "Maintenance"
        yield f"maintenance/{covered.ends_at}", covered.ends_at, what, ""


def _daily(facts: NoticeFacts, noticed: Mapping[str, int]) -> Iterator[Notice]:
    excess, left_s = facts.totals.excess, facts.grace.remaining_s
    found: list[tuple[NoticeKind, int, str]] = []
    if excess:
        end = f"has {_left(left_s)} of running left" if left_s else "is over"
        sentence = f"{_devices(excess)} more than the capacity of {facts.totals.capacity} run; the grace {end}."
        found.append((NoticeKind.OVER_CAPACITY, facts.grace.used_s // DAY_S, sentence))
    if not facts.is_bound:
        sentence = "The licenses were granted for other hardware; nothing new is admitted until they are bound again."
        found.append((NoticeKind.REBIND_NEEDED, facts.now // DAY_S, sentence))
    for kind, day, sentence in found:
        known = noticed.get(kind.value, day)
        yield Notice(kind, kind.value, max(day, known) if known - day <= _MENDED_DAYS else day, sentence)


def _conditions(facts: NoticeFacts) -> Iterator[Notice]:
    """What is said once for as long as it is the same."""
    covered = entitlement.cover(facts.licenses, facts.now, facts.returned)
    if covered.devices and covered.missing:
        sentence = (
            f"Maintenance covers {covered.devices} of {_devices(covered.needed)} of the capacity: "
            f"{covered.missing} are missing, no feature release may be installed."
        )
        yield Notice(NoticeKind.COVER_MISSING, NoticeKind.COVER_MISSING.value, covered.missing, sentence)
    if facts.has_retired_keys:
        sentence = f"The keys that signed grant {facts.grant_seq} are retired; it stays in force, request a new one."
        yield Notice(NoticeKind.RENEW, NoticeKind.RENEW.value, facts.grant_seq, sentence)


def _capacity(facts: NoticeFacts, known: int) -> Notice | None:
    """The highest threshold that is passed, or was noticed and is not armed again."""
    used, capacity = facts.totals.used, facts.totals.capacity
    hundredfold = used * 100
    true = [
        each
        for each in facts.percents
        if hundredfold >= each * capacity or (each <= known and hundredfold >= (each - _ARMED_BELOW) * capacity)
    ]
    if not true or not capacity:
        return None
    sentence = f"{used} of {_devices(capacity)} of the capacity are in use, {hundredfold // capacity} %."
    return Notice(NoticeKind.CAPACITY, _CAPACITY_KEY, max(true), sentence)


def _when(end: Timestamp, left_s: int) -> str:
    date = to_iso_date(end)
    return f"ends on {date}, in {_left(left_s)}" if left_s > 0 else f"ended on {date}"


def _left(seconds: int) -> str:
    """As in "8 days", begun days counted; below one day "5 hours"."""
    count, unit = (-(-seconds // DAY_S), "day") if seconds >= DAY_S else (-(-seconds // _HOUR_S), "hour")
    return f"{count} {unit}" + ("" if count == 1 else "s")


def _devices(count: int) -> str:
    return f"{count} device" + ("" if count == 1 else "s")
