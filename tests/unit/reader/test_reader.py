"""The daemon reads a ledger as docs/storage.md says: `tests/reader/`, written from it alone, finds the same.

Rules:
- ledgers are made by the daemon's own code, with real events and grants, on disks in memory; both read the same bytes;
- they must agree on verdict, seq, head and each key of the state, whether the ledger is whole or damaged.

What this module does not do: it does not say what a verdict should be (`tests/unit/store`, `tests/crash`).
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reader import reader
from reader.reader import Held, read_ledger, read_logs
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.domain.errors import LedgerCorruptError, LedgerMissingError, LedgerNewerError
from smartserver_licensed.domain.ledger_state import (
    AdoptionChanged,
    Anchored,
    Bound,
    Cause,
    ContactMade,
    Enrolled,
    Event,
    EvictionForgotten,
    GrantInstalled,
    InternalChanged,
    LedgerState,
    NoticeDaysSet,
    NoticesChanged,
    ReleaseSeen,
    RepairNoted,
    RootsTrusted,
    Seat,
    SeatGiven,
    SeatKind,
    SeatLost,
    TimeMarked,
    UpgradeConsumed,
)
from smartserver_licensed.domain.licenses import ContactMark, Grant
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_events, encode_snapshot
from smartserver_licensed.store.area import Area, Place
from smartserver_licensed.store.log import Ledger, create
from smartserver_licensed.store.record import FIRST_HEAD, SLOT_BYTES, Kind, frame
from support.disk import MODES, Disk, after_power_cut
from support.documents import CAPACITY, INSTALL_CODE, NOW, TRIAL, grant_of, sealed

SLOTS = 24  # a small log: it is rewritten often
SECRET = bytes(range(32))
UNITS = [UnitId(f"modbus/Zähler {number}") for number in range(9)]


def install(grant: Grant, accepted_at: int) -> GrantInstalled:
    return GrantInstalled(grant, sealed(grant), accepted_at)


BOARD = Factors("soc", "emmc", "70:b3:d5:00:00:01")
CONTACTS: list[ContactMade] = [
    ContactMade(ContactKind.RETURN, number, b"return %d" % number, ("cap-1", number), 9)
    if number % 3 == 0
    else ContactMade(ContactKind.REQUEST, number, b"request %d" % number)
    for number in range(1, 60)
]
MORE = replace(CAPACITY, granted_total=1_000, returned_total=40, consumed_total=1)
GRANTS = [
    install(grant_of(CAPACITY), NOW),
    install(grant_of(CAPACITY, TRIAL, seq=2), NOW + 9),
    *(
        install(replace(grant_of(MORE, seq=number), contact=mark, factors=factors), NOW + number)
        for number, mark, factors in (
            (3, CONTACTS[0].mark, BOARD),
            (4, CONTACTS[4].mark, Factors()),
            (5, CONTACTS[5].mark, Factors("soc")),
            (6, ContactMark(2, "0" * 64), BOARD),
        )
    ),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        SeatGiven, TEXTS.map(UnitId), st.builds(Seat, st.sampled_from(SeatKind), st.booleans(), st.integers(1, 99))
    ),
    st.builds(SeatLost, TEXTS.map(UnitId), st.sampled_from(Cause)),
    st.builds(EvictionForgotten, TEXTS.map(UnitId)),
    st.builds(InternalChanged, st.builds(DeviceId, TEXTS, TEXTS), st.booleans()),
    st.just(AdoptionChanged(is_adopting=False)),
    st.builds(RepairNoted, TEXTS),
    st.builds(Anchored, st.none() | st.integers(0, 2**62)),
    st.sampled_from(GRANTS),
    st.sampled_from(CONTACTS),
    st.builds(Enrolled, st.binary(min_size=32, max_size=32)),
    st.builds(Bound, st.builds(Identity, TEXTS, st.sampled_from([BOARD, Factors()]))),
    st.builds(RootsTrusted, st.lists(st.binary(max_size=9), max_size=3).map(tuple)),
    st.builds(UpgradeConsumed, TEXTS, TEXTS),
    st.builds(ReleaseSeen, TEXTS),
    st.builds(NoticesChanged, st.dictionaries(TEXTS, st.integers(-1, 99), max_size=3).map(lambda x: tuple(x.items()))),
    st.builds(NoticeDaysSet, st.lists(st.integers(0, 99), max_size=3).map(tuple)),
    st.just(AdoptionChanged(is_adopting=True)),
)

Bytes = bytes | bytearray
Logs = list[bytearray]


# -- what the daemon takes a ledger for ------------------------------------------------------------------------------


class Opened(Ledger):
    """Opened by the daemon's code; what it found is kept also where it refuses."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self.seq, self.head, self.verdict = 0, FIRST_HEAD, "ok"
        self.body, self.bodies = b"", tuple[bytes, ...]()
        try:
            super().__init__(areas)
            self.body, self.bodies = self.recovered.snapshot, self.recovered.events
        except LedgerMissingError:
            self.verdict = "missing"
        except LedgerNewerError:
            self.verdict = "newer"
        except LedgerCorruptError as error:
            self.verdict, self.body, self.bodies = "corrupt", error.snapshot, error.events

    def state(self) -> LedgerState | None:
        if not self.body:
            return None
        state = decode_snapshot(self.body)
        for event in itertools.chain.from_iterable(map(decode_events, self.bodies)):
            state.apply(event)
        return state


