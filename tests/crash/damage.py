"""F7, F8: bytes of the logs rot or are edited; the ledger is the same afterwards, or it says that it cannot be read.

Rules:
- one log spoiled, in whatever way, is repaired from its twin: the same state, and said in `repairs` or `notes` where
  bytes that count were hit (padding and stale records do not);
- both spoiled: the same state or a clean error, upon which nothing was written; never another state;
- the exception (docs/storage.md): the *last* record spoiled in both logs is a torn one to any reader: the state is
  exactly the one before it, and that is said while its header is legible. Such states are counted apart; so are those
  in which of the last few records no header is left in both logs;
- what was recovered, settled and committed to is whole: recovered once more it is the same, there is nothing to say of
  it, and every page can be read.

What this module does not do: it cuts no power (`sweep`) and starts no daemon; the areas are in memory (`images`).
"""

from __future__ import annotations

import functools
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from smartserver_licensed.domain.errors import StorageError
from smartserver_licensed.domain.ledger_state import TimeMarked
from smartserver_licensed.formats.ledger import encode_events, encode_snapshot
from smartserver_licensed.store.log import Ledger

from .images import PAGE_BYTES, Image, Memory, grown, replayed
from .table import Row, Scale

INSTALL_CODE = "17qtest"
SECTOR_BYTES = 512
_HEADER_BYTES = 54  # magic, format, kind, seq, length, prev
_LOGS = (0, 1)
_PROCESSES = 2
_PARTS = 20
_EDITS: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("a bit", lambda byte: byte ^ 0x10),
    ("one more", lambda byte: (byte + 1) % 256),
    ("FF or 00", lambda byte: 0x00 if byte == 0xFF else 0xFF),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What recovery made of two areas: a state, or its error; `is_clean`: one of the ledger's own."""

    state: bytes = b""
    error: str = ""
    is_clean: bool = True
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def recover(areas: Sequence[Memory]) -> Outcome:
    """Recover, settle and commit as the keeper does; that commit changes nothing."""
    try:
        ledger = Ledger(areas)
        recovered = ledger.recovered
        state, mark = _state(recovered.snapshot, recovered.events)
        ledger.settle(state, is_changed=bool(recovered.repairs))
        ledger.append(mark, lambda: state)
    except StorageError as error:
        return Outcome(error=type(error).__name__)
    except Exception as error:  # noqa: BLE001 - a finding, and here is known what reproduces it
        return Outcome(error=repr(error), is_clean=False)
    return Outcome(state, repairs=recovered.repairs, notes=recovered.notes)


