"""F10: the power is cut between the steps of a license event; it is right afterwards, and never taken for a rollback.

Rules:
- the steps: the event durable, log a rewritten, log b rewritten, each change of the TPM (a counter made, counted, said
  to be in use); a cut after each of them, until the event goes through, and cuts of the restarts after it, and of the
  first start, which binds the ledger;
- in a plant that was well: well after the restart, with the new grant once it was durable, else with the old one;
- in one that was `rolled-back` or `anchor-lost`: well with the new grant, else as ill as before; a new grant mends it;
- a return is made once or not at all, the capacity says the same, its proof is the same bytes at every export and no
  number is given to two documents; an upgrade license is used once however often its use is confirmed; from then on a
  copy from before either is `rolled-back`.

What this module does not do: it cuts no single write (`power_cut`, F1).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path

from smartserver_licensed.adapters.tpm import TpmCounter
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import FILES
from support.tpm import Tpm

from .damage import count
from .plant import Plant
from .swaps import put
from .table import Row, Scale


class PowerCutError(Exception):
    """The power is cut: nothing after it happens."""


class Fuse:
    """Lets so many steps through; None: all."""

    def __init__(self) -> None:
        self.steps_left: int | None = None

    def step(self) -> None:
        """A step is done. Raises PowerCutError where it was the last one."""
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left <= 0:
                raise PowerCutError


class CutLedger(LedgerWriter):
    """A ledger whose steps burn the fuse."""

    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._files = [path / name for name in FILES]
        self._fuse = fuse

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        await super().append(body, snapshot)
        self._fuse.step()

    async def rewrite(self, snapshot: bytes) -> None:
        before = self._files[1].read_bytes()
        await super().rewrite(snapshot)
        try:
            self._fuse.step()
        except PowerCutError:  # log b was not reached
            self._files[1].write_bytes(before)
            raise
        self._fuse.step()


class CutCounter(TpmCounter):
    """A TPM whose changes burn the fuse."""

    def __init__(self, tcti: str, fuse: Fuse) -> None:
        super().__init__(tcti)
        self._fuse = fuse

    async def _run(self, tool: str, *arguments: str) -> bytes:
        output = await super()._run(tool, *arguments)
        if tool in {"nvdefine", "nvincrement"}:
            self._fuse.step()
        return output


class Cuts:
    """A plant in which license events are cut, each time one step later."""

    def __init__(self, directory: Path, tpm: Tpm, row: Row) -> None:
        self._fuse = Fuse()
        self._tpm = tpm
        self._row = row
        self._plant = Plant(
            directory,
            capacity=9,
            anchor=CutCounter(tpm.tcti, self._fuse),
            open_ledger=lambda path: CutLedger(path, self._fuse),
        )

    async def cut_everything(self) -> None:
        """License events of a well plant, and grants of one that they mend, cut at every step."""
        await self.begin()
        await self.cut_grants()
        await self._cut_each("a return", self._cut_return)
        await self._cut_each("an upgrade", self._cut_upgrade)
        await self._plant.stop()

    async def cut_returns(self) -> None:
        """Only returns."""
        await self.begin()
        await self._plant.license()
        await self._cut_each("a return", self._cut_return)
        await self._plant.stop()

    async def begin(self) -> None:
        """The first start, cut at every step as well."""
        await self._start()
        if self._plant.keeper.storage is not Storage.OK:
            self._row.fail("lost", f"the first start: {self._plant.keeper.storage_reason}")

    async def cut_grants(self) -> None:
        """Grants of a plant that is well, and of one that they mend."""
        for name, make_ill in (("well", None), ("rolled-back", self._roll_back), ("anchor-lost", self._clear)):
            await self._cut_each(name, functools.partial(self._cut, make_ill))

    async def _cut_each(self, name: str, cut: Callable[[str, int], Awaitable[bool]]) -> None:
        for steps in itertools.count(1):
            if not await cut(f"{name}, cut after step {steps}", steps):
                break

    async def _start(self) -> None:
        """Start, with cuts at its own steps, each time one later, until there is none left."""
        for steps in itertools.count(1):
            self._fuse.steps_left = steps
            try:
                await self._plant.start()
            except PowerCutError:
                count(self._row, "starts cut")
                await self._plant.stop()
            else:
                break
        self._fuse.steps_left = None

    async def _roll_back(self) -> None:
        image = self._plant.image()
        await self._plant.license()
        await self._plant.stop()
        put(self._plant.directory, *image)
        await self._plant.start()

    async def _clear(self) -> None:
        await self._plant.stop()
        self._tpm.clear()
        await self._plant.start()

    async def _cut(self, make_ill: Callable[[], Awaitable[None]] | None, where: str, steps: int) -> bool:
        """One grant that gets so far, and a restart; False where it went through."""
        if make_ill is not None:
            await make_ill()
        was = self._plant.keeper.storage
        refused, is_cut = await self._until(steps, self._plant.license())
        self._judge(where, was, refused, is_cut=is_cut)
        refused = await self._plant.license()
        if refused or self._plant.keeper.storage is not Storage.OK:
            self._row.fail("lost", f"{where}, licensed anew: {self._plant.keeper.storage.value} {refused}")
        return is_cut

    async def _until(self, steps: int, work: Coroutine[None, None, str]) -> tuple[str, bool]:
        """What the work is refused with, and whether it was cut; then a restart."""
        self._fuse.steps_left = steps
        try:
            refused, is_cut = await work, False
        except PowerCutError:
            refused, is_cut = "", True
        await self._plant.stop()
        await self._start()
        self._row.states += 1
        return refused, is_cut

    async def _cut_return(self, where: str, steps: int) -> bool:
        """A request and the return of a device that get so far, and a restart; False where they went through."""
        image, before, capacity = self._plant.image(), self._total("returned", "cap-1"), self._capacity
        refused, is_cut = await self._until(steps, self._plant.ask_and_give_back())
        made = self._total("returned", "cap-1") - before
        count(self._row, f"return {'made' if made else 'not made'}{' and cut' if is_cut else ''}")
        if refused or made not in {0, 1} or not (is_cut or made):
            self._row.fail("lost", f"{where}: {made} devices were returned: {refused}")
        if self._capacity != capacity - made:
            self._row.fail("doubled", f"{where}: {made} devices were returned, the capacity is {self._capacity}")
        if not made and (refused := await self._plant.ask_and_give_back()):
            self._row.fail("lost", f"{where}, made again: {refused}")
        proofs = self._plant.proofs()
        for number in sorted(proofs)[-1:]:
            self._plant.tell_issuer(proofs[number])
        await self._check_copy(where, image)
        if self._plant.proofs() != proofs:
            self._row.fail("lost", f"{where}: exported again it is something else")
        if (self._total("returned", "cap-1"), self._plant.returned) != (before + 1, before + 1):
            self._row.fail("lost", f"{where}: at the end {before + 1} devices should have been returned")
        for doubled in self._plant.doubled:
            self._row.fail("doubled", f"{where}: {doubled}")
        await self._plant.license()
        return is_cut

    async def _cut_upgrade(self, where: str, steps: int) -> bool:
        """The use of an upgrade license that gets so far, and a restart; False where it went through."""
        image, before, version = self._plant.image(), self._total("consumed", "up-1"), f"4.{steps}"
        refused, is_cut = await self._until(steps, self._plant.upgrade(version))
        made = self._total("consumed", "up-1") - before
        count(self._row, f"upgrade {'made' if made else 'not made'}{' and cut' if is_cut else ''}")
        if refused or not (is_cut or made):
            self._row.fail("lost", f"{where}: {made} upgrades were used: {refused}")
        for _ in range(2):
            refused = await self._plant.upgrade(version)
            if refused or self._total("consumed", "up-1") != before + 1:
                self._row.fail("doubled", f"{where}: {before + 1} upgrades should have been used: {refused}")
        if not is_cut:
            await self._check_copy(where, image)
        return is_cut

    async def _check_copy(self, where: str, copy: tuple[bytes, ...]) -> None:
        """A copy from before a license event is told; what was there instead goes on."""
        for image, storage in ((copy, Storage.ROLLED_BACK), (self._plant.image(), Storage.OK)):
            await self._plant.stop()
            put(self._plant.directory, *image)
            await self._plant.start()
            if self._plant.keeper.storage is not storage:
                self._row.fail("silent", f"{where}: {self._plant.keeper.storage.value}, not {storage.value}")

    @property
    def _capacity(self) -> int:
        return self._plant.controller.totals().capacity

    def _total(self, what: str, license_id: str) -> int:
        state = self._plant.keeper.shown
        totals: dict[str, int] = getattr(state, what) if state else {}
        return totals.get(license_id, 0)

    def _judge(self, where: str, was: Storage, refused: str, *, is_cut: bool) -> None:
        storage, is_new = self._plant.keeper.storage, self._plant.installed() == self._plant.grants
        count(self._row, f"{was.value}, then {storage.value} with the {'new' if is_new else 'old'} grant")
        if refused or not (is_cut or is_new):
            self._row.fail("lost", f"{where}: not cut, and the grant is not there: {refused}")
        if is_new and storage is not Storage.OK:
            self._row.fail("lost", f"{where}: the grant is there, and the ledger is {storage.value}")
        if not is_new and storage.is_writable is not was.is_writable:
            self._row.fail("silent", f"{where}: was {was.value}, is {storage.value}, without the grant")


def run(scale: Scale, directory: Path) -> list[Row]:
    """Every cut, each turn with a new TPM."""
    row = Row("F10", "a license event cut at each step, TPM")
    begun = time.monotonic()
    for turn in range(scale.pick(1, 10)):
        with Tpm() as tpm:
            asyncio.run(Cuts(directory / f"cuts-{turn}", tpm, row).cut_everything())
    row.seconds = time.monotonic() - begun
    return [row]
