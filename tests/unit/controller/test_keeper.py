"""Persist, then apply; fail-stop; whose ledger it is; how far time and grace have come."""

from __future__ import annotations

import pytest

from smartserver_licensed.controller.keeper import MARK_INTERVAL_S, Keeper
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.errors import LedgerBusyError, LedgerCorruptError, WriteFailedError
from smartserver_licensed.domain.ledger_state import GrantInstalled, LedgerState, Seat, SeatGiven, SeatKind
from smartserver_licensed.domain.overcapacity import begun
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
from support.documents import GRANT, sealed
from support.ports import MemoryLedger, SetClocks

SEAT = SeatGiven(UnitId("modbus/1"), Seat(SeatKind.PROVISIONED, has_run=True, number=1))
FLOOR_S = 1_795_478_400


def a_ledger(install_code: str = "17qtest") -> MemoryLedger:
    return MemoryLedger(encode_snapshot(LedgerState(install_code=install_code, mark_s=FLOOR_S)))


def a_keeper(ledger: MemoryLedger, clocks: SetClocks | None = None, *, is_signed: bool = True) -> Keeper:
    def verify(_: GrantInstalled) -> None:
        if not is_signed:
            raise LedgerCorruptError("cannot use the grant in the ledger: injected")

    return Keeper(ledger, clocks or SetClocks(), install_code="17qtest", verify_grant=verify, floor_s=FLOOR_S)


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
    ledger.fails = WriteFailedError("cannot sync: injected")
    assert not await keeper.commit([SEAT])
    assert (keeper.state, keeper.storage, ledger.events) == (None, Storage.READ_ONLY, ())
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
    assert decode_snapshot(ledger.snapshot).install_code == "17qtest"


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


async def test_the_time_mark_is_due_an_hour_after_the_last_commit() -> None:
    clocks = SetClocks()
    keeper = a_keeper(a_ledger(), clocks)
    await keeper.open()
    await keeper.commit([SEAT])
    assert keeper.mark_due_at == clocks.now_s + MARK_INTERVAL_S
