"""The ledger against power cuts and damage: nothing acknowledged is lost, and damage is repaired or said."""

from __future__ import annotations

import copy
import functools
import itertools
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
from smartserver_licensed.store.log import Ledger
from smartserver_licensed.store.record import FIRST_HEAD, OVERHEAD_BYTES, SLOT_BYTES, Kind, frame
from support.disk import MODES, Disk, after_power_cut, every_cut

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


class Recording:
    """An area that shows copies of all disks after each of its writes, and before each of its syncs."""

    def __init__(self, disk: Disk, disks: list[Disk], look: Callable[[list[Disk]], None]) -> None:
        self._disk, self._disks, self._look = disk, disks, look
        self.size_bytes, self.device, self.unreadable = disk.size_bytes, disk.device, disk.unreadable

    def read(self) -> memoryview:
        return self._disk.read()

    def write(self, offset: int, data: bytes) -> None:
        self._disk.write(offset, data)
        self._look(self._disks)

    def sync(self) -> None:
        self._look(self._disks)
        self._disk.sync()

    def close(self) -> None:
        """Nothing to give back."""


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


def is_found(seed: int, spoil: Callable[[list[Disk]], None]) -> bool:
    try:
        sweep(seed, spoil=spoil)
    except (AssertionError, StorageError):
        return True
    return False


@pytest.mark.parametrize("dishonest", [(0,), (1,), (0, 1)])
def test_the_sweep_finds_disks_that_do_not_sync(dishonest: tuple[int, ...]) -> None:
    """Negative control: with the syncs of one log or of both ignored, the sweep must fail."""

    def spoil(disks: list[Disk]) -> None:
        for place in dishonest:
            disks[place].is_honest = False

    found = sum(is_found(seed, spoil) for seed in range(12))
    assert found >= len(dishonest) * 4, "one log without syncs is covered by its twin until both are rewritten"


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


def test_a_process_killed_and_then_a_power_cut_during_its_recovery_lose_nothing() -> None:
    """What a killed process wrote is in the page cache only; recovery must not build on it before it is synced."""
    chance = random.Random(4)
    disks = new_disks()
    state = State(Ledger(disks))
    acknowledged: list[str] = []
    underway = ""
    states = 0

    def kill_and_cut(contents: list[Disk]) -> None:
        nonlocal states
        again = [copy.deepcopy(disk) for disk in contents]
        known, one_more = list(acknowledged), underway
        cutter = Cutter(again, chance, lambda left: check(left, known, one_more))
        State(Ledger(again))
        states += cutter.states

    for number in range(14):
        underway = f"e{number}"
        twins = [Recording(disk, disks, kill_and_cut) for disk in disks]
        state.ledger._areas = state.ledger._devices = tuple(twins)
        state.add(underway, size=chance.choice([10, SLOT_BYTES]))
        acknowledged.append(underway)
    assert states >= 1_000


def test_after_a_recovery_each_log_is_complete_by_itself() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for place, page in itertools.product((0, 1), range(0, AREA_BYTES, SLOT_BYTES)):
        contents = [bytearray(disk.content) for disk in disks]
        contents[place][page : page + SLOT_BYTES] = bytes(SLOT_BYTES)
        damaged = [Disk(content) for content in contents]
        recovered = State(Ledger(damaged))
        recovered.add("after")
        for disk in damaged:
            assert recover([disk.content, bytearray(AREA_BYTES)]).events == [*state.events, "after"]


def test_a_cut_while_a_damaged_log_is_repaired_loses_nothing() -> None:
    chance = random.Random(5)
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for place, page in itertools.product((0, 1), range(0, 9 * SLOT_BYTES, SLOT_BYTES)):
        contents = [bytearray(disk.content) for disk in disks]
        contents[place][page : page + SLOT_BYTES] = chance.randbytes(SLOT_BYTES)
        damaged = [Disk(content) for content in contents]
        Cutter(damaged, chance, lambda left: check(left, state.events, ""))
        State(Ledger(damaged))


@pytest.mark.parametrize(("first", "second"), [(0, 4), (4, 0), (3, 6), (6, 3)])
def test_two_logs_damaged_at_different_places_complete_each_other(first: int, second: int) -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for disk, slot in zip(disks, (first, second), strict=True):
        disk.content[slot * SLOT_BYTES + OVERHEAD_BYTES] ^= 1
    assert State(Ledger(disks)).events == state.events


