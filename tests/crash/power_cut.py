"""F1, F2, F3: the power goes at any instant of a recording; what is left is recovered by the real code and judged.

    python -m crash.power_cut RECORDING STATES SEED     sweeps a saved recording again

Rules:
- after each cut counts all that was announced before the next write or flush: the disk is the same, and more is asked;
- a recovery is what the daemon does: `Ledger`, the replay, `settle`; the state must equal one of the chain
  (`announced.History`) and keep what was announced, and where no page was lost nothing may be called damage;
- F2 recovers on a disk that notes, and cuts again at every write and sync of the recovery: the same must come of it;
- a failure names the cut: the position, the loss and the seed make it again from the recording;
- an ext4 that has lost a page of its own in flight may refuse to be mounted. That is counted, and no failure: it is
  why the ledger has a partition of its own.

What this module does not do: it records nothing; which cuts there are, and what they leave, is `cuts`.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from crash.announced import History, Requirement, State, replayed
from crash.cuts import Cut, after, every_cut, some_cuts
from crash.interrupted import CALLS_OF_A_TURN, record_failures, record_kills
from crash.mounted import Images
from crash.recorded_disk import Event, Flush, Write
from crash.recording import Recording, load, record
from crash.table import Row, Scale, show
from smartserver_licensed.domain.ledger_state import LedgerState, RepairNoted
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.store.area import AREA_BYTES, Area
from smartserver_licensed.store.log import Ledger

PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Found:
    """What a recovery came to. `repairs`: what it took for damage."""

    seq: int
    head: bytes
    state: LedgerState
    repairs: tuple[str, ...]


def recover(areas: Sequence[Area]) -> Found:
    """As the daemon's keeper does. Raises a LicensedError where it cannot."""
    ledger = Ledger(areas)
    state = replayed(ledger.recovered)
    repairs = ledger.recovered.repairs
    if repairs:
        state.apply(RepairNoted("; ".join(repairs)))
    ledger.settle(encode_snapshot(state), is_changed=bool(repairs))
    state.apply(RepairNoted(""))  # what is compared
    return Found(ledger.seq, ledger.head, state, repairs)


def _until_next(events: Sequence[Event]) -> list[int]:
    """For each event the last one before the next write or flush: until there nothing on the disk changes."""
    until, last = [0] * len(events), len(events) - 1
    for number in range(len(events) - 1, -1, -1):
        until[number] = last
        if isinstance(events[number], (Write, Flush)):
            last = number - 1
    return until


class Log:
    """A log in memory; implements `store.area.Area`. It notes what is done to it, in one order with its twin."""

    def __init__(self, content: bytearray, begin: int, events: list[Event]) -> None:
        self.content = content
        self.events = events
        self.unreadable: list[int] = []
        self._begin = begin

    @property
    def size_bytes(self) -> int:
        return len(self.content)

    @property
    def device(self) -> object:
        """Both logs lie on one."""
        return id(self.events)

    def read(self) -> memoryview:
        return memoryview(self.content).toreadonly()

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        self.events.append(Write(self._begin + offset, data))

    def sync(self) -> None:
        self.events.append(Flush(len(self.events)))


def logs_in(image: bytes | bytearray) -> tuple[Log, Log]:
    """The two logs on a device."""
    events: list[Event] = []
    view = memoryview(image)
    first, second = (bytearray(view[begin : begin + AREA_BYTES]) for begin in (0, AREA_BYTES))
    return Log(first, 0, events), Log(second, AREA_BYTES, events)


