"""No grace is shortened: not by a restart, a moment within the capacity, a grant, a lost broker, or a clock."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from smartserver_licensed.controller.contacting import Return
from smartserver_licensed.domain.errors import NotReadyError
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.status import State
from smartserver_licensed.formats.connection import Connected, Disconnected
from support.documents import NOW, sealed
from support.stage import SIX, Clocks, Plant, answered, granted

DAY_S = 86_400
ENDED_WITHOUT_GRACE = License("help-1", LicenseType.EMERGENCY, 50, NOW - 60 * DAY_S)


async def over_capacity(plant: Plant) -> None:
    """Five devices run on six seats; two are returned, somebody said that they run on, and the issuer knows."""
    await plant.licensing.install(await answered(plant, SIX, ENDED_WITHOUT_GRACE))
    await plant.run_devices(5)
    await plant.licensing.make_return(Return("cap-1", 2, may_exceed=True))
    await plant.licensing.install(await answered(plant, replace(SIX, returned_total=2), ENDED_WITHOUT_GRACE, seq=2))
    assert plant.shows(State.OVER_CAPACITY)
    await plant.wait(3_600)


async def test_a_restart_with_a_broker_that_comes_late_keeps_the_grace() -> None:
    async with Plant() as plant:
        await over_capacity(plant)
    again = Plant(plant.ledger, clocks=Clocks(now_s=plant.clocks.now_s + 60))
    await again.controller.open()
    task = asyncio.create_task(again.controller.run())
    await again.wait(5)  # the ledger is open, the broker is not there yet
    task.cancel()
    async with Plant(plant.ledger, clocks=again.clocks) as late:
        await late.run_devices(5)
        assert late.shows(State.OVER_CAPACITY)
        assert False not in late.licensed().values()


async def test_a_moment_within_the_capacity_keeps_the_grace() -> None:
    async with Plant() as plant:
        await over_capacity(plant)
        for number in (5, 4):
            await plant.show(number, "deleted")
            await plant.wait(5)
        assert plant.shows(State.FULL)
        await plant.licensing.install(sealed(granted(replace(SIX, returned_total=3), ENDED_WITHOUT_GRACE, seq=3)))
        await plant.licensing.install(sealed(granted(replace(SIX, returned_total=3), ENDED_WITHOUT_GRACE, seq=4)))
        await plant.wait(10)
        assert plant.shows(State.OVER_CAPACITY)
        assert plant.licensed()["3"] is True


@pytest.mark.parametrize("license_", [None, replace(SIX, returned_total=2)])
async def test_a_grant_that_takes_devices_away_gives_the_grace_of_their_license(license_: License | None) -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant, SIX, ENDED_WITHOUT_GRACE))
        await plant.run_devices(5)
        lowered = [ENDED_WITHOUT_GRACE] if license_ is None else [license_, ENDED_WITHOUT_GRACE]
        await plant.licensing.install(sealed(granted(*lowered, seq=2)))
        await plant.wait(10)
        assert plant.shows(State.OVER_CAPACITY)
        assert False not in plant.licensed().values()


async def test_what_was_promised_while_no_broker_was_there_holds_when_it_is_back() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant, SIX, ENDED_WITHOUT_GRACE))
        await plant.run_devices(5)
        plant.broker.events.append(Disconnected("injected"))
        await plant.settle()
        await plant.licensing.make_return(Return("cap-1", 2, may_exceed=True))
        await plant.licensing.install(await answered(plant, replace(SIX, returned_total=2), ENDED_WITHOUT_GRACE, seq=2))
        await plant.wait(5)
        plant.broker.events.append(Connected())
        await plant.run_devices(5)
        await plant.wait(10)
        assert plant.shows(State.OVER_CAPACITY)
        assert False not in plant.licensed().values()


async def test_an_emergency_that_a_wrong_clock_has_ended_leaves_a_day_to_mend_it() -> None:
    emergency = License("help-2", LicenseType.EMERGENCY, 6, NOW + 7 * DAY_S)
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant, emergency))
        await plant.run_devices(5)
        plant.clocks.wrong_by_s = 10 * 365 * DAY_S
        await plant.wait(3_600)
        assert plant.shows(State.OVER_CAPACITY)
        assert False not in plant.licensed().values()
        plant.clocks.wrong_by_s = 0
        await plant.licensing.install(await answered(plant, emergency, seq=2))
        await plant.settle()
        assert plant.shows(State.FULL)


async def test_a_return_is_not_exported_while_it_is_being_made() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
        rewrite = plant.ledger.rewrite
        refused: list[Exception] = []

        async def watched(snapshot: bytes) -> None:
            try:
                plant.licensing.proof(2)
            except NotReadyError as error:
                refused.append(error)
            await rewrite(snapshot)

        plant.ledger.rewrite = watched  # type: ignore[method-assign]
        await plant.licensing.make_return(Return("cap-1", 2))
        assert len(refused) == 1