@pytest.mark.parametrize("newer_one", [0, 1])
def test_the_newer_snapshot_counts_whichever_log_has_it(newer_one: int) -> None:
    disks = [Failing(disk.content) for disk in new_disks()]
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    disks[newer_one].content[0] ^= 1  # the worse one, so it is rewritten first …
    disks[1 - newer_one].fails = "write"  # … and the other one is not
    with pytest.raises(WriteFailedError):
        State(Ledger(disks))
    disks[1 - newer_one].content[4 * SLOT_BYTES] ^= 1
    disks[newer_one].content[SLOT_BYTES:] = bytes(AREA_BYTES - SLOT_BYTES)  # leftovers may be gone at any time
    assert State(Ledger(disks)).events == state.events


def test_a_rewrite_that_a_power_cut_interrupted_is_noted_and_is_no_damage() -> None:
    """Sectors are missing, but no page is gone: that would be damage."""
    chance = random.Random(6)
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e" * 6_000)
    notes: list[str] = []

    def cut_after(work: Callable[..., None], *arguments: object) -> None:
        work(*arguments)
        for mode in ("none", "all", "part"):
            contents = [after_power_cut(disk, chance, mode) for disk in disks]
            recovered = Ledger([Disk(bytearray(content)) for content in contents]).recovered
            assert recovered.repairs == ()
            notes.extend(recovered.notes)
            check(contents, state.events, "")

    for disk in disks:
        for name in ("write", "sync"):
            setattr(disk, name, functools.partial(cut_after, getattr(disk, name)))
    state.ledger.rewrite(state.snapshot())
    assert "log a had no whole snapshot: a rewrite was interrupted" in notes


def test_a_torn_last_record_is_noted_as_discarded() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    state.add("e1")
    for disk in disks:
        disk.content[2 * SLOT_BYTES + OVERHEAD_BYTES] ^= 1
    recovered = Ledger(disks).recovered
    assert len(recovered.events) == 1
    assert recovered.repairs == ()
    assert recovered.notes == tuple(f"record 2 in log {name} was not whole and is discarded" for name in "ab")


def unreadable(disk: Disk, *offsets: int) -> None:
    """What the pages hold is gone: they read as zeros, and say so."""
    for offset in offsets:
        disk.content[offset : offset + SLOT_BYTES] = bytes(SLOT_BYTES)
    disk.unreadable = list(offsets)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("slot", [0, 2, 8, 11])
def test_a_page_that_cannot_be_read_is_repaired_from_the_twin_and_overwritten(place: int, slot: int) -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    unreadable(disks[place], slot * SLOT_BYTES)
    disks[place].pending.clear()
    recovered = State(Ledger(disks))
    assert recovered.events == state.events
    assert recovered.ledger.recovered.repairs[0] == f"log {'ab'[place]} had 1 pages that cannot be read"
    assert slot * SLOT_BYTES in [offset for offset, _ in disks[place].written]
    assert State(Ledger(disks)).ledger.recovered.repairs == ()


def test_a_record_that_comes_back_on_a_page_that_could_not_be_read_is_not_believed() -> None:
    """It was never acknowledged, and its number was used again meanwhile."""
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    torn = frame(Kind.EVENT, state.ledger.seq + 1, state.ledger.head, b"never", secret=SECRET)
    disks[0].content[2 * SLOT_BYTES : 3 * SLOT_BYTES] = torn
    unreadable(disks[0], 2 * SLOT_BYTES)
    state = State(Ledger(disks))
    state.add("e1")
    assert torn not in [data for _, data in disks[0].written]
    assert recover([disk.content for disk in disks]).events == ["e0", "e1"]


def test_a_device_of_which_nothing_can_be_read_is_a_fault_and_not_a_missing_ledger() -> None:
    disks = new_disks()
    for disk in disks:
        unreadable(disk, *range(0, AREA_BYTES, SLOT_BYTES))
    with pytest.raises(StorageError, match="pages cannot be read") as caught:
        Ledger(disks)
    assert not isinstance(caught.value, (LedgerMissingError, LedgerCorruptError))


