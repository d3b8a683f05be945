"""`make conservation`: many sequences of whatever can happen to licenses; one table, build/conservation.json beside it.

Rules: a tenth of the sequences is driven by Hypothesis, which shrinks what it finds, the others by seeds, which are
twice as fast; `--short` is CI's form. `--seed N` tells the story of one sequence. Exit code 0 when all sequences were
tried and no promise was broken.

What this module does not do: it has no rule of its own (`rules`, `field`).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .field import Field
from .machine import ConservationMachine
from .rules import RULES, Rule
from .vendor import Vendor

BUILD = Path(__file__).parents[2] / "build"
SEQUENCES, SHORT_SEQUENCES = 20_000, 1_000
_LEAST_STEPS, _MORE_STEPS = 5, 40
_MEMORY = Path("/dev/shm")  # a tmpfs, where it is one
_KEPT_FAILURES = 5

_WORDS = {
    "steps": "steps taken",
    "grants": "grants that left the authority",
    "returned": "returns made",
    "credits": "returns credited",
    "cuts": "power cuts, SmartServers (at any write or sync)",
    "authority cuts": "power cuts, authority (before or after the commit)",
    "restored": "old images put back",
    "cloned": "SmartServers cloned",
    "wiped": "partitions lost",
    "boards": "mainboards exchanged",
    "replaced": "RMAs",
    "forks": "copies found: the first contact",
    "contact-forked": "refused: contact-forked",
    "totals-fallen": "refused: totals-fallen",
    "key-retired": "refused: key-retired",
    "smartserver-retired": "refused: smartserver-retired",
    "confirmation-needed": "refused: confirmation-needed",
}


class Seeded:
    """Implements `rules.Choice`; the same seed is the same sequence."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def below(self, limit: int) -> int:
        return self.chance.randrange(limit)


@dataclass
class Found:
    """What came of some sequences."""

    driver: str
    sequences: int = 0
    broken: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take over what another process has found."""
        self.sequences += other.sequences
        self.broken += other.broken
        self.counts += other.counts
        self.failures = [*self.failures, *other.failures][:_KEPT_FAILURES]


def play(
    vendor: Vendor, seed: int, *, rules: Sequence[tuple[Rule, int]] = RULES, is_honest: bool = True
) -> tuple[Field, str]:
    """One sequence; what was broken, or ""."""
    choice = Seeded(seed)
    played = Field(vendor, random.Random(seed), is_honest=is_honest)
    acts, weights = zip(*rules, strict=True)
    try:
        for _ in range(_LEAST_STEPS + choice.below(_MORE_STEPS)):
            choice.chance.choices(acts, weights)[0](played, choice)
            played.counts["steps"] += 1
            played.check()
        played.tell("everybody tells all")
        played.settle()
    except Exception:  # noqa: BLE001 - whatever it is, it is found
        return played, traceback.format_exc(limit=-2)
    return played, ""


def play_seeds(seeds: range) -> Found:
    """Some sequences by their seeds; in a process of its own."""
    found = Found("seeds")
    with a_vendor() as vendor:
        for seed in seeds:
            played, broken = play(vendor, seed)
            found.sequences += 1
            found.counts += played.counts
            found.counts["cuts"] += sum(body.server.cuts for body in played.bodies)
            if broken:
                found.broken += 1
                found.failures.append(f"--seed {seed}: {broken.strip().splitlines()[-1]}")
        found.counts["authority cuts"] = vendor.cuts
    return found


def play_machine(sequences: int) -> Found:
    """Some sequences by Hypothesis; in a process of its own."""
    found = Found("Hypothesis")
    with a_vendor() as vendor:
        ConservationMachine.vendor = vendor
        ConservationMachine.counts = found.counts
        try:
            run_state_machine_as_test(
                ConservationMachine,
                settings=settings(
                    max_examples=sequences,
                    stateful_step_count=_LEAST_STEPS + _MORE_STEPS // 2,
                    deadline=None,
                    database=None,
                    derandomize=False,  # in CI too: each process looks elsewhere
                    suppress_health_check=list(HealthCheck),
                    phases=(Phase.generate, Phase.shrink),
                ),
            )
        except Exception:  # noqa: BLE001 - as in `play`
            found.broken += 1
            found.failures.append(traceback.format_exc())
        found.sequences = found.counts.pop("sequences", 0)
        found.counts["authority cuts"] = vendor.cuts
    return found


@contextmanager
def a_vendor() -> Iterator[Vendor]:
    """An authority in memory; nothing is written to the log meanwhile."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(prefix="conservation-", dir=_MEMORY if _MEMORY.is_dir() else None))
    vendor = Vendor(directory)
    try:
        yield vendor
    finally:
        logging.disable(disabled)
        vendor.close()
        shutil.rmtree(directory)


def run(sequences: int, jobs: int) -> list[Found]:
    """All of it, on so many processors."""
    each = sequences // 10 // jobs
    by_seeds = range(sequences - each * jobs)
    batch = max(1, min(100, sequences // (4 * jobs)))
    tasks = [by_seeds[start : start + batch] for start in by_seeds[::batch]]
    rows = [Found("Hypothesis"), Found("seeds")]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for row, parts in (
            (rows[0], pool.imap_unordered(play_machine, [each] * jobs)),
            (rows[1], pool.imap_unordered(play_seeds, tasks)),
        ):
            began_at = time.monotonic()
            for part in parts:
                row.add(part)
                sys.stderr.writelines(f"{failure}\n" for failure in part.failures)
            row.seconds = time.monotonic() - began_at
            sys.stderr.write(f"conservation: {row.driver}: {row.sequences:,} sequences, {row.broken} broken\n")
    return rows


def show(rows: list[Found]) -> str:
    """The table, as a person reads it."""
    width = max(map(len, _WORDS.values()))
    lines = [f"{'':<{width}} " + " ".join(f"{row.driver:>12}" for row in rows)]

    def line(name: str, values: list[str]) -> None:
        lines.append(f"{name:<{width}} " + " ".join(f"{value:>12}" for value in values))

    line("sequences", [f"{row.sequences:,}" for row in rows])
    for key, words in _WORDS.items():
        line(words, [f"{row.counts[key]:,}" for row in rows])
    line("promises broken", [f"{row.broken:,}" for row in rows])
    line("seconds", [f"{row.seconds:,.0f}" for row in rows])
    lines += [failure for row in rows for failure in row.failures]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(prog="make conservation", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help=f"CI's form: {SHORT_SEQUENCES:,} sequences")
    parser.add_argument("--sequences", type=int, metavar="N", help=f"default: {SEQUENCES:,}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (%(default)s)")
    parser.add_argument("--out", default=str(BUILD), metavar="DIR", help="for the table and the JSON")
    parser.add_argument("--seed", type=int, metavar="N", help="tell the story of one sequence")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        with a_vendor() as vendor:
            played, broken = play(vendor, arguments.seed)
        sys.stdout.write("\n".join([*played.story, broken or "no promise was broken"]) + "\n")
        return 1 if broken else 0
    wanted = arguments.sequences or (SHORT_SEQUENCES if arguments.short else SEQUENCES)
    rows = run(wanted, arguments.jobs)
    table = show(rows)
    name = "conservation-short" if arguments.short else "conservation"
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n", "utf-8")
    (out / f"{name}.txt").write_text(table, "utf-8")
    sys.stdout.write(table)
    is_good = sum(row.sequences for row in rows) >= wanted and not any(row.broken for row in rows)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
