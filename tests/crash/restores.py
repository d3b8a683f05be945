"""F10: old images of the ledger are restored, with a TPM as anchor and without; and the TPM is cleared, or gone.

Rules:
- with an anchor every image from before the last license event is `rolled-back`: it admits nothing, and runs on after a
  new grant. Images of the same license event cannot be told (only seats differ): they are counted apart;
- a TPM that was cleared is `anchor-lost` until a new grant; one that is gone, until it is there again;
- a return is a license event as well: with an anchor no image from before it gives the returned devices back;
- without an anchor nothing is detected here (the issuer's contact chain finds it): that is counted, and is no failure;
- either way there are never more seats than the capacity, and no running device hears `false` but where the seats of an
  older state leave none for it: a plant with more devices than seats shows that, and it is counted.

What this module does not do: it spoils no bytes (`damage`), swaps no logs (`swaps`), cuts no license event
(`license_events`).
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from smartserver_licensed.adapters.tpm import TpmCounter
from smartserver_licensed.domain.status import Storage
from support.tpm import Tpm

from . import license_events
from .damage import count
from .plant import Plant
from .swaps import put
from .table import Row, Scale

CAPACITY = 12
FITTING, CROWDED = 10, 20  # devices that come and go
_IMAGES_KEPT = 100
_RETRY_S = 61.0


class Restorer:
    """A plant that lives, meets with something, and lives on, again and again."""

    def __init__(self, plant: Plant, row: Row, *, devices: int) -> None:
        self._plant = plant
        self._row = row
        self._names = [f"d{number}" for number in range(devices)]
        self._chance = random.Random(devices)
        self._images: list[tuple[int, tuple[bytes, ...]]] = []  # with the number of license events before each

    async def live(self) -> None:
        """Devices come and go, a license sometimes; an image of each time."""
        for _ in range(self._chance.randint(1, 4)):
            if (what := self._chance.random()) < 0.2:
                await self.license()
            elif what < 0.25:
                await self.give_back()
            elif (name := self._chance.choice(self._names)) in self._plant.running:
                await self._plant.delete(name)
            else:
                await self._plant.ask(name)
            self._images.append((self._plant.license_events, self._plant.image()))
        while len(self._images) > _IMAGES_KEPT:
            self._images.pop(self._chance.randrange(len(self._images)))

    async def license(self) -> None:
        """A new grant, which must be accepted."""
        refused = await self._plant.license()
        if refused:
            self._row.fail("lost", f"grant {self._plant.grants} is refused: {refused}")

    async def give_back(self) -> None:
        """A device is returned, where that leaves a seat for every other one, and granted anew."""
        refused = await self._plant.give_back(1)
        if not refused or "[return-leaves-excess]" in refused:
            count(self._row, "returns refused" if refused else "returns")
        else:
            self._row.fail("lost", f"a return is refused: {refused}")
        self._images.append((self._plant.license_events, self._plant.image()))
        await self.license()

    async def restore(self) -> None:
        """Restore an image, look, and live on."""
        events, image = self._chance.choice(self._images)
        where = f"restore {self._row.states}: an image of license event {events}, now {self._plant.license_events}"
        is_old = events < self._plant.license_events
        await self._plant.stop()
        put(self._plant.directory, *image)
        await self._plant.start()
        self._row.states += 1
        count(self._row, f"{'older' if is_old else 'of the same license event'}: {self._plant.keeper.storage.value}")
        await self._expect(Storage.ROLLED_BACK if is_old and self._plant.anchor else Storage.OK, where)
        await self._live_on(where)

    async def lose(self, tpm: Tpm) -> None:
        """The TPM is cleared, or gone for a while; look, and live on."""
        is_cleared = self._row.states % 2 == 0
        where = f"loss {self._row.states}: {'cleared' if is_cleared else 'gone'}"
        await self._plant.stop()
        (tpm.clear if is_cleared else tpm.remove)()
        await self._plant.start()
        self._row.states += 1
        count(self._row, f"{'cleared' if is_cleared else 'gone'}: {self._plant.keeper.storage.value}")
        await self._expect(Storage.ANCHOR_LOST, where)
        if not is_cleared:
            tpm.insert()
            await self._plant.wait(_RETRY_S)
            await self._expect(Storage.OK, f"{where}, and there again")
        await self._live_on(where)

    async def _expect(self, storage: Storage, where: str) -> None:
        """The condition; where it admits nothing, a new device hears nothing."""
        if self._plant.keeper.storage is not storage:
            self._row.fail("silent", f"{where}: {self._plant.keeper.storage.value}, not {storage.value}")
        if not storage.is_writable:
            if await self._plant.ask("new"):
                self._row.fail("doubled", f"{where}: a device was admitted")
            await self._plant.delete("new")
        await self._check(where)

    async def _live_on(self, where: str) -> None:
        if not self._plant.keeper.storage.is_writable:
            await self.license()
            await self._expect(Storage.OK, f"{where}, and licensed anew")
        await self.live()
        await self._check(f"{where}, and lived on")

    async def _check(self, where: str) -> None:
        """What must never be; who hears false stops."""
        stopped = self._plant.stopped()
        if stopped and (len(self._names) < CAPACITY or not self._plant.keeper.storage.is_writable):
            self._row.fail("lost", f"{where}: {stopped} run, and heard false")
        elif stopped:
            count(self._row, "times that running devices heard false, as no seat was left")
        for name in stopped:
            await self._plant.delete(name)
        if beyond := self._plant.seats_beyond():
            if self._plant.anchor and beyond <= self._plant.adopted():
                count(self._row, "times that what runs was adopted beyond the capacity, for the grace")
            else:
                self._row.fail("doubled", f"{where}: {beyond} seats more than the capacity")


async def restored(plant: Plant, what: str, restores: int, *, devices: int) -> Row:
    """So many restores in a plant's life."""
    row = Row("F10", f"old images restored, {what}")
    begun = time.monotonic()
    await plant.start()
    restorer = Restorer(plant, row, devices=devices)
    await restorer.license()
    await restorer.live()
    for _ in range(restores):
        await restorer.restore()
    await plant.stop()
    row.seconds = time.monotonic() - begun
    return row


async def _lost(plant: Plant, tpm: Tpm, losses: int) -> Row:
    row = Row("F10", "the TPM cleared, or gone for a while")
    begun = time.monotonic()
    await plant.start()
    restorer = Restorer(plant, row, devices=FITTING)
    await restorer.license()
    for _ in range(losses):
        await restorer.lose(tpm)
    await plant.stop()
    row.seconds = time.monotonic() - begun
    return row


def run(scale: Scale, directory: Path) -> list[Row]:
    """F10; each plant begins anew."""

    def plant(name: str, tpm: Tpm | None = None) -> Plant:
        return Plant(directory / name, capacity=CAPACITY, anchor=TpmCounter(tpm.tcti) if tpm else None)

    rows = [
        asyncio.run(restored(plant("1"), "no anchor", scale.pick(100, 1_000), devices=FITTING)),
        asyncio.run(restored(plant("2"), "no anchor, crowded", scale.pick(10, 100), devices=CROWDED)),
    ]
    with Tpm() as tpm:
        rows.append(asyncio.run(restored(plant("3", tpm), "TPM", scale.pick(50, 1_000), devices=FITTING)))
    with Tpm() as tpm:
        rows.append(asyncio.run(restored(plant("4", tpm), "TPM, crowded", scale.pick(10, 100), devices=CROWDED)))
    with Tpm() as tpm:
        rows.append(asyncio.run(_lost(plant("5", tpm), tpm, scale.pick(6, 60))))
    return [*rows, *license_events.run(scale, directory)]