def test_a_corrupt_ledger_shows_what_verifies_before_the_damage() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(8):
        state.add(f"e{number}")
    for disk in disks:
        disk.content[4 * SLOT_BYTES + OVERHEAD_BYTES] ^= 1
    with pytest.raises(LedgerCorruptError) as caught:
        Ledger(disks)
    assert (caught.value.snapshot, caught.value.events) == (b"", (b"e0", b"e1", b"e2"))


@pytest.mark.parametrize(("ours", "theirs"), [(1, 1), (2, 1), (1, 2), (3, 3)])
def test_two_histories_that_part_after_the_same_snapshot_are_corrupt_and_neither_is_chosen(
    ours: int, theirs: int
) -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    copied = recover([bytearray(disk.content) for disk in disks])
    state = State(Ledger(disks))
    for number in range(ours):
        state.add(f"ours{number}")
    for number in range(theirs):
        copied.add(f"theirs{number}")
    other = copied.ledger._areas[1]
    assert isinstance(other, Disk)
    with pytest.raises(LedgerCorruptError, match=r"two different histories|is whole, but record"):
        recover([disks[0].content, other.content])


class PowerCutError(Exception):
    """The power is gone."""


class Fused(Disk):
    """The power goes after so many writes and syncs of all disks; None: never."""

    fuse: int | None = None

    def write(self, offset: int, data: bytes) -> None:
        super().write(offset, data)
        self._burn()

    def sync(self) -> None:
        self._burn()
        super().sync()
        self._burn()

    @staticmethod
    def _burn() -> None:
        if Fused.fuse is not None:
            Fused.fuse -= 1
            if Fused.fuse < 0:
                raise PowerCutError


@pytest.mark.parametrize("seed", range(40))
def test_cut_after_cut_after_cut_and_pages_that_rot_in_between_lose_nothing(seed: int) -> None:
    """Sequence numbers of torn records are used again here, over leftovers of many lives."""
    chance = random.Random(seed)
    disks = [Fused(disk.content) for disk in new_disks(60 * SLOT_BYTES)]
    acknowledged: list[str] = []
    underway: list[str] = []
    names = (f"e{number}" for number in itertools.count())
    for _ in range(40):
        Fused.fuse = chance.choice([None, None, *range(40)])
        is_at_rest = True
        try:
            state = State(Ledger(disks))
            assert state.events in (acknowledged, acknowledged + underway)
            acknowledged, underway = list(state.events), []
            for _ in range(chance.randrange(12)):
                underway = [next(names)]
                state.add(underway[0], size=chance.choice([10, 10, SLOT_BYTES, 2 * SLOT_BYTES]))
                acknowledged, underway = list(state.events), []
        except PowerCutError:
            is_at_rest = False  # one log may be in the middle of a rewrite: a damaged twin would be a second fault
        finally:
            Fused.fuse = None
        disks = [Fused(after_power_cut(disk, chance, mode)) for mode in [chance.choice(MODES)] for disk in disks]
        if is_at_rest and chance.random() < 0.5:
            rotten, page = chance.choice(disks), chance.randrange(60) * SLOT_BYTES
            rotten.content[page : page + SLOT_BYTES] = chance.randbytes(SLOT_BYTES)
            rotten.durable[:] = rotten.content


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


def test_the_two_logs_of_one_ledger_swapped_are_the_same_ledger() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(5):
        state.add(f"e{number}")
    assert State(Ledger(disks[::-1])).events == state.events


@pytest.mark.parametrize("places", [(0,), (1,), (0, 1)])
def test_a_torn_record_that_a_later_torn_write_made_whole_is_not_taken_for_the_acknowledged_one(
    places: tuple[int, ...],
) -> None:
    """Two records with the same later sectors at the same place can do that; its number was used again meanwhile."""
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    torn = frame(Kind.EVENT, state.ledger.seq + 1, state.ledger.head, b"torn", secret=SECRET)
    state.add("e1")
    for place in places:
        disks[place].content[3 * SLOT_BYTES : 4 * SLOT_BYTES] = torn
    assert State(Ledger(disks)).events == ["e0", "e1"]


def test_no_ledger_is_missing_and_half_a_ledger_is_corrupt() -> None:
    with pytest.raises(LedgerMissingError):
        Ledger([Disk(bytearray(AREA_BYTES)), Disk(bytearray(AREA_BYTES))])
    disks = new_disks()
    State(Ledger(disks)).add("e0")
    for disk in disks:
        disk.content[60] ^= 1
    with pytest.raises(LedgerCorruptError):
        Ledger(disks)


