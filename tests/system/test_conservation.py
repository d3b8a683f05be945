"""`make conservation` in its short form; and the model that it holds the programs to notices what it is made for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conservation.chance import Choice
from conservation.field import Field
from conservation.main import SHORT_SEQUENCES, a_vendor, play
from conservation.rules import RULES

pytestmark = pytest.mark.timeout(1_800)

ROOT = Path(__file__).parents[2]
ENOUGH = 100  # sequences in which a broken promise is noticed


def test_no_device_is_licensed_twice_and_none_is_lost_whatever_happens(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "conservation.main", "--short", "--out", str(tmp_path)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests:."},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "conservation-short.json").read_text())
    assert sum(row["sequences"] for row in rows) >= SHORT_SEQUENCES
    assert {row["driver"] for row in rows} == {"Hypothesis", "seeds"}
    for what in ("cuts", "authority cuts", "credits", "restored", "cloned", "forks", "key-retired", "replaced"):
        assert sum(row["counts"].get(what, 0) for row in rows) > 0, what
    assert (tmp_path / "conservation-short.txt").read_text() == done.stdout


def test_an_old_copy_of_the_register_is_noticed() -> None:
    images: list[bytes] = []

    def goes_back(field: Field, choice: Choice) -> None:
        image = field.vendor.image()
        if images and choice.below(2):
            field.vendor.put_back(images.pop())
            field.look_at_authority()
        else:
            images.append(image)

    with a_vendor() as vendor:
        found = []
        for seed in range(ENOUGH):
            images.clear()
            found.append(play(vendor, seed, rules=(*RULES, (goes_back, 10)))[1])
    assert any("BrokenError" in each for each in found)


def test_a_disk_that_says_it_has_synced_is_noticed() -> None:
    with a_vendor() as vendor:
        found = [play(vendor, seed, is_honest=False)[1] for seed in range(ENOUGH)]
    assert any("BrokenError" in each for each in found)
