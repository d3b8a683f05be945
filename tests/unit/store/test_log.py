"""The ledger against power cuts and damage: nothing acknowledged is lost, and damage is repaired or said."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from smartserver_licensed.domain.errors import (
    LedgerCorruptError,
    LedgerMissingError,
    LedgerNewerError,
    SnapshotTooLargeError,
    StorageError,
    WriteFailedError,
)
from smartserver_licensed.store.log import MAX_SNAPSHOT_BYTES, Ledger
from smartserver_licensed.store.record import FIRST_HEAD, OVERHEAD_BYTES, SLOT_BYTES, Kind, frame
from support.disk import Disk, every_cut

AREA_BYTES = 12 * SLOT_BYTES  # small, so that logs are rewritten all the time
SECRET = bytes(range(32))


def new_disks(area_bytes: int = AREA_BYTES, *, secret: bytes = SECRET) -> list[Disk]:
    first = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, secret + b"", secret=secret)
    return [Disk(bytearray(first + bytes(area_bytes - len(first)))) for _ in range(2)]


class State:
    """The simplest state there is: the list of all events."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        held = ledger.recovered.snapshot.decode()
        self.events = held.split(",") if held else []
        self.events += [body.decode().rstrip(".") for body in ledger.recovered.events]
        ledger.settle(self.snapshot())

    def snapshot(self) -> bytes:
        return ",".join(self.events).encode()

    def add(self, event: str, *, size: int = 0) -> None:
        self.ledger.append(event.encode().ljust(size, b"."), self.snapshot)
        self.events.append(event)


def recover(contents: list[bytearray]) -> State:
    return State(Ledger([Disk(content) for content in contents]))


def check(contents: list[bytearray], acknowledged: list[str], underway: str) -> None:
    """All that was acknowledged is there, in order; at most the event under way comes on top."""
    state = recover(contents)
    assert state.events in (acknowledged, [*acknowledged, underway]), (state.events, acknowledged)


class Cutter:
    """Cuts the power before and after every write and sync of a pair of disks."""

    def __init__(self, disks: list[Disk], chance: random.Random, look: Callable[[list[bytearray]], None]) -> None:
        self.states = 0
        for disk in disks:
            for name in ("write", "sync"):
                setattr(disk, name, self._wrapped(getattr(disk, name), disks, chance, look))

    def _wrapped(
        self,
        work: Callable[..., None],
        disks: list[Disk],
        chance: random.Random,
        look: Callable[[list[bytearray]], None],
    ) -> Callable[..., None]:
        def cut_and_work(*arguments: object) -> None:
            work(*arguments)
            for contents in every_cut(disks, chance):
                self.states += 1
                look(contents)

        return cut_and_work


def sweep(seed: int, *, events: int = 24, spoil: Callable[[list[Disk]], None] = lambda _: None) -> int:
    """One run of events with a cut at every instant; the number of states that were recovered and compared."""
    chance = random.Random(seed)
    disks = new_disks()
    state = State(Ledger(disks))
    spoil(disks)
    acknowledged: list[str] = []
    underway = ""
    cutter = Cutter(disks, chance, lambda contents: check(contents, acknowledged, underway))
    for number in range(events):
        underway = f"e{number}"
        state.add(underway, size=chance.choice([10, 10, 10, SLOT_BYTES, 2 * SLOT_BYTES]))
        acknowledged.append(underway)
    return cutter.states


@pytest.mark.parametrize("seed", range(6))
def test_whenever_the_power_is_cut_nothing_acknowledged_is_lost(seed: int) -> None:
    assert sweep(seed) >= 24 * 4 * 4


@pytest.mark.parametrize("seed", range(5))
def test_the_sweep_finds_disks_that_do_not_sync(seed: int) -> None:
    """Negative control: without syncs the sweep must fail. (One log without them is covered by its twin.)"""

    def spoil(disks: list[Disk]) -> None:
        for disk in disks:
            disk.is_honest = False

    with pytest.raises((AssertionError, StorageError)):
        sweep(seed, spoil=spoil)


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_during_recovery_loses_nothing_either(seed: int) -> None:
    chance = random.Random(seed)
    disks = new_disks()
    state = State(Ledger(disks))
    acknowledged = [f"e{number}" for number in range(9)]
    for event in acknowledged:
        state.add(event)
    disks[0].write(9 * SLOT_BYTES, b"x" * SLOT_BYTES)  # a torn record on top
    for contents in every_cut(disks, chance):
        again = [Disk(bytearray(content)) for content in contents]
        cutter = Cutter(again, chance, lambda left: check(left, acknowledged, ""))
        State(Ledger(again))
        assert cutter.states > 0


@pytest.mark.parametrize("place", [0, 1])
def test_one_damaged_page_of_one_log_is_always_repaired(place: int) -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for page in range(0, AREA_BYTES, SLOT_BYTES):
        contents = [bytearray(disk.content) for disk in disks]
        contents[place][page : page + SLOT_BYTES] = random.Random(page).randbytes(SLOT_BYTES)
        damaged = [Disk(content) for content in contents]
        assert State(Ledger(damaged)).events == state.events
        assert State(Ledger(damaged)).ledger.recovered.repairs == (), "repaired: the next recovery finds nothing"


