"""What the documents say now, computed when they or the time change it, and not with every event.

Rules (LICENSING §1, §3): the numbers are `domain.entitlement`'s; they hold until a license ends, an hour passes, or a
document changes the state; a clock that went back makes them anew.

What this module does not do: it verifies nothing and keeps nothing: it can be dropped at any time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from smartserver_licensed.domain import entitlement
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import License
from smartserver_licensed.domain.status import Maintenance

_HOUR_S = 3_600


@dataclass(frozen=True, slots=True)
class Entitlement:
    """For one stretch of time. `next_end` is when the capacity shrinks next, seconds since 1970 UTC, or None."""

    capacity: int = 0
    ended_grace_days: int | None = None
    maintenance: Maintenance = field(default_factory=Maintenance)
    next_end: int | None = None


class Entitling:
    """Remembers what was computed last."""

    def __init__(self) -> None:
        self._state: LedgerState | None = None
        self._revision = 0
        self._valid = range(0)
        self._entitlement = Entitlement()

    def look(self, state: LedgerState | None, now: int) -> Entitlement:
        """What the documents of this state say at `now`, seconds since 1970 UTC."""
        revision = state.license_revision if state else 0
        if state is not self._state or revision != self._revision or now not in self._valid:
            self._state, self._revision = state, revision
            self._entitlement = _compute(state, now)
            end = self._entitlement.next_end
            self._valid = range(now, min(now + _HOUR_S, end if end is not None else now + _HOUR_S))
        return self._entitlement


def licenses_of(state: LedgerState | None) -> tuple[License, ...]:
    """The licenses of the installed grant; none without one."""
    return state.installed.grant.licenses if state and state.installed else ()


def licenses_shown(state: LedgerState | None) -> tuple[License, ...]:
    """The same for people: with what has been returned and used up here, whether or not the issuer knows."""
    if state is None:
        return ()
    returned, consumed = state.returned, state.consumed
    return tuple(
        replace(each, returned_total=returned.get(each.id, 0), consumed_total=consumed.get(each.id, 0))
        for each in licenses_of(state)
    )


def _compute(state: LedgerState | None, now: int) -> Entitlement:
    if state is None or state.installed is None:
        return Entitlement()
    licenses, returned = state.installed.grant.licenses, state.returned
    days = (entitlement.ended_grace_days(licenses, now, returned), state.returned_grace_days)
    return Entitlement(
        capacity=entitlement.capacity(licenses, now, returned),
        ended_grace_days=max((each for each in days if each is not None), default=None),
        maintenance=entitlement.maintenance(licenses, now, returned),
        next_end=entitlement.next_end(licenses, now, returned),
    )
