"""The judges of F10 find nothing wrong with the anchor, and find every anchor that is wrong on purpose."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash import license_events, restores
from crash.license_events import Cuts
from crash.plant import Plant
from crash.table import Row, Scale
from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.contacting import Return, return_events, sealed
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.domain.anchoring import Reading
from smartserver_licensed.domain.errors import AnchorError
from smartserver_licensed.domain.seats import _Draft
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
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


class Uncountable(Counter):
    """Fails to count for a while."""

    is_uncountable = False

    async def count(self) -> int:
        if self.is_uncountable:
            raise AnchorError("injected")
        return await super().count()


def test_a_proof_does_not_leave_before_the_anchor_has_counted_its_return(tmp_path: Path) -> None:
    counter = Uncountable()
    plant = Plant(tmp_path / "plant", capacity=restores.CAPACITY, anchor=counter)

    async def give_back() -> str:
        await plant.start()
        assert await plant.license() == ""
        counter.is_uncountable = True
        refused = await plant.give_back(1)
        await plant.stop()
        return refused

    assert asyncio.run(give_back()), "else the copy from before it, which the anchor does not tell, has the devices too"


@pytest.mark.needs("swtpm", "tpm2_nvread")
def test_a_license_event_may_be_cut_anywhere(tmp_path: Path) -> None:
    (row,) = license_events.run(Scale(is_short=True), tmp_path)
    assert row.failures == []
    assert row.states > 20
    assert all(row.figures[made] for made in ("return made and cut", "return not made and cut", "return made"))
    assert all(row.figures[made] for made in ("upgrade made and cut", "upgrade made"))


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
        cuts = Cuts(tmp_path / "plant", tpm, row)

        async def cut() -> None:
            await cuts.begin()
            await cuts.cut_grants()

        asyncio.run(cut())
    assert row.silent > 0


@pytest.mark.needs("swtpm", "tpm2_nvread")
def test_a_proof_of_a_return_that_is_not_durable_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def make_return(self: Licensing, wanted: Return) -> bytes:
        state = decode_snapshot(encode_snapshot(self._require_state("return")))
        for event in return_events(state, wanted, await self._facts(), nonce=secrets.token_hex(16)):
            state.apply(event)
        return sealed(state, state.returns[max(state.returns)])

    monkeypatch.setattr(Licensing, "make_return", make_return)
    row = Row("F10", "")
    with Tpm() as tpm:
        asyncio.run(Cuts(tmp_path / "plant", tpm, row).cut_returns())
    assert row.lost > 0
    assert any("0 devices were returned" in each for each in row.failures)