class Judge:
    """Knows what a recording wrote and announced, and counts in a row what a recovery makes of it."""

    def __init__(self, recording: Recording, row: Row, images: Images) -> None:
        self._row = row
        self._images = images
        self._is_directory = recording.is_directory
        with self.opened(recording.image) as areas:
            self.history = History(recording.image, recording.events, Ledger(areas))
        self._counts_until = _until_next(recording.events)

    def required(self, cut: Cut) -> tuple[Requirement, ...]:
        """What must be there after it."""
        return self.history.required[self._counts_until[cut.position]]

    def _losses(self, cut: Cut, state: LedgerState) -> list[str]:
        """What a state lacks of the requests and returns that left until then."""
        until = self._counts_until[cut.position]
        return [loss for number, each in self.history.signed if number <= until and (loss := each.loss(state))]

    def judge_history(self) -> None:
        """What is wrong, or to be counted, without a cut."""
        for violation in self.history.violations:
            self._row.fail(*violation)
        self._row.figures |= {
            "commits": len(self.history.states) - 1,
            "rewrites of a log": self.history.rewrites,
            "announcements": self.history.marks,
            "requests and returns": len(self.history.signed),
        }

    def opened(self, image: bytes | bytearray) -> AbstractContextManager[Sequence[Area]]:
        """The two logs in it."""
        return self._images.areas(image) if self._is_directory else nullcontext(logs_in(image))

    def judge(
        self,
        cuts: Sequence[Cut],
        opened: AbstractContextManager[Sequence[Area]],
        required: Sequence[Requirement],
        *,
        only: State | None = None,
    ) -> State | None:
        """Recover what the last of these cuts left, and compare; `only`: nothing but this may come of it.

        The state of the chain that it is, if it is one.
        """
        self._row.states += 1
        try:
            with opened as areas:
                found = recover(areas)
        except subprocess.CalledProcessError as error:
            if cuts[-1].is_page_lost:
                _count(self._row, "refused by ext4, which had lost a page")
            else:
                self._fail("lost", cuts, str(error.stderr))
        except Exception as error:  # noqa: BLE001 - whatever gets out is a finding, with the cut that made it
            self._fail("lost", cuts, f"not recovered: {error!r}")
        else:
            return self._compare(cuts, found, required, only)
        return None

    def _compare(
        self, cuts: Sequence[Cut], found: Found, required: Sequence[Requirement], only: State | None
    ) -> State | None:
        if found.repairs and any(cut.is_page_lost for cut in cuts):
            _count(self._row, "lost pages said to be damage")
        elif found.repairs:
            self._fail("doubled", cuts, f"what a power cut leaves is taken for damage: {found.repairs}")
        state = self.history.state_of(found.head, found.seq, found.state)
        if state is None:
            self._fail("doubled", cuts, f"record {found.seq} was recovered to a state that never was")
            return None
        if only not in {None, state}:
            self._fail("doubled", cuts, f"another state than that which the first recovery came to: record {state.seq}")
        for loss in self._losses(cuts[0], found.state)[:1]:
            self._fail("lost", cuts, f"record {state.seq} recovered: {loss}")
        for each in required:
            if not state.descends_from(each.state):
                self._fail("lost", cuts, f"record {state.seq} recovered, but {each.state.seq} announced: {each.why}")
                break
        return state

    def _fail(self, kind: str, cuts: Sequence[Cut], sentence: str) -> None:
        self._row.fail(kind, f"{', then in its recovery '.join(map(str, cuts))}: {sentence}")


def _count(row: Row, figure: str, by: float = 1) -> None:
    """Add to a figure of a row."""
    value = row.figures.get(figure, 0)
    assert not isinstance(value, str)
    row.figures[figure] = round(value + by)


# -- sweeping ----------------------------------------------------------------------------------------------------------


def sweep(recording: Recording, states: int, seed: int, *, processes: int = PROCESSES) -> Row:
    """F1, F3: so many crash states of a recording, the same at every run. With 1 process all is done in this one."""
    return _swept(_sweep, recording, some_cuts(recording.events, states, seed), processes)


def sweep_recoveries(recording: Recording, states: int, seed: int, *, processes: int = PROCESSES) -> Row:
    """F2: the recovery of so many crash states, cut again at every write and sync of it with every loss."""
    return _swept(_sweep_recoveries, recording, some_cuts(recording.events, states, seed), processes)


_Work = Callable[[Recording, Sequence[Cut], Judge], None]


