"""The judges of F10 find nothing wrong with the anchor, and find every anchor that is wrong on purpose."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash import license_events, restores
from crash.license_events import Cuts
from crash.plant import Plant
from crash.table import Row, Scale
from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.domain.anchoring import Reading
from smartserver_licensed.domain.seats import _Draft
from support.tpm import Tpm


@dataclass
class Counter:
    """An anchor in memory; implements `controller.ports.Anchor`."""

    kind = "tpm"
    counted: int | None = None
    is_in_use: bool = False

    async def read(self) -> Reading:
        return Reading(self.counted, self.is_in_use)

    async def count(self) -> int:
        self.counted = (self.counted or 0) + 1
        return self.counted

    async def use(self) -> None:
        self.is_in_use = True


class Stuck(Counter):
    """Never counts beyond its first."""

    async def count(self) -> int:
        self.counted = 1
        return 1


def restored(directory: Path, anchor: Counter | None, *, devices: int = restores.FITTING) -> Row:
    plant = Plant(directory / "plant", capacity=restores.CAPACITY, anchor=anchor)
    return asyncio.run(restores.restored(plant, "", 16, devices=devices))


def test_old_images_are_told_by_an_anchor(tmp_path: Path) -> None:
    row = restored(tmp_path, Counter())
    assert row.failures == []
    assert int(row.figures["older: rolled-back"]) > 8


def test_without_an_anchor_they_are_not_told_and_no_running_device_hears_false(tmp_path: Path) -> None:
    row = restored(tmp_path, None)
    assert row.failures == []
    assert int(row.figures["older: ok"]) > 8


def test_an_anchor_that_does_not_count_is_found(tmp_path: Path) -> None:
    assert restored(tmp_path, Stuck()).silent > 0


def test_seats_beyond_the_capacity_and_false_to_running_devices_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Draft, "free", property(lambda _: 1))
    assert restored(tmp_path, None, devices=restores.CROWDED).doubled > 0


@pytest.mark.needs("swtpm", "tpm2_nvread")
def test_a_license_event_may_be_cut_anywhere(tmp_path: Path) -> None:
    (row,) = license_events.run(Scale(is_short=True), tmp_path)
    assert row.failures == []
    assert row.states > 12


@pytest.mark.needs("swtpm", "tpm2_nvread")
def test_an_event_that_is_counted_before_it_is_durable_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def count_first(self: Anchoring, expected: int | None) -> int | None:
        return await self._anchor.count() if self._anchor is not None else None

    async def count_no_more(self: Anchoring) -> None:
        return None

    monkeypatch.setattr(Anchoring, "next_count", count_first)
    monkeypatch.setattr(Anchoring, "count", count_no_more)
    row = Row("F10", "")
    with Tpm() as tpm:
        asyncio.run(Cuts(tmp_path / "plant", tpm, row).cut_everything())
    assert row.silent > 0