@functools.lru_cache(maxsize=64)
def _state(snapshot: bytes, events: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """The state, by the real decoder, and an event that marks it; cached: most damages leave the same bytes."""
    state = replayed(snapshot, events)
    return encode_snapshot(state), encode_events([], TimeMarked(state.mark_s, state.grace, state.written_bytes))


class Bench:
    """An image in two areas: spoil them, judge what comes of it, have them put back."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.areas = [Memory(log) for log in image.logs]
        self.spans = [image.spans(log) for log in _LOGS]

    def judge(self, row: Row, where: str) -> None:
        """Recover what the areas hold now, and once more; the row gets what is wrong. `where` reproduces it."""
        row.states += 1
        hit = [self._hit(log) for log in _LOGS]
        legible = [self._legible(log) for log in _LOGS]
        is_twin_whole = not all(self._is_touched(log) for log in _LOGS)
        outcome = recover(self.areas)
        if outcome.error:
            self._judge_error(row, outcome, where, is_twin_whole=is_twin_whole)
        else:
            self._judge_state(row, outcome, where, hit, legible)
            self._judge_again(row, outcome.state, where)
        for area in self.areas:
            area.undo()

    def _judge_error(self, row: Row, outcome: Outcome, where: str, *, is_twin_whole: bool) -> None:
        count(row, f"refused, {outcome.error}")
        if not outcome.is_clean:
            row.fail("silent", f"{where}: {outcome.error}")
        if is_twin_whole:
            row.fail("lost", f"{where}: {outcome.error}, though the twin is whole")
        if any(area.writes for area in self.areas):
            row.fail("lost", f"{where}: {outcome.error}, and yet something was written")

    def _judge_state(
        self, row: Row, outcome: Outcome, where: str, hit: list[set[int]], legible: list[set[int]]
    ) -> None:
        is_said = bool(outcome.repairs or outcome.notes)
        if outcome.state == self.image.state:
            if outcome.repairs:
                count(row, "the same, in `repairs`")
            elif outcome.notes:
                count(row, "the same, in `notes`")
            elif not any(hit):
                count(row, "the same, nothing that counts was hit")
            elif hit[0] | hit[1] == {self.image.seq}:
                count(row, "the same, not told from a power cut: the last record of one log")
            else:
                row.fail("silent", f"{where}: records {sorted(hit[0])} of a, {sorted(hit[1])} of b hit, nothing said")
            return
        gone = self._gone(outcome.state)
        if gone and gone <= hit[0] & hit[1] and not legible[0] & legible[1] & gone - {min(gone)}:
            name = "the last record" if len(gone) == 1 else "the last records, headers and all,"
            count(row, f"exception, {name} spoiled in both logs{': said' if is_said else ''}")
            if (legible[0] | legible[1]) & {min(gone)} and not is_said:
                row.fail("silent", f"{where}: record {min(gone)} is legible, but nothing is said of it")
        else:
            row.fail("silent", f"{where}: another state ({len(gone)} records gone), {outcome.repairs} {outcome.notes}")

    def _gone(self, state: bytes) -> set[int]:
        """The last records without which the ledger says this; empty where it never said it."""
        states = self.image.states
        back = next((back for back in range(1, len(states)) if states[-1 - back] == state), 0)
        return set(range(self.image.seq - back + 1, self.image.seq + 1))

    def _judge_again(self, row: Row, state: bytes, where: str) -> None:
        if any(area.lost for area in self.areas):
            row.fail("silent", f"{where}: settled, and still pages cannot be read")
        again = recover(self.areas)
        is_noted = again.notes and state == self.image.state  # else what is left of the records that are gone
        if again.error or again.repairs or is_noted:
            row.fail("silent", f"{where}: settled, but then {again.error} {again.repairs} {again.notes}")
        elif again.state != state:
            row.fail("silent", f"{where}: settled, and once more it is another state")

    def _hit(self, log: int) -> set[int]:
        """The records of a log of which bytes that count are not what they were."""
        return {each.seq for each in self.spans[log] if not self._is_same(log, each.start, each.end - each.start)}

    def _legible(self, log: int) -> set[int]:
        """The records of a log whose header is what it was."""
        return {each.seq for each in self.spans[log] if self._is_same(log, each.start, _HEADER_BYTES)}

    def _is_same(self, log: int, start: int, size: int) -> bool:
        return self.areas[log].content[start : start + size] == self.image.logs[log][start : start + size]

    def _is_touched(self, log: int) -> bool:
        return bool(self.areas[log].lost) or self.areas[log].content != self.image.logs[log]


def count(row: Row, what: str) -> None:
    """One more of these in the row's figures."""
    row.figures[what] = int(row.figures.get(what, 0)) + 1


# -- F7: what rots -----------------------------------------------------------------------------------------------------


def images() -> list[Image]:
    """Logs nearly full, half full, and just rewritten with much that is stale behind; all with some hundred seats."""
    life = grown(INSTALL_CODE, seed=7, commits=300)
    found = [life.image()]
    for commits in (20, 31, 1, 0):
        life.live(commits)
        found.append(life.image())
        life.rewrite()
    life.live(2)
    return [*found, life.image()]


def rot(seed: int, states: int) -> list[Row]:
    """So many random damages from one seed: a row for those of one log, one for those of both."""
    chance = random.Random(seed)
    rows = [Row("F7", "bits, sectors, pages of one log rot"), Row("F7", "bits, sectors, pages of both logs rot")]
    benches = [Bench(image) for image in images()]
    for number in range(states):
        place = chance.randrange(len(benches))
        logs = chance.choice([(0,), (1,), _LOGS])
        damages = _damages(benches[place], logs, chance)
        benches[place].judge(rows[logs == _LOGS], f"seed {seed}, state {number}, image {place}: {', '.join(damages)}")
    return rows


def _damages(bench: Bench, logs: Sequence[int], chance: random.Random) -> list[str]:
    """One to six damages, now and then at the same place in both logs; one time in ten the last records of all logs."""
    said: list[str] = []
    is_tail = chance.random() < 0.1
    for number in range(chance.choice([1, 1, 1, 1, 2, 3, 4, 6])):
        size = chance.choice([1, SECTOR_BYTES, PAGE_BYTES])
        if is_tail:
            last = bench.spans[0][-1 - number % len(bench.spans[0])]
            offset = chance.randrange(last.start, last.end)
        else:
            is_used = chance.random() < 0.9
            offset = chance.randrange(bench.image.used_bytes(0) if is_used else bench.areas[0].size_bytes)
        struck = logs if is_tail or chance.random() < 0.3 else [chance.choice(logs)]
        said += [f"{_spoil(bench.areas[log], offset // size * size, size, chance)} of {'ab'[log]}" for log in struck]
    return said


def _spoil(area: Memory, offset: int, size: int, chance: random.Random) -> str:
    """Spoil one byte, sector or page; says how."""
    if size == 1:
        area.put(offset, bytes([area.content[offset] ^ 1 << chance.randrange(8)]))
        return f"a bit at {offset}"
    elsewhere = chance.randrange(area.size_bytes // size) * size
    fills = {
        "noise": chance.randbytes(size),
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "misdirected": bytes(area.content[elsewhere : elsewhere + size]),
    }
    how = chance.choice([*fills, *(["unreadable"] if size == PAGE_BYTES else [])])
    if how == "unreadable":
        area.lose(offset)
    else:
        area.put(offset, fills[how])
    return f"{size} bytes {how} at {offset}"


# -- F8: what is edited ------------------------------------------------------------------------------------------------


def short_images() -> list[Image]:
    """A short life: some events behind the snapshot, and just rewritten."""
    life = grown(INSTALL_CODE, seed=8, commits=0, area_bytes=16 * PAGE_BYTES)
    life.live(5, at_once=2)
    lived = life.image()
    life.rewrite()
    return [lived, life.image()]


def edit(first: int, step: int) -> list[Row]:
    """Every `step`-th byte of the used part, from `first`: three edits of it, in a, in b, and the same in both."""
    rows = [Row("F8", "every byte of one log edited"), Row("F8", "every byte edited, in both logs alike")]
    for place, bench in enumerate(Bench(image) for image in short_images()):
        for offset in range(first, bench.image.used_bytes(0), step):
            for name, edited in _EDITS:
                for logs in ((0,), (1,), _LOGS):
                    for log in logs:
                        bench.areas[log].put(offset, bytes([edited(bench.areas[log].content[offset])]))
                    where = f"image {place}: {name} at {offset} of {' and '.join('ab'[log] for log in logs)}"
                    bench.judge(rows[logs == _LOGS], where)
    return rows


# -- both --------------------------------------------------------------------------------------------------------------


def run(scale: Scale, directory: Path) -> list[Row]:
    """F7 and F8, each in parts that two processes share; all in memory."""
    states = scale.pick(10_000, 100_000)
    step = scale.pick(10, 1) * _PARTS
    first = random.randrange(step)
    with ProcessPoolExecutor(_PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        rotten = _shared(pool, rot, [(seed, states // _PARTS) for seed in range(_PARTS)])
        edited = _shared(pool, edit, [((first + part * step // _PARTS) % step, step) for part in range(_PARTS)])
    return [*rotten, *edited]


def _shared(
    pool: ProcessPoolExecutor, work: Callable[[int, int], list[Row]], parts: Sequence[tuple[int, int]]
) -> list[Row]:
    """The rows of all parts, added up."""
    begun = time.monotonic()
    first, *more = pool.map(work, *zip(*parts, strict=True))
    for rows in more:
        for total, row in zip(first, rows, strict=True):
            _add(total, row)
    for row in first:
        row.seconds = (time.monotonic() - begun) / len(first)
        row.figures = dict(sorted(row.figures.items()))
    return first


def _add(total: Row, row: Row) -> None:
    total.states += row.states
    total.lost += row.lost
    total.silent += row.silent
    total.failures = [*total.failures, *row.failures][:5]
    for name, count in row.figures.items():
        total.figures[name] = int(total.figures.get(name, 0)) + int(count)
