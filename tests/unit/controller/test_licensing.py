"""Documents in and out of a controller on a ledger in memory: what is durable, what is heard, what never happens."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

import pytest

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.contacting import Asked, Return
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.documents import armor
from smartserver_licensed.documents.envelope import attach_roots, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant, open_contact
from smartserver_licensed.documents.trust import Trust, load_trust
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.errors import (
    LicensedError,
    NotReadyError,
    RootError,
    StaleGrantError,
    WriteFailedError,
    WrongSmartServerError,
)
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.status import State, Status
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.domain.updates import UpdateCode, UpdateKind, parse_version
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.bus import Plain
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Received
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot, encode_snapshot
from support.documents import (
    GRANT,
    INSTALL_CODE,
    NOW,
    grant_key,
    make_trust,
    rotated_roots,
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


class Clocks(SetClocks):
    """Trusted time begins at NOW."""

    def reading(self) -> Reading:
        return Reading(NOW + int(self.now_s - 1_000), self.now_s, is_synchronised=self.is_synchronised)


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
            payload = json.dumps({"state": "provisioned", "addr": "1"}).encode()
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


async def test_one_exchange_activates_and_binds() -> None:
    async with Plant() as plant:
        assert plant.shows(State.UNLICENSED)
        await plant.licensing.install(await answered(plant))
        assert (plant.status.state, plant.status.totals.capacity) == (State.LICENSED, 6)
        assert plant.status.assurance == "hardware"
        assert plant.durable.request is None
        assert plant.durable.factors == FACTORS


async def test_a_request_is_durable_before_it_leaves_and_refused_where_it_cannot_be() -> None:
    async with Plant() as plant:
        data = await plant.licensing.request(Asked())
        _, mark = open_contact(data)
        assert plant.durable.contacts == {1: mark.sha256}
        plant.ledger.fails = WriteFailedError("cannot sync: injected")
        with pytest.raises(WriteFailedError):
            await plant.licensing.request(Asked(is_fresh=True))
        assert plant.durable.contacts == {1: mark.sha256}


async def test_a_request_is_the_same_after_a_restart() -> None:
    async with Plant() as plant:
        first = await plant.licensing.request(Asked())
    async with Plant(plant.ledger) as again:
        assert await again.licensing.request(Asked()) == first


async def test_a_grant_for_another_key_or_an_older_one_is_refused_and_changes_nothing() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant, seq=2))
        before = plant.durable
        for grant, error in (
            (granted(seq=3, device_key=b"\x22" * 31 + b"\x01"), LicensedError),
            (granted(seq=2), StaleGrantError),
            (granted(seq=3, install_code="17other"), WrongSmartServerError),
        ):
            with pytest.raises(error):
                await plant.licensing.install(sealed(grant))
            assert plant.durable.installed == before.installed
        assert plant.status.totals.capacity == 6


async def test_an_armored_grant_is_installed_as_the_bytes_that_it_carries() -> None:
    async with Plant() as plant:
        data = await answered(plant)
        await plant.licensing.install(armor.wrap(data).encode())
        assert plant.durable.installed is not None
        assert plant.durable.installed.envelope == data


async def test_a_smartserver_at_root_1_catches_up_with_root_7_by_one_file_and_keeps_it_over_a_restart() -> None:
    roots = rotated_roots(7)
    shipped = load_trust(roots[0])
    grant = seal(GRANT_TYPE, encode_grant(granted(root_version=7)), [grant_key(7)])
    async with Plant(trust=shipped) as plant:
        with pytest.raises(RootError):
            await plant.licensing.install(attach_roots(grant, [*roots[1:3], *roots[4:]]))  # one skipped
        assert plant.durable.roots == ()
        await plant.licensing.install(attach_roots(grant, roots[1:]))
        assert plant.licensing.trust.current.version == 7
        await plant.wait(2)
        assert "renew" not in plant.warnings()
    async with Plant(plant.ledger, trust=shipped) as again:
        assert again.status.totals.capacity == 6
        assert again.licensing.trust.current.version == 7
        older = seal(GRANT_TYPE, encode_grant(granted(seq=2, root_version=6)), [grant_key(6)])
        with pytest.raises(LicensedError):
            await again.licensing.install(older)


async def test_a_retired_key_gives_a_notice_and_costs_no_capacity() -> None:
    roots = rotated_roots(2)
    async with Plant(trust=load_trust(roots[0])) as plant:
        await plant.licensing.install(seal(GRANT_TYPE, encode_grant(granted()), [grant_key(1)]))
        assert await plant.licensing.install(attach_roots(roots[1], [])) is None
        assert plant.status.totals.capacity == 6
        await plant.wait(2)
        assert "renew" in plant.warnings()
    async with Plant(plant.ledger, trust=load_trust(attach_roots(roots[1], roots[:1]))) as again:
        assert again.status.totals.capacity == 6


async def test_a_return_is_durable_before_its_proof_leaves_and_lowers_the_capacity() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
        proof = await plant.licensing.make_return(Return("cap-1", 2))
        assert plant.durable.returned == {"cap-1": 2}
        assert plant.ledger.events, "a commit stands behind the rewrite"
        assert plant.status.totals.capacity == 4
    async with Plant(plant.ledger) as again:
        assert again.licensing.proof(2) == proof
        assert again.status.totals.capacity == 4


async def test_a_return_that_cannot_be_made_durable_gives_no_proof_and_costs_nothing() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
        plant.ledger.fails = WriteFailedError("cannot sync: injected")
        with pytest.raises(WriteFailedError):
            await plant.licensing.make_return(Return("cap-1", 2))
        assert plant.durable.returned == {"cap-1": 0}
        with pytest.raises(NotReadyError):
            await plant.licensing.make_return(Return("cap-1", 2))


async def test_a_return_over_the_capacity_lets_devices_run_on_and_revoking_stops_the_newest() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
        await plant.run_devices(5)
        assert plant.shows(State.FULL)
        await plant.licensing.make_return(Return("cap-1", 2, may_exceed=True))
        assert plant.shows(State.OVER_CAPACITY)
        assert all(plant.licensed().values())
        await plant.licensing.make_return(Return("cap-1", 1, revokes_excess=True))
        assert plant.status.totals.used == 3
        assert [handle for handle, is_licensed in plant.licensed().items() if not is_licensed] == ["3", "4", "5"]


async def test_another_board_needs_a_new_grant_and_meanwhile_all_runs_on() -> None:
    other_board = Identity(INSTALL_CODE, Factors("soc-2", "emmc-2", FACTORS.mac))
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
        await plant.run_devices(2)
    async with Plant(plant.ledger, identity=other_board) as swapped:
        assert swapped.shows(State.REBIND_NEEDED)
        assert swapped.status.totals.used == 3
        await swapped.run_devices(3)
        do = f"glp/0/{INSTALL_CODE}/rq/dev/modbus/4/do"
        payload = b'{"action":"create","args":{"provision":true}}'
        swapped.broker.events.append(Received(do, payload, is_retained=False))
        sts = json.dumps({"state": "unprovisioned", "addr": "1"}).encode()
        swapped.broker.events.append(Received(f"{STS}/4/sts", sts, is_retained=False))
        await swapped.settle()
        assert swapped.licensed()["1"] is swapped.licensed()["2"] is True
        assert swapped.licensed()["4"] is False
        errors = [json.loads(p)["code"] for t, p, _, _ in swapped.broker.published if t.endswith("/ev/error")]
        assert errors == ["rebind-needed"]
        await swapped.licensing.install(await answered(swapped, seq=2))
        assert swapped.shows(State.LICENSED)
        await swapped.settle()
        assert swapped.licensed()["4"] is True


async def test_a_changed_install_code_on_the_same_board_is_mended_by_a_grant_for_it() -> None:
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant))
    async with Plant(plant.ledger, identity=Identity("17new", FACTORS)) as renamed:
        assert renamed.shows(State.REBIND_NEEDED)
        contact, mark = open_contact(await renamed.licensing.request(Asked()))
        grant = granted(seq=2, install_code="17new", device_key=contact.device_key, factors=FACTORS, contact=mark)
        await renamed.licensing.install(sealed(grant))
        assert renamed.shows(State.LICENSED)
    async with Plant(plant.ledger, identity=Identity("17new", FACTORS)) as again:
        assert again.shows(State.LICENSED)


async def test_a_notice_is_given_once_over_restarts_and_silenced_by_a_renewal() -> None:
    trial = License("trial-1", LicenseType.TRIAL, 6, NOW + 20 * 86_400)
    async with Plant() as plant:
        await plant.licensing.install(await answered(plant, trial))
        await plant.wait(2)
        assert plant.warnings() == ["expiry"]
        assert [kind for kind, _ in plant.ears.notices] == ["expiry"]
        await plant.wait(4_000)
        assert plant.warnings() == ["expiry"]
    clocks = Clocks(now_s=plant.clocks.now_s)
    async with Plant(plant.ledger, clocks=clocks) as again:
        await again.wait(4_000)
        assert again.warnings() == []
        await again.wait(7 * 86_400)
        assert again.warnings() == ["expiry"]
        await again.licensing.install(await answered(again, replace(trial, expires_at=NOW + 365 * 86_400), seq=2))
        await again.wait(4_000)
        assert again.warnings() == ["expiry"]
        assert again.controller.noticing.rows() == []


async def test_an_upgrade_license_is_used_up_once_also_over_a_restart() -> None:
    upgrade = License("up-1", LicenseType.UPGRADE, 1, release="4.0")
    version = parse_version("4.0")
    async with Plant() as plant:
        await plant.licensing.see_release("3.5")
        await plant.licensing.install(await answered(plant, SIX, upgrade))
        assert plant.licensing.check_update(version, UpdateKind.FEATURE, None).license_id == "up-1"
        assert plant.durable.consumed == {"cap-1": 0, "up-1": 0}
        assert (await plant.licensing.confirm_update(version)).license_id == "up-1"
        assert plant.durable.consumed["up-1"] == 1
    async with Plant(plant.ledger) as again:
        assert (await again.licensing.confirm_update(version)).code is UpdateCode.SAME_OR_OLDER
        assert again.durable.consumed["up-1"] == 1
        contact, _ = open_contact(await again.licensing.request(Asked()))
        assert {each.id: each.consumed_total for each in contact.totals} == {"cap-1": 0, "up-1": 1}
        refused = again.licensing.check_update(parse_version("4.1"), UpdateKind.FEATURE, None)
        assert refused.code is UpdateCode.MAINTENANCE_MISSING


async def test_a_release_installed_past_the_gate_is_noted_and_stops_nothing() -> None:
    async with Plant() as plant:
        await plant.licensing.see_release("3.5")
        await plant.licensing.install(await answered(plant))
        await plant.licensing.see_release("4.0")
        assert plant.durable.release == "4.0"
        assert plant.shows(State.LICENSED)
        await plant.licensing.see_release("not a version")
        assert plant.durable.release == "4.0"
