"""`make bench`: measures everything in one run on one machine and prints one table; JSON beside it.

Rules: a figure and its limit are measured in turns, so that a busy machine is busy for both; `--short` is about a tenth
of it, for tests. Exit code 0 when it ran to its end, whether or not aims are met.

What this module does not do: it measures nothing itself.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from benchmarks import answer, cost, dbus_get, documents, idle, process, start
from benchmarks.memory import Memory
from benchmarks.smartserver import BUILD, Field, measured
from benchmarks.table import Json, Row, render, to_json

_DEVICES = 1_000


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="about a tenth: to see that it works")
    parser.add_argument("--out", default=str(BUILD), metavar="DIR", help="for the table and the JSON")
    arguments = parser.parse_args()
    is_short, out = bool(arguments.short), Path(arguments.out)
    begin = time.monotonic()
    BUILD.mkdir(exist_ok=True)
    _let_modules_be_compiled()
    machine = process.machine(BUILD)
    rows = sorted([*_rows(is_short=is_short)], key=lambda row: row.key.partition(".")[0])
    machine |= {"is_short": is_short, "seconds": round(time.monotonic() - begin)}
    table = render(_head(machine), rows)
    name = "bench-short" if is_short else "bench"
    (out / f"{name}.json").write_text(to_json(machine, rows))
    (out / f"{name}.txt").write_text(table)
    sys.stdout.write(table)
    return 0


def _let_modules_be_compiled() -> None:
    """As they are where the package is installed; an environment may forbid it, and a source tree may be younger."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(BUILD / "bench" / "pycache")


def _rows(*, is_short: bool) -> list[Row]:
    _tell("answers: one at a time, at once, a freed seat")
    rows = answer.measure(is_short=is_short)
    _tell("cost an event")
    rows += cost.measure(is_short=is_short)
    _tell("documents")
    rows += documents.measure(is_short=is_short)
    handles = [f"m{number}" for number in range(_DEVICES)]
    with measured(capacity=3_900) as box:
        field = Field(box.broker.port)
        memory = Memory(box, field, handles)
        memory.look("start")
        field.bring(handles)
        memory.look("devices")
        _tell("idle")
        rows += idle.measure(box, is_short=is_short)
        _tell("memory")
        memory.run(is_short=is_short)
        rows += memory.rows(is_short=is_short)
        _tell("D-Bus")
        rows += dbus_get.measure(box, is_short=is_short)
        _tell("start")
        rows += start.measure(box, is_short=is_short)
        field.close()
    return rows


def _head(machine: dict[str, Json]) -> list[str]:
    form = "short form: a tenth, to see that it works" if machine["is_short"] else "long form"
    system = f"{machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}"
    parts = f"Python {machine['python']}, mosquitto {machine['mosquitto']}"
    state = f"state on {machine['file_system']} ({machine['device']}): preallocated files, buffered writes, fdatasync"
    return [
        f"smartserver-licensed beside its limits, {machine['date']}, {machine['seconds']} s, {form}",
        f"{system}, {parts}; {state}",
    ]


def _tell(what: str) -> None:
    sys.stderr.write(f"bench: {what} ...\n")


if __name__ == "__main__":
    sys.exit(main())
