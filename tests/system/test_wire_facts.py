"""What is known of the bus, fact by fact, and that the daemon lives with each: the whole daemon on real parts.

| fact | tests, each `test_…` |
|---|---|
| 1  | a_device_created_with_provision_true_runs_without_any_do_message |
|    | a_restore_mark_is_a_wish_and_only_the_state_counts |
| 2  | a_running_device_hears_no_false_whatever_is_asked_for_and_whoever_is_killed |
|    | a_device_that_runs_against_our_false_hears_it_again |
| 3  | a_provision_that_the_engine_refused_before_our_answer_is_repeated_… |
|    | a_device_without_a_seat_can_be_replaced_and_deleted |
| 4  | what_is_shown_again_is_not_answered_again |
| 5  | lic_is_said_again_when_a_device_with_a_seat_shows_unlicensed_… |
|    | in_an_engines_first_seconds_only_a_retained_lic_is_heard_and_ours_is_retained |
|    | after_an_engines_start_its_devices_hear_lic_without_the_pauses_that_had_grown |
| 6  | no_lic_topic_is_ever_cleared_with_an_empty_message |
|    | a_device_is_deleted_and_its_handle_hears_false_… |
|    | a_deleted_that_is_retained_takes_no_seat_and_stays_false_over_a_restart |
| 7  | a_restart_dip_moves_no_seat |
|    | after_a_restart_every_device_of_an_engine_has_the_seat_it_had_and_runs |
|    | a_seat_is_free_when_the_deletion_is_shown_and_not_when_it_is_asked_for |
| 8  | replace_keeps_the_seat |
|    | a_duplicate_unid_makes_a_device_that_counts_as_any_other |
|    | an_sts_without_unid_and_type_counts_as_any_other |
|    | a_ghost_without_a_state_takes_no_seat |
| 9  | what_events_say_is_not_counted |
|    | anybodys_sts_makes_a_device_which_is_licensed_and_counted |
| 10 | an_older_engines_device_takes_a_seat_though_nobody_is_asked_… |
| 11 | a_life_costs_two_lic_and_two_records |
|    | milliseconds_without_padding_are_read |

Below them: what the daemon does of its own accord (its answers, the SID, its start, its own messages that come back),
and what counts as one.

What this module does not do: what older engines run over the limit (`test_older_engine`), forgeries
(`test_guarded_topics`), an empty broker and 4,000 devices (`test_bus_of_devices`), bounds (`test_hostile_bus`), bad
payloads (`test_bad_input`), no ledger (`test_storage`).

Rules: one SmartServer with seats for two devices serves all cases; each leaves it without devices, and speaks of
a protocol of its own where the rule is not about protocols. Where there is no engine, the test speaks for it: `show`.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from engines.machine import DEVICE_TYPE, Kind
from engines.runner import Engine
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client, Message

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(120)]
CAPACITY = 3  # the SmartServer itself takes one: two devices
PATIENCE_S = 20.0
QUIET_S = 0.7  # nothing more comes: an answer takes some milliseconds
TYPE = DEVICE_TYPE["idl"]
SID_TOPIC = "glp/0/././sid"
LOCAL: dict[str, Any] = {"type": TYPE, "lon.attach": "local"}

serial = itertools.count(1)


class Site:
    """One case's view of the SmartServer: it speaks for engines and people, and hears everything."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.sid = INSTALL_CODE
        self.protocol = f"p{next(serial)}"
        self.client = Client(box.broker.port)
        self.client.subscribe("glp/0/#")
        self._since = 0
        self.wait_for_counts(used=1, reserved=0, waiting=0)

    # -- what it says ------------------------------------------------------------------------------------------------

    def topic(self, device: str, resource: str) -> str:
        """`device`: a handle of this case's protocol, or protocol/handle."""
        name = device if "/" in device else f"{self.protocol}/{device}"
        return f"glp/0/{self.sid}/{'rq' if resource == 'do' else 'fb'}/dev/{name}/{resource}"

    def do(self, device: str, action: str, *, qos: int = 1, **args: object) -> None:
        request = {"action": action} | ({"args": args} if args else {})
        self.client.publish(self.topic(device, "do"), request, qos=qos)

    def show(self, device: str, state: str, **fields: object) -> None:
        self.client.publish(self.topic(device, "sts"), {"state": state, **fields}, retain=True)

    def show_running(self, *devices: str) -> None:
        for each in devices:
            self.show(each, "unlicensed")
            self.wait_for_lic(each, licensed=True)
            self.show(each, "unprovisioned")
            self.show(each, "provisioned")

    def fill(self) -> None:
        """d1 and d2 run and d3 waits; there is no engine."""
        self.show_running("d1", "d2")
        self.show("d3", "unlicensed")
        self.wait_for_counts(used=3, reserved=0, waiting=1)
        self.wait_for_lic("d3", licensed=False)

    def say_sid(self, payload: str) -> None:
        self.client.publish(SID_TOPIC, payload, retain=True)

    # -- what it hears -----------------------------------------------------------------------------------------------

    def look_from_now_on(self) -> None:
        """What came so far is not `new`."""
        self._since = len(self.client.messages)

    def new(self) -> list[Message]:
        return self.client.messages[self._since :]

    def heard(self, device: str, resource: str) -> list[Message]:
        topic = self.topic(device, resource)
        return [each for each in self.new() if each.topic == topic]

    def lic(self, device: str) -> list[bool]:
        return [each.json()["licensed"] for each in self.heard(device, "lic")]

    def states(self, device: str) -> list[str | None]:
        """Each `sts` as it came; None where it has no state."""
        return [each.json().get("state") for each in self.heard(device, "sts") if each.payload]

    def counts(self) -> dict[str, int]:
        """What `fb/lic` says; empty as long as it says nothing."""
        said = [each for each in self.client.messages if each.topic == f"glp/0/{self.sid}/fb/lic"]
        return {key: said[-1].json()[key] for key in ("used", "reserved", "waiting")} if said else {}

    def refusals(self, device: str) -> list[Message]:
        """The daemon's own `ev/error` for requests to this device."""
        errors = [each for each in self.new() if each.topic == f"glp/0/{self.sid}/ev/error"]
        topic = self.topic(device, "do")
        return [each for each in errors if (each.json()["source"], each.json()["topic"]) == ("licensed", topic)]

    def records(self, event: str) -> list[str]:
        """The devices of all records of this kind."""
        said = [each.json() for each in self.new() if each.topic == f"glp/0/{self.sid}/ev/lic"]
        return [each["device"] for each in said if each["event"] == event]

    def seats(self) -> dict[str, str]:
        return {name: row["seat"] for name, row in self.box.devices().items()}

    # -- what it waits for -------------------------------------------------------------------------------------------

    def wait_for_counts(self, **counts: int) -> None:
        self.client.wait_until(lambda _: bool(said := self.counts()) and said | counts == said, PATIENCE_S)

    def expect(self, **counts: int) -> None:
        """These counts, and they stay: `fb/lic` closes a batch, so it comes after `lic`."""
        self.wait_for_counts(**counts)
        time.sleep(0.15)
        assert self.counts() == counts

    def wait_for_lic(self, device: str, *, licensed: bool) -> None:
        self.client.wait_until(lambda _: self.lic(device)[-1:] == [licensed], PATIENCE_S)

    def wait_for_state(self, device: str, state: str) -> None:
        self.client.wait_until(lambda _: self.states(device)[-1:] == [state], PATIENCE_S)

    def wait_for_refusal(self, device: str) -> None:
        self.client.wait_until(lambda _: bool(self.refusals(device)), PATIENCE_S)

    def restart_daemon(self) -> None:
        self.box.kill()
        self.box.start()
        wait_until(lambda: self.box.status()["state"] != "starting", timeout_s=PATIENCE_S, what="a snapshot")

    # -- its end -----------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Every device is deleted, and forgotten by the broker but for its last `lic`."""
        retained = {each.topic for each in self.client.messages if each.topic.endswith(("/sts", "/cfg"))}
        for topic in retained:
            if topic.endswith("/sts") and f"/{INSTALL_CODE}/" in topic:
                self.client.publish(topic, {"state": "deleted"}, retain=True)
        self.wait_for_counts(used=1, reserved=0, waiting=0)
        for topic in retained:
            self.client.publish(topic, retain=True)
        assert not [each for each in self.client.messages if each.topic.endswith("/lic") and not each.payload]
        self.client.close()


