"""Keeps the durable state: opens the ledger, makes events durable, then applies them. Fail-stop.

Rules (STATE.md):
- persist, then apply, then (the caller) announce; a failed write or sync is final: memory is dropped and the ledger is
  recovered as at start, with pauses of 1…60 s;
- the ledger of another SmartServer is not read; a grant that does not verify under the root makes it `corrupt`: what
  runs keeps running, nothing new is admitted;
- every commit carries how far trusted time and the grace have come; one alone at least hourly.

What this module does not do: it decides nothing, publishes nothing, and never creates or formats a ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smartserver_licensed.domain import messages, overcapacity
from smartserver_licensed.domain.errors import (
    LedgerBusyError,
    LedgerCorruptError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerNewerError,
    StorageError,
)
from smartserver_licensed.domain.ledger_state import Event, GrantInstalled, LedgerState, TimeMarked
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.domain.status import Clock, Storage
from smartserver_licensed.domain.trusted_time import TrustedTime
from smartserver_licensed.formats import ledger as ledger_format

from .ports import Clocks, Ledger
from .telling import tell

MARK_INTERVAL_S = 3_600.0
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0

_CONDITIONS: tuple[tuple[type[StorageError], Storage], ...] = (
    (LedgerMissingError, Storage.MISSING),
    (LedgerForeignError, Storage.FOREIGN),
    (LedgerCorruptError, Storage.CORRUPT),
    (LedgerNewerError, Storage.NEWER),
)


class Keeper:
    """The durable state and its ledger. `state` is None while the ledger cannot be used."""

    def __init__(
        self,
        ledger: Ledger,
        clocks: Clocks,
        *,
        install_code: str,
        verify_grant: Callable[[GrantInstalled], None],
        floor_s: int,
    ) -> None:
        """`floor_s`: no time before this one is believed (the build's). `verify_grant` raises a DocumentError."""
        self._ledger = ledger
        self._clocks = clocks
        self._install_code = install_code
        self._verify_grant = verify_grant
        self._floor_s = floor_s
        self._pause_s = _FIRST_PAUSE_S
        self._retry_at: float | None = None
        self._time = TrustedTime(floor_s, clocks.reading().boottime_s)
        self._graced_at_s = self._time.at_boottime_s
        self._grace = Grace()
        self.has_excess = False  # whether units run beyond the capacity; the controller says so after each decision
        self._marked_at = clocks.monotonic()
        self.state: LedgerState | None = None
        self.storage = Storage.MISSING
        self._is_unopened = True
        self.storage_reason = "the ledger has not been opened yet"
        self.commits = 0

    # -- time ----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Trusted time, seconds since 1970 UTC."""
        return self._time.now(self._clocks.reading())

    def clock(self) -> Clock:
        """What to report of the wall clock."""
        return self._time.condition(self._clocks.reading())

    def grace(self) -> Grace:
        """The grace as of now: what is durable, and the running time since."""
        elapsed_s = int(self._clocks.reading().boottime_s - self._graced_at_s)
        self._graced_at_s += elapsed_s
        self._grace = overcapacity.advanced(self._grace, elapsed_s=elapsed_s, has_excess=self.has_excess)
        return self._grace

    @property
    def mark_due_at(self) -> float:
        """When a commit is due for the sake of the time mark alone (monotonic seconds)."""
        return self._marked_at + MARK_INTERVAL_S

    # -- opening -------------------------------------------------------------------------------------------------

    @property
    def retry_at(self) -> float | None:
        """When the ledger is tried again (monotonic seconds), or None while it is open."""
        return self._retry_at

    async def open(self) -> bool:
        """Try to open and recover once; True when the state is loaded.

        Raises LedgerBusyError at the first call: another daemon runs. Later it may be `--init-state`, for a moment.
        """
        try:
            state, repairs = await self._load()
        except StorageError as error:
            if isinstance(error, LedgerBusyError) and self._is_unopened:
                raise
            self._close_with(error)
            return False
        self.state = state
        self.storage_reason = "; ".join(repairs)
        self._set_storage(Storage.DEGRADED if repairs else Storage.OK)
        self._retry_at, self._pause_s = None, _FIRST_PAUSE_S
        boottime_s = self._clocks.reading().boottime_s
        self._time = TrustedTime(max(state.mark_s, self._floor_s), boottime_s)
        self._graced_at_s, self._grace = boottime_s, state.grace
        return True

    async def _load(self) -> tuple[LedgerState, tuple[str, ...]]:
        recovered = await self._ledger.open()
        state = ledger_format.decode_snapshot(recovered.snapshot)
        for body in recovered.events:
            for event in ledger_format.decode_events(body):
                state.apply(event)
        if not state.install_code:
            state.install_code = self._install_code  # made before the SmartServer had its code: bound by `settle`
        if state.install_code != self._install_code:
            raise LedgerForeignError(
                f"cannot use the ledger: it is that of {state.install_code!r}, this is {self._install_code!r}"
            )
        if state.installed is not None:
            self._verify_grant(state.installed)
        await self._ledger.settle(ledger_format.encode_snapshot(state))
        return state, recovered.repairs

    def _close_with(self, error: StorageError) -> None:
        """Fail-stop: memory is dropped; the next try recovers as at start."""
        self.state = None
        self.storage_reason = str(error)
        self._set_storage(next((each for kind, each in _CONDITIONS if isinstance(error, kind)), Storage.READ_ONLY))
        self._retry_at = self._clocks.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)

    def _set_storage(self, storage: Storage) -> None:
        is_first_and_good = self._is_unopened and storage is Storage.OK
        self._is_unopened = False
        if storage is not self.storage and not is_first_and_good:
            tell(
                messages.STORAGE_CONDITION_CHANGED,
                STORAGE=storage.value,
                WAS=self.storage.value,
                REASON=self.storage_reason,
            )
        self.storage = storage

    # -- committing ----------------------------------------------------------------------------------------------

    async def commit(self, events: Sequence[Event], grace: Grace | None = None) -> bool:
        """Make events durable, then apply them. False: the ledger failed, and memory is dropped."""
        state = self.state
        if state is None:
            return False
        self._grace = self.grace() if grace is None else grace
        reading = self._clocks.reading()
        grants = [each for each in events if isinstance(each, GrantInstalled)]
        if grants:
            marked = TrustedTime(max(grants[-1].grant.issued_at, self._floor_s), reading.boottime_s)
        else:
            marked = self._time.marked(reading)
        mark = TimeMarked(marked.mark_s, self._grace)
        try:
            await self._ledger.append(
                ledger_format.encode_events(events, mark), lambda: ledger_format.encode_snapshot(state)
            )
        except StorageError as error:
            self._close_with(error)
            return False
        for event in (*events, mark):
            state.apply(event)
        self._time = marked
        self._marked_at = self._clocks.monotonic()
        self.commits += 1
        return True

    async def rewrite(self) -> bool:
        """Leave no earlier copy of the state to go back to: after a license event."""
        if self.state is None:
            return False
        try:
            await self._ledger.rewrite(ledger_format.encode_snapshot(self.state))
        except StorageError as error:
            self._close_with(error)
            return False
        return True
