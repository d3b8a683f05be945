"""Seats as users meet them (LICENSING §3): each test is one sentence of the rules."""

from __future__ import annotations

import pytest

from smartserver_licensed.domain.devices import Action
from smartserver_licensed.domain.ledger_state import Cause, SeatGiven, SeatLost
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.domain.seats import Entitled
from support.world import World


def names(count: int, start: int = 1) -> list[str]:
    return [f"modbus/{n}" for n in range(start, start + count)]


def test_new_units_get_seats_while_there_are_free_ones_and_wait_then() -> None:
    world = World(capacity=5)
    for name in names(6):
        world.create(name)
    world.batch()
    assert [world.seat(name) for name in names(6)] == ["reserved"] * 4 + [None] * 2
    assert (world.totals.used, world.totals.reserved, world.totals.waiting) == (1, 4, 2)
    assert world.heard == {name: n < 4 for n, name in enumerate(names(6))}


def test_an_import_of_unprovisioned_devices_leaves_the_dashboard_at_one() -> None:
    world = World(capacity=5)
    for name in names(1_000):
        world.create(name)
    world.batch()
    assert (world.totals.used, world.totals.available) == (1, 4)


def test_a_request_takes_the_seat_of_a_unit_nobody_asked_for() -> None:
    world = World(capacity=3)
    for name in names(4):
        world.create(name)
    world.batch()
    world.ask("modbus/4")
    world.batch()
    assert world.seat("modbus/4") == "reserved"
    assert world.seat("modbus/1") is None
    assert world.heard["modbus/1"] is False
    assert not world.refusals


def test_a_request_for_which_no_seat_can_be_had_is_refused_once_with_the_numbers() -> None:
    world = World(capacity=3)
    for name in names(2):
        world.run(name)
    world.create("modbus/3", provision=True)
    world.batch()
    (refusal,) = world.refusals
    assert refusal.sentence == "create-device capacity exceeded: 3 of 3 in use"
    assert refusal.code.value == "capacity-exceeded"
    assert world.answer("modbus/3").reason is not None
    assert world.answer("modbus/3").reason.value == "capacity-exceeded"  # type: ignore[union-attr]


def test_a_freed_seat_goes_to_the_unit_that_was_asked_for_before_earlier_ones() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.create("modbus/2")
    world.create("modbus/3", provision=True)
    world.batch()
    world.sts("modbus/1", "deleted")
    world.batch()
    assert world.seat("modbus/3") == "reserved"
    assert world.seat("modbus/2") is None
    assert world.history[-2:] == [("modbus/1", False), ("modbus/3", True)]


def test_a_driver_restart_moves_no_seat() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.create("modbus/2", provision=True)
    world.batch()
    events = len(world.events)
    for state in ("unprovisioned", "unlicensed", "unprovisioned", "provisioned"):
        world.sts("modbus/1", state)
        world.wait(5)
    assert len(world.events) == events
    assert world.heard == {"modbus/1": True, "modbus/2": False}


def test_a_stale_deprovision_does_not_turn_a_restart_dip_into_a_release() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.ask("modbus/1", Action.DEPROVISION)
    world.wait(11)
    world.sts("modbus/1", "unprovisioned")
    world.batch()
    assert world.seat("modbus/1") == "provisioned"


def test_a_deprovision_the_engine_never_saw_is_forgotten_when_it_starts() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.ask("modbus/1", Action.DEPROVISION)
    world.facts.engine_started("modbus")
    world.sts("modbus/1", "unprovisioned")
    world.batch()
    assert world.seat("modbus/1") == "provisioned"


def test_an_effective_deprovision_makes_the_seat_reserved_at_once() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.ask("modbus/1", Action.DEPROVISION)
    world.sts("modbus/1", "unprovisioned")
    world.batch()
    assert world.seat("modbus/1") == "reserved"
    assert world.totals.used == 1


def test_unprovisioned_for_settle_s_makes_the_seat_reserved() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.sts("modbus/1", "unprovisioned")
    world.wait(14)
    assert world.seat("modbus/1") == "provisioned"
    world.wait(2)
    assert world.seat("modbus/1") == "reserved"


def test_replace_keeps_the_seat() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.ask("modbus/1", Action.REPLACE)
    world.sts("modbus/1", "unprovisioned")
    world.batch()
    assert world.seat("modbus/1") == "provisioned"


@pytest.mark.parametrize("state", [None, "frobnicated", "unknown"])
def test_an_sts_without_a_known_state_makes_no_unit_and_changes_none(state: str | None) -> None:
    world = World(capacity=3)
    world.sts("modbus/9", state)
    world.run("modbus/1")
    world.sts("modbus/1", state)
    world.batch()
    assert (world.totals.used, world.totals.reserved, world.totals.waiting) == (2, 0, 0)