class Boxes:
    """One SmartServer for all cases; a new one after a case that could not clean up."""

    def __init__(self) -> None:
        self._box: Box | None = None

    def take(self) -> Box:
        """For one case, which gives it back."""
        box = self._box or Box(capacity=CAPACITY).__enter__()
        self._box = None
        return box

    def give_back(self, box: Box) -> None:
        self._box = box

    def close(self) -> None:
        if self._box is not None:
            self._box.__exit__()


@pytest.fixture(scope="module")
def boxes() -> Iterator[Boxes]:
    boxes = Boxes()
    yield boxes
    boxes.close()


@pytest.fixture
def site(boxes: Boxes) -> Iterator[Site]:
    box = boxes.take()
    is_clean = False
    try:
        site = Site(box)
        yield site
        site.leave()
        is_clean = box._daemon is not None and box._daemon.poll() is None
    finally:
        if is_clean:
            boxes.give_back(box)
        else:
            box.__exit__()


def engine_of(site: Site, kind: Kind = "idl", *, window_s: float = 0.2) -> Engine:
    return Engine(site.box.broker.port, site.protocol, kind=kind, start_window_s=window_s)


def run_two(site: Site, engine: Engine) -> None:
    engine.create_devices(2, provision=True)
    site.wait_for_counts(used=3, reserved=0, waiting=0)


# -- fact 1: a created device is `unlicensed`; `true` makes it `unprovisioned`, and one created with `provision:true` is
# then provisioned by the driver itself, with no `do` on the bus. `"provisioned":"true"` is what it wants to be ---


def test_a_device_created_with_provision_true_runs_without_any_do_message(site: Site) -> None:
    with engine_of(site):
        site.do("d1", "create", unid="1", type=TYPE, provision=True)
        site.wait_for_state("d1", "provisioned")
        site.wait_for_counts(used=2, reserved=0)
        assert [state for state, _ in itertools.groupby(site.states("d1"))] == [
            "unlicensed",
            "unprovisioned",
            "provisioned",
        ]
        assert set(site.lic("d1")) == {True}
        assert len(site.heard("d1", "do")) == 1, "the create"


