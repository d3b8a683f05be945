"""What the ledger writes is counted by the kernel, the limits of F16 hold, and a ledger that breaks them is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import storage, storage_recovery
from benchmarks.loop_device import Written, ext4, loop_device, write_all
from benchmarks.storage import Amounts, limits_broken
from benchmarks.stores import OurLedger
from benchmarks.table import Aim, Figures, Row

from crash.table import Scale

pytestmark = [pytest.mark.needs("root", "losetup", "mkfs.ext4", "/dev/loop-control"), pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
PAGE = bytes(range(256)) * 16
OURS = {"burst", "burst.writer", "burst.10", "burst.100", "alone", "alone.writer", "alone.10", "alone.100"}
LIMITED = OURS | {"time", "recovery", "full", "years", "years.50"}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("storage")
    command = [sys.executable, "-m", "benchmarks.storage", "--short", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": "tests"}
    done = subprocess.run(command, check=False, cwd=ROOT, env=environment, timeout=590, text=True, capture_output=True)
    assert done.stdout == (out / "storage-short.txt").read_text(), done.stderr
    found = json.loads((out / "storage-short.json").read_text())["rows"]
    assert done.returncode == any(row["is_met"] is False for row in found)
    return {row["key"]: row for row in found}


def test_our_commits_write_no_more_than_ten_kilobytes_in_bursts_and_alone(rows: dict[str, dict[str, Any]]) -> None:
    assert {key for key, row in rows.items() if row["aim"]} == LIMITED
    for key in OURS:
        assert 8.0 < rows[key]["measured"]["min"] <= rows[key]["measured"]["p99"] < 10.0, key


def test_every_commit_of_ours_is_flushed(rows: dict[str, dict[str, Any]]) -> None:
    for key in (key for key in OURS if key.startswith("burst")):
        assert float(rows[key]["note"].removesuffix(" flushes a commit")) >= 1.0, key


def test_the_others_do_the_same_commits_and_write_more(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["alone.sqlite"]["ratio"] > 2
    assert rows["alone.lmdb"]["ratio"] > 2
    assert rows["burst.sqlite.10"]["ratio"] > 4
    assert rows["burst.lmdb.10"]["ratio"] > 3
    assert rows["alone.ext4"]["ratio"] > 2


def test_a_full_ledger_comes_up_and_ten_years_are_within_the_limit(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["recovery"]["measured"]["median"] < 10_000  # ms; the promise is 1,000
    parts = sum(rows[f"recovery.{part}"]["measured"]["min"] for part in ("open", "replay", "settle"))
    assert 0 < parts <= rows["recovery"]["measured"]["p99"]
    assert rows["years.50"]["is_met"]


def test_nothing_is_left_mounted(rows: dict[str, dict[str, Any]]) -> None:
    assert rows
    assert f"{ROOT}/build/storage-" not in Path("/proc/mounts").read_text()
    assert [path for path in (ROOT / "build").glob("storage-*") if path.is_dir()] == []


def test_the_kernel_counts_what_is_written_and_also_what_was_put_off(tmp_path: Path) -> None:
    with loop_device(tmp_path / "disk.img") as device:
        before = device.written
        with device.path.open("r+b", buffering=0) as file:
            file.write(PAGE * 3)
            os.fdatasync(file.fileno())
        assert device.written - before == Written(3 * len(PAGE), 1)
        with ext4(device, tmp_path / "mounted") as directory:
            write_all(directory)
            before = device.written
            (directory / "put-off").write_bytes(PAGE)
            assert device.written == before
            write_all(directory)
            assert (device.written - before).bytes > len(PAGE)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def a_few_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Amounts, "of", lambda **_: Amounts(60, 1, 5, 1, 60, 2))
    monkeypatch.setattr(storage_recovery, "measure", lambda *_, **__: ([], 0.0))


@pytest.mark.usefixtures("a_few_commits")
def test_a_ledger_that_writes_each_record_twice_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    once = OurLedger.commit
    monkeypatch.setattr(OurLedger, "commit", lambda self, commit: once(self, commit) + once(self, commit))
    (row,) = storage.run(Scale(is_short=True), tmp_path)
    found = {sentence.partition(":")[0] for sentence in row.failures}
    assert found >= {"burst", "alone", "years.50"}
    assert "burst.writer" not in found
    assert row.states > 1_000


@pytest.mark.usefixtures("a_few_commits")
def test_a_ledger_that_takes_three_times_as_long_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    once = OurLedger.commit
    monkeypatch.setattr(OurLedger, "commit", lambda self, commit: 3 * once(self, commit))
    rows, _ = storage.measure(tmp_path, is_short=True)
    assert [sentence.partition(":")[0] for sentence in limits_broken(rows)] == ["time"]


def test_a_limit_that_does_not_hold_is_said_with_its_figure() -> None:
    slow = Figures.of([1_200.0])
    aim = Aim("<= 1 s", at_most=1_000.0, is_value=True)
    assert limits_broken([Row("recovery", "recovery", "ms", slow, Figures.of([20.0]), aim=aim)]) == [
        "recovery: 1,200 / 1,200 / 1,200 ms, 60.00x, not <= 1 s"
    ]
