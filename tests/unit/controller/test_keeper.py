"""Persist, then apply; fail-stop; whose ledger it is; how far time and grace have come."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import pytest

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.keeper import MARK_INTERVAL_S, Keeper
from smartserver_licensed.domain.anchoring import Reading as AnchorReading
from smartserver_licensed.domain.binding import NO_FACTORS, Binding, Factors, Identity
from smartserver_licensed.domain.contacts import ContactKind
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
    ContactMade,
    GrantInstalled,
    LedgerState,
    RootsTrusted,
    Seat,
    SeatGiven,
    SeatKind,
)
from smartserver_licensed.domain.overcapacity import begun
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
from support.documents import GRANT, sealed
from support.ports import DEVICE_SEED, MemoryLedger, SetClocks, keeper_of

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
    assert await a_keeper(plain).open()  # which makes the device key
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


# -- the board and the device key --------------------------------------------------------------------------------------

BOARD = Factors("soc-1", "emmc-1", "70:b3:d5:00:00:01")
OTHER_BOARD = Factors("soc-2", "emmc-2", "70:b3:d5:00:00:02")


class Seeds:
    """Makes a seed that is another one each time."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> bytes:
        self.made += 1
        return bytes([self.made]) * 32


def on_board(ledger: MemoryLedger, factors: Factors, seeds: Seeds, install_code: str = "17qei61") -> Keeper:
    return Keeper(
        ledger,
        SetClocks(),
        identity=Identity(install_code, factors),
        check_documents=lambda _: None,
        new_seed=seeds,
        floor_s=FLOOR_S,
    )


async def test_a_first_opening_binds_the_ledger_and_makes_one_device_key_a_second_one_none() -> None:
    for install_code in ("", "17qei61"):
        ledger, seeds = a_ledger(install_code), Seeds()
        for _ in range(3):
            keeper = on_board(ledger, BOARD, seeds)
            assert await keeper.open()
            assert keeper.state is not None
            assert (keeper.state.device_seed, seeds.made) == (b"\1" * 32, 1)
            assert (keeper.state.install_code, keeper.state.factors) == ("17qei61", BOARD)
        assert decode_snapshot(ledger.snapshot).device_seed == b"\1" * 32, "in a snapshot, so in both logs"


async def test_a_first_opening_that_is_killed_is_done_again_and_what_was_made_durable_stays() -> None:
    class KilledError(Exception):
        pass

    class Killed(MemoryLedger):
        is_after = False

        async def rewrite(self, snapshot: bytes) -> None:
            if self.is_after:
                await super().rewrite(snapshot)
            raise KilledError

    for is_after in (False, True):
        ledger, seeds = Killed(a_ledger().snapshot), Seeds()
        ledger.is_after = is_after
        with pytest.raises(KilledError):
            await on_board(ledger, BOARD, seeds).open()
        keeper = on_board(MemoryLedger(ledger.snapshot, ledger.events), BOARD, seeds)
        assert await keeper.open()
        assert keeper.state is not None
        assert (keeper.state.device_seed[0], seeds.made) == ((1, 1) if is_after else (2, 2))


async def test_a_ledger_whose_board_could_not_be_read_before_is_bound_to_it_and_keeps_its_key() -> None:
    ledger, seeds = a_ledger(), Seeds()
    assert await on_board(ledger, NO_FACTORS, seeds).open()
    assert decode_snapshot(ledger.snapshot).factors == NO_FACTORS
    keeper = on_board(ledger, BOARD, seeds)
    assert await keeper.open()
    assert decode_snapshot(ledger.snapshot).factors == BOARD
    assert await on_board(ledger, NO_FACTORS, seeds).open()
    assert decode_snapshot(ledger.snapshot).factors == BOARD, "what cannot be read now is not forgotten"
    assert seeds.made == 1


@pytest.mark.parametrize(
    ("install_code", "found", "expected"),
    [
        ("17qei61", BOARD, Binding.BOUND),
        ("17qei61", dataclasses.replace(BOARD, mac=""), Binding.BOUND),
        ("17qei61", dataclasses.replace(BOARD, mac="", soc="other"), Binding.REBIND_NEEDED),
        ("17qei61", OTHER_BOARD, Binding.REBIND_NEEDED),
        ("17other", BOARD, Binding.REBIND_NEEDED),
        ("17other", dataclasses.replace(OTHER_BOARD, soc="soc-1"), Binding.FOREIGN),
        ("17other", OTHER_BOARD, Binding.FOREIGN),
        ("17other", NO_FACTORS, Binding.FOREIGN),
    ],
)
async def test_an_exchanged_board_or_install_code_is_served_both_together_are_foreign(
    install_code: str, found: Factors, expected: Binding
) -> None:
    ledger, seeds = a_ledger(), Seeds()
    assert await on_board(ledger, BOARD, seeds).open()
    before = ledger.snapshot
    keeper = on_board(ledger, found, seeds, install_code)
    is_open = await keeper.open()
    assert (is_open, seeds.made) == (expected is not Binding.FOREIGN, 1)
    if not is_open:
        assert (keeper.storage, keeper.takes_documents, ledger.snapshot) == (Storage.FOREIGN, False, before)
        return
    assert (keeper.storage, keeper.binding) == (Storage.OK, expected)
    assert await keeper.commit([SEAT]), "what goes on is for the controller to decide"
    rebound = dataclasses.replace(GRANT, install_code=install_code, factors=found)
    assert await keeper.commit_license([GrantInstalled(rebound, sealed(rebound), FLOOR_S)])
    assert keeper.binding is Binding.BOUND
    again = on_board(ledger, found, seeds, install_code)
    assert await again.open()
    assert (again.binding, seeds.made) == (Binding.BOUND, 1)


