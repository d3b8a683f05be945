"""`make crash`: tries every fault of docs/storage.md on the real thing and prints one table; JSON beside it.

Rules: `--short` is CI's form, under five minutes on two cores; naming faults (F1, F7, …) tries the parts with them.
Exit code 0 when everything asked for was tried and nothing was lost, doubled or silent.

What this module does not do: it tries nothing itself.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import storage

from crash import conditions, damage, full_disk, power_cut, restores, swaps, system_calls
from crash.table import Row, Scale, keep, show

BUILD = Path(__file__).parents[2] / "build"
_PARTS: tuple[tuple[tuple[str, ...], str, Callable[[Scale, Path], list[Row]]], ...] = (
    (("F1", "F2", "F3"), "power cuts at any instant, during recovery, after kills and failed syncs", power_cut.run),
    (("F4",), "system calls that fail", system_calls.run),
    (("F5",), "full and read-only file systems", full_disk.run),
    (("F6",), "storage conditions", conditions.run),
    (("F7", "F8"), "damage", damage.run),
    (("F9",), "swapped logs", swaps.run),
    (("F10",), "old copies", restores.run),
    (("F16",), "wear", storage.run),
)


def main() -> int:
    """Run; the exit code."""
    known = [fault for faults, _, _ in _PARTS for fault in faults]
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="CI's form")
    parser.add_argument("--out", default=str(BUILD), metavar="DIR", help="for the table and the JSON")
    parser.add_argument("faults", nargs="*", choices=[[], *known], metavar="FAULT", help=f"of {', '.join(known)}")
    arguments = parser.parse_args()
    wanted = arguments.faults or known
    began_at = time.monotonic()
    rows: list[Row] = []
    for faults, what, run in _PARTS:
        if not set(faults) & set(wanted):
            continue
        sys.stderr.write(f"crash: {', '.join(faults)}: {what} ...\n")
        directory = Path(tempfile.mkdtemp(prefix="crash-"))
        found = run(Scale(is_short=arguments.short), directory)
        rows += found
        if all(row.is_good for row in found):
            shutil.rmtree(directory)
        else:
            sys.stderr.write(f"crash: what a failure names is kept in {directory}\n")
    table = f"{show(rows)}\n{sum(row.states for row in rows):,} states, {time.monotonic() - began_at:.0f} s\n"
    name = "crash-short" if arguments.short else "crash"
    out = Path(arguments.out)
    keep(rows, out / f"{name}.json")
    (out / f"{name}.txt").write_text(table, "utf-8")
    sys.stdout.write(table)
    tried = {row.fault for row in rows}
    return 0 if all(row.is_good for row in rows) and set(wanted) <= tried else 1


if __name__ == "__main__":
    sys.exit(main())