def taken_for(a: Bytes, b: Bytes) -> Held:
    """What the daemon takes two logs for."""
    opened = Opened([Disk(bytearray(a)), Disk(bytearray(b))])
    try:
        state = opened.state()
    except LedgerCorruptError:
        return Held("corrupt")
    return Held(opened.verdict, opened.seq, opened.head.hex(), as_told(state) if state else None)


def as_told(state: LedgerState) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(encode_snapshot(state))
    return told


def agreed(a: Bytes, b: Bytes) -> Held:
    """What both find in two logs."""
    ours, theirs = read_logs(bytes(a), bytes(b)), taken_for(a, b)
    assert ours.verdict == theirs.verdict
    if ours.verdict == "ok":  # of what is refused the daemon tells no more than the state
        assert (ours.seq, ours.head) == (theirs.seq, theirs.head)
    assert_same_state(ours.state, theirs.state)
    return ours


def assert_same_state(ours: dict[str, Any] | None, theirs: dict[str, Any] | None) -> None:
    """Key by key; `internal` is a set, told as a list."""
    assert (ours or {}).keys() == (theirs or {}).keys()
    for key, value in (ours or {}).items():
        other = (theirs or {})[key]
        assert (sorted(value) == sorted(other)) if key == "internal" else (value == other), (key, value, other)


# -- ledgers that the daemon's code writes ---------------------------------------------------------------------------


def new_disks(state: LedgerState, *, secret: bytes = SECRET, slots: int = SLOTS) -> list[Disk]:
    first = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, secret + encode_snapshot(state), secret=secret)
    return [Disk(bytearray(first.ljust(slots * SLOT_BYTES, b"\0"))) for _ in range(2)]


def new_state() -> LedgerState:
    return LedgerState(install_code=INSTALL_CODE, mark_s=NOW)


