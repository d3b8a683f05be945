"""Documents in and out of a controller on a ledger in memory: what is durable, what is heard, what never happens."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from smartserver_licensed.controller.contacting import Asked, Return
from smartserver_licensed.documents import armor
from smartserver_licensed.documents.envelope import attach_roots, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant, open_contact
from smartserver_licensed.documents.trust import load_trust
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.errors import (
    LicensedError,
    NotReadyError,
    RootError,
    StaleGrantError,
    WriteFailedError,
    WrongSmartServerError,
)
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.domain.status import State
from smartserver_licensed.domain.updates import UpdateCode, UpdateKind, parse_version
from smartserver_licensed.formats.connection import Received
from support.documents import (
    INSTALL_CODE,
    NOW,
    grant_key,
    rotated_roots,
    sealed,
)
from support.stage import FACTORS, SIX, Clocks, Plant, answered, granted


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
        await swapped.show(4, "unprovisioned")
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
