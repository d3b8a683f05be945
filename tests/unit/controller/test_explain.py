"""What an administrator is told of a device: the rule, the place in the queue, and what to do."""

from __future__ import annotations

import pytest

from smartserver_licensed.controller.explain import device_rows, explain
from smartserver_licensed.domain.errors import UnknownDeviceError
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.formats.bus import Plain
from support.world import World, device_id

LICENSE = License("L-1", LicenseType.CAPACITY, 3)


def explained(world: World, name: str, *, has_ledger: bool = True) -> dict[str, Plain]:
    return explain(
        name,
        world.facts,
        world.state if has_ledger else None,
        world.admission.queues,
        world.answer(name) if world.facts.device(device_id(name)) else None,
        totals=world.totals,
        licenses=(LICENSE,),
        now=0,
        now_s=world.now_s,
    )


def advice(world: World, name: str, *, has_ledger: bool = True) -> str:
    said = explained(world, name, has_ledger=has_ledger)["advice"]
    assert isinstance(said, list)
    return " ".join(said)


def created(world: World, *names: str) -> None:
    for name in names:
        world.create(name)
        world.batch()


def test_a_waiting_device_learns_its_place_and_that_a_request_takes_a_seat() -> None:
    world = World(3)
    created(world, "lon/1", "lon/2", "lon/3", "lon/4")
    said = explained(world, "lon/4")
    assert (said["seat"], said["place"], said["takeable"], said["reason"]) == ("waiting", 2, 2, "not-asked")
    assert "Provision it now: that takes a seat from a device that does not run (2 can be taken)." in advice(
        world, "lon/4"
    )
    assert "a capacity license of at least 2 devices" in advice(world, "lon/4")
    assert said["documents"] == ["L-1: 3-device capacity, Active"]


def test_the_advice_of_a_request_comes_true() -> None:
    world = World(3)
    created(world, "lon/1", "lon/2", "lon/3")
    world.ask("lon/3")
    world.batch()
    assert explained(world, "lon/3")["seat"] == "reserved"
    assert explained(world, "lon/1")["seat"] == "waiting"


def test_the_license_that_an_advice_names_gives_a_seat() -> None:
    world = World(3)
    created(world, "lon/1", "lon/2", "lon/3", "lon/4")
    for capacity, seat in ((4, "waiting"), (5, "reserved")):
        world.capacity = capacity
        world.admission.mark_all(world.state)
        world.batch()
        assert explained(world, "lon/4")["seat"] == seat


def test_where_all_run_a_refused_device_is_told_to_free_or_buy_a_seat() -> None:
    world = World(3)
    for name in ("lon/1", "lon/2"):
        world.run(name)
    world.create("lon/3", provision=True)
    world.batch()
    said = explained(world, "lon/3")
    assert (said["reason"], said["place"], said["takeable"]) == ("capacity-exceeded", 1, 0)
    assert (said["asked_seconds_ago"], said["request_is_fresh"]) == (0, True)
    assert "No seat can be taken" in advice(world, "lon/3")
    assert "a capacity license of at least 1 device:" in advice(world, "lon/3")
    world.wait(120)
    assert explained(world, "lon/3")["request_is_fresh"] is False


def test_who_was_asked_for_stands_before_who_was_not() -> None:
    world = World(2)
    world.run("lon/1")
    created(world, "lon/2", "lon/3")
    world.ask("lon/3")
    world.batch()
    assert [explained(world, name)["place"] for name in ("lon/3", "lon/2")] == [1, 2]


def test_without_any_license_the_first_one_also_covers_the_smartserver() -> None:
    world = World(0)
    created(world, "lon/1")
    assert "Install a capacity license of at least 2 devices: licensectl install FILE" in advice(world, "lon/1")


def test_beyond_the_capacity_who_waits_and_who_runs_are_told_so() -> None:
    world = World(4)
    world.ended_grace_days = 7
    for name in ("lon/1", "lon/2", "lon/3"):
        world.run(name)
    created(world, "lon/4")
    world.capacity = 2
    world.admission.mark_all(world.state)
    world.batch()
    assert "(4 of 2): the newest lose their seats when the grace is over" in advice(world, "lon/1")
    assert "a capacity license of at least 2 devices" in advice(world, "lon/1")
    assert "(4 of 2): nothing new is admitted" in advice(world, "lon/4")
    assert "a capacity license of at least 3 devices" in advice(world, "lon/4")


def test_a_seat_that_is_free_and_not_given_means_that_the_daemon_cannot_decide_now() -> None:
    world = World(2)
    created(world, "lon/1", "lon/2")
    world.capacity = 5  # and no batch since: the broker is away
    assert "A seat is free" in advice(world, "lon/2")
    assert "licensectl doctor" in advice(world, "lon/2")


def test_a_running_device_needs_no_advice() -> None:
    world = World(3)
    world.run("lon/1")
    said = explained(world, "lon/1")
    assert (said["seat"], said["licensed"], said["advice"]) == ("provisioned", True, [])
    assert "place" not in said


def test_an_absent_device_keeps_its_seat_and_after_its_loss_is_not_called_deleted() -> None:
    world = World(2)
    world.run("lon/1")
    world.facts.begin_snapshot()
    world.admission.find_absent(world.state, world.facts.generation)
    world.batch()
    assert explained(world, "lon/1")["seat"] == "absent"
    assert "Nothing has to be done" in advice(world, "lon/1")
    world.create("lon/2", provision=True)
    world.batch()
    assert explained(world, "lon/1")["seat"] == "gone"
    rows = device_rows(world.facts, world.state, world.admission.queues, waiting_only=False, after="", limit=9)
    assert {row["name"]: row["seat"] for row in rows} == {"lon/1": "gone", "lon/2": "reserved"}


def test_a_deleted_device_is_called_so() -> None:
    world = World(2)
    world.run("lon/1")
    world.sts("lon/1", "deleted")
    world.batch()
    assert explained(world, "lon/1")["seat"] == "deleted"
    assert advice(world, "lon/1") == "Create it again if it is still wanted."


def test_without_a_ledger_the_doctor_is_named() -> None:
    world = World(2)
    created(world, "lon/1")
    assert explained(world, "lon/1", has_ledger=False)["seat"] == "storage-fault"
    assert "licensectl doctor" in advice(world, "lon/1", has_ledger=False)


def test_a_device_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(UnknownDeviceError, match="lon/9"):
        explained(World(2), "lon/9")