def test_unreachable_devices_that_were_asked_for_block_nobody_for_longer_than_a_minute() -> None:
    world = World(capacity=5)
    for name in names(10):
        world.create(name, provision=True)
    world.batch()
    for name in names(4):
        world.sts(name, "unprovisioned", mark=True, trouble=True)
    world.wait(30)
    world.create("modbus/11")
    world.ask("modbus/11")
    world.batch()
    assert world.seat("modbus/11") is None
    world.wait(31)
    assert world.seat("modbus/11") == "reserved"
    assert world.heard["modbus/11"] is True


def test_a_unit_that_ran_and_idles_gives_its_seat_but_not_one_in_trouble() -> None:
    world = World(capacity=3)
    world.run("modbus/1")
    world.run("modbus/2")
    world.sts("modbus/1", "unprovisioned", trouble=True)
    world.sts("modbus/2", "unprovisioned")
    world.wait(16)
    world.create("modbus/3", provision=True)
    world.batch()
    assert [world.seat(name) for name in names(3)] == ["reserved", None, "reserved"]
    world.create("modbus/4", provision=True)
    world.batch()
    assert world.seat("modbus/4") is None


def test_a_running_unit_never_gives_its_seat_to_a_request() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.sts("modbus/1", "unlicensed")
    for name in names(5, start=2):
        world.create(name, provision=True)
    world.wait(1_000)
    assert world.seat("modbus/1") == "provisioned"
    assert not any(isinstance(event, SeatLost) for event in world.events)


def test_an_absent_unit_stays_counted_until_a_request_takes_its_seat_and_is_adopted_when_it_comes_back() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.facts.begin_snapshot()
    world.admission.find_absent(world.state, world.facts.generation)
    world.batch()
    assert world.totals.used == 2
    world.create("modbus/2", provision=True)
    world.batch()
    assert world.events[-2] == SeatLost(unit="modbus/1", cause=Cause.EVICTED)  # type: ignore[arg-type]
    assert world.heard["modbus/1"] is True, "an absent unit hears nothing"
    world.sts("modbus/2", "provisioned")
    world.sts("modbus/1", "unprovisioned", retained=True)
    world.batch()
    assert world.heard["modbus/1"] is True, "it may be a restart dip"
    world.wait(5)
    world.sts("modbus/1", "provisioned")
    world.batch()
    assert world.seat("modbus/1") == "provisioned"
    assert world.totals.excess == 1
    assert world.state.grace.allowed_s == 30 * 86_400


def test_a_unit_that_lost_its_seat_while_absent_and_does_not_run_is_an_ordinary_one_when_it_comes_back() -> None:
    world = World(capacity=2)
    world.run("modbus/1")
    world.facts.begin_snapshot()
    world.admission.find_absent(world.state, world.facts.generation)
    world.create("modbus/2", provision=True)
    world.batch()
    world.sts("modbus/1", "unlicensed")
    world.wait(16)
    assert world.heard["modbus/1"] is False
    assert not world.state.evicted


def test_a_unit_without_a_seat_that_is_not_seen_any_more_is_forgotten_and_makes_room() -> None:
    world = World(capacity=1)
    world.create("modbus/1", provision=True)
    world.batch()
    assert world.totals.waiting == 1
    world.facts.begin_snapshot()
    world.admission.find_absent(world.state, world.facts.generation)
    world.batch()
    assert world.totals.waiting == 0
    assert not list(world.facts.devices())
    world.create("modbus/1")
    world.batch()
    assert world.totals.waiting == 1


def test_units_that_run_in_the_first_snapshot_of_a_new_ledger_are_adopted_beyond_the_capacity() -> None:
    world = World(capacity=2, is_adopting=True)
    for name in names(3):
        world.sts(name, "provisioned", retained=True)
    world.snapshot_done()
    world.batch()
    assert [world.seat(name) for name in names(3)] == ["provisioned"] * 3
    assert world.totals.excess == 2
    assert False not in world.heard.values()


def test_a_device_in_a_restart_dip_during_the_first_snapshot_hears_no_false() -> None:
    world = World(capacity=1, is_adopting=True)
    world.sts("modbus/1", "unprovisioned", retained=True, mark=True)
    world.snapshot_done()
    world.wait(5)
    assert world.heard == {}
    world.sts("modbus/1", "provisioned")
    world.batch()
    assert world.heard == {"modbus/1": True}


def test_after_the_first_snapshot_nobody_is_adopted() -> None:
    world = World(capacity=2, is_adopting=True)
    world.snapshot_done()
    world.batch()
    assert not world.state.is_adopting
    world.run("modbus/1")
    world.sts("modbus/2", "provisioned")
    world.batch()
    assert world.seat("modbus/2") is None
    assert world.heard["modbus/2"] is False


def test_a_unit_first_seen_running_gets_a_free_seat() -> None:
    world = World(capacity=2)
    world.sts("modbus/1", "provisioned")
    world.batch()
    assert world.seat("modbus/1") == "provisioned"


