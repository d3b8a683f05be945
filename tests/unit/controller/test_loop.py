"""The one way through, on stand-ins: what only a test that sets every clock and fails every write can show."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.domain.errors import WriteFailedError
from smartserver_licensed.domain.ledger_state import GrantInstalled, LedgerState
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.status import State
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.connection import Connected, Received
from smartserver_licensed.formats.ledger import encode_snapshot
from support.documents import grant_of, make_trust, sealed
from support.ports import MemoryLedger, Nobody, SetClocks, keeper_of
from support.stage import EchoingBroker

THREE = grant_of(License("cap-1", LicenseType.CAPACITY, 3))
FLOOR_S = 1_795_478_400
FB = "glp/0/17qei61/fb/dev/modbus"
DO = "glp/0/17qei61/rq/dev/modbus"


@dataclass
class Stage:
    """A controller that has seen a first snapshot, with a capacity of three: two devices."""

    def __init__(self, **policy: bool) -> None:
        self.broker, self.clocks = EchoingBroker(), SetClocks()
        state = LedgerState(install_code="17qei61", mark_s=FLOOR_S, is_adopting=False)
        state.installed = GrantInstalled(THREE, sealed(THREE), FLOOR_S)
        self.ledger = MemoryLedger(encode_snapshot(state))
        keeper = keeper_of(self.ledger, self.clocks, floor_s=FLOOR_S)
        self.controller = Controller(
            broker=self.broker,
            keeper=keeper,
            clocks=self.clocks,
            announcer=Nobody(),
            notifier=Nobody(),
            policy=Policy(**policy),
            install_code="17qei61",
            version="0",
            trusted=Trusted(make_trust()),
            anchor="none",
        )

    async def start(self) -> asyncio.Task[None]:
        await self.controller.open()
        task = asyncio.create_task(self.controller.run())
        self.broker.events += [Connected(), Received(iap.SID_TOPIC, b'"17qei61"', is_retained=True)]
        await self.settle()
        assert self.controller.status.state is State.LICENSED
        return task

    async def settle(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    async def hear(self, topic: str, payload: bytes) -> None:
        self.broker.events.append(Received(topic, payload, is_retained=False))
        await self.settle()

    def said(self, topic: str) -> list[dict[str, object]]:
        return [json.loads(payload) for each, payload, _, _ in self.broker.published if each == topic]


async def test_a_request_whose_batch_cannot_be_made_durable_is_refused_and_not_forgotten() -> None:
    stage = Stage()
    task = await stage.start()
    stage.ledger.fails = WriteFailedError("cannot sync: injected")
    stage.broker.events += [
        Received(f"{DO}/1/do", b'{"action":"create","args":{"provision":true}}', is_retained=False),
        Received(f"{FB}/1/sts", b'{"state":"unlicensed"}', is_retained=False),
    ]
    await stage.settle()
    assert [each["code"] for each in stage.said("glp/0/17qei61/ev/error")] == ["storage-fault"]
    assert stage.said(f"{FB}/1/lic") == []
    stage.clocks.now_s += 2
    await stage.settle()
    assert stage.said(f"{FB}/1/lic")[-1]["licensed"] is True, "the ledger is back: it gets its seat"
    task.cancel()


async def test_an_older_engines_device_that_was_stopped_is_provisioned_again_when_a_seat_comes_in_time() -> None:
    stage = Stage()
    task = await stage.start()
    for number in range(3):
        await stage.hear(f"{FB}/{number}/sts", b'{"state":"provisioned"}')
    assert stage.said(f"{FB}/2/lic")[-1]["licensed"] is False
    stage.clocks.now_s += 1.5
    await stage.settle()
    assert stage.said(f"{DO}/2/do") == [{"action": "deprovision"}]
    await stage.hear(f"{FB}/2/sts", b'{"state":"unprovisioned"}')
    await stage.hear(f"{FB}/0/sts", b'{"state":"deleted"}')
    assert stage.said(f"{FB}/2/lic")[-1]["licensed"] is True
    assert stage.said(f"{DO}/2/do") == [{"action": "deprovision"}, {"action": "provision"}]
    task.cancel()