class Life:
    """A daemon's life with a ledger: recovers it, commits, rewrites."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self.areas = areas
        self.ledger = Opened(areas)
        state = self.ledger.state()
        assert state is not None, self.ledger.verdict
        self.state = state
        self.ledger.settle(encode_snapshot(state))

    def commit(self, events: list[Event], grace: Grace | None = None) -> None:
        mark = TimeMarked(self.state.mark_s + 3_600, grace or self.state.grace, self.ledger.bytes_written)
        self.ledger.append(encode_events(events, mark), lambda: encode_snapshot(self.state))
        for event in (*events, mark):
            self.state.apply(event)

    def rewrite(self) -> None:
        self.ledger.rewrite(encode_snapshot(self.state))

    def contents(self) -> Logs:
        return [bytearray(area.read()) for area in self.areas]


def some_event(chance: random.Random, state: LedgerState) -> Event:
    unit, device = chance.choice(UNITS), DeviceId("lon", str(chance.randrange(4)))
    kind, is_so = chance.choice(list(SeatKind)), chance.random() < 0.5
    events: list[Event] = [
        SeatGiven(unit, Seat(kind, is_so, state.next_number)),
        SeatGiven(unit, Seat(kind, is_so, state.next_number)),
        EvictionForgotten(unit),
        InternalChanged(device, is_so),
        AdoptionChanged(is_adopting=False),
        RepairNoted(chance.choice(["", "log b had no whole snapshot", "many slots " * 1_000])),
        Anchored(chance.choice([None, 7])),
        chance.choice(GRANTS),
        chance.choice(CONTACTS),
        CONTACTS[(state.next_contact - 1) % len(CONTACTS)],
        Enrolled(chance.randbytes(32)),
        UpgradeConsumed("up-1", "4.0"),
    ]
    if state.seats:
        seated = chance.choice(list(state.seats))
        events += [SeatLost(seated, chance.choice(list(Cause))), SeatLost(seated, Cause.EVICTED)]
    return chance.choice(events)


def live(life: Life, chance: random.Random, *, commits: int) -> list[Logs]:
    """Some commits and rewrites; the logs as they were after each of them."""
    ages = [life.contents()]
    for _ in range(commits):
        if chance.random() < 0.1:
            life.rewrite()
        else:
            events = [some_event(chance, life.state) for _ in range(chance.choice([0, 1, 1, 2, 9]))]
            life.commit(events, Grace(chance.randrange(9), chance.randrange(9), chance.randrange(9)))
        ages.append(life.contents())
    return ages


# -- damage ----------------------------------------------------------------------------------------------------------


@dataclass
class Damage:
    """Spoils two logs in ways that rot, cuts, mixed-up copies and a forger with the secret would."""

    chance: random.Random
    others: list[Logs]  # earlier and foreign ones

    def spoil(self, logs: Logs) -> None:
        for _ in range(self.chance.choice([1, 1, 2, 3, 5])):
            ways = (self.flip, self.flip, self.page, self.same_page, self.torn, self.moved, self.exchanged, self.forged)
            self.chance.choice(ways)(logs)

    def slot(self) -> int:
        """The offset of a slot; the first ones more often."""
        return self.chance.choice([0, self.chance.randrange(SLOTS), self.chance.randrange(SLOTS)]) * SLOT_BYTES

    def flip(self, logs: Logs) -> None:
        """One bit; the header more often than the rest."""
        at = self.slot() + self.chance.choice([self.chance.randrange(82), self.chance.randrange(SLOT_BYTES)])
        self.chance.choice(logs)[at] ^= 1 << self.chance.randrange(8)

    def page(self, logs: Logs) -> None:
        at = self.slot()
        content = self.chance.choice([bytes(SLOT_BYTES), self.chance.randbytes(SLOT_BYTES)])
        self.chance.choice(logs)[at : at + SLOT_BYTES] = content

    def same_page(self, logs: Logs) -> None:
        at = self.slot()
        for log in logs:
            log[at : at + SLOT_BYTES] = bytes(SLOT_BYTES)

    def torn(self, logs: Logs) -> None:
        """A page of which only some sectors were written; it was something else before."""
        at, log = self.slot(), self.chance.choice(logs)
        before = self.chance.choice(self.chance.choice(self.others))
        for sector in range(at, at + SLOT_BYTES, 512):
            if self.chance.random() < 0.5:
                log[sector : sector + 512] = before[sector : sector + 512]

    def moved(self, logs: Logs) -> None:
        """A page of another time, at its place or at another."""
        at, source = self.slot(), self.chance.choice([*self.chance.choice(self.others), *logs])
        begin = self.chance.choice([at, self.slot()])
        self.chance.choice(logs)[at : at + SLOT_BYTES] = source[begin : begin + SLOT_BYTES]

    def exchanged(self, logs: Logs) -> None:
        """Swapped, or one of them of another time or history."""
        logs.reverse()
        if self.chance.random() < 0.5:
            logs[0][:] = self.chance.choice(self.chance.choice(self.others))

    def forged(self, logs: Logs) -> None:
        """Format, kind, seq or prev of a whole record changed, and the record sealed again."""
        at, values = self.chance.choice([(4, (0, 2)), (5, (1, 2, 3)), (6, range(9)), (18, range(256))])
        change_and_seal(self.chance.choice(logs), self.slot(), at, self.chance.choice(values))


def histories(chance: random.Random) -> tuple[list[Logs], list[Logs]]:
    """A ledger's ages; and the ages of a copy that went on by itself, of another ledger, and of none."""
    ours = Life(new_disks(new_state()))
    ages = live(ours, chance, commits=6)
    copied = Life([Disk(content) for content in ours.contents()])
    ages += live(ours, chance, commits=chance.randrange(12))
    foreign = Life(new_disks(new_state(), secret=bytes(32)))
    empty = [bytearray(SLOTS * SLOT_BYTES) for _ in range(2)]
    return ages, [*live(copied, chance, commits=8), *live(foreign, chance, commits=3), empty]


@pytest.mark.parametrize("seed", range(8))
def test_both_find_the_same_in_ledgers_that_are_damaged_at_random(seed: int) -> None:
    chance = random.Random(seed)
    ages, strange = histories(chance)
    damages = Damage(chance, ages), Damage(chance, [*ages, *strange])
    found = Counter[str]()
    for number in range(500):
        logs = [bytearray(log) for log in chance.choice(ages)]
        damages[number % 2].spoil(logs)
        found[agreed(logs[0], logs[1]).verdict] += 1
    assert found["ok"] > 100
    assert found["corrupt"] > 20
    assert len(found) >= 3, found


