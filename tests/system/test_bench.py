"""`make bench` in its short form: table and JSON are complete. Whether aims are met is for the long form to say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
TOPICS = {"a", "b", "c", "d", "e", "f", "g", "h", "i"}
HAS_AN_AIM = {
    "a",
    "b",
    "b.start",
    "c",
    "c.turnover",
    "c.core",
    "d",
    "d.flat",
    "e",
    "f",
    "f.burst",
    "g",
    "i",
    "i.request",
    "i.return",
}
NO_MORE_THAN = {  # times its limit: far beyond every aim, on a machine that does much else
    "a": 500,
    "c": 20,
    "c.turnover": 20,
    "c.core": 20,
    "d": 10,
    "d.flat": 3,
    "e": 20,
    "f": 50,
    "g": 500,
    "i": 50,
    "i.request": 50,
    "i.return": 50,
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks.bench", "--short", "--out", str(directory)]
    environment = {**os.environ, "PYTHONPATH": "tests"}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, timeout=590, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (directory / "bench-short.txt").read_text()
    return directory


@pytest.fixture(scope="module")
def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in json.loads((out / "bench-short.json").read_text())["rows"]}


def test_every_topic_is_measured_with_ordered_numbers_and_finite_ratios(rows: dict[str, dict[str, Any]]) -> None:
    assert {key.partition(".")[0] for key in rows} == TOPICS
    assert {key for key, row in rows.items() if row["aim"]} >= HAS_AN_AIM
    for key, row in rows.items():
        for figures in filter(None, (row["measured"], row["limit"])):
            assert 0 <= figures["min"] <= figures["median"] <= figures["p99"] < math.inf, key
            assert figures["count"] >= 1, key
        assert (row["ratio"] is None) == (row["limit"] is None), key
        assert row["ratio"] is None or (math.isfinite(row["ratio"]) and row["ratio"] > 0), key
        assert (row["is_met"] is None) == (row["aim"] is None), key


def test_the_figures_are_sane(rows: dict[str, dict[str, Any]]) -> None:
    ratios = {key: rows[key]["ratio"] for key in NO_MORE_THAN}
    assert {key: ratio for key, ratio in ratios.items() if ratio > NO_MORE_THAN[key]} == {}
    assert rows["b"]["ratio"] > 0.01
    assert rows["b.start"]["measured"]["min"] == 2_000
    assert "0 unanswered" in rows["b"]["note"]
    assert rows["d"]["measured"]["p99"] < 200  # MB


def test_a_license_event_is_two_appends_and_a_rewrite_of_both_logs_and_a_request_one_append(
    rows: dict[str, dict[str, Any]],
) -> None:
    done = {key: rows[key]["limit_what"].partition(", ")[2] for key in ("i", "i.request", "i.return")}
    assert done["i.request"] == "2 writes of 8,192 bytes together, 2 syncs"
    for key in ("i", "i.return"):
        assert done[key].startswith("8 writes of ")
        assert done[key].endswith(" 8 syncs")


def test_the_table_has_a_line_for_each_row_and_says_on_what_machine_and_disk(
    out: Path, rows: dict[str, dict[str, Any]]
) -> None:
    table = (out / "bench-short.txt").read_text()
    machine = json.loads((out / "bench-short.json").read_text())["machine"]
    lines = table.splitlines()
    for key in rows:
        assert any(line.split(maxsplit=1)[0] == key for line in lines[3:] if line), key
    assert machine["file_system"] in lines[1]
    assert machine["device"] in lines[1]
    assert str(machine["date"]) in lines[0]
