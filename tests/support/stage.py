"""A whole controller on a ledger in memory, with a broker that echoes and a world whose time a test sets.

Rules: one `Plant` is one run of a daemon; another one on the same ledger is a restart.

What this module does not do: it asserts nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.contacting import Asked
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.documents.trust import Trust
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.status import State, Status
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.bus import Plain
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Received
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_snapshot
from support.documents import (
    GRANT,
    INSTALL_CODE,
    NOW,
    make_trust,
    sealed,
)
from support.ports import MemoryLedger, Nobody, RecordingBroker, SetClocks, keeper_of

FACTORS = Factors("soc-1", "emmc-1", "02:00:00:00:00:01")
SIX = License("cap-1", LicenseType.CAPACITY, 6, grace_days=30)
STS = f"glp/0/{INSTALL_CODE}/fb/dev/modbus"


class EchoingBroker(RecordingBroker):
    """Says its markers back, as a broker does, and delivers what a test puts in."""

    def __init__(self) -> None:
        super().__init__()
        self.events: deque[BrokerEvent] = deque()

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        await asyncio.sleep(0)
        return [self.events.popleft() for _ in range(min(limit, len(self.events)))]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if topic == iap.MARKER_TOPIC:
            self.events.append(Received(topic, payload, is_retained=False))
        return super().publish(topic, payload, qos=qos, retain=retain)


class Ears(Nobody):
    """Keeps the notices."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, Mapping[str, Plain]]] = []

    def noticed(self, kind: str, details: Mapping[str, Plain]) -> None:
        self.notices.append((kind, details))


@dataclass
class Clocks(SetClocks):
    """Trusted time begins at NOW; the wall clock may be wrong."""

    wrong_by_s: int = 0

    def reading(self) -> Reading:
        wall_s = NOW + int(self.now_s - 1_000) + self.wrong_by_s
        return Reading(wall_s, self.now_s, is_synchronised=self.is_synchronised)


def a_ledger() -> MemoryLedger:
    return MemoryLedger(encode_snapshot(LedgerState(install_code="", mark_s=NOW)))


class Plant:
    """One run of a daemon on a ledger; another one on the same ledger is a restart."""

    def __init__(
        self,
        ledger: MemoryLedger | None = None,
        *,
        identity: Identity = Identity(INSTALL_CODE, FACTORS),  # noqa: B008 - frozen
        trust: Trust | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self.ledger = ledger or a_ledger()
        self.broker, self.clocks, self.ears = EchoingBroker(), clocks or Clocks(), Ears()
        self.trusted = Trusted(trust or make_trust())
        self.keeper = keeper_of(
            self.ledger,
            self.clocks,
            install_code=identity.install_code,
            factors=identity.factors,
            check_documents=self.trusted.check,
        )
        self.controller = Controller(
            broker=self.broker,
            keeper=self.keeper,
            clocks=self.clocks,
            announcer=self.ears,
            notifier=Nobody(),
            policy=Policy(),
            install_code=identity.install_code,
            version="0",
            trusted=self.trusted,
            anchor="none",
        )
        self.licensing = Licensing(
            self.controller, self.keeper, self.clocks, self.trusted, Anchoring(None), identity=identity
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Plant:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        await self.controller.open()
        self._task = asyncio.create_task(self.controller.run())
        self.broker.events += [
            Connected(),
            Received(iap.SID_TOPIC, json.dumps(INSTALL_CODE).encode(), is_retained=True),
        ]
        await self.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def settle(self) -> None:
        for _ in range(200):
            await asyncio.sleep(0)

    async def wait(self, seconds: float) -> None:
        self.clocks.now_s += seconds
        await self.settle()

    async def run_devices(self, count: int) -> None:
        for number in range(1, count + 1):
            await self.show(number, "provisioned")

    async def show(self, number: int, state: str) -> None:
        payload = json.dumps({"state": state, "addr": "1"}).encode()
        self.broker.events.append(Received(f"{STS}/{number}/sts", payload, is_retained=False))
        await self.settle()

    @property
    def state(self) -> LedgerState:
        assert self.keeper.state is not None
        return self.keeper.state

    @property
    def durable(self) -> LedgerState:
        """What a restart would find."""
        state = decode_snapshot(self.ledger.snapshot)
        for body in self.ledger.events:
            for event in decode_events(body):
                state.apply(event)
        return state

    @property
    def status(self) -> Status:
        return self.controller.status

    def shows(self, state: State) -> bool:
        return self.controller.status.state is state

    def licensed(self) -> dict[str, bool]:
        """What each device heard last."""
        said = [(topic, payload) for topic, payload, _, _ in self.broker.published if topic.endswith("/lic")]
        return {t.split("/")[6]: json.loads(p)["licensed"] for t, p in said if t.startswith(f"{STS}/")}

    def warnings(self) -> list[str]:
        return [json.loads(p)["code"] for t, p, _, _ in self.broker.published if t.endswith("/ev/warning")]


def granted(*licenses: License, seq: int = 1, **changes: object) -> Grant:
    return replace(GRANT, seq=seq, licenses=licenses or (SIX,), **changes)  # type: ignore[arg-type]


async def answered(plant: Plant, *licenses: License, seq: int = 1) -> bytes:
    """The grant that answers a request of this SmartServer."""
    contact, mark = open_contact(await plant.licensing.request(Asked()))
    grant = granted(*licenses, seq=seq, device_key=contact.device_key, factors=contact.factors, contact=mark)
    return sealed(grant)