@pytest.mark.parametrize("seed", range(4))
def test_both_find_the_same_in_what_a_power_cut_leaves(seed: int) -> None:
    chance = random.Random(seed)
    left: list[Logs] = []

    class Cut(Disk):
        def sync(self) -> None:
            left.extend([after_power_cut(disk, chance, mode) for disk in disks] for mode in MODES)
            super().sync()

    disks: list[Disk] = [Cut(disk.content) for disk in new_disks(new_state())]
    live(Life(disks), chance, commits=20)
    assert len(left) > 150
    assert {agreed(a, b).verdict for a, b in left} == {"ok"}


def test_both_find_the_same_in_what_a_cut_creation_leaves() -> None:
    state = new_state()
    state.apply(RepairNoted("a snapshot of more than one slot " * 200))
    whole = new_disks(state)[0].content
    found = Counter[str]()
    for a_bytes, b_bytes in [(at, 0) for at in range(0, SLOT_BYTES * 2, 64)] + [(len(whole), 600)]:
        logs = [whole[:size].ljust(len(whole), b"\0") for size in (a_bytes, b_bytes)]
        found[agreed(*logs).verdict] += 1
    assert found["missing"] > 60
    assert found["ok"] > 10
    whole[60] ^= 1
    assert agreed(whole, whole).verdict == "corrupt"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(EVENTS, max_size=12), max_size=8), st.randoms(use_true_random=False))
def test_both_make_the_same_state_of_any_events(commits: list[list[Event]], chance: random.Random) -> None:
    life = Life(new_disks(new_state(), slots=200))
    for events in commits:
        life.commit(events, Grace(1, 2, 3))
        if chance.random() < 0.2:
            life.rewrite()
    a, b = life.contents()
    held = agreed(a, b)
    assert (held.verdict, held.seq, held.head) == ("ok", len(commits), life.ledger.head.hex())
    assert_same_state(held.state, as_told(life.state))


def test_both_forget_the_oldest_of_more_than_1000_evicted_units() -> None:
    life = Life(new_disks(new_state(), slots=400))
    life.commit([SeatLost(UnitId(f"lon/{number}"), Cause.EVICTED) for number in range(1_000)])
    life.commit([SeatLost(UnitId(unit), Cause.EVICTED) for unit in ("lon/5", "new/0", "new/1")])
    state = agreed(*life.contents()).state
    assert state is not None
    assert (len(state["evicted"]), state["evicted"][0], state["evicted"][-1]) == (1_000, "lon/2", "new/1")


def whole_life() -> tuple[Life, Logs]:
    """A ledger with a SNAPSHOT and eight EVENTs of one slot each."""
    life = Life(new_disks(new_state()))
    for number in range(1, 9):
        life.commit([SeatGiven(UNITS[number], Seat(SeatKind.RESERVED, False, number))])
    return life, life.contents()


def two_histories() -> Logs:
    life, logs = whole_life()
    other = Life([Disk(content) for content in logs])
    for each, name in ((life, "ours"), (other, "theirs")):
        each.commit([RepairNoted(name)])
    return [life.contents()[0], other.contents()[1]]


def two_secrets() -> Logs:
    return [whole_life()[1][0], Life(new_disks(new_state(), secret=bytes(32))).contents()[1]]


def spoiled(*places: tuple[int, int], by: int = 1, at: int = 100) -> Logs:
    """The whole life with records damaged: log and slot of each."""
    _, logs = whole_life()
    for log, slot in places:
        logs[log][slot * SLOT_BYTES + at] ^= by
    return logs


def forged(*places: tuple[int, int], at: int, to: int) -> Logs:
    """The whole life with one byte of headers changed, and these records sealed again."""
    _, logs = whole_life()
    for log, slot in places:
        change_and_seal(logs[log], slot * SLOT_BYTES, at, to)
    return logs


def change_and_seal(log: bytearray, begin: int, at: int, to: int) -> None:
    """Change a byte of the header of a whole record; what is not whole stays as it is."""
    (length,) = struct.unpack_from("<I", log, begin + 14)
    body = log[begin + 82 : begin + 82 + length]
    if log[begin + 50 : begin + 82] == tag(log[begin : begin + 50] + body):
        log[begin + at] = to
        log[begin + 50 : begin + 82] = tag(log[begin : begin + 50] + body)


def tag(sealed_bytes: Bytes) -> bytes:
    return hashlib.blake2b(sealed_bytes, digest_size=32, key=SECRET).digest()


