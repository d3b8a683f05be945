"""`make fuzz`: feeds every parser of documents with changed documents and prints one table; JSON beside it.

Rules: `--short` is CI's form; naming targets feeds those. Exit code 0 when every row is good. Each target has a process
of its own, as many at a time as there are processors.

What this module does not do: it feeds nothing itself (`worker`).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from fuzz.table import Row, show
from fuzz.targets import TARGETS

BUILD = Path(__file__).parents[2] / "build"
SHORT, LONG = 60_000, 600_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    names = [each.name for each in TARGETS]
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="CI's form")
    parser.add_argument("--inputs", type=int, help=f"for each target; {LONG:,}, or {SHORT:,} in CI's form")
    parser.add_argument("--seed", type=int, default=1, help="another one makes other inputs")
    parser.add_argument("--out", type=Path, default=BUILD, metavar="DIR", help="for the table and the JSON")
    parser.add_argument("targets", nargs="*", choices=[[], *names], metavar="TARGET", help=f"of {', '.join(names)}")
    arguments = parser.parse_args(argv)
    inputs = arguments.inputs or (SHORT if arguments.short else LONG)
    arguments.out.mkdir(parents=True, exist_ok=True)
    began_at = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = list(
            pool.map(lambda name: _feed(name, inputs, arguments.seed, arguments.out), arguments.targets or names)
        )
    table = f"{show(rows)}\n{sum(row.inputs for row in rows):,} inputs, {time.monotonic() - began_at:.0f} s\n"
    name = "fuzz-short" if arguments.short else "fuzz"
    kept = [asdict(row) | {"good": row.is_good} for row in rows]
    (arguments.out / f"{name}.json").write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    (arguments.out / f"{name}.txt").write_text(table, "utf-8")
    sys.stdout.write(table)
    return 0 if all(row.is_good and row.inputs >= inputs for row in rows) else 1


def _feed(name: str, inputs: int, seed: int, out: Path) -> Row:
    command = [
        sys.executable,
        "-m",
        "fuzz.worker",
        name,
        "--inputs",
        str(inputs),
        "--seed",
        str(seed),
        "--out",
        str(out),
    ]
    sys.stderr.write(f"fuzz: {name} ...\n")
    done = subprocess.run(command, check=False, text=True, capture_output=True)
    try:
        return Row(**json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        return Row(name, "none", failures=[f"the process ended with {done.returncode}: {done.stderr[-500:]!a}"])


if __name__ == "__main__":
    sys.exit(main())
