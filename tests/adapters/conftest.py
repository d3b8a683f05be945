"""A private bus with the D-Bus service on it, answered by a stand-in for the controller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from smartserver_licensed.adapters.dbus import DbusService
from support.bus import LicenseAnswers, PrivateBus, private_bus


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with private_bus() as bus:
        yield bus


@pytest.fixture
def answers() -> LicenseAnswers:
    return LicenseAnswers()


@pytest.fixture
async def service(bus: PrivateBus, answers: LicenseAnswers) -> AsyncIterator[DbusService]:
    service = DbusService(address=bus.address)
    await service.start(answers)
    yield service
    await service.stop()