@pytest.mark.parametrize(
    ("logs", "verdict", "seq"),
    [
        (spoiled(), "ok", 8),
        (spoiled()[::-1], "ok", 8),
        ([bytearray(SLOTS * SLOT_BYTES)] * 2, "missing", 0),
        ([spoiled()[0], bytearray(SLOTS * SLOT_BYTES)], "ok", 8),
        (spoiled((0, 0)), "ok", 8),
        (spoiled((0, 3)), "ok", 8),
        (spoiled((0, 0), (1, 3)), "ok", 8),
        (spoiled((0, 3), (1, 6)), "ok", 8),
        (spoiled((0, 8), (1, 8)), "ok", 7),
        (spoiled((0, 3), (1, 3)), "corrupt", 2),
        (spoiled((0, 0), (1, 0)), "corrupt", 0),
        (two_secrets(), "corrupt", 0),
        (two_histories(), "corrupt", 9),
        ([spoiled((0, 0))[0], bytearray(SLOTS * SLOT_BYTES)], "corrupt", 0),
        (forged((1, 0), at=4, to=2), "newer", 0),
        (forged((1, 5), at=4, to=2), "newer", 0),
        (forged((0, 8), (1, 8), at=4, to=0), "ok", 7),
        (forged((0, 8), (1, 8), at=5, to=3), "ok", 7),
        (spoiled((0, 3), at=4, by=3), "ok", 8),
        (spoiled((0, 0), (1, 0), at=4, by=3), "newer", 0),
    ],
)
def test_both_give_the_verdict_of_the_document(logs: Logs, verdict: str, seq: int) -> None:
    held = agreed(logs[0], logs[1])
    assert (held.verdict, held.seq) == (verdict, seq)


def test_both_keep_the_last_16_of_more_returns_and_forget_what_a_grant_acknowledges() -> None:
    life = Life(new_disks(new_state(), slots=200))
    life.commit([*CONTACTS[:56], NoticeDaysSet((3,))])
    state = agreed(*life.contents()).state or {}
    assert [each[2] for each in state["returns"]] == list(range(9, 57, 3))
    assert (len(state["contacts"]), state["next_contact"], state["request"][2]) == (56, 57, 56)
    assert (state["returned"], state["returned_grace"]) == ({"cap-1": 54}, 9)
    life.commit([install(replace(grant_of(CAPACITY), contact=CONTACTS[54].mark, factors=BOARD), NOW)])
    state = agreed(*life.contents()).state or {}
    assert ([each[0] for each in state["contacts"]], state["request"][2]) == ([55, 56], 56)
    assert (state["factors"], state["returned_grace"]) == (["soc", "emmc", "70:b3:d5:00:00:01"], None)


def test_both_read_what_a_later_minor_version_writes() -> None:
    bodies = [SECRET + json.dumps({**as_told(new_state()), "unknown": [1]}).encode()]
    bodies.append(b'{"e":[["unknown",1,{"x":[]}],["adopted"]],"t":7,"g":[1,2,3],"w":9,"x":null}')
    snapshot = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, bodies[0], secret=SECRET)
    log = snapshot + frame(Kind.EVENT, 1, FIRST_HEAD, bodies[1], secret=SECRET)
    state = agreed(log, log).state or {}
    assert (state["mark"], state["adopting"], state["written"]) == (7, False, 9)


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["image", "directory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    place = tmp_path / "ledger"
    if request.param == "image":
        place.write_bytes(bytes(9 << 20))
    else:
        place.mkdir()
    return place


def test_a_ledger_on_a_path_is_read_and_shown_as_json(path: Path) -> None:
    create(path, encode_snapshot(new_state()))
    place = Place(path)
    try:
        life = Life(place.areas())
        life.commit([GRANTS[0], RepairNoted("Süd")])
    finally:
        place.close()
    held = read_ledger(path)
    assert (held.verdict, held.seq, held.head) == ("ok", 1, life.ledger.head.hex())
    assert_same_state(held.state, as_told(life.state))
    shown = subprocess.run(
        [sys.executable, "-m", "reader", path], cwd=Path(__file__).parents[2], capture_output=True, check=True
    )
    assert Held(**json.loads(shown.stdout)) == held


def test_what_is_no_ledger_is_missing(path: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(bytes(1 << 20))
    for each in (path, short, tmp_path / "not there"):
        assert read_ledger(each).verdict == "missing"


def test_the_reader_uses_the_standard_library_alone() -> None:
    for file in Path(reader.__file__).parent.glob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in imported} <= {*sys.stdlib_module_names, "reader"}, file