def test_a_restore_mark_is_a_wish_and_only_the_state_counts(site: Site) -> None:
    site.show("d1", "unlicensed", provisioned="true")
    site.wait_for_lic("d1", licensed=True)
    site.show("d1", "unprovisioned", provisioned="true")
    site.wait_for_counts(used=1, reserved=1)
    time.sleep(QUIET_S)
    assert site.counts()["used"] == 1
    site.show("d1", "provisioned", provisioned="true")
    site.wait_for_counts(used=2, reserved=0)


# -- fact 2: `false` moves a device to `unlicensed` from any state, `provisioned` included: polling stops ---


def test_a_running_device_hears_no_false_whatever_is_asked_for_and_whoever_is_killed(site: Site) -> None:
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d3", "create", unid="3", type=TYPE, provision=True)
        site.wait_for_refusal("d3")
        site.restart_daemon()
        site.do("d3", "provision")
        site.client.wait_until(lambda _: len(site.refusals("d3")) == 2, PATIENCE_S)
        engine.restart()
        time.sleep(QUIET_S)
        assert set(site.lic("d1") + site.lic("d2")) == {True}
        assert set(site.lic("d3")) == {False}


def test_a_device_that_runs_against_our_false_hears_it_again(site: Site) -> None:
    site.fill()
    site.look_from_now_on()
    site.show("d3", "provisioned")
    site.wait_for_lic("d3", licensed=False)
    site.show("d3", "unlicensed")
    assert site.lic("d1") == site.lic("d2") == []
    assert site.heard("d3", "do") == [], "it has said `unlicensed`: it reads lic, and is asked for nothing else"


# -- fact 3: an unlicensed device refuses provision, deprovision and test with `ev/error`; delete and replace work ---


def test_a_provision_that_the_engine_refused_before_our_answer_is_repeated_so_that_nobody_presses_twice(
    site: Site,
) -> None:
    with engine_of(site) as engine:
        engine.create_devices(3)
        site.wait_for_counts(used=1, reserved=2, waiting=1)
        site.client.wait_until(lambda _: sorted(site.lic(f"d{n}")[-1:] for n in (1, 2, 3)) == [[False], [True], [True]])
        (left_out,) = [each for each in ("d1", "d2", "d3") if site.lic(each)[-1] is False]
        site.do(left_out, "provision")
        site.wait_for_state(left_out, "provisioned")
        site.wait_for_counts(used=2, reserved=1, waiting=1)
        refused = [each.json() for each in site.client.messages if each.topic.endswith("/ev/error")]
        assert [each["source"] for each in refused] == [site.protocol], "by the engine alone"
        assert refused[0]["message"] == "provision-illegal operation on unlicensed device"
        assert len(site.heard(left_out, "do")) == 2, "the person's, and the daemon's"


def test_a_device_without_a_seat_can_be_replaced_and_deleted(site: Site) -> None:
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d3", "create", unid="3", type=TYPE)
        site.wait_for_counts(waiting=1)
        site.do("d3", "replace", unid="another")
        site.client.wait_until(lambda _: '"unid":"another"' in site.heard("d3", "sts")[-1].payload, PATIENCE_S)
        time.sleep(QUIET_S)
        site.expect(used=3, reserved=0, waiting=1)
        site.do("d3", "delete")
        site.wait_for_counts(used=3, reserved=0, waiting=0)
        assert set(site.lic("d3")) == {False}


# -- fact 4: the same value again changes nothing ---


def test_what_is_shown_again_is_not_answered_again(site: Site) -> None:
    site.fill()
    site.look_from_now_on()
    for _ in range(20):
        for device, state in (("d1", "provisioned"), ("d2", "provisioned"), ("d3", "unlicensed")):
            site.show(device, state)
    site.do("d3", "provision")
    site.wait_for_refusal("d3")
    time.sleep(QUIET_S)
    assert site.lic("d1") == site.lic("d2") == []
    assert [each.json()["reason"] for each in site.heard("d3", "lic")] == ["capacity-exceeded"], "for the request"


# -- fact 5: a `lic` for a handle that the driver does not know yet is dropped, and the retained copy is not read again
# when the device is created. In the 5 s after the driver's first device only retained ones are heard ---


def test_lic_is_said_again_when_a_device_with_a_seat_shows_unlicensed_though_the_broker_holds_it(site: Site) -> None:
    site.show("acme-wm2000.d-0", "unlicensed")
    site.client.wait_until(lambda _: len(site.lic("acme-wm2000.d-0")) == 3, PATIENCE_S)
    assert set(site.lic("acme-wm2000.d-0")) == {True}
    times = [each.time_s for each in site.heard("acme-wm2000.d-0", "lic")]
    first, second = (after - before for before, after in pairwise(times))
    assert 0.5 < first < second, "growing pauses"
    site.show("acme-wm2000.d-0", "unprovisioned")
    time.sleep(QUIET_S)
    assert len(site.lic("acme-wm2000.d-0")) == 3


