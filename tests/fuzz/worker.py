"""One target fed with inputs, in a process of its own: by Atheris, led by coverage, where it is installed; else by our
mutator alone. Prints its row as JSON.

Rules: only DocumentError may come out of a target; what the process needs beyond its first tenth of inputs is bounded;
an input that fails is kept as a file. Our mutator makes the same inputs for the same seed.

What this module does not do: it knows no target's insides.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from fuzz.mutator import LARGEST, mutate
from fuzz.table import Row
from smartserver_licensed.domain.errors import DocumentError

try:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
except ImportError:
    atheris = None

if TYPE_CHECKING:
    from fuzz.targets import Target

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_SHOWN = 3


class Run:
    """Counts what comes of each input; when there were enough, prints the row and ends the process."""

    def __init__(self, target: Target, inputs: int, engine: str, out: Path) -> None:
        self._target, self._inputs, self._out = target, inputs, out
        self._row = Row(target.name, engine)
        self._codes: Counter[str] = Counter()
        self._began_at = time.monotonic()
        self._peak_before = 0

    def take(self, data: bytes) -> None:
        """Feed one input."""
        row = self._row
        row.inputs += 1
        row.largest = max(row.largest, len(data))
        try:
            self._target.run(data)
            row.accepted += 1
        except DocumentError as error:
            self._codes[error.code] += 1
            if not str(error).isprintable() or len(str(error)) > 1_000:
                self._fail(data, f"a message that is not short and printable: {error!a}")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            self._fail(data, f"{type(error).__name__}: {error!a}"[:300])
        if row.inputs == max(1, self._inputs // 10):
            gc.collect()
            self._peak_before = _peak_kib()
        if row.inputs >= self._inputs:
            self._end()

    def _fail(self, data: bytes, why: str) -> None:
        self._row.failed += 1
        if len(self._row.failures) < _SHOWN:
            path = self._out / f"fuzz-{self._target.name}-{self._row.failed}.input"
            path.write_bytes(data)
            self._row.failures.append(f"{why}: {path}")

    def _end(self) -> None:
        self._row.growth_mib = round((_peak_kib() - self._peak_before) / 1024, 1)
        self._row.codes = dict(sorted(self._codes.items()))
        self._row.seconds = round(time.monotonic() - self._began_at, 1)
        sys.stdout.write(json.dumps(asdict(self._row)) + "\n")
        sys.stdout.flush()
        os._exit(0)  # libFuzzer has no other way to be told to stop


def main() -> None:
    """Feed one target; the row comes on standard output."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--inputs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    with atheris.instrument_imports(include=["smartserver_licensed"]) if atheris else nullcontext():
        from fuzz.targets import TARGETS  # noqa: PLC0415 - what is imported here can be led by coverage

    target = next(each for each in TARGETS if each.name == arguments.target)
    run = Run(target, arguments.inputs, "Atheris" if atheris else "mutator", arguments.out)
    (_with_atheris if atheris else _with_mutator)(target, run.take, arguments.seed)


def _with_mutator(target: Target, take: Callable[[bytes], None], seed: int) -> None:
    random = Random(seed)
    for data in target.seeds:
        take(data)
    while True:
        take(mutate(random.choice(target.seeds), target.seeds, random))


def _with_atheris(target: Target, take: Callable[[bytes], None], seed: int) -> None:
    assert atheris is not None

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        begin = data if len(data) > 1 and random.random() < 0.5 else random.choice(target.seeds)
        return mutate(begin, target.seeds, random)[:max_size]

    for data in target.seeds:
        take(data)
    options = [f"-seed={seed}", f"-max_len={LARGEST}", "-len_control=0", "-verbosity=0", "-timeout=60"]
    atheris.Setup([sys.argv[0], *options], take, custom_mutator=mutator)
    atheris.Fuzz()


def _peak_kib() -> int:
    found = _PEAK.search(Path("/proc/self/status").read_text("utf-8"))
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
