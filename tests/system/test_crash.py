"""`make crash` in its short form: every fault is tried, nothing is lost, doubled or silent, and the table says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.needs(
        "mosquitto", "dbus-daemon", "losetup", "root", "/dev/fuse", "/dev/loop-control", "strace", "swtpm", "mkfs.ext4"
    ),
    pytest.mark.timeout(3_000),  # promised: five minutes
]
ROOT = Path(__file__).parents[2]
FAULTS = {"F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F16"}
AT_LEAST = {"F1": 2_000, "F2": 500, "F3": 500, "F4": 30, "F5": 1_000, "F6": 9, "F7": 10_000, "F8": 10_000, "F10": 100}


def test_every_fault_is_tried_and_nothing_is_lost_doubled_or_silent(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crash.main", "--short", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": "tests:."}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "crash-short.json").read_text())
    assert {row["fault"] for row in rows} == FAULTS
    assert all(row["good"] for row in rows)
    for fault, states in AT_LEAST.items():
        assert sum(row["states"] for row in rows if row["fault"] == fault) >= states, fault
    table = (tmp_path / "crash-short.txt").read_text()
    assert table == done.stdout
    assert all(row["what"] in table for row in rows)


def test_a_fault_that_nobody_knows_is_a_usage_error() -> None:
    environment = {**os.environ, "PYTHONPATH": "tests:."}
    done = subprocess.run(
        [sys.executable, "-m", "crash.main", "F99"],
        check=False,
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "F16" in done.stderr