def test_in_an_engines_first_seconds_only_a_retained_lic_is_heard_and_ours_is_retained(site: Site) -> None:
    with engine_of(site, window_s=1.5):
        site.do("d1", "create", unid="1", type=TYPE, provision=True)
        site.wait_for_state("d1", "provisioned")
        site.wait_for_counts(used=2)
        created, licensed = site.heard("d1", "sts")[0], site.heard("d1", "lic")[0]
        obeyed = next(each for each in site.heard("d1", "sts") if each.json()["state"] == "unprovisioned")
        assert licensed.time_s - created.time_s < 1.4 < obeyed.time_s - created.time_s
    with Client(site.box.broker.port) as later:
        later.subscribe(site.topic("d1", "lic"))
        assert later.wait_for(lambda each: each.retain).json()["licensed"] is True


def test_after_an_engines_start_its_devices_hear_lic_without_the_pauses_that_had_grown(site: Site) -> None:
    site.show("d1", "unlicensed")
    site.client.wait_until(lambda _: len(site.lic("d1")) == 3, PATIENCE_S)  # the next pause is 4 s
    site.client.publish(f"glp/0/./=engine/{site.protocol}/about", {})
    site.show("d1", "unlicensed")
    shown = site.heard("d1", "sts")[0].time_s + 3.0
    site.client.wait_until(lambda _: len(site.lic("d1")) == 4, PATIENCE_S)
    assert site.heard("d1", "lic")[-1].time_s - shown < 3.0


# -- fact 6: a retained `lic` that is cleared with an empty message crashes the library at its next start: a deleted
# device hears `false` ---


def test_no_lic_topic_is_ever_cleared_with_an_empty_message(site: Site) -> None:
    """A whole life; and every other case here looks for it at its end."""
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d3", "create", unid="3", type=TYPE)
        site.wait_for_lic("d3", licensed=False)
        site.do("d1", "replace", unid="another")
        site.do("d2", "deprovision")
        site.restart_daemon()
        for handle in ("d1", "d2", "d3"):
            site.do(handle, "delete")
        site.wait_for_counts(used=1, reserved=0, waiting=0)
        for handle in ("d1", "d2", "d3"):
            site.client.publish(site.topic(handle, "sts"), retain=True)  # somebody clears what the driver left
            site.wait_for_lic(handle, licensed=False)
        time.sleep(QUIET_S)
        payloads = [each.payload for handle in ("d1", "d2", "d3") for each in site.heard(handle, "lic")]
        assert len(payloads) >= 6
        assert all(payloads)


def test_a_device_is_deleted_and_its_handle_hears_false_so_that_a_later_one_finds_no_old_true(site: Site) -> None:
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d1", "delete")
        site.wait_for_lic("d1", licensed=False)
        with Client(site.box.broker.port) as later:
            later.subscribe(site.topic("d1", "lic"))
            found = later.wait_for(lambda each: each.retain).json()
            assert (found["licensed"], found["reason"]) == (False, "deleted")
        site.wait_for_counts(used=2, reserved=0)
        site.do("d1", "create", unid="1", type=TYPE, provision=True)
        site.wait_for_state("d1", "provisioned")
        site.wait_for_counts(used=3)


def test_a_deleted_that_is_retained_takes_no_seat_and_stays_false_over_a_restart(site: Site) -> None:
    site.show_running("d1")
    site.show("d1", "deleted")
    site.wait_for_counts(used=1, reserved=0)
    site.client.publish(site.topic("d2", "sts"), {"state": "deleted"}, retain=True)  # never seen alive
    site.restart_daemon()
    site.client.wait_until(lambda _: site.lic("d1")[-1:] == site.lic("d2")[-1:] == [False], PATIENCE_S)
    assert site.seats() == {}
    site.expect(used=1, reserved=0, waiting=0)


# -- fact 7: on a driver's restart devices show `unlicensed`, `unprovisioned`, `provisioned`, or some of them. That dip
# is neither a release nor a new device. Deletions of provisioned devices take up to 5 s each ---


@pytest.mark.parametrize("dip", [["unprovisioned"], ["unlicensed", "unprovisioned"], ["unlicensed"]])
def test_a_restart_dip_moves_no_seat(site: Site, dip: list[str]) -> None:
    site.fill()
    before = site.seats()
    site.client.publish(f"glp/0/./=engine/{site.protocol}/about", {})
    for state in dip:
        site.show("d1", state)
        site.show("d2", state)
    site.do("d3", "provision")
    site.wait_for_refusal("d3")
    site.expect(used=3, reserved=0, waiting=1)
    site.show("d1", "provisioned")
    site.show("d2", "provisioned")
    time.sleep(QUIET_S)
    assert site.seats() == before
    assert set(site.lic("d1") + site.lic("d2")) == {True}


def test_after_a_restart_every_device_of_an_engine_has_the_seat_it_had_and_runs(site: Site) -> None:
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d3", "create", unid="3", type=TYPE, provision=True)
        site.wait_for_refusal("d3")
        before = site.seats()
        site.look_from_now_on()
        engine.restart()
        site.wait_for_state("d1", "provisioned")
        site.wait_for_state("d2", "provisioned")
        site.wait_for_state("d3", "unlicensed")
        time.sleep(QUIET_S)
        assert site.seats() == before
        assert not any(site.lic("d3"))


