"""`make fuzz` in its short form: no parser lets anything but its own errors out, and the table says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.table import MAX_GROWTH_MIB, Row, show

pytestmark = pytest.mark.timeout(1_800)  # promised: three minutes
ROOT = Path(__file__).parents[2]
TARGETS = ["envelope", "root", "grant", "request", "return", "armor", "acceptance"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "src:tests:."}
    return subprocess.run(
        [sys.executable, *command], check=False, cwd=ROOT, env=environment, text=True, capture_output=True
    )


def test_every_parser_is_fed_and_nothing_but_the_error_tree_comes_out(tmp_path: Path) -> None:
    done = run("-m", "fuzz.main", "--short", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "fuzz-short.json").read_text())
    assert [row["target"] for row in rows] == TARGETS
    assert all(row["good"] and row["inputs"] >= 60_000 and row["accepted"] >= 100 for row in rows)
    assert (tmp_path / "fuzz-short.txt").read_text() == done.stdout


def test_a_target_that_nobody_knows_is_a_usage_error() -> None:
    done = run("-m", "fuzz.main", "letters")
    assert done.returncode == 2
    assert "acceptance" in done.stderr


def test_what_a_parser_lets_out_is_counted_and_its_input_kept(tmp_path: Path) -> None:
    done = run(
        "-c",
        "from pathlib import Path\nfrom fuzz.targets import Target\nfrom fuzz.worker import Run\n"
        f"run = Run(Target('broken', [b'{{}}'], lambda data: 1 / 0), 5, 'none', Path({str(tmp_path)!r}))\n"
        "for number in range(5):\n    run.take(b'input %d' % number)\n",
    )
    row = Row(**json.loads(done.stdout))
    assert (row.inputs, row.failed, row.is_good) == (5, 5, False)
    assert "ZeroDivisionError" in row.failures[0]
    assert (tmp_path / "fuzz-broken-1.input").read_bytes() == b"input 0"


def test_a_row_is_good_only_where_something_was_accepted_and_memory_is_bounded() -> None:
    good = Row("grant", "mutator", inputs=10, accepted=1)
    assert good.is_good
    bad = [
        Row("grant", "mutator", inputs=10),
        Row("grant", "mutator", inputs=10, accepted=1, failed=1),
        Row("grant", "mutator", inputs=10, accepted=1, growth_mib=MAX_GROWTH_MIB + 1),
        Row("grant", "none", accepted=1, failures=["the process ended with 1"]),
    ]
    assert not any(row.is_good for row in bad)
    assert show([good, *bad]).count("FAIL") == 4
