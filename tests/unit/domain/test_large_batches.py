"""More units than are computed in one go are still one batch: all are known before one is given, taken, refused."""

from __future__ import annotations

import pytest

from smartserver_licensed.domain.admission import Admission
from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.overcapacity import DAY_S, Grace
from support.world import SETTLE_S, World, device_id

MANY = 150  # more than the hundred that are computed before others have their turn


def names(first: int, last: int) -> list[str]:
    return [f"modbus/{number}" for number in range(first, last)]


def restart(world: World) -> None:
    """The daemon starts again: what is durable is there, the facts are to be learned."""
    world.admission = Admission(max_devices=4_000, settle_s=SETTLE_S)
    world.facts.begin_snapshot()


def shows(world: World, state: str, *devices: str) -> None:
    for name in devices:
        world.sts(name, state, retained=True)


def heard_false(world: World, since: int = 0) -> list[str]:
    return [name for name, licensed in world.history[since:] if not licensed]


def test_all_that_run_at_an_upgrade_are_adopted_also_if_the_broker_goes_in_between() -> None:
    world = World(0, is_adopting=True)
    shows(world, "provisioned", *names(0, 300))
    world.snapshot_done()
    world.batch()
    world.now_s += SETTLE_S + 5
    world.facts.begin_snapshot()
    shows(world, "provisioned", *names(0, 300))
    world.snapshot_done()
    world.wait(60)
    assert heard_false(world) == []
    assert world.state.provisioned == 300


def test_the_ledger_failing_at_the_first_commit_costs_no_running_device_its_adoption() -> None:
    world = World(0, is_adopting=True)
    shows(world, "provisioned", *names(0, 50))
    world.snapshot_done()
    world.admission.state_changed(None, world.now_s)
    world.admission.take_due()
    world.now_s += SETTLE_S + 5
    world.admission.state_changed(world.state, world.now_s)
    world.wait(60)
    assert heard_false(world) == []
    assert world.state.provisioned == 50


def test_a_process_that_was_stopped_between_snapshot_and_decision_still_adopts() -> None:
    world = World(0, is_adopting=True)
    shows(world, "provisioned", *names(0, MANY))
    world.snapshot_done()
    world.now_s += SETTLE_S + 1
    world.wait(60)
    assert heard_false(world) == []


@pytest.mark.parametrize("first", ["absent", "reserved"])
def test_a_request_takes_no_seat_of_a_unit_that_runs_by_now(first: str) -> None:
    world = World(MANY + 1)
    for name in names(0, MANY):
        world.run(name) if first == "absent" else world.create(name)
    world.create("modbus/new")
    world.batch()
    if first == "absent":
        world.facts.begin_snapshot()
        shows(world, "unlicensed", "modbus/new")
        world.admission.find_absent(world.state, world.facts.generation)
        world.batch()
    before = len(world.history)
    world.facts.begin_snapshot()
    shows(world, "unlicensed", "modbus/new")
    world.ask("modbus/new")
    shows(world, "provisioned", *reversed(names(0, MANY)))
    world.snapshot_done()
    world.batch()
    assert heard_false(world, before) == []
    assert world.seat("modbus/new") is None
    assert world.state.provisioned == MANY


def test_capacity_that_shrank_while_the_daemon_was_down_stops_nobody_who_runs_by_now() -> None:
    world = World(201)
    for name in names(0, 200):
        world.create(name)
    world.batch()
    restart(world)
    world.capacity, world.ended_grace_days = 51, 7
    before = len(world.history)
    shows(world, "provisioned", *names(0, 200))
    for name in names(0, 200):
        world.facts.licensed(device_id(name), licensed=True, reason=None)
    world.snapshot_done()
    world.batch()
    assert heard_false(world, before) == []
    assert world.state.provisioned == 200


def test_nobody_is_revoked_where_deletions_of_the_same_batch_end_the_excess() -> None:
    world = World(201)
    for name in names(0, 200):
        world.run(name)
    world.capacity, world.ended_grace_days = 101, 7
    world.batch()
    restart(world)
    world.state.grace = Grace(allowed_s=7 * DAY_S, used_s=7 * DAY_S)
    before = len(world.history)
    shows(world, "deleted", *names(0, 100))
    shows(world, "provisioned", *names(100, 200))
    world.snapshot_done()
    world.batch()
    assert not set(heard_false(world, before)) & set(names(100, 200))


def test_free_seats_go_to_those_that_run_wherever_they_stand() -> None:
    world = World(61)
    shows(world, "unprovisioned", *names(0, 100))
    shows(world, "provisioned", *names(100, 150))
    world.snapshot_done()
    world.batch()
    assert all(world.seat(name) == "provisioned" for name in names(100, 150))


def test_what_was_deleted_while_the_daemon_was_down_keeps_no_seat_and_gets_none() -> None:
    world = World(101)
    for name in names(0, 200):
        world.create(name, provision=True)
    world.batch()
    restart(world)
    shows(world, "deleted", *names(0, 200))
    world.snapshot_done()
    world.batch()
    assert world.state.seats == {}


def test_nobody_is_refused_while_seats_are_free() -> None:
    world = World(1)
    for name in names(0, 300):
        world.create(name, provision=True)
    world.batch()
    world.capacity = 1_000
    world.refusals.clear()
    for name in names(300, 500):
        world.create(name, provision=True)
    world.batch()
    assert world.refusals == []
    assert UnitId("modbus/499") in world.state.seats
