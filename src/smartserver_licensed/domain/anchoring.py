"""What a counter outside the ledger says of it: an old copy that was put back counts less than the counter.

Rules (STATE.md "Anchor"; docs/storage.md):
- the counter counts license events; the ledger holds what it must show: equal is right;
- the ledger one ahead: the power was cut between the event and the count, it is counted now;
- the ledger behind: `rolled-back`; further ahead, or the counter gone: `anchor-lost`;
- a ledger that knows of no counter begins with one that nobody uses; one that is in use tells that it is an old copy.

What this module does not do: it asks no counter (`adapters.tpm`) and knows no conditions (`controller.anchoring`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """What a counter shows: `count` is None where there is none yet; `is_in_use`: a ledger was bound to it for good."""

    count: int | None
    is_in_use: bool


class Verdict(enum.Enum):
    """What is to be done."""

    RIGHT = "right"
    BIND = "bind"  # the ledger is bound, the counter does not know it yet
    COUNT = "count"  # the last license event is not counted yet
    BEGIN = "begin"
    ROLLED_BACK = "rolled-back"
    LOST = "lost"


def judge(expected: int | None, reading: Reading) -> Verdict:
    """Compare what the ledger expects (None: it knows of no counter) with what the counter shows."""
    if expected is None:
        return Verdict.ROLLED_BACK if reading.is_in_use else Verdict.BEGIN
    if reading.count is None or expected > reading.count + 1:
        return Verdict.LOST
    if expected == reading.count + 1:
        return Verdict.COUNT
    if expected < reading.count:
        return Verdict.ROLLED_BACK
    return Verdict.RIGHT if reading.is_in_use else Verdict.BIND
