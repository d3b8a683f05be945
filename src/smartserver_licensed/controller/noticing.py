"""Notices: looked for when something has changed or an hour has passed, made durable, then said everywhere.

Rules (LICENSING §7; which ones there are is `domain.notices`'):
- on MQTT (`ev/warning`, an alarm in the CMS), on D-Bus and in the journal, once, over restarts too;
- looked for once a second at most: the cost is not that of an event;
- ten minutes are waited for a broker, as the CMS hears of them there.

What this module does not do: it sends no mail (the CMS does).
"""

from __future__ import annotations

from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.domain import messages
from smartserver_licensed.domain.binding import Binding
from smartserver_licensed.domain.ledger_state import LedgerState, NoticesChanged
from smartserver_licensed.domain.notices import Notice, NoticeFacts, look
from smartserver_licensed.domain.status import Totals
from smartserver_licensed.domain.timekeeping import to_iso
from smartserver_licensed.formats.bus import Plain

from .entitling import licenses_of
from .keeper import Keeper
from .outbox import Outbox
from .ports import Announcer
from .telling import tell
from .trusting import Trusted

_INTERVAL_S = 3_600.0
_PAUSE_S = 1.0
_WAIT_FOR_BROKER_S = 600.0


class Noticing:
    """Remembers when it looked last and at what; the memory of notices is the ledger's."""

    def __init__(self, keeper: Keeper, trusted: Trusted, outbox: Outbox, announcer: Announcer, *, now_s: float) -> None:
        self._keeper = keeper
        self._trusted = trusted
        self._outbox = outbox
        self._announcer = announcer
        self._waits_until = now_s + _WAIT_FOR_BROKER_S
        self._looked_at = now_s - _INTERVAL_S
        self._seen: object = None
        self._judged: tuple[bytes, int] = (b"", 0)  # the envelope, and the root version that has judged its keys
        self._has_retired_keys = False
        self._totals = Totals(0, 0, 0, 0)
        self.due_at: float | None = None

    async def on_time(self, totals: Totals, *, is_current: bool, now_s: float) -> None:
        """Look, where it is time to; `is_current`: the broker can be told. Times are monotonic seconds."""
        state = self._keeper.state
        self._totals = totals
        if state is None or not (is_current or now_s >= self._waits_until):
            self.due_at = None
            return
        seen = (state.license_revision, totals.capacity, totals.used, self._keeper.binding)
        has_changed = seen != self._seen
        self.due_at = self._looked_at + (_PAUSE_S if has_changed else _INTERVAL_S)
        if now_s >= self.due_at:
            self._looked_at, self._seen, self.due_at = now_s, seen, now_s + _INTERVAL_S
            await self._look(state)

    async def _look(self, state: LedgerState) -> None:
        new, memory = look(self._facts(state), state.noticed, state.notice_days)
        if memory == state.noticed or not await self._keeper.commit([NoticesChanged(tuple(memory.items()))]):
            return
        for notice in new:
            details = _row(notice)
            self._outbox.warning(notice)
            self._announcer.noticed(notice.kind.value, details)
            tell(messages.NOTICE, KIND=notice.kind.value, KEY=notice.key, REASON=notice.sentence)

    def rows(self) -> list[dict[str, Plain]]:
        """All notices in force, whether or not they were said."""
        state = self._keeper.state
        return [_row(each) for each in look(self._facts(state), {}, state.notice_days)[0]] if state else []

    def _facts(self, state: LedgerState) -> NoticeFacts:
        installed = state.installed
        return NoticeFacts(
            now=self._keeper.now(),
            licenses=licenses_of(state),
            returned=state.returned,
            totals=self._totals,
            grace=self._keeper.grace(),
            grant_seq=installed.grant.seq if installed else 0,
            has_retired_keys=installed is not None and self._are_retired(installed.envelope),
            is_bound=self._keeper.binding is Binding.BOUND,
        )

    def _are_retired(self, envelope: bytes) -> bool:
        """Whether the current root trusts the keys of the grant no longer; verified once a grant and root."""
        judged = (envelope, self._trusted.trust.current.version)
        if judged != self._judged:
            self._judged = judged
            self._has_retired_keys = not self._trusted.trust.signs_still(GRANT_TYPE, envelope)
        return self._has_retired_keys


def _row(notice: Notice) -> dict[str, Plain]:
    return {
        "kind": notice.kind.value,
        "key": notice.key,
        "threshold": notice.threshold,
        "sentence": notice.sentence,
        "due": to_iso(notice.due) if notice.due is not None else "",
        "license_id": notice.license_id,
    }
