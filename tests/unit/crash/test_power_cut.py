"""The sweep over recordings made by hand: it finds nothing wrong with the store, and everything that is made wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from crash import power_cut
from crash.announced import left as left_mark
from crash.announced import replayed
from crash.cuts import LOSSES, Cut, after, every_cut, some_cuts
from crash.power_cut import logs_in, sweep, sweep_recoveries
from crash.recorded_disk import Event, Failed, Flush, Mark, Write, read_log, write_log
from crash.recording import Recording, load
from crash.table import Row
from smartserver_licensed.controller.contacting import Asked, Facts, Return, request_events, return_events, sealed
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.ledger_state import (
    Cause,
    ContactMade,
    Enrolled,
    GrantInstalled,
    LedgerState,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
)
from smartserver_licensed.domain.ledger_state import Event as LedgerEvent
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.formats.ledger import encode_events, encode_snapshot
from smartserver_licensed.store.area import AREA_BYTES
from smartserver_licensed.store.log import Ledger, create
from support import documents
from support.documents import INSTALL_CODE, NOW, grant_of

SEED = b"\5" * 32
SMALL_BYTES = 64 * 1024  # of a log: the product's would make each state a copy of 8 MiB


class Made:
    """A recording made by hand: the real store on two logs in memory, and marks where the test puts them."""

    def __init__(self, directory: Path, size: int = AREA_BYTES, *, seed: bytes = SEED) -> None:
        path = directory / "image"
        path.write_bytes(bytes(2 * AREA_BYTES))
        create(path, encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=NOW, device_seed=seed)))
        whole = path.read_bytes()
        self.image = whole[:size] + whole[AREA_BYTES : AREA_BYTES + size]
        self.events: list[Event] = []
        self.open(self.image)
        self._number = 0

    def open(self, image: bytes) -> None:
        """Recover and settle, as the daemon does at its start."""
        self.logs = logs_in(image)
        for log in self.logs:
            log.events = self.events
        self.ledger = Ledger(self.logs)
        self.state = replayed(self.ledger.recovered)
        is_first = not self.state.device_seed
        if is_first:
            self.state.apply(Enrolled(SEED))
        self.ledger.settle(encode_snapshot(self.state), is_changed=is_first)

    def now(self) -> bytes:
        return b"".join(log.content for log in self.logs)

    def commit(self, *events: LedgerEvent) -> None:
        mark = TimeMarked(NOW + self.ledger.seq + 1, self.state.grace)
        self.ledger.append(encode_events(events, mark), lambda: encode_snapshot(self.state))
        for event in (*events, mark):
            self.state.apply(event)

    def give(self, name: str) -> None:
        self._number += 1
        self.commit(SeatGiven(UnitId(f"modbus/{name}"), Seat(SeatKind.RESERVED, has_run=False, number=self._number)))

    def lose(self, name: str) -> None:
        self.commit(SeatLost(UnitId(f"modbus/{name}"), Cause.RELEASED))

    def license(self, devices: int, seq: int = 1) -> None:
        grant = grant_of(License("cap-1", LicenseType.CAPACITY, devices), seq=seq)
        self.commit(GrantInstalled(grant, documents.sealed(grant), NOW))
        self.ledger.rewrite(encode_snapshot(self.state))

    def ask(self) -> ContactMade:
        """A request, as the daemon makes it; its bytes have not left yet."""
        return self._make(
            request_events(self.state, Asked(is_fresh=True), self._facts(), nonce=self._nonce(), seed=b"")
        )

    def give_back(self, devices: int) -> ContactMade:
        """A return, as the daemon makes it; its proof has not left yet."""
        wanted = Return("cap-1", devices, may_exceed=True, is_another=True)
        return self._make(return_events(self.state, wanted, self._facts(), nonce=self._nonce()))

    def leave(self, contact: ContactMade) -> None:
        self.events.append(Mark(left_mark(sealed(self.state, contact))))

    def _make(self, events: Sequence[LedgerEvent]) -> ContactMade:
        self.commit(*events)
        (contact,) = (each for each in events if isinstance(each, ContactMade))
        return contact

    def _facts(self) -> Facts:
        return Facts(Identity(INSTALL_CODE), NOW, 1, 1, "none")

    def _nonce(self) -> str:
        self._number += 1
        return f"{self._number:032x}"

    def say(self, name: str, *, licensed: bool) -> None:
        self.events.append(Mark(f"glp/0/{INSTALL_CODE}/fb/dev/modbus/{name}/lic {json.dumps({'licensed': licensed})}"))

    def count(self, **values: int) -> None:
        status = {"storage": "ok", "state": "licensed"} | values
        self.events.append(Mark(f"glp/0/{INSTALL_CODE}/fb/lic {json.dumps(status)}"))

    def recording(self) -> Recording:
        return Recording(self.image, tuple(self.events))

    def swept(self, sweep_: Callable[..., Row] = sweep) -> Row:
        cuts = every_cut(self.events, 1)
        return sweep_(self.recording(), len(cuts), 1, processes=1)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    monkeypatch.setattr(power_cut, "AREA_BYTES", SMALL_BYTES)
    return Made(tmp_path, SMALL_BYTES)


def a_life(made: Made) -> None:
    """Two licenses, three seats, one deleted, a request and a return; everything announced once it is durable."""
    made.license(4)
    made.events.append(Mark("installed 1"))
    for name in "abc":
        made.give(name)
        made.say(name, licensed=True)
    made.count(capacity=4, used=1, reserved=3)
    made.lose("b")
    made.say("b", licensed=False)
    made.license(9, seq=2)
    made.events.append(Mark("installed 2"))
    made.leave(made.ask())
    made.leave(made.give_back(3))
    made.ledger.rewrite(encode_snapshot(made.state))
    made.count(capacity=6, used=1, reserved=2)


# -- what is right -----------------------------------------------------------------------------------------------------


def test_a_ledger_that_announces_after_its_flush_loses_nothing_at_any_cut(made: Made) -> None:
    a_life(made)
    row = made.swept()
    assert row.failures == []
    assert row.is_good
    assert row.states == len(every_cut(made.events, 1)) > 50
    assert row.figures["commits"] == 8
    assert int(row.figures["rewrites of a log"]) >= 6, "two licenses and a return, both logs each"
    assert row.figures["announcements"] == 10
    assert row.figures["requests and returns"] == 2


def test_a_first_start_that_makes_the_device_key_may_be_cut_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(power_cut, "AREA_BYTES", SMALL_BYTES)
    made = Made(tmp_path, SMALL_BYTES, seed=b"")
    made.license(9)
    made.leave(made.give_back(4))
    for sweep_ in (sweep, sweep_recoveries):
        row = made.swept(sweep_)
        assert row.failures == []
        assert row.states > 50
    made.state.apply(Enrolled(b"\6" * 32))
    made.ledger.rewrite(encode_snapshot(made.state))
    assert made.swept().doubled > 0, "another key in its place is found"


def test_a_cut_recovery_comes_to_the_same_when_it_is_done_again(made: Made) -> None:
    made.give("a")
    made.say("a", licensed=True)
    made.give("b")
    row = made.swept(sweep_recoveries)
    assert row.failures == []
    assert row.states > 100


# -- what is wrong -----------------------------------------------------------------------------------------------------


def test_an_announcement_before_its_flush_is_found_with_the_cut_that_shows_it(made: Made) -> None:
    made.give("a")
    flush = max(number for number, event in enumerate(made.events) if isinstance(event, Flush))
    made.say("a", licensed=True)
    made.events.insert(flush, made.events.pop())
    row = made.swept()
    assert row.lost > 0
    assert f"cut after event {flush - 1} (loss " in row.failures[0]
    assert "announced: modbus/a was told True" in row.failures[0]


def test_an_announcement_of_what_was_never_written_is_found(made: Made) -> None:
    made.give("a")
    made.say("b", licensed=True)
    row = made.swept()
    assert row.lost == 1
    assert "no state that was written agrees with modbus/b was told True" in row.failures[0]


def test_a_flush_that_lies_is_found(made: Made) -> None:
    made.give("a")
    made.events[-1] = Flush(0)
    made.say("a", licensed=True)
    assert made.swept().lost > 0


def test_numbers_that_no_state_has_are_found(made: Made) -> None:
    made.license(4)
    made.give("a")
    made.count(capacity=4, used=2, reserved=0)
    assert made.swept().lost == 1


def test_a_snapshot_that_holds_another_state_is_found(made: Made) -> None:
    made.give("a")
    made.ledger.rewrite(encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=NOW)))
    row = made.swept()
    assert row.doubled > 0
    assert "a state that never was" in row.failures[0]


def test_a_seat_beyond_the_capacity_is_found(made: Made) -> None:
    made.license(2)
    made.give("a")
    made.give("b")
    row = made.swept()
    assert row.doubled == 1
    assert "beyond the capacity" in row.failures[0]


def test_what_was_announced_again_must_be_there_from_its_last_time_on(made: Made) -> None:
    made.give("a")
    made.say("a", licensed=True)
    made.lose("a")
    made.say("a", licensed=False)
    made.give("a")
    flush = max(number for number, event in enumerate(made.events) if isinstance(event, Flush))
    made.say("a", licensed=True)
    assert made.swept().failures == []
    made.events.insert(flush, made.events.pop())
    assert f"record {made.ledger.seq - 1} recovered, but {made.ledger.seq} announced" in made.swept().failures[0]


def test_a_history_that_was_announced_and_then_given_up_is_found(made: Made) -> None:
    made.give("a")
    earlier = made.now()
    made.give("b")
    made.say("b", licensed=True)
    made.open(earlier)
    made.give("c")
    row = power_cut._swept(power_cut._sweep, made.recording(), [Cut(len(made.events) - 1, "all", 1)], 1)
    assert row.lost == 1
    assert "announced: modbus/b was told True" in row.failures[0]


def test_a_recovery_whose_writes_are_not_synced_is_found_by_the_second_cut(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.give("a" * 600)  # a snapshot of more than a sector
    made.say("a" * 600, licensed=True)
    monkeypatch.setattr(power_cut.Log, "sync", lambda _: None)
    row = made.swept(sweep_recoveries)
    assert row.lost > 0
    assert "then in its recovery cut after event" in row.failures[0]


def test_a_proof_that_leaves_before_its_flush_is_found_with_the_cut_that_shows_it(made: Made) -> None:
    made.license(9)
    contact = made.give_back(4)
    flush = max(number for number, event in enumerate(made.events) if isinstance(event, Flush))
    made.leave(contact)
    made.events.insert(flush, made.events.pop())
    row = made.swept()
    assert row.lost > 0
    assert f"cut after event {flush - 1} (loss " in row.failures[0]
    assert "return 1 left, but LicenseTotals(id='cap-1', granted_total=9, returned_total=4" in row.failures[0]
    assert "is undone" in row.failures[0]


def test_a_proof_of_a_return_that_was_never_written_is_found(made: Made) -> None:
    made.license(9)
    contact = made.give_back(4)
    del made.events[-3:]
    made.leave(contact)
    row = made.swept()
    assert "lost: event" in row.failures[0]
    assert "is undone" in row.failures[0]


def test_a_number_that_is_used_for_another_document_is_found(made: Made) -> None:
    made.license(9)
    made.leave(made.ask())
    made.state.next_contact = 1
    made.state.contacts.clear()
    made.leave(made.ask())
    row = made.swept()
    assert row.doubled > 0
    assert "the number of a document was used twice" in row.failures[0]


def test_a_return_that_is_undone_is_found(made: Made) -> None:
    made.license(9)
    earlier = made.now()
    made.leave(made.give_back(4))
    made.open(earlier)
    made.give("a")
    row = power_cut._swept(power_cut._sweep, made.recording(), [Cut(len(made.events) - 1, "all", 1)], 1)
    assert row.lost == 2, "it is undone, and what is there does not descend from it"
    assert "return 1 left, but" in row.failures[0]


# -- cuts --------------------------------------------------------------------------------------------------------------

PAGE = b"\1" * 4096


def left(events: list[Event], loss: str, position: int | None = None, seed: int = 1) -> bytes:
    cut = Cut(len(events) - 1 if position is None else position, loss, seed)
    ((_, image),) = after(bytes(3 * 4096), events, [cut])
    return bytes(image)


def test_a_flush_makes_durable_what_was_written_before_it_began_and_no_more() -> None:
    events: list[Event] = [Write(0, PAGE), Write(4096, PAGE), Flush(1)]
    assert left(events, "none") == PAGE + bytes(8192)
    assert left(events, "all") == PAGE + PAGE + bytes(4096)


def test_parts_are_sectors_and_a_lost_page_is_one_that_was_in_flight() -> None:
    events: list[Event] = [Write(0, PAGE), Flush(1), Write(4096, b"\2" * 4096)]
    parts = [left(events, "part", seed=seed) for seed in range(5)]
    sectors = {part[offset : offset + 512] for part in parts for offset in range(4096, 8192, 512)}
    assert sectors == {bytes(512), b"\2" * 512}
    for loss in ("zeros", "garbage"):
        lost = left(events, loss)
        assert lost[:4096] == PAGE
        assert (lost[4096:8192] == bytes(4096)) is (loss == "zeros")
        assert lost[8192:] == bytes(4096)


def test_the_same_cut_leaves_the_same_and_another_seed_something_else() -> None:
    events: list[Event] = [Write(0, PAGE * 3)]
    assert left(events, "part") == left(events, "part") != left(events, "part", seed=2)


def test_where_all_is_flushed_there_is_one_cut_and_before_it_one_of_each_loss() -> None:
    events: list[Event] = [Write(0, PAGE), Mark("x"), Flush(1), Failed(0)]
    assert [(cut.position, cut.loss) for cut in every_cut(events, 1)] == [*((0, loss) for loss in LOSSES), (2, "all")]
    assert len(some_cuts(events, 3, 1)) == 3
    more = some_cuts(events, 50, 1)
    assert len(set(more)) == len(more) == 50
    assert [cut.position for cut in more] == sorted(cut.position for cut in more)


# -- recordings --------------------------------------------------------------------------------------------------------


def test_a_recording_that_was_kept_is_the_same_again(tmp_path: Path) -> None:
    events = (Write(5, b"abc"), Flush(1), Mark("glp/0/ä {}"), Failed(7))
    recording = Recording(b"image", events, is_directory=True)
    recording.save(tmp_path / "kept")
    assert load(tmp_path / "kept") == recording
    assert read_log(write_log(events)[:-1]) == list(events[:-1]), "one that is being written still is left out"


def test_the_shares_of_two_processes_are_the_whole(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.give("a")
    made.say("a", licensed=True)
    one, two = (sweep(made.recording(), 30, 1, processes=number) for number in (1, 2))
    assert (one.states, one.failures) == (two.states, two.failures) == (30, [])
    assert power_cut.PROCESSES == 2