def test_one_commit_behind_is_what_a_power_cut_leaves_and_is_no_damage() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(3):
        state.add(f"e{number}")
    disks[1].content[3 * SLOT_BYTES :] = bytes(AREA_BYTES - 3 * SLOT_BYTES)
    ledger = Ledger(disks)
    assert len(ledger.recovered.events) == 3
    assert ledger.recovered.repairs == ()


def test_a_log_without_a_whole_snapshot_is_told_as_such() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(3):
        state.add(f"e{number}")
    disks[1].content[60] ^= 1
    assert Ledger(disks).recovered.repairs == ("log b had no whole snapshot",)


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
    with pytest.raises(StorageError, match="not settled"):
        ledger.rewrite(b"state")
    assert ledger.bytes_written == 0


def test_an_event_that_no_log_has_room_for_is_refused_before_anything_is_written() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    before = [bytes(disk.content) for disk in disks]
    with pytest.raises(SnapshotTooLargeError, match="the limit for both"):
        state.ledger.append(bytes(AREA_BYTES), state.snapshot)
    assert [bytes(disk.content) for disk in disks] == before
    state.add("e1")
    assert recover([disk.content for disk in disks]).events == ["e0", "e1"]


def test_a_state_that_leaves_no_room_for_an_event_is_refused_before_anything_is_written() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    before = [bytes(disk.content) for disk in disks]
    with pytest.raises(SnapshotTooLargeError):
        state.ledger.rewrite(bytes(AREA_BYTES - SLOT_BYTES))
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


def test_a_start_on_two_whole_and_equal_logs_writes_nothing_and_goes_on_where_they_end() -> None:
    disks = new_disks()
    State(Ledger(disks)).add("e0")
    written = len(disks[0].written)
    state = State(Ledger(disks))
    assert len(disks[0].written) == written
    state.add("e1")
    assert disks[0].written[-1][0] == 2 * SLOT_BYTES
    assert recover([disk.content for disk in disks]).events == ["e0", "e1"]


def test_what_a_repair_says_is_not_forgotten_by_a_cut_in_the_middle_of_it() -> None:
    """The repaired log has the newer snapshot, whichever it is."""
    for place in (0, 1):
        disks = [Failing(disk.content) for disk in new_disks()]
        disks[place].content[0] ^= 1
        ledger = Ledger(disks)
        disks[1 - place].fails = "write"
        with pytest.raises(WriteFailedError):
            ledger.settle(b"degraded", is_changed=True)
        assert Ledger(disks).recovered.snapshot == b"degraded"


def test_a_snapshot_that_rots_after_a_commit_is_damage_also_where_its_header_is_legible() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    state.ledger.rewrite(state.snapshot())
    state.add("e0")
    disks[0].content[OVERHEAD_BYTES] ^= 1
    assert Ledger(disks).recovered.repairs == ("log a had no whole snapshot",)


@pytest.mark.parametrize("both", [(10,), (9, 10, 11)])
def test_where_no_log_shows_that_nothing_follows_it_is_an_error_and_nothing_is_overwritten(
    both: tuple[int, ...],
) -> None:
    """The device may be well again at the next try: then everything is there."""
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(10):
        state.add(f"e{number}")
    before = [bytearray(disk.content) for disk in disks]
    for disk in disks:
        unreadable(disk, *(slot * SLOT_BYTES for slot in both))
    written = [len(disk.written) for disk in disks]
    with pytest.raises(StorageError, match="no log shows whether a record follows"):
        Ledger(disks)
    assert [len(disk.written) for disk in disks] == written
    assert recover(before).events == state.events
    disks = [Disk(before[0]), Disk(bytearray(before[1]))]
    unreadable(disks[1], *(slot * SLOT_BYTES for slot in both))
    assert State(Ledger(disks)).events == state.events, "the twin shows it"


def test_stale_records_behind_the_end_do_not_hide_that_the_next_page_cannot_be_read() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(10):
        state.add(f"e{number}")
    state.ledger.rewrite(state.snapshot())
    state.add("after")
    for disk in disks:
        unreadable(disk, 2 * SLOT_BYTES)
    with pytest.raises(StorageError, match="no log shows"):
        Ledger(disks)


