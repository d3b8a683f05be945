"""Keeps the durable state: opens the ledger, makes events durable, then applies them. Fail-stop.

Rules (STATE.md):
- persist, then apply, then (the caller) announce; a failed write or sync is final: memory is dropped and the ledger is
  recovered as at start, with pauses of 1…60 s;
- the ledger of another SmartServer is not read; a grant that does not verify under its root makes it `corrupt`: what
  runs keeps running, nothing new is admitted; one whose board or install code was exchanged is served (`binding`);
- a new ledger is bound to the board and gets a device key before anything else;
- `rolled-back` and `anchor-lost`: nothing is admitted, but a new grant is taken, and mends it;
- what was repaired stays said, over restarts too, until somebody acknowledges it;
- every commit carries how far trusted time, the grace and the wear have come; one alone at least hourly.

What this module does not do: it decides nothing, publishes nothing, and never creates or formats a ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smartserver_licensed.domain import binding, messages, overcapacity
from smartserver_licensed.domain.binding import Binding, Identity
from smartserver_licensed.domain.errors import (
    AnchorError,
    LedgerBusyError,
    LedgerCorruptError,
    LedgerForeignError,
    LedgerMissingError,
    LedgerNewerError,
    SnapshotTooLargeError,
    StaleGrantError,
    StorageError,
    WriteFailedError,
)
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Anchored,
    Bound,
    Enrolled,
    Event,
    GrantInstalled,
    LedgerState,
    RepairNoted,
    TimeMarked,
    is_license_event,
)
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.domain.status import Clock, Storage
from smartserver_licensed.domain.trusted_time import TrustedTime
from smartserver_licensed.formats import ledger as ledger_format

from .anchoring import Anchoring
from .ports import Clocks, Ledger
from .telling import tell

MARK_INTERVAL_S = 3_600.0
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_LONGEST_REPAIR = 1_000
_LOOK_AFTER_BYTES = 256 << 10

_CONDITIONS: tuple[tuple[type[StorageError], Storage], ...] = (
    (LedgerMissingError, Storage.MISSING),
    (LedgerForeignError, Storage.FOREIGN),
    (LedgerCorruptError, Storage.CORRUPT),
    (LedgerNewerError, Storage.NEWER),
)


class Keeper:
    """The durable state and its ledger. `state` is None while nothing may be built on it."""

    def __init__(
        self,
        ledger: Ledger,
        clocks: Clocks,
        *,
        identity: Identity,
        check_documents: Callable[[LedgerState], None],
        new_seed: Callable[[], bytes],
        floor_s: int,
        anchoring: Anchoring | None = None,
    ) -> None:
        """`floor_s`: no time before this one is believed (the build's). `new_seed` makes the seed of a device key.

        `check_documents` raises LedgerCorruptError where roots or grant of a ledger do not verify.
        """
        self._ledger = ledger
        self._clocks = clocks
        self._identity = identity
        self._check_documents = check_documents
        self._new_seed = new_seed
        self._floor_s = floor_s
        self._anchoring = anchoring or Anchoring(None)
        self._pause_s = _FIRST_PAUSE_S
        self._retry_at: float | None = None
        self._time = TrustedTime(floor_s, clocks.reading().boottime_s)
        self._graced_at_s = self._time.at_boottime_s
        self._grace = Grace()
        self.has_excess = False  # whether units run beyond the capacity; the controller says so after each decision
        self._marked_at = clocks.monotonic()
        self._held: LedgerState | None = None
        self._verified: LedgerState | None = None
        self.storage = Storage.MISSING
        self._is_unopened = True
        self.storage_reason = "the ledger has not been opened yet"
        self.commits = 0
        self._size = self._size_at_most = 0  # of the state, when it was looked at, and since
        self._written_before = 0  # to the device, when the ledger was opened
        self._written_at_start: int | None = None
        self._may_be_old = False
        self._well_at: float | None = None

    @property
    def state(self) -> LedgerState | None:
        """What decisions are built on."""
        return self._held if self.storage.is_writable else None

    @property
    def shown(self) -> LedgerState | None:
        """What the ledger holds as far as it verifies: for people to read, nothing is built on it."""
        return self._held or self._verified

    @property
    def takes_documents(self) -> bool:
        """Whether a request or a new grant can be made durable: also where it is what mends the condition."""
        return self._held is not None

    @property
    def binding(self) -> Binding:
        """How the ledger stands to this board; without a state nothing is wrong with it."""
        return self._judge(self._held) if self._held else Binding.BOUND

    def _judge(self, state: LedgerState) -> Binding:
        return binding.judge(Identity(state.install_code, state.factors), self._identity)

    # -- time ----------------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Trusted time, seconds since 1970 UTC."""
        return self._time.now(self._clocks.reading())

    def clock(self) -> Clock:
        """What to report of the wall clock."""
        return self._time.condition(self._clocks.reading())

    def grace(self) -> Grace:
        """The grace as of now: what is durable, and the running time since; without a state nobody counts."""
        elapsed_s = int(self._clocks.reading().boottime_s - self._graced_at_s)
        self._graced_at_s += elapsed_s
        if self.state is not None:
            self._grace = overcapacity.advanced(self._grace, elapsed_s=elapsed_s, has_excess=self.has_excess)
        return self._grace

    @property
    def mark_due_at(self) -> float:
        """When a commit is due for the sake of the time mark alone (monotonic seconds)."""
        return self._marked_at + MARK_INTERVAL_S

    # -- opening -------------------------------------------------------------------------------------------------

    @property
    def retry_at(self) -> float | None:
        """When the ledger, or its anchor, is tried again (monotonic seconds); None while all is well."""
        return self._retry_at

    async def open(self) -> bool:
        """Try to open and recover once; True when the state is loaded.

        Raises LedgerBusyError at the first call: another daemon runs. Later it may be `--init-state`, for a moment.
        """
        try:
            is_open = self._held is not None
            if not is_open:
                await self._load()
                is_open = await self._make_durable([], self.grace())  # a commit behind it: a rewrite is complete
            if is_open:
                await self._look_at_anchor()
        except StorageError as error:
            if isinstance(error, LedgerBusyError) and self._is_unopened:
                raise
            await self._fail(error)
        return self.state is not None

    async def _load(self) -> None:
        recovered = await self._ledger.open()
        state = ledger_format.decode_snapshot(recovered.snapshot)
        has_license_event = self._replay(state, recovered.events)  # then the rewrite behind it was cut off
        is_changed = bool(recovered.repairs) or has_license_event
        for event in self._first_events(state):
            state.apply(event)
            is_changed = True
        if self._judge(state) is Binding.FOREIGN:
            raise LedgerForeignError(
                f"cannot use the ledger: it is that of {state.install_code!r} on another board, "
                f"this is {self._identity.install_code!r}"
            )
        self._check_documents(state)
        if recovered.repairs:
            known = [state.repair] if state.repair else []
            state.apply(RepairNoted("; ".join([*known, *recovered.repairs])[-_LONGEST_REPAIR:]))
            tell(messages.LEDGER_REPAIRED, REASON="; ".join(recovered.repairs))
        if recovered.notes:
            tell(messages.LEDGER_CUT, REASON="; ".join(recovered.notes))
        snapshot = ledger_format.encode_snapshot(state)
        await self._ledger.settle(snapshot, is_changed=is_changed)
        self._held, self._verified = state, None
        self._size = self._size_at_most = len(snapshot)
        self._written_before = state.written_bytes
        if self._written_at_start is None:
            self._written_at_start = state.written_bytes
        boottime_s = self._clocks.reading().boottime_s
        self._time = TrustedTime(max(state.mark_s, self.now()), boottime_s)  # also after a fault it runs on
        self._graced_at_s, self._grace = boottime_s, state.grace
        if self._is_unopened:  # as of the last commit, until the controller says so
            self.has_excess = state.grace.allowed_s > 0 and not state.grace.within_s

    def _replay(self, state: LedgerState, events: Sequence[bytes]) -> bool:
        """Apply what stands behind a snapshot; whether some of it is a license event."""
        replayed = [event for body in events for event in ledger_format.decode_events(body)]
        for event in replayed:
            state.apply(event)
        return any(map(is_license_event, replayed))

    def _first_events(self, state: LedgerState) -> list[Event]:
        """What a ledger lacks that has not been on this SmartServer yet, or not since it knows its hardware."""
        events: list[Event] = []
        has_new_factors = not state.factors.count and self._identity.factors.count > 0
        if not state.install_code or (has_new_factors and state.install_code == self._identity.install_code):
            events.append(Bound(self._identity))
        if not state.device_seed and state.install_code in {"", self._identity.install_code}:
            events.append(Enrolled(self._new_seed()))
        return events

    async def _look_at_anchor(self) -> None:
        if self._held is None:
            return
        checked = await self._anchoring.check(self._held.anchored)
        self._may_be_old = checked.may_be_old
        if checked.bind_to is not None and await self._make_durable([Anchored(checked.bind_to)], self.grace()):
            await self._anchoring.bound()
        if checked.storage is not Storage.OK:
            self._set_storage(checked.storage, checked.reason)
            self._pause()
        elif self._held is not None:
            self._set_well()

    def _set_well(self) -> None:
        repair = self._held.repair if self._held else ""
        self._set_storage(Storage.DEGRADED if repair else Storage.OK, repair)
        self._retry_at = None
        if self._well_at is None:
            self._well_at = self._clocks.monotonic()

    async def _fail(self, error: StorageError) -> None:
        """Fail-stop: memory is dropped; the next try recovers as at start."""
        if isinstance(error, AnchorError):
            self._set_storage(Storage.ANCHOR_LOST, str(error))
        else:
            self._held, self._verified = None, self._what_verifies(error)
            condition = next((each for kind, each in _CONDITIONS if isinstance(error, kind)), Storage.READ_ONLY)
            self._set_storage(condition, str(error))
            await self._ledger.release()
        self._pause()

    def _what_verifies(self, error: StorageError) -> LedgerState | None:
        if not isinstance(error, LedgerCorruptError) or not error.snapshot:
            return None
        try:
            state = ledger_format.decode_snapshot(error.snapshot)
            self._replay(state, error.events)
            self._check_documents(state)
        except StorageError:
            return None
        return state if self._judge(state) is not Binding.FOREIGN else None

    def _pause(self) -> None:
        """The next try; pauses grow until all was well for as long as the longest one: each opening writes."""
        if self._well_at is not None and self._clocks.monotonic() - self._well_at >= _MAX_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        self._well_at = None
        self._retry_at = self._clocks.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)

    def _set_storage(self, storage: Storage, reason: str) -> None:
        is_first_and_good = self._is_unopened and storage is Storage.OK
        self._is_unopened = False
        was, self.storage, self.storage_reason = self.storage, storage, reason
        if storage is not was and not is_first_and_good:
            tell(messages.STORAGE_CONDITION_CHANGED, STORAGE=storage.value, WAS=was.value, REASON=reason)

    # -- committing ----------------------------------------------------------------------------------------------

    async def commit(self, events: Sequence[Event], grace: Grace | None = None) -> bool:
        """Make events durable, then apply them. False: the ledger failed, and memory is dropped."""
        return self.state is not None and await self._make_durable(events, self.grace() if grace is None else grace)

    async def commit_contact(self, events: Sequence[Event]) -> bool:
        """Make a request, or a note, durable before it leaves: also where a new grant is what mends the condition.

        False: as for `commit`. Raises SnapshotTooLargeError; then nothing has changed.
        """
        self._check_size(events)
        return await self._make_durable(events, self.grace())

    async def commit_license(self, events: Sequence[Event]) -> bool:
        """Make a license event durable, leave no earlier copy of the state to go back to, and count it.

        True once it is durable: what fails afterwards is done again at the next opening. False: as for `commit`, and
        where the ledger is an old copy: only a grant mends that. Raises StaleGrantError (another one came first),
        SnapshotTooLargeError or AnchorError: nothing has changed.
        """
        if self._held is None or (self.state is None and not any(isinstance(each, GrantInstalled) for each in events)):
            return False
        await self._check_seq(events)
        self._check_size(events)
        wanted = list(events)
        if (count := await self._anchoring.next_count(self._held.anchored)) != self._held.anchored:
            wanted.append(Anchored(count))
        if self._may_be_old:  # who was admitted since the copy was made runs, and must go on
            wanted.append(AdoptionChanged(is_adopting=True))
        if not await self._make_durable(wanted, self.grace()):
            return False
        self._may_be_old = False  # mended
        if not await self._rewrite() or not await self._make_durable([], self.grace()):  # a commit after every rewrite
            return True
        try:
            await self._anchoring.count()
        except AnchorError as error:
            await self._fail(error)  # it is durable; counted it is when the anchor is there again
        else:
            self._set_well()
        return True

    async def least_seq(self) -> int:
        """The highest `seq` that may have been installed here; raises AnchorError.

        More than the ledger knows of where it is an old copy: every license event that it missed may have been a grant.
        """
        if self._held is None:
            return 0
        known = self._held.installed.grant.seq if self._held.installed else 0
        if self.storage is Storage.ROLLED_BACK:
            known += await self._anchoring.missed(self._held.anchored)
        return known

    async def _check_seq(self, events: Sequence[Event]) -> None:
        grant = next((each.grant for each in events if isinstance(each, GrantInstalled)), None)
        if grant is not None and grant.seq <= (known := await self.least_seq()):
            raise StaleGrantError(f"cannot install: seq {grant.seq} is no newer than what was installed, {known}")

    def _check_size(self, events: Sequence[Event]) -> None:
        if self._held is None:
            return
        added = len(ledger_format.encode_events(events, TimeMarked(0, self._grace)))
        if self._size_at_most + added <= ledger_format.MAX_STATE_BYTES:
            return
        size_bytes = len(ledger_format.encode_snapshot(self._held)) + added
        if size_bytes > ledger_format.MAX_STATE_BYTES:
            raise SnapshotTooLargeError(
                f"cannot keep the document: the state would have {size_bytes} bytes, "
                f"the limit is {ledger_format.MAX_STATE_BYTES}"
            )

    async def acknowledge_repair(self) -> str:
        """Take the condition `degraded` back. What was repaired; empty where nothing was. Raises WriteFailedError."""
        repair = self.state.repair if self.state else ""
        if repair:
            if not await self.commit([RepairNoted("")]):
                raise WriteFailedError(f"cannot acknowledge: {self.storage_reason}")
            tell(messages.REPAIR_ACKNOWLEDGED, REASON=repair)
            self._set_well()
        return repair

    async def _make_durable(self, events: Sequence[Event], grace: Grace) -> bool:
        state = self._held
        if state is None:
            return False
        self._grace = grace
        reading = self._clocks.reading()
        grants = [each for each in events if isinstance(each, GrantInstalled)]
        if grants:
            marked = TrustedTime(max(grants[-1].grant.issued_at, self._floor_s), reading.boottime_s)
        else:
            marked = self._time.marked(reading)
        mark = TimeMarked(marked.mark_s, grace, self.written_bytes)
        body = ledger_format.encode_events(events, mark)
        try:
            await self._ledger.append(body, lambda: ledger_format.encode_snapshot(state))
        except SnapshotTooLargeError as error:  # nothing was written, and trying again at once is of no use
            self._set_storage(Storage.READ_ONLY, str(error))
            self._pause()
            self._retry_at = self._clocks.monotonic() + _MAX_PAUSE_S
            return False
        except StorageError as error:
            if grants:  # it may have arrived, and sets the time, also downwards; else the disk's mark counts
                self._time = marked
            await self._fail(error)
            return False
        for event in (*events, mark):
            state.apply(event)
        self._time = marked
        self._marked_at = self._clocks.monotonic()
        self._size_at_most += len(body)
        self.commits += 1
        return True

    async def _rewrite(self) -> bool:
        if self._held is None:
            return False
        try:
            await self._ledger.rewrite(ledger_format.encode_snapshot(self._held))
        except StorageError as error:
            await self._fail(error)
            return False
        return True

    # -- figures -------------------------------------------------------------------------------------------------

    @property
    def written_bytes(self) -> int:
        """Bytes written to the device in the ledger's whole life, as far as they are known."""
        figures = self._ledger.figures
        return self._written_before + (figures.bytes_written if figures else 0)

    @property
    def written_since_start(self) -> int:
        """Of them, those since the first opening of this process."""
        return self.written_bytes - (self._written_at_start or 0)

    def room_for_seats(self) -> int:
        """By how many seats the state may grow; its size is looked at anew after each so many bytes of events."""
        if self._held is not None and self._size_at_most - self._size > _LOOK_AFTER_BYTES:
            self._size = self._size_at_most = len(ledger_format.encode_snapshot(self._held))
        return max(0, ledger_format.MAX_STATE_BYTES - self._size_at_most) // ledger_format.MAX_SEAT_BYTES