def test_a_seat_is_free_when_the_deletion_is_shown_and_not_when_it_is_asked_for(site: Site) -> None:
    with engine_of(site, window_s=0.8) as engine:
        run_two(site, engine)
        site.do("d1", "delete")
        site.do("d2", "delete")
        site.wait_for_counts(used=1)
        topics = [each.topic for each in site.client.messages if '"state":"deleted"' in each.payload]
        topics = list(dict.fromkeys(topics))
        assert len(topics) == 2
        used = [
            (index, each.json()["used"])
            for index, each in enumerate(site.client.messages)
            if each.topic == f"glp/0/{site.sid}/fb/lic"
        ]
        assert [count for _, count in used[-2:]] == [2, 1]
        shown = [
            next(n for n, each in enumerate(site.client.messages) if each.topic == topic and "deleted" in each.payload)
            for topic in topics
        ]
        assert shown[0] < used[-2][0] < shown[1] < used[-1][0]


# -- fact 8: `replace` keeps the handle, changes the unid and leaves the device `unprovisioned` (older: `provisioned`).
# A duplicate UNID creates the device without one. Older engines: no unid, no type, ghosts without a state ---


@pytest.mark.parametrize(("kind", "state"), [("idl", "unprovisioned"), ("js", "provisioned")])
def test_replace_keeps_the_seat(site: Site, kind: Kind, state: str) -> None:
    with engine_of(site, kind) as engine:
        run_two(site, engine)
        engine.create_devices(1, first=3)
        site.wait_for_counts(used=3, waiting=1)
        before = site.seats()
        site.do("d1", "replace", unid="another")
        site.client.wait_until(lambda _: '"unid":"another"' in site.heard("d1", "sts")[-1].payload, PATIENCE_S)
        assert site.states("d1")[-1] == state
        if kind == "idl":
            site.do("d3", "provision")
            site.wait_for_refusal("d3")
        time.sleep(QUIET_S)
        assert site.seats() == before
        site.do("d1", "provision")
        site.wait_for_state("d1", "provisioned")
        site.expect(used=3, reserved=0, waiting=1)
        assert set(site.lic("d1")) == {True}


def test_a_duplicate_unid_makes_a_device_that_counts_as_any_other(site: Site) -> None:
    with engine_of(site):
        site.do("d1", "create", unid="same", type=TYPE, provision=True)
        site.do("d2", "create", unid="same", type=TYPE, provision=True)
        site.wait_for_counts(used=3, reserved=0)
        assert "unid" not in site.heard("d2", "sts")[-1].json()


def test_an_sts_without_unid_and_type_counts_as_any_other(site: Site) -> None:
    with engine_of(site, "js") as engine:
        engine.create_devices(1, provision=True)
        site.wait_for_counts(used=2)
        site.do("d1", "deprovision")
        site.wait_for_counts(used=1, reserved=1)
        site.do("d1", "provision")
        site.wait_for_counts(used=2, reserved=0)
        last = site.heard("d1", "sts")[-1].json()
        assert (last["unid"], last["type"]) == (None, None)


def test_a_ghost_without_a_state_takes_no_seat(site: Site) -> None:
    with engine_of(site, "js") as engine:
        site.do("ghost", "create", type=DEVICE_TYPE["js"])
        site.client.wait_until(lambda _: site.states("ghost") == [None], PATIENCE_S)
        engine.create_devices(1, provision=True)
        site.wait_for_counts(used=2, reserved=0, waiting=0)
        site.restart_daemon()
        assert site.seats() == {f"{site.protocol}/d1": "provisioned"}
        assert site.lic("ghost") == []


# -- fact 9: no engine publishes `ev/created` or `ev/deleted`; anybody's `sts` of an unknown handle creates the device


def test_what_events_say_is_not_counted(site: Site) -> None:
    site.show_running("d1")
    site.wait_for_counts(used=2)
    event = {"protocol": site.protocol, "handle": "d1", "args": {"handle": "d1"}}
    for name in ("deleted", "created"):
        site.client.publish(f"glp/0/{site.sid}/ev/{name}", event)
        site.client.publish(f"glp/0/{site.sid}/ev/dev/{site.protocol}/d2/{name}", event)
    site.show("d3", "unlicensed")
    site.wait_for_lic("d3", licensed=True)
    assert site.seats() == {f"{site.protocol}/d1": "provisioned", f"{site.protocol}/d3": "reserved"}


def test_anybodys_sts_makes_a_device_which_is_licensed_and_counted(site: Site) -> None:
    with engine_of(site) as engine:
        engine.create_devices(1, provision=True)
        site.wait_for_counts(used=2, reserved=0)
        site.show("d2", "unprovisioned", unid="2", type=TYPE)
        site.wait_for_counts(used=2, reserved=1)
        site.client.wait_until(lambda _: site.states("d2")[-2:] == ["unlicensed", "unprovisioned"], PATIENCE_S)
        assert set(site.lic("d2")) == {True}, "the engine made it, unlicensed, and heard true"


# -- fact 10: engines before 3.4 know no `lic`: devices start `unprovisioned`, reach `provisioned` without asking, and
# nothing is published after a restart ---


def test_an_older_engines_device_takes_a_seat_though_nobody_is_asked_and_a_restart_is_silent(site: Site) -> None:
    with engine_of(site, "js") as engine:
        run_two(site, engine)
        assert set(site.states("d1")) == {"unprovisioned", "provisioned"}
        before = site.seats()
        site.look_from_now_on()
        engine.kill()
        site.restart_daemon()
        engine.start()
        time.sleep(QUIET_S)
        assert site.states("d1") == []
        assert site.seats() == before == {f"{site.protocol}/d1": "provisioned", f"{site.protocol}/d2": "provisioned"}
        site.do("d1", "delete")
        site.wait_for_counts(used=2, reserved=0)