async def test_documents_that_do_not_verify_make_the_ledger_corrupt_and_nothing_is_written() -> None:
    ledger = a_ledger()
    await a_keeper(ledger).open()
    ledger.events = ()
    before = (ledger.snapshot, ledger.events)

    def refuse(_: LedgerState) -> None:
        raise LedgerCorruptError("cannot use the documents in the ledger: injected")

    keeper = keeper_of(ledger, SetClocks(), check_documents=refuse)
    assert not await keeper.open()
    assert (keeper.storage, keeper.state, keeper.takes_documents) == (Storage.CORRUPT, None, False)
    assert (ledger.snapshot, ledger.events) == before


# -- requests and other license events ---------------------------------------------------------------------------------

REQUEST = ContactMade(ContactKind.REQUEST, 1, b"asks for something")
RETURN = ContactMade(ContactKind.RETURN, 1, b"gives something back", ("cap-1", 300), 30)


async def test_a_request_is_durable_before_it_leaves_and_there_after_a_restart() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    assert await keeper.commit_contact([REQUEST])
    again = a_keeper(ledger)
    assert await again.open()
    assert again.state is not None
    assert (again.state.request, again.state.next_contact) == (REQUEST, 2)
    assert again.state.device_seed == DEVICE_SEED
    ledger.fails = WriteFailedError("injected")
    assert not await again.commit_contact([dataclasses.replace(REQUEST, number=2)])
    assert again.shown is None


async def test_a_request_can_be_made_in_a_rolled_back_ledger_and_mends_nothing() -> None:
    ledger, counter = a_ledger(), Counter()
    keeper = anchored(ledger, counter)
    await keeper.open()
    copy = (ledger.snapshot, ledger.events)
    await keeper.commit_license([a_grant(1)])
    assert await keeper.commit_license([RETURN])
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    assert not await old.open()
    assert await old.commit_contact([REQUEST])
    assert (condition(old), old.state) == (Storage.ROLLED_BACK, None)
    assert old.shown is not None
    assert old.shown.request == REQUEST
    again = anchored(ledger, counter)
    assert not await again.open()
    assert condition(again) is Storage.ROLLED_BACK
    assert again.shown is not None
    assert again.shown.request == REQUEST


async def test_in_an_old_copy_every_license_event_that_it_missed_may_have_been_a_grant() -> None:
    ledger, counter = a_ledger(), Counter()
    keeper = anchored(ledger, counter)
    assert await keeper.least_seq() == 0, "nothing is open yet"
    await keeper.open()
    assert await keeper.least_seq() == 0
    await keeper.commit_license([a_grant(7)])
    assert await keeper.least_seq() == 7
    copy = (ledger.snapshot, ledger.events)
    await keeper.commit_license([RETURN])
    await keeper.commit_license([a_grant(8)])
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    await old.open()
    assert await old.least_seq() == 9
    counter.is_away = True
    with pytest.raises(AnchorError):
        await old.least_seq()


async def test_a_return_is_in_both_logs_alone_and_counted_and_an_old_copy_is_rolled_back() -> None:
    ledger, counter = a_ledger(), Counter()
    keeper = anchored(ledger, counter)
    await keeper.open()
    await keeper.commit_license([a_grant(1)])
    copy, shown = (ledger.snapshot, ledger.events), counter.shown
    assert await keeper.commit_license([RETURN])
    assert shown is not None
    assert (counter.shown, decode_snapshot(ledger.snapshot).returned["cap-1"]) == (shown + 1, 300)
    assert len(ledger.events) == 1, "no earlier copy is left, and a commit is behind it"
    assert await anchored(ledger, counter).open()
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    assert not await old.open()
    assert old.storage is Storage.ROLLED_BACK


async def test_a_return_whose_rewrite_was_cut_is_rewritten_at_the_start() -> None:
    ledger = a_ledger()
    keeper = a_keeper(ledger)
    await keeper.open()
    await keeper.commit_license([a_grant(1)])
    assert await keeper.commit([RETURN]), "as a power cut before the rewrite leaves it"
    cut = MemoryLedger(ledger.snapshot, ledger.events)
    again = a_keeper(cut)
    assert await again.open()
    assert cut.is_changed, "no earlier copy is left"


async def test_no_other_license_event_than_a_grant_mends_a_rolled_back_ledger() -> None:
    ledger, counter = a_ledger(), Counter()
    keeper = anchored(ledger, counter)
    await keeper.open()
    copy = (ledger.snapshot, ledger.events)
    await keeper.commit_license([a_grant(1)])
    ledger.snapshot, ledger.events = copy
    old = anchored(ledger, counter)
    await old.open()
    with contextlib.suppress(StaleGrantError):
        await old.commit_license([RootsTrusted((b"{}",))])
    assert old.state is None


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
