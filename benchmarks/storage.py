"""F16: what the ledger writes and how long it takes, beside SQLite and LMDB doing the same commits in the same run.

Rules:
- bytes are those that the block layer counts, in windows of commits, KB of 1,000 bytes. In bursts: one commit after the
  other, with what a full log costs; where files grow, a first window is not counted. Alone: 50 ms after each commit,
  then what the file system has put off is asked for (pauses of 40 s gave the same within a tenth);
- times are taken in turns, in a new order each time, so that a busy machine is busy for everybody.

What this module does not do: it damages nothing and cuts no power.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import process, storage_recovery
from benchmarks.loop_device import Written, write_all
from benchmarks.smartserver import BUILD
from benchmarks.storage_sides import Side, sides
from benchmarks.stores import Bare, a_commit
from benchmarks.table import Aim, Figures, Json, Row, render, to_json
from crash import table as faults

_MS = 1e3
_WEAR = Aim("<= 10 KB", at_most=10.0, is_value=True)
_TEN_YEARS = Aim("<= 2 GB", at_most=2.0, is_value=True)
_TIME = Aim("<= 1.5x", at_most=1.5)
_TEN_YEARS_DAYS = 3_652.5
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Amounts:
    """How often."""

    burst: int  # commits in a window; more than a log holds, or SQLite's WAL
    bursts: int
    lone: int  # the same, alone
    lones: int
    turns: int  # for times
    lone_turns: int

    @classmethod
    def of(cls, *, is_short: bool) -> Amounts:
        """As the form asks for."""
        return cls(1_000, 1, 10, 2, 200, 40) if is_short else cls(1_000, 5, 20, 15, 2_000, 500)


def measure(directory: Path, *, is_short: bool) -> tuple[list[Row], int]:
    """All rows, and the number of commits."""
    amounts = Amounts.of(is_short=is_short)
    with sides(directory) as all_sides:
        bursts = {side.key: burst(side, amounts) for side in all_sides}
        lones = alone(all_sides, amounts)
        rows = [*_wear(all_sides, "burst", bursts), *_wear(all_sides, "alone", lones)]
        rows += _times(all_sides, amounts)
        commits = sum(side.commits for side in all_sides)
    recovery, start_kb = storage_recovery.measure(directory, is_short=is_short)
    return [*rows, *recovery, *_ten_years(max(bursts[""].kb.median, lones[""].kb.median), start_kb)], commits


# -- bytes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wear:
    """What commits write: KB each, by windows; and how often the device is flushed for each."""

    kb: Figures
    flushes: float

    @classmethod
    def of(cls, windows: Sequence[Written], commits: int) -> Wear:
        """Of windows of so many commits."""
        flushes = sum(window.flushes for window in windows)
        kb = Figures.of((window.bytes / commits for window in windows), scale=1e-3)
        return cls(kb, flushes / commits / len(windows))


def burst(side: Side, amounts: Amounts) -> Wear:
    """Back to back."""
    if not side.is_raw:
        _burst(side, amounts.burst)  # files grow in it
    return Wear.of([_burst(side, amounts.burst) for _ in range(amounts.bursts)], amounts.burst)


def _burst(side: Side, count: int) -> Written:
    write_all(side.path)
    before = side.device.written
    for _ in range(count):
        side.commit()
    write_all(side.path)
    return side.device.written - before


def alone(all_sides: Sequence[Side], amounts: Amounts) -> dict[str, Wear]:
    """Each with nothing before and after it."""
    windows: dict[str, list[Written]] = {side.key: [] for side in all_sides}
    for side in all_sides:
        write_all(side.path)
    for _ in range(amounts.lones):
        before = {side.key: side.device.written for side in all_sides}
        for _ in range(amounts.lone):
            for side in all_sides:
                side.commit()
            time.sleep(_PAUSE_S)
            for side in all_sides:
                write_all(side.path)
        for side in all_sides:
            windows[side.key].append(side.device.written - before[side.key])
    return {key: Wear.of(each, amounts.lone) for key, each in windows.items()}


def _wear(all_sides: Sequence[Side], way: str, wear: Mapping[str, Wear]) -> list[Row]:
    """Ours against the limit, the others beside ours."""
    rows = []
    for side in all_sides:
        ours = wear["10" if side.devices == 10 else ""]
        limit, aim = (None, _WEAR) if side.is_raw else (ours.kb, None)
        note = f"{wear[side.key].flushes:.1f} flushes a commit" if way == "burst" else ""  # alone, others are ours
        rows.append(Row(_named(side, way), side.what, "KB", wear[side.key].kb, limit, aim=aim, note=note))
    return rows


def _named(side: Side, way: str) -> str:
    return f"{way}.{side.key}" if side.key else way


# -- time --------------------------------------------------------------------------------------------------------------


def _times(all_sides: Sequence[Side], amounts: Amounts) -> list[Row]:
    """Of all in turns, then of ours with pauses, as devices are made by people."""
    ledger, writer = all_sides[:2]
    bare = Bare(ledger.device.path)
    try:
        together = _in_turns([*all_sides], bare, amounts.turns, pause_s=0.0)
        apart = _in_turns([ledger, writer], bare, amounts.lone_turns, pause_s=0.02)
    finally:
        bare.close()
    return [*_time_rows(all_sides, "time", together), *_time_rows([ledger, writer], "apart", apart)]


def _in_turns(some: Sequence[Side], bare: Bare, count: int, *, pause_s: float) -> dict[str, list[float]]:
    askers: list[tuple[str, Callable[[], float]]] = [("bare", lambda: bare.commit(a_commit(1)))]
    askers += [(side.key, side.commit) for side in some]
    times: dict[str, list[float]] = {key: [] for key, _ in askers}
    for _ in range(count):
        random.shuffle(askers)
        for key, commit in askers:
            time.sleep(random.uniform(pause_s / 4, pause_s))
            times[key].append(commit())
    return times


def _time_rows(some: Sequence[Side], way: str, times: Mapping[str, Sequence[float]]) -> list[Row]:
    limit = Figures.of(times["bare"], scale=_MS)
    rows = []
    for side in some:
        aim = _TIME if _named(side, way) == "time" else None
        rows.append(Row(_named(side, way), side.what, "ms", Figures.of(times[side.key], scale=_MS), limit, aim=aim))
    return rows


# -- ten years ---------------------------------------------------------------------------------------------------------


def _ten_years(kb: float, start_kb: float) -> list[Row]:
    """Computed from the KB a commit."""

    def row(key: str, what: str, kb_a_day: float, aim: Aim | None, note: str) -> Row:
        return Row(key, what, "GB", Figures.of([kb_a_day * _TEN_YEARS_DAYS / 1e6]), aim=aim, note=note)

    per_day = int(2e6 / _TEN_YEARS_DAYS / kb)
    computed = f"computed: {kb:.2f} KB a commit, a full log included; 2 GB are {per_day} commits a day"
    working = "14 hourly marks are left beside them"
    return [
        row("years", "ten years, the hourly time mark alone", 24 * kb, _TEN_YEARS, computed),
        row("years.50", "  50 commits in ten hours a day", 64 * kb, _TEN_YEARS, working),
        row("years.start", "  a repair each day", start_kb, None, f"{start_kb:.0f} KB each, with 4,000 devices"),
    ]


# -- table -------------------------------------------------------------------------------------------------------------


def limits_broken(rows: Sequence[Row]) -> list[str]:
    """A sentence for each limit that does not hold."""
    return [
        f"{row.key}: {row.measured} {row.unit}" + (f", {row.ratio:.2f}x" if row.ratio else "") + f", not {row.aim.text}"
        for row in rows
        if row.aim is not None and not row.is_met
    ]


def run(scale: faults.Scale, directory: Path) -> list[faults.Row]:
    """F16 for `make crash`: bytes, and whatever has a limit; `failures` are the limits that do not hold."""
    begin = time.monotonic()
    rows, commits = measure(directory, is_short=scale.is_short)
    row = faults.Row("F16", "what commits write, and how long they take", commits, failures=limits_broken(rows))
    row.figures |= {_named_line(each): str(each.measured) for each in rows if each.aim or each.unit == "KB"}
    row.seconds = time.monotonic() - begin
    return [row]


def _named_line(row: Row) -> str:
    return f"{row.key} ({row.unit}{', ' + row.aim.text if row.aim else ''})"


def main() -> int:
    """Measure and print; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="about a tenth")
    parser.add_argument("--out", default=str(BUILD), metavar="DIR", help="for the table and the JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was mounted is unmounted
    is_short, out = bool(arguments.short), Path(arguments.out)
    BUILD.mkdir(exist_ok=True)
    begin = time.monotonic()
    machine = process.machine(BUILD)
    with TemporaryDirectory(dir=BUILD, prefix="storage-") as directory:
        rows, commits = measure(Path(directory), is_short=is_short)
    machine |= {"is_short": is_short, "seconds": round(time.monotonic() - begin), "commits": commits}
    table = render(_head(machine), rows)
    name = "storage-short" if is_short else "storage"
    (out / f"{name}.json").write_text(to_json(machine, rows))
    (out / f"{name}.txt").write_text(table)
    sys.stdout.write(table)
    return bool(limits_broken(rows))


def _head(machine: dict[str, Json]) -> list[str]:
    form = "short form" if machine["is_short"] else "long form"
    system = f"{machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}, Python {machine['python']}"
    commits = f"{machine['commits']:,} commits"
    return [
        f"the ledger beside other stores, {machine['date']}, {machine['seconds']} s, {form}, {commits}",
        f"{system}; loop devices of 16 MiB, images on {machine['file_system']} ({machine['device']})",
        "limits: of bytes the ledger's on a raw device, with as many devices a commit;",
        "        of times 4 KiB written at two places of the ledger's device, and one sync;",
        "        of recovery a bare O_DIRECT read of the same 8 MiB",
    ]


if __name__ == "__main__":
    sys.exit(main())