# -- fact 11: create 4 messages, license 1–2, delete 4. Milliseconds in `mru` and `utc` are not zero-padded ---


def test_a_life_costs_two_lic_and_two_records(site: Site) -> None:
    with engine_of(site):
        site.do("d1", "create", unid="1", type=TYPE, provision=True)
        site.wait_for_counts(used=2)
        site.do("d1", "delete")
        site.wait_for_counts(used=1, reserved=0)
        site.wait_for_lic("d1", licensed=False)
        time.sleep(QUIET_S)
        prefix = f"glp/0/{site.sid}/fb/dev/{site.protocol}/d1/"
        theirs = [each for each in site.client.messages if each.topic.startswith(prefix) and each.topic[-4:] != "/lic"]
        assert len(theirs) == 4 + 2 + 4
        assert site.lic("d1") == [True, False]
        assert site.records("admission") == site.records("release") == [f"{site.protocol}/d1"]
        assert site.records("rejection") == []


@pytest.mark.parametrize(
    "stamp", ["2026-11-24 03:22:42.7 UTC", "2026-11-24 03:22:42.0 UTC", "2026-11-24 03:22:42.74 UTC"]
)
def test_milliseconds_without_padding_are_read(site: Site, stamp: str) -> None:
    site.show("d1", "unlicensed", mru=stamp, utc=stamp)
    site.wait_for_lic("d1", licensed=True)
    site.show("d1", "provisioned", mru=stamp)
    site.wait_for_counts(used=2)


# -- what the daemon answers ---


def test_every_known_device_hears_lic_and_a_false_says_why(site: Site) -> None:
    site.fill()
    yes, no = site.heard("d1", "lic")[-1].json(), site.heard("d3", "lic")[-1].json()
    assert yes.keys() == {"licensed", "mru"}
    assert no.pop("mru")
    assert no == {"licensed": False, "reason": "not-asked", "capacity": 3, "used": 3}


def test_a_refused_request_brings_one_error_in_the_vendors_form_and_one_record(site: Site) -> None:
    with engine_of(site) as engine:
        run_two(site, engine)
        site.do("d3", "create", unid="3", type=TYPE, provision=True)
        site.wait_for_refusal("d3")
        time.sleep(QUIET_S)
        (error,) = (each.json() for each in site.refusals("d3"))
        assert error.pop("utc").endswith(" UTC")
        assert error == {
            "cat": "error",
            "source": "licensed",
            "language": "en",
            "topic": site.topic("d3", "do"),
            "message": "create-device capacity exceeded: 3 of 3 in use",
            "code": "capacity-exceeded",
            "data": {"capacity": 3, "used": 3},
        }
        assert site.records("rejection") == [f"{site.protocol}/d3"]
        assert site.heard("d3", "lic")[-1].json()["reason"] == "capacity-exceeded"


def test_the_members_of_a_module_are_refused_as_one(site: Site) -> None:
    site.show_running("d1", "d2")
    for member in ("dio", "sys"):
        site.show(f"iap/iox.9.{member}", "unlicensed")
        site.do(f"iap/iox.9.{member}", "provision")
    site.client.wait_until(lambda _: bool(site.records("rejection")), PATIENCE_S)
    time.sleep(QUIET_S)
    assert len(site.records("rejection")) == 1
    assert len(site.refusals("iap/iox.9.dio") + site.refusals("iap/iox.9.sys")) == 1
    assert site.counts()["waiting"] == 1


def test_a_state_that_nobody_knows_counts_nothing_and_is_said_once(site: Site) -> None:
    site.show_running("d1")
    for state in ("rebooting", "upgrading"):
        site.show("d1", state)
        site.show("new", state)
    site.show("d2", "unlicensed")
    site.wait_for_lic("d2", licensed=True)
    site.expect(used=2, reserved=1, waiting=0)
    assert site.lic("new") == []
    for name in ("d1", "new"):
        assert site.box.log.count(f"DEVICE={site.protocol}/{name}]") == 1


# -- the SID: none, another one ---


@pytest.mark.parametrize("nothing", ['""', "null", ""])
def test_without_a_sid_nothing_is_decided_or_published(site: Site, nothing: str) -> None:
    site.say_sid(nothing)
    wait_until(lambda: site.box.status()["state"] == "starting", timeout_s=PATIENCE_S, what="no SID")
    site.look_from_now_on()
    site.show("d1", "unlicensed")
    site.do("d1", "provision")
    time.sleep(QUIET_S)
    assert {each.topic for each in site.new()} == {site.topic("d1", "sts"), site.topic("d1", "do")}
    assert site.seats() == {}
    site.say_sid(json.dumps(INSTALL_CODE))
    site.wait_for_lic("d1", licensed=True)