def test_after_our_false_a_retained_provisioned_does_not_count() -> None:
    world = World(capacity=1)
    world.sts("modbus/1", "provisioned", retained=True)
    world.facts.licensed(next(world.facts.devices()).id, licensed=False, reason="capacity-exceeded")
    world.capacity = 2
    world.batch()
    assert world.seat("modbus/1") == "reserved"


def test_shrinking_takes_reserved_seats_newest_first_and_lets_running_ones_run() -> None:
    world = World(capacity=5)
    world.run("modbus/1")
    for name in names(3, start=2):
        world.create(name)
    world.batch()
    world.capacity, world.ended_grace_days = 3, 7
    world.admission.mark_all(world.state)
    world.batch()
    assert [world.seat(name) for name in names(4)] == ["provisioned", "reserved", None, None]


def test_running_units_beyond_the_capacity_run_on_for_the_grace_and_then_the_newest_go() -> None:
    world = World(capacity=4)
    for name in names(3):
        world.run(name)
    world.capacity, world.ended_grace_days = 2, 7
    world.batch()
    assert world.totals.excess == 2
    assert False not in world.heard.values()
    world.state.grace = Grace(allowed_s=7 * 86_400, used_s=7 * 86_400)
    world.batch()
    assert [world.seat(name) for name in names(3)] == ["provisioned", None, None]
    assert world.heard == {"modbus/1": True, "modbus/2": False, "modbus/3": False}


def test_growing_capacity_seats_waiting_units_in_the_same_batch() -> None:
    world = World(capacity=1)
    for name in names(3):
        world.create(name)
    world.batch()
    world.capacity = 3
    world.batch()
    assert [world.seat(name) for name in names(3)] == ["reserved", "reserved", None]


def test_an_internal_application_is_always_licensed_takes_no_seat_and_never_waits() -> None:
    world = World(capacity=1)
    world.create("lon/app.1", provision=True, local=True)
    world.create("modbus/sys", provision=True)
    world.batch()
    assert world.heard == {"lon/app.1": True, "modbus/sys": True}
    assert (world.totals.used, world.totals.waiting, world.refusals) == (1, 0, [])


def test_a_live_device_cannot_be_made_internal_by_a_create() -> None:
    world = World(capacity=3)
    world.create("lon/1")
    world.batch()
    world.ask("lon/1", Action.CREATE, wants_provision=False, local=True)
    world.batch()
    assert world.seat("lon/1") == "reserved"


def test_becoming_internal_frees_the_seat_and_deletion_clears_the_mark() -> None:
    world = World(capacity=3)
    world.create("lon/1")
    world.batch()
    world.facts.configured(next(world.facts.devices()).id, is_local_attach=True)
    world.batch()
    assert world.seat("lon/1") is None
    assert world.heard["lon/1"] is True
    world.sts("lon/1", "deleted")
    world.batch()
    assert not world.state.internal
    world.create("lon/1")
    world.batch()
    assert world.seat("lon/1") == "reserved"


def test_an_iox_module_takes_one_seat_whatever_its_members_show_and_frees_it_when_the_last_is_gone() -> None:
    world = World(capacity=2)
    world.sts("iap/iox.1.dio", "unlicensed")
    world.sts("iap/iox.1.sys", "unlicensed")
    world.batch()
    world.sts("iap/iox.1.sys", "provisioned")
    world.batch()
    assert world.seat("iox/1") == "provisioned"
    assert world.heard == {"iap/iox.1.dio": True, "iap/iox.1.sys": True}
    world.sts("iap/iox.1.sys", "deleted")
    world.batch()
    assert world.seat("iox/1") == "provisioned"
    world.sts("iap/iox.1.dio", "deleted")
    world.batch()
    assert world.seat("iox/1") is None


def test_deciding_changes_nothing() -> None:
    world = World(capacity=3)
    for name in names(5):
        world.create(name, provision=True)
    before = dict(world.state.seats)
    for _ in world.admission.deciding(world.state, Entitled(3, None), grace=world.state.grace, now_s=world.now_s):
        assert world.state.seats == before
    assert world.state.seats == before
    assert (world.state.provisioned, world.state.reserved) == (0, 0)


def test_a_ledger_without_room_gives_no_new_seat_and_takes_none_away() -> None:
    world = World(5)
    world.run("modbus/1")
    world.create("modbus/2", provision=True)
    entitled = Entitled(5, None, room=0)
    *_, decision = world.admission.deciding(world.state, entitled, grace=world.state.grace, now_s=world.now_s)
    assert decision is not None
    assert decision.events == ()
    assert not decision.grace.allowed_s
    entitled = Entitled(5, None, room=1)
    world.create("modbus/3", provision=True)
    *_, decision = world.admission.deciding(world.state, entitled, grace=world.state.grace, now_s=world.now_s)
    assert decision is not None
    assert [type(event) for event in decision.events] == [SeatGiven]