def test_the_number_of_a_torn_record_is_not_used_again() -> None:
    """Else a second torn write at the same place could make it whole, beside another of its number in the twin."""
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e0")
    torn = frame(Kind.EVENT, state.ledger.seq + 1, state.ledger.head, b"torn".ljust(2_000, b"."), secret=SECRET)
    disks[0].content[2 * SLOT_BYTES : 2 * SLOT_BYTES + 512] = torn[:512]
    state = State(Ledger(disks))
    state.add("e1")
    disks[0].content[2 * SLOT_BYTES : 3 * SLOT_BYTES] = torn
    assert recover([disk.content for disk in disks]).events == ["e0", "e1"]


@pytest.mark.parametrize(("place", "slot"), [(0, 0), (0, 2), (1, 0), (1, 2)])
def test_a_cut_in_the_middle_of_a_repair_is_still_damage(place: int, slot: int) -> None:
    chance = random.Random(7)
    disks = new_disks()
    state = State(Ledger(disks))
    state.add("e" * 6_000)
    for number in range(3):
        state.add(f"e{number}")
    damaged, twin = disks[place], disks[1 - place]
    damaged.content[slot * SLOT_BYTES + OVERHEAD_BYTES] ^= 1
    damaged.durable[:] = damaged.content
    written = len(twin.written)
    seen: list[bool] = []

    def cut_after(work: Callable[..., None], *arguments: object) -> None:
        work(*arguments)
        for mode in ("none", "part") if len(twin.written) == written else ():
            recovered = Ledger([Disk(after_power_cut(disk, chance, mode)) for disk in disks]).recovered
            is_repaired = recovered.snapshot == state.snapshot()
            seen.append(is_repaired or bool(recovered.repairs))

    for name in ("write", "sync"):
        setattr(damaged, name, functools.partial(cut_after, getattr(damaged, name)))
    State(Ledger(disks))
    assert len(seen) >= 8
    assert all(seen)


def test_a_log_whose_snapshot_cannot_be_read_does_not_vouch_that_nothing_follows() -> None:
    """A stale record would be taken for its newest one."""
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(6):
        state.add(f"e{number}")
    state.ledger.rewrite(state.snapshot())
    state.add("after")
    unreadable(disks[0], SLOT_BYTES)
    unreadable(disks[1], 0, SLOT_BYTES)
    with pytest.raises(StorageError, match="no log shows"):
        Ledger(disks)


def test_a_break_in_the_chain_where_pages_of_both_logs_cannot_be_read_is_a_fault_and_not_corrupt() -> None:
    disks = new_disks()
    state = State(Ledger(disks))
    for number in range(6):
        state.add(f"e{number}")
    for disk in disks:
        unreadable(disk, 3 * SLOT_BYTES)
    with pytest.raises(StorageError, match="pages of both logs") as caught:
        Ledger(disks)
    assert not isinstance(caught.value, LedgerCorruptError)


def test_a_settled_ledger_does_not_keep_what_it_recovered() -> None:
    disks = new_disks()
    State(Ledger(disks)).add("e0")
    for damage in (0, 1):
        disks[0].content[2 * SLOT_BYTES - 1] ^= damage
        disks[0].content[OVERHEAD_BYTES] ^= damage
        ledger = Ledger(disks)
        assert ledger.recovered.events
        ledger.settle(b"e0")
        assert (ledger.recovered.snapshot, ledger.recovered.events) == (b"", ())


def test_a_page_that_could_not_be_read_is_cleared_durably_before_the_log_takes_a_new_number() -> None:
    """Else a record that was never acknowledged comes back beside a snapshot that knows nothing of it."""
    chance = random.Random(8)
    for place in (0, 1):
        disks = new_disks()
        state = State(Ledger(disks))
        for number in range(3):
            state.add(f"e{number}")
        never = frame(Kind.EVENT, state.ledger.seq + 1, state.ledger.head, b"never", secret=SECRET)
        disks[place].content[4 * SLOT_BYTES : 5 * SLOT_BYTES] = never
        disks[place].durable[:] = disks[place].content
        unreadable(disks[place], 4 * SLOT_BYTES)
        cutter = Cutter(disks, chance, lambda contents: check(contents, ["e0", "e1", "e2"], "never"))
        State(Ledger(disks))
        assert cutter.states > 20