def test_sid_changes_and_seats_stay_with_protocol_and_handle(site: Site) -> None:
    site.fill()
    before = site.seats()
    site.sid = "17another"
    site.say_sid('"17another"')
    site.wait_for_counts(used=3)
    site.show("d3", "unlicensed")
    site.do("d3", "provision")
    site.wait_for_refusal("d3")
    site.show("d1", "unlicensed")
    site.wait_for_lic("d1", licensed=True)
    assert site.seats()[f"{site.protocol}/d1"] == before[f"{site.protocol}/d1"] == "provisioned"
    site.sid = INSTALL_CODE
    site.say_sid(json.dumps(INSTALL_CODE))
    site.client.wait_until(lambda _: site.counts() == {"used": 3, "reserved": 0, "waiting": 1}, PATIENCE_S)
    wait_until(lambda: site.seats() == before, timeout_s=PATIENCE_S, what="the seats of before")


def test_what_is_said_under_another_sid_is_not_heard(site: Site) -> None:
    site.show_running("d1")
    site.wait_for_counts(used=2)
    site.sid = "17elsewhere"
    site.client.publish(site.topic("d1", "sts"), {"state": "deleted"})
    site.client.publish(site.topic("d2", "sts"), {"state": "provisioned"})
    site.sid = INSTALL_CODE
    site.show("d3", "unlicensed")
    site.wait_for_lic("d3", licensed=True)
    site.expect(used=2, reserved=1, waiting=0)
    assert site.lic("d1") == [True]


@pytest.mark.parametrize("value", [0, 100])
def test_the_runlevel_is_read_by_no_rule(site: Site, value: int) -> None:
    site.client.publish("glp/0/././runlevel", {"value": value}, retain=True)
    site.show("d1", "unlicensed")
    site.wait_for_lic("d1", licensed=True)
    site.client.publish("glp/0/././runlevel", retain=True)


# -- its start, and its own messages ---


def test_a_request_from_while_the_daemon_was_away_is_not_answered_when_it_comes_back(site: Site) -> None:
    site.fill()
    site.box.kill()
    site.do("d3", "provision", qos=2)
    site.box.start()
    wait_until(lambda: site.box.status()["state"] == "full", timeout_s=PATIENCE_S, what="a snapshot")
    time.sleep(QUIET_S)
    assert site.refusals("d3") == []
    sessions = re.findall(r" as smartserver-licensed \(p\d, c(\d)", site.box.broker.log)
    assert set(sessions) == {"1"}, "a clean session each time: the broker keeps no requests for it"
    site.do("d3", "provision", qos=2)
    site.wait_for_refusal("d3")


def test_what_the_broker_holds_wrongly_after_the_daemon_was_away_is_written_anew(site: Site) -> None:
    site.fill()
    before = site.counts()
    site.box.kill()
    site.client.publish(site.topic("d1", "lic"), {"licensed": False, "reason": "deleted"}, retain=True)
    site.client.publish(site.topic("d3", "lic"), {"licensed": True}, retain=True)
    site.client.publish(f"glp/0/{site.sid}/fb/lic", {"used": 99, "reserved": 0, "waiting": 0}, retain=True)
    site.look_from_now_on()
    site.box.start()
    site.wait_for_lic("d1", licensed=True)
    site.wait_for_lic("d3", licensed=False)
    site.client.wait_until(lambda _: site.counts() == before, PATIENCE_S)


def test_the_daemons_own_deprovision_is_no_withdrawal(site: Site) -> None:
    """A device of an older engine is asked to stop, gets a seat before it did, and then dips: the seat counts on."""
    for device in ("d1", "d2"):
        site.show(device, "provisioned")
    site.wait_for_counts(used=3)
    site.show("d3", "unprovisioned")
    site.show("d3", "provisioned")
    site.client.wait_until(lambda _: bool(site.heard("d3", "do")), PATIENCE_S)
    assert site.heard("d3", "do")[0].json() == {"action": "deprovision"}
    site.show("d1", "deleted")
    site.wait_for_lic("d3", licensed=True)
    site.wait_for_counts(used=3, reserved=0)
    site.show("d3", "unprovisioned")
    time.sleep(QUIET_S)
    site.expect(used=3, reserved=0, waiting=0)
    site.show("d3", "provisioned")
    site.do("d3", "deprovision")
    site.show("d3", "unprovisioned")
    site.wait_for_counts(used=2, reserved=1)  # somebody else's is one


# -- what counts as one ---

IOX = {
    "iap/iox.411b19.dio": ["iap/iox.411b19.dio", "iap/iox.411b19.sys", "iap/iox.411b19.meter"],
    "iox.411b19/dio": ["iox.411b19/dio", "iox.411b19/sys", "iox.411b19/meter"],
    "iox/dio": ["iox/dio", "iox/sys", "iox/meter"],
}


@pytest.mark.parametrize("naming", IOX)
def test_iox_members_in_any_order_take_one_seat(site: Site, naming: str) -> None:
    for number, order in enumerate(itertools.permutations(IOX[naming]), start=1):
        for member in order:
            site.show(member, "unlicensed")
        for member in order:
            site.wait_for_lic(member, licensed=True)
        site.wait_for_counts(used=1, reserved=1, waiting=0)
        site.show(order[0], "unprovisioned")
        site.show(order[1], "provisioned")
        site.wait_for_counts(used=2, reserved=0)
        for member in (order[1], order[0]):
            site.show(member, "deleted")
            site.wait_for_lic(member, licensed=False)
        assert site.lic(order[2])[-1] is True, "one member is left"
        site.show(order[2], "deleted")
        site.wait_for_counts(used=1, reserved=0, waiting=0)
        assert len(site.records("admission")) == len(site.records("release")) == number