def test_damage_behind_the_last_records_is_told_by_the_number_of_the_record() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    disks[0].content[3 * SLOT_BYTES] ^= 1
    (repair,) = Ledger(disks).recovered.repairs
    assert repair == "log a was whole up to record 2 of 8"


def test_the_same_record_damaged_in_both_logs_is_corrupt_and_nothing_is_written() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for disk in disks:
        disk.content[4 * SLOT_BYTES + OVERHEAD_BYTES] ^= 1
    before = [bytes(disk.content) for disk in disks]
    with pytest.raises(LedgerCorruptError, match="record 8 is whole, but record 4 is not"):
        Ledger(disks)
    assert [bytes(disk.content) for disk in disks] == before


def test_every_flipped_bit_of_a_small_ledger_is_repaired() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(3):
        state.add(f"e{number}")
    chance = random.Random(3)
    for _ in range(2_000):
        contents = [bytearray(disk.content) for disk in disks]
        contents[chance.randrange(2)][chance.randrange(4 * SLOT_BYTES)] ^= 1 << chance.randrange(8)
        assert recover(contents).events == state.events


def test_logs_of_two_ledgers_are_never_mixed() -> None:
    ours, theirs = new_disks(), new_disks(secret=bytes(32))
    state, other = State(Ledger(ours)), State(Ledger(theirs))
    for number in range(5):
        state.add(f"ours{number}")
        other.add(f"theirs{number}")
    before = bytes(ours[0].content), bytes(theirs[1].content)
    with pytest.raises(LedgerCorruptError, match="two different ledgers"):
        recover([ours[0].content, theirs[1].content])
    assert (bytes(ours[0].content), bytes(theirs[1].content)) == before


def test_two_histories_of_one_ledger_are_never_spliced() -> None:
    """A log from an older copy that went on by itself: its last record does not follow from ours."""
    disks = new_disks()
    state = State(Ledger(disks))
    for event in ("e0", "e1"):
        state.add(event)
    other = [Disk(bytearray(disk.content)) for disk in disks]
    copied = recover([disk.content for disk in other])
    for event in ("ours2", "ours3"):
        state.add(event)
    ledger = copied.ledger
    for event in ("theirs2", "theirs3", "theirs4"):
        ledger.append(event.encode(), copied.snapshot)
    theirs = ledger._areas[1]
    assert isinstance(theirs, Disk)
    before = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, SECRET + b"", secret=SECRET)
    theirs.content[: len(before)] = before  # both begin at the same snapshot, so that only the chain can tell
    with pytest.raises(LedgerCorruptError, match="is whole, but record"):
        recover([disks[0].content, theirs.content])


def test_no_ledger_is_missing_and_half_a_ledger_is_corrupt() -> None:
    with pytest.raises(LedgerMissingError):
        Ledger([Disk(bytearray(AREA_BYTES)), Disk(bytearray(AREA_BYTES))])
    disks = new_disks()
    State(Ledger(disks)).add("e0")
    for disk in disks:
        disk.content[60] ^= 1
    with pytest.raises(LedgerCorruptError):
        Ledger(disks)


def test_a_newer_format_is_not_read() -> None:
    disks = new_disks()
    for disk in disks:
        disk.content[4] = 2
    with pytest.raises(LedgerNewerError, match="format 2"):
        Ledger(disks)


def test_a_creation_that_was_cut_recovers() -> None:
    disks = new_disks()
    disks[1] = Disk(bytearray(AREA_BYTES))
    state = State(Ledger(disks))
    state.add("e0")
    assert recover([disk.content for disk in disks]).events == ["e0"]


class Failing(Disk):
    """Fails its next write or sync, once."""

    fails = ""

    def write(self, offset: int, data: bytes) -> None:
        self._maybe_fail("write")
        super().write(offset, data)

    def sync(self) -> None:
        self._maybe_fail("sync")
        super().sync()

    def _maybe_fail(self, what: str) -> None:
        if self.fails == what:
            self.fails = ""
            raise WriteFailedError(f"cannot {what}: injected")


@pytest.mark.parametrize("what", ["write", "sync"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_failed_write_or_sync_is_final(what: str, place: int) -> None:
    disks = [Failing(disk.content) for disk in new_disks()]
    state = State(Ledger(disks))
    state.add("e0")
    disks[place].fails = what
    with pytest.raises(WriteFailedError):
        state.add("e1")
    with pytest.raises(WriteFailedError, match="final"):
        state.add("e2")
    assert recover([disk.content for disk in disks]).events[:1] == ["e0"]


def test_nothing_is_written_before_the_recovered_state_is_settled() -> None:
    ledger = Ledger(new_disks())
    with pytest.raises(StorageError, match="not settled"):
        ledger.append(b"e0", bytes)


def test_a_state_over_a_mebibyte_is_refused_before_anything_is_written() -> None:
    disks = new_disks(4 << 20)
    state = State(Ledger(disks))
    before = [bytes(disk.content) for disk in disks]
    with pytest.raises(SnapshotTooLargeError):
        state.ledger.rewrite(bytes(MAX_SNAPSHOT_BYTES + 1))
    assert [bytes(disk.content) for disk in disks] == before
    state.add("still alive")


def test_after_a_rewrite_no_earlier_copy_is_read() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(5):
        state.add(f"e{number}")
    state.events = ["only this"]
    state.ledger.rewrite(state.snapshot())
    assert recover([disk.content for disk in disks]).events == ["only this"]
