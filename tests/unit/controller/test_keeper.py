"""Persist, then apply; fail-stop; whose ledger it is; how far time and grace have come."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import pytest

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.keeper import MARK_INTERVAL_S, Keeper
from smartserver_licensed.domain.anchoring import Reading as AnchorReading
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.errors import (
    AnchorError,
    LedgerBusyError,
    LedgerCorruptError,
    SnapshotTooLargeError,
    StaleGrantError,
    WriteFailedError,
)
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    GrantInstalled,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
)
from smartserver_licensed.domain.overcapacity import begun
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
from support.documents import GRANT, sealed
from support.ports import MemoryLedger, SetClocks, keeper_of

SEAT = SeatGiven(UnitId("modbus/1"), Seat(SeatKind.PROVISIONED, has_run=True, number=1))
FLOOR_S = 1_795_478_400


def a_ledger(install_code: str = "17qei61") -> MemoryLedger:
    return MemoryLedger(encode_snapshot(LedgerState(install_code=install_code, mark_s=FLOOR_S)))


def a_keeper(ledger: MemoryLedger, clocks: SetClocks | None = None, *, is_signed: bool = True) -> Keeper:
    def check(state: LedgerState) -> None:
        if state.installed is not None and not is_signed:
            raise LedgerCorruptError("cannot use the grant in the ledger: injected")

    return keeper_of(ledger, clocks or SetClocks(), check_documents=check, floor_s=FLOOR_S)


async def test_what_was_committed_is_there_after_a_restart() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    assert await keeper.open()
    assert await keeper.commit([SEAT])
    again = a_keeper(ledger)
    assert await again.open()
    assert again.state is not None
    assert again.state.seats == {SEAT.unit: SEAT.seat}


async def test_a_failed_append_changes_nothing_drops_memory_and_is_tried_again_with_pauses() -> None:
    ledger, clocks = a_ledger(), SetClocks()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    before = ledger.events
    ledger.fails = WriteFailedError("cannot sync: injected")
    assert not await keeper.commit([SEAT])
    assert (keeper.state, keeper.storage, ledger.events) == (None, Storage.READ_ONLY, before)
    pauses = []
    for _ in range(8):
        ledger.fails = WriteFailedError("cannot sync: injected")
        assert keeper.retry_at is not None
        pauses.append(keeper.retry_at - clocks.now_s)
        clocks.now_s = keeper.retry_at
        assert not await keeper.open()
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert await keeper.open()
    assert (keeper.storage, keeper.retry_at) == (Storage.OK, None)


async def test_the_ledger_of_another_smartserver_is_foreign_and_left_as_it_is() -> None:
    ledger = a_ledger("17other")
    before = ledger.snapshot
    keeper = a_keeper(ledger)
    assert not await keeper.open()
    assert (keeper.storage, ledger.snapshot) == (Storage.FOREIGN, before)


async def test_a_ledger_made_before_there_was_an_install_code_is_bound_at_the_first_start() -> None:
    ledger = a_ledger("")
    assert await a_keeper(ledger).open()
    assert decode_snapshot(ledger.snapshot).install_code == "17qei61"


async def test_a_grant_that_does_not_verify_makes_the_ledger_corrupt() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    await keeper.commit([GrantInstalled(GRANT, sealed(GRANT), FLOOR_S)])
    again = a_keeper(ledger, is_signed=False)
    assert not await again.open()
    assert again.storage is Storage.CORRUPT


async def test_another_daemon_is_told_at_the_start_only() -> None:
    class Busy(MemoryLedger):
        async def open(self) -> MemoryLedger:
            raise LedgerBusyError("cannot use the ledger: injected")

    keeper = a_keeper(Busy(b""))
    with pytest.raises(LedgerBusyError):
        await keeper.open()
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    ledger.fails = WriteFailedError("injected")
    assert not await keeper.commit([SEAT])
    ledger.fails = LedgerBusyError("injected")
    assert not await keeper.open()


async def test_a_newer_grant_sets_the_time_also_downwards_and_nothing_else_does() -> None:
    ledger, clocks = a_ledger(), SetClocks()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    clocks.now_s += 10_000_000
    assert keeper.now() > GRANT.issued_at
    await keeper.commit([SEAT])
    assert keeper.state is not None
    assert keeper.state.mark_s > GRANT.issued_at
    await keeper.commit([GrantInstalled(GRANT, sealed(GRANT), FLOOR_S)])
    assert keeper.state.mark_s == max(GRANT.issued_at, FLOOR_S)


async def test_grace_is_counted_in_seconds_of_running_and_survives_a_restart() -> None:
    ledger, clocks = a_ledger(), SetClocks()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    await keeper.commit([SEAT], begun(keeper.grace(), days=7))
    keeper.has_excess = True
    for _ in range(100):
        clocks.now_s += 0.5
        keeper.grace()
    await keeper.commit([])
    clocks.now_s += 1_000_000  # powered off, or the clock set forward: a restart counts anew
    again = a_keeper(ledger, clocks)
    await again.open()
    assert again.grace().used_s == 50


async def test_what_was_repaired_stays_said_over_restarts_until_it_is_acknowledged() -> None:
    ledger = a_ledger()
    ledger.repairs = ("log a had no whole snapshot",)
    assert await a_keeper(ledger).open()
    ledger.repairs = ()
    again = a_keeper(ledger)
    assert await again.open()
    assert (again.storage, again.storage_reason) == (Storage.DEGRADED, "log a had no whole snapshot")
    assert await again.commit([SEAT]), "everything goes on"
    assert await again.acknowledge_repair() == "log a had no whole snapshot"
    assert again.storage is Storage.OK
    assert await again.acknowledge_repair() == ""
    last = a_keeper(ledger)
    assert await last.open()
    assert last.storage is Storage.OK


async def test_what_verifies_of_a_corrupt_ledger_is_shown_and_nothing_is_built_on_it() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    await keeper.commit_license([GrantInstalled(GRANT, sealed(GRANT), FLOOR_S)])
    await keeper.commit([SEAT])

    class Corrupt(MemoryLedger):
        async def open(self) -> MemoryLedger:
            raise LedgerCorruptError("injected", snapshot=ledger.snapshot, events=ledger.events)

    for install_code, is_signed, is_shown in (("17qei61", True, True), ("17qei61", False, False)):
        keeper = a_keeper(Corrupt(b""), is_signed=is_signed)
        assert not await keeper.open()
        assert (keeper.storage, keeper.state, keeper.takes_documents) == (Storage.CORRUPT, None, False)
        assert (keeper.shown is not None) is is_shown, install_code
        assert not await keeper.commit([SEAT])
    theirs = a_ledger("17other")
    ledger.snapshot, ledger.events = theirs.snapshot, ()
    keeper = a_keeper(Corrupt(b""))
    assert not await keeper.open()
    assert keeper.shown is None, "of another SmartServer nothing is read"


class Unsynchronised(SetClocks):
    """Only the time since boot is to be believed."""

    def reading(self) -> Reading:
        return Reading(0, self.now_s, is_synchronised=False)


class Counter:
    """Implements `controller.ports.Anchor` in memory; `is_away`: it cannot be asked."""

    kind = "tpm"

    def __init__(self) -> None:
        self.shown: int | None = None
        self.is_in_use = self.is_away = False

    async def read(self) -> AnchorReading:
        self._ask()
        return AnchorReading(self.shown, self.is_in_use)

    async def count(self) -> int:
        self._ask()
        self.shown = 41 if self.shown is None else self.shown + 1
        return self.shown

    async def use(self) -> None:
        self._ask()
        self.is_in_use = True

    def _ask(self) -> None:
        if self.is_away:
            raise AnchorError("cannot ask the TPM: injected")


def anchored(ledger: MemoryLedger, counter: Counter | None, clocks: SetClocks | None = None) -> Keeper:
    return keeper_of(ledger, clocks or SetClocks(), floor_s=FLOOR_S, anchoring=Anchoring(counter))


def a_grant(seq: int) -> GrantInstalled:
    grant = dataclasses.replace(GRANT, seq=seq)
    return GrantInstalled(grant, sealed(grant), FLOOR_S)


async def test_an_old_copy_is_rolled_back_admits_nothing_and_is_mended_by_a_new_grant() -> None:
    ledger, counter = a_ledger(), Counter()
    copies = [(ledger.snapshot, ledger.events)]
    keeper = anchored(ledger, counter)
    assert await keeper.open()
    for seq in (1, 2):
        copies.append((ledger.snapshot, ledger.events))
        assert await keeper.commit_license([a_grant(seq)])
    for seq, (snapshot, events) in enumerate(copies, start=3):
        ledger.snapshot, ledger.events = snapshot, events
        old = anchored(ledger, counter)
        assert not await old.open()
        assert (old.storage, old.state, old.takes_documents) == (Storage.ROLLED_BACK, None, True)
        assert old.retry_at is not None
        assert not await old.commit([SEAT])
        if events:  # of a copy from before it was bound nobody knows how many license events it lacks
            with pytest.raises(StaleGrantError):
                await old.commit_license([a_grant(seq - 1)])
        assert await old.commit_license([a_grant(seq)])
        assert condition(old) is Storage.OK
        assert not old.retry_at
        assert await old.commit([SEAT])
        assert await anchored(ledger, counter).open()


async def test_a_power_cut_at_any_step_of_binding_and_of_a_license_event_is_no_old_copy() -> None:
    class Cutting(Counter):
        left = 0

        def _ask(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise PowerCutError

    class PowerCutError(Exception):
        pass

    for left in range(7):
        ledger, counter = a_ledger(), Cutting()
        counter.left = left
        with contextlib.suppress(PowerCutError):
            keeper = anchored(ledger, counter)
            await keeper.open()
            await keeper.commit_license([a_grant(1)])
            assert left >= 6, "binding and a license event take six calls"
        counter.left = 100
        again = anchored(ledger, counter)
        assert await again.open(), left
        assert again.storage is Storage.OK
        assert await again.commit_license([a_grant(2)])
        assert await anchored(ledger, counter).open()


def condition(keeper: Keeper) -> Storage:
    return keeper.storage


async def test_an_anchor_that_does_not_answer_is_lost_until_it_does_and_a_cleared_one_until_a_new_grant() -> None:
    ledger, counter, clocks = a_ledger(), Counter(), SetClocks()
    await anchored(ledger, counter).open()
    counter.is_away = True
    keeper = anchored(ledger, counter, clocks)
    assert not await keeper.open()
    assert keeper.storage is Storage.ANCHOR_LOST
    with pytest.raises(AnchorError):
        await keeper.commit_license([a_grant(1)])
    counter.is_away = False
    assert await keeper.open()
    assert condition(keeper) is Storage.OK
    for seq, replaced in enumerate((Counter(), None), start=1):
        keeper = anchored(ledger, replaced)
        assert not await keeper.open()
        assert keeper.storage is Storage.ANCHOR_LOST
        assert await keeper.commit_license([a_grant(seq)])
        assert condition(keeper) is Storage.OK
        assert await anchored(ledger, replaced).open()


async def test_a_license_for_which_the_state_has_no_room_is_refused_and_changes_nothing() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    assert keeper.room_for_seats() > 5_000
    await keeper.commit([SeatGiven(UnitId(f"modbus/{'x' * 240}{number}"), SEAT.seat) for number in range(11_650)])
    before = (ledger.snapshot, ledger.events)
    big = GrantInstalled(GRANT, sealed(GRANT).ljust(60_000), FLOOR_S)
    with pytest.raises(SnapshotTooLargeError):
        await keeper.commit_license([big])
    assert (ledger.snapshot, ledger.events) == before
    assert keeper.room_for_seats() < 400


async def test_a_commit_that_the_ledger_has_no_room_for_is_tried_again_after_a_minute_and_nothing_is_dropped() -> None:
    ledger, clocks = a_ledger(), SetClocks()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    ledger.fails = SnapshotTooLargeError("injected")
    assert not await keeper.commit([SEAT])
    assert (keeper.state, keeper.retry_at) == (None, clocks.now_s + 60)
    opened = ledger.opened
    assert await keeper.open()
    assert ledger.opened == opened, "it was never closed"
    assert await keeper.commit([SEAT])


async def test_of_two_grants_at_once_the_older_one_is_refused() -> None:
    keeper = a_keeper(a_ledger())
    await keeper.open()
    assert await keeper.commit_license([a_grant(9)])
    with pytest.raises(StaleGrantError):
        await keeper.commit_license([a_grant(8)])


async def test_a_license_that_is_durable_is_installed_whatever_fails_afterwards() -> None:
    class FailsToRewrite(MemoryLedger):
        async def rewrite(self, snapshot: bytes) -> None:
            raise WriteFailedError("injected")

    plain = a_ledger()
    ledger = FailsToRewrite(plain.snapshot)
    keeper = a_keeper(ledger)
    await keeper.open()
    assert await keeper.commit_license([a_grant(1)])
    assert keeper.state is None
    plain = MemoryLedger(ledger.snapshot, ledger.events)
    again = a_keeper(plain)
    assert await again.open()
    assert plain.is_changed, "the rewrite that was cut off is done now: no earlier copy is left"
    assert again.state is not None
    assert again.state.installed is not None


async def test_a_license_that_could_not_be_counted_is_counted_before_the_next_one() -> None:
    class Uncountable(Counter):
        is_uncountable = False

        async def count(self) -> int:
            if self.is_uncountable:
                raise AnchorError("injected")
            return await super().count()

    ledger, counter = a_ledger(), Uncountable()
    keeper = anchored(ledger, counter)
    await keeper.open()
    counter.is_uncountable = True
    assert await keeper.commit_license([a_grant(1)])
    assert condition(keeper) is Storage.ANCHOR_LOST
    copy = (ledger.snapshot, ledger.events)
    counter.is_uncountable = False
    assert await keeper.commit_license([a_grant(2)])
    assert condition(keeper) is Storage.OK
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    assert not await old.open()
    assert old.storage is Storage.ROLLED_BACK


async def test_a_grant_whose_sync_failed_but_which_arrived_sets_the_time_all_the_same() -> None:
    class Arrives(MemoryLedger):
        async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
            self.events += (body,)
            self._maybe_fail()

    ledger, clocks = Arrives(a_ledger().snapshot), SetClocks()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    clocks.now_s += 10_000_000
    await keeper.commit([SEAT])
    ledger.fails = WriteFailedError("injected")
    assert not await keeper.commit_license([a_grant(1)])
    clocks.is_synchronised = False
    assert await keeper.open()
    assert keeper.state is not None
    assert keeper.state.mark_s == max(GRANT.issued_at, FLOOR_S)


async def test_after_an_old_copy_what_runs_is_adopted() -> None:
    ledger, counter = a_ledger(), Counter()
    keeper = anchored(ledger, counter)
    await keeper.open()
    await keeper.commit([AdoptionChanged(is_adopting=False)])
    copy = (ledger.snapshot, ledger.events)
    await keeper.commit_license([a_grant(1)])
    assert keeper.state is not None
    assert not keeper.state.is_adopting
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    await old.open()
    await old.commit_license([a_grant(2)])
    assert old.state is not None
    assert old.state.is_adopting


async def test_time_runs_on_over_a_storage_fault_and_grace_stands_still() -> None:
    ledger, clocks = a_ledger(), Unsynchronised()
    keeper = a_keeper(ledger, clocks)
    await keeper.open()
    await keeper.commit([SEAT], begun(keeper.grace(), days=7))
    keeper.has_excess = True
    clocks.now_s += 30 * 86_400
    before = keeper.now()
    keeper.grace()
    used_s = keeper.grace().used_s
    ledger.fails = WriteFailedError("injected")
    await keeper.commit([SEAT])
    clocks.now_s += 1_000
    assert keeper.grace().used_s == used_s
    assert await keeper.open()
    assert keeper.now() >= before + 1_000


async def test_the_wear_is_counted_over_restarts() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    for _ in range(3):
        await keeper.commit([SEAT])
    assert keeper.written_bytes == 4 * 8192, "opening it commits too"
    again = a_keeper(MemoryLedger(ledger.snapshot, ledger.events))
    await again.open()
    assert again.written_bytes == (3 + 1) * 8192, "a commit says what was written before it"


async def test_the_time_mark_is_due_an_hour_after_the_last_commit() -> None:
    clocks = SetClocks()
    keeper = a_keeper(a_ledger(), clocks)
    await keeper.open()
    await keeper.commit([SEAT])
    assert keeper.mark_due_at == clocks.now_s + MARK_INTERVAL_S


async def test_a_repair_that_cannot_be_acknowledged_durably_is_not() -> None:
    ledger = a_ledger()
    ledger.repairs = ("log a had no whole snapshot",)
    keeper = a_keeper(ledger)
    await keeper.open()
    ledger.fails = WriteFailedError("injected")
    with pytest.raises(WriteFailedError):
        await keeper.acknowledge_repair()
    ledger.repairs = ()
    assert await keeper.open()
    assert keeper.storage is Storage.DEGRADED