def test_two_modules_take_two_seats_and_what_is_behind_one_is_a_device_of_its_own(site: Site) -> None:
    for device in ("iap/iox1.dio", "iap/iox1.sys", "iap/iox2.meter"):
        site.show(device, "unlicensed")
    site.wait_for_counts(reserved=2)
    site.show("modbus/iox1.slave-7", "unlicensed")
    site.wait_for_counts(used=1, reserved=2, waiting=1)


def test_internal_applications_and_infrastructure_take_no_seat_up_to_32_and_the_33rd_counts(site: Site) -> None:
    infrastructure = ["lon/lon.sys", "modbus/sys", f"{site.protocol}/sys"]
    for device in infrastructure:
        site.show(device, "unlicensed", cat="infrastructure")
    applications = [f"lon/astro-{number}" for number in range(1, 30)]
    for device in applications:
        site.do(device, "create", **LOCAL)
        site.show(device, "unlicensed")
    for device in (*infrastructure, *applications):
        site.wait_for_lic(device, licensed=True)
        site.show(device, "provisioned")
    time.sleep(QUIET_S)
    site.expect(used=1, reserved=0, waiting=0)
    site.do("lon/one-more", "create", **LOCAL)
    site.show("lon/one-more", "provisioned")
    site.wait_for_counts(used=2, reserved=0)


def test_an_internal_application_is_known_by_its_retained_cfg_too(site: Site) -> None:
    site.say_sid('""')
    wait_until(lambda: site.box.status()["state"] == "starting", timeout_s=PATIENCE_S, what="no SID")
    for device in ("lon/app", "modbus/app"):
        site.client.publish(site.topic(device, "cfg"), {"name": "App", "lon.attach": "local"}, retain=True)
        site.show(device, "provisioned")
    site.say_sid(json.dumps(INSTALL_CODE))
    site.wait_for_lic("lon/app", licensed=True)
    site.wait_for_lic("modbus/app", licensed=True)
    site.expect(used=2, reserved=0, waiting=0)  # in protocol lon only


def test_a_forged_cat_takes_no_internal_place(site: Site) -> None:
    site.show("meter-1", "unlicensed", cat="infrastructure")
    site.wait_for_lic("meter-1", licensed=True)
    site.wait_for_counts(reserved=1)
    site.show("sys", "unlicensed", cat="infrastructure")  # one per protocol is believed
    site.wait_for_lic("sys", licensed=True)
    site.expect(used=1, reserved=1, waiting=0)
    site.show(f"{site.protocol}.sys", "unlicensed", cat="infrastructure")
    site.wait_for_counts(reserved=2)
    site.show("iox.7/sys", "unlicensed", cat="infrastructure")
    site.wait_for_counts(used=1, reserved=2, waiting=1)
    assert not any(site.lic("iox.7/sys"))


def test_a_live_device_is_not_made_internal_by_a_create(site: Site) -> None:
    site.show("lon/d1", "provisioned")
    site.wait_for_counts(used=2)
    site.do("lon/d1", "create", **LOCAL)
    site.show("lon/d1", "provisioned")
    site.do("d2", "create", **LOCAL)  # not of protocol lon
    site.show("d2", "unlicensed")
    site.wait_for_counts(used=2, reserved=1)


def test_handles_that_differ_in_case_or_protocol_are_devices_of_their_own(site: Site) -> None:
    for device in ("acme-wm2000.d-0", "ACME-wm2000.d-0", "other/acme-wm2000.d-0"):
        site.show(device, "unlicensed")
    site.wait_for_counts(used=1, reserved=2, waiting=1)


def test_an_order_of_messages_nobody_asked_for_ends_in_the_same_counts(site: Site) -> None:
    """Level-triggered: only what is shown last decides."""
    histories: dict[str, list[str]] = {
        "d1": ["provisioned", "deleted", "unlicensed", "unprovisioned", "provisioned"],
        "d2": ["unprovisioned", "unlicensed", "provisioned", "unlicensed", "deleted"],
        "d3": ["deleted", "deleted", "provisioned", "deleted", "unlicensed"],
    }
    for states in zip(*histories.values(), strict=True):
        for device, state in zip(histories, states, strict=True):
            if (device, state) == ("d3", "unlicensed"):  # deleted and created again: no engine does both in one batch
                site.wait_for_lic(device, licensed=False)
            site.show(device, state)
    site.wait_for_counts(used=2, reserved=1, waiting=0)
    site.wait_for_lic("d3", licensed=True)
    site.wait_for_lic("d2", licensed=False)
    assert site.seats() == {f"{site.protocol}/d1": "provisioned", f"{site.protocol}/d3": "reserved"}


# -- the table at the top ---


def test_each_fact_has_a_test_that_exists() -> None:
    rows = [line.split("|")[1:3] for line in (__doc__ or "").splitlines() if line.startswith("| ")][1:]
    assert [int(fact) for fact, _ in rows if fact.strip()] == list(range(1, 12))
    for _, name in rows:
        beginning = f"test_{name.strip()}".rstrip("…")
        assert [
            each for each in globals() if each == beginning or (name.strip()[-1] == "…" and each.startswith(beginning))
        ]