def _swept(work: _Work, recording: Recording, cuts: Sequence[Cut], processes: int) -> Row:
    begin = time.monotonic()
    row = Row("F1", "power cut")
    shares = [cuts[number::processes] for number in range(processes)]
    if processes == 1:
        results = [_part(work, recording, shares[0], is_first=True)]
    else:
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            parts = [pool.submit(_part, work, recording, share, is_first=share is shares[0]) for share in shares]
            results = [part.result() for part in parts]
    for part in results:
        row.states, row.lost, row.doubled = row.states + part.states, row.lost + part.lost, row.doubled + part.doubled
        row.failures += part.failures
        for figure, value in part.figures.items():
            _count(row, figure, float(value))
    row.seconds = time.monotonic() - begin
    row.figures |= recording.figures
    row.figures["ms a state"] = round(1_000 * row.seconds / max(1, row.states), 1)
    return row


def _part(work: _Work, recording: Recording, cuts: Sequence[Cut], *, is_first: bool) -> Row:
    row = Row("", "")
    with tempfile.TemporaryDirectory() as directory, Images(Path(directory)) as images:
        judge = Judge(recording, row, images)
        if is_first:  # once for all
            judge.judge_history()
        work(recording, cuts, judge)
    return row


def _sweep(recording: Recording, cuts: Sequence[Cut], judge: Judge) -> None:
    for cut, image in after(recording.image, recording.events, cuts):
        judge.judge([cut], judge.opened(image), judge.required(cut))


def _sweep_recoveries(recording: Recording, cuts: Sequence[Cut], judge: Judge) -> None:
    for cut, image in after(recording.image, recording.events, cuts):
        logs, required = logs_in(image), judge.required(cut)
        state = judge.judge([cut], nullcontext(logs), required)
        events = logs[0].events
        for again, left in after(image, events, every_cut(events, cut.seed) if state else ()):
            judge.judge([cut, again], judge.opened(left), required, only=state)


# -- the rows ----------------------------------------------------------------------------------------------------------


def run(scale: Scale, directory: Path) -> list[Row]:
    """The rows of F1, F2 and F3; the recordings are kept in the directory."""
    device = _kept(directory, "device", lambda place: record(place, rounds=scale.pick(200, 600)))
    small = _kept(directory, "small", lambda place: record(place, rounds=3))
    in_ext4 = _kept(directory, "ext4", lambda place: record(place, rounds=scale.pick(20, 200), is_directory=True))
    kills = _kept(
        directory,
        "kills",
        lambda place: record_kills(place, range(scale.pick(2, 1), CALLS_OF_A_TURN, scale.pick(5, 1))),
    )
    faults = _kept(directory, "faults", lambda place: record_failures(place, range(1, 14, scale.pick(7, 1))))
    return [
        _named(sweep(device, scale.pick(2_000, 25_000), seed=1), "F1", "power cut, block device"),
        _named(sweep(in_ext4, scale.pick(150, 2_000), seed=2), "F1", "power cut, two files in an ext4"),
        _named(sweep_recoveries(device, scale.pick(40, 1_000), seed=3), "F2", "power cut, and again in the recovery"),
        _named(
            sweep_recoveries(small, scale.pick(25, len(every_cut(small.events, 0))), seed=0),
            "F2",
            "the same, " + ("some" if scale.is_short else "all") + " pairs of a short run",
        ),
        _named(sweep(kills, scale.pick(300, 3_000), seed=4), "F3", "killed before a sync, then power cut"),
        _named(sweep(faults, scale.pick(300, 3_000), seed=5), "F3", "a failed write or sync, then power cut"),
    ]


def _kept(directory: Path, name: str, make: Callable[[Path], Recording]) -> Recording:
    with tempfile.TemporaryDirectory() as place:
        recording = make(Path(place))
    directory.mkdir(parents=True, exist_ok=True)
    recording.save(directory / f"{name}.recording")
    return recording


def _named(row: Row, fault: str, what: str) -> Row:
    row.fault, row.what = fault, what
    return row


if __name__ == "__main__":
    sys.stdout.write(show([sweep(load(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3]))]) + "\n")
