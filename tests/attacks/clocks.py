"""Clocks that are wrong, set back, set forward or stand still, against the daemon (LICENSING §5).

Rules: what the clocks of the SmartServer "17site" show is in a file (`clock_program`); it has 3 devices for ever and 5
of a trial for 30 days with 7 days of grace; before each attack a new grant sets its time.

What this module does not do: all the combinations; those are in `tests/unit/domain/test_clock_attacks.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from attacks.attack import GotThroughError, attack
from attacks.scene import Scene
from attacks.server import SmartServer
from support.box import wait_until
from support.broker import Client

_DAY_S = 86_400
_IN_2037 = 2_127_600_000
_FOR_EVER, _WITH_TRIAL = 3, 8
_PROGRAM = Path(__file__).parent / "clock_program.py"


class Site:
    """A SmartServer whose clocks are set by hand."""

    def __init__(self, scene: Scene, clocks: Path, server: SmartServer) -> None:
        self._scene, self._clocks, self.server = scene, clocks, server

    def set(self, *, is_synchronised: bool = True, **shown: int) -> None:
        """What the clocks show from now on."""
        new = self._clocks.with_suffix(".new")
        new.write_text(json.dumps({"is_synchronised": is_synchronised, **shown}))
        os.replace(new, self._clocks)

    def reset(self) -> None:
        """The right time, and a new grant."""
        self.set()
        self.server.install(self._scene.vendor.document("regrant", self.server.install_code))
        self.shows(_WITH_TRIAL)

    def shows(self, capacity: int, clock: str = "") -> None:
        """Wait for this capacity, and for what is said of the clock."""

        def is_so() -> bool:
            status = self.server.status()
            return status["capacity"] == capacity and clock in {"", status["clock"]}

        try:
            wait_until(is_so, timeout_s=10, what=f"a capacity of {capacity}")
        except AssertionError as error:
            status = self.server.status()
            raise GotThroughError(
                f"capacity {status['capacity']}, clock {status['clock']}; {capacity} expected"
            ) from error

    def goes_on_showing(self, capacity: int, clock: str = "") -> None:
        """The same, after batches with the new time."""
        self.shows(capacity, clock)
        with Client(self.server.broker.port) as client:
            client.publish("glp/0/17site/fb/dev/modbus/other/sts", json.dumps({"state": "deleted"}))
        wait_until(lambda: True, timeout_s=1, what="a batch")
        self.shows(capacity, clock)

    def make_durable(self) -> None:
        """Anything that is written takes the time along."""
        self.server.request()


@contextlib.contextmanager
def _made(scene: Scene) -> Iterator[Site]:
    clocks = scene.directory / "clocks.json"
    clocks.write_text('{"is_synchronised": true}')
    scene.vendor.order(_FOR_EVER, "--install-code", "17site")
    scene.vendor.order(_WITH_TRIAL - _FOR_EVER, "--install-code", "17site", kind="trial")
    program = (sys.executable, str(_PROGRAM), str(clocks))
    with SmartServer(scene.vendor, "17site", program=program, is_on_site=True) as server:
        scene.activate(server)
        yield Site(scene, clocks, server)


def _site(scene: Scene) -> Site:
    site = scene.once("clocks", lambda: _made(scene))
    site.reset()
    return site


@attack("31 days later, by the synchronised clock", is_control=True)
def a_trial_ends_when_its_end_has_come(scene: Scene) -> str:
    site = _site(scene)
    site.set(ahead_s=31 * _DAY_S)
    site.shows(_FOR_EVER, "ok")
    return "3 of 8 devices left"


@attack("the clock set back by 31 days after a trial has ended")
def a_clock_set_back_makes_no_license_longer(scene: Scene) -> str:
    site = _site(scene)
    site.set(ahead_s=31 * _DAY_S)
    site.shows(_FOR_EVER)
    site.make_durable()
    for ahead_s in (0, -31 * _DAY_S):
        site.set(ahead_s=ahead_s)
        site.goes_on_showing(_FOR_EVER, "set-back")
    site.server.kill()
    site.server.start()
    site.goes_on_showing(_FOR_EVER, "set-back")
    return "ended stays ended, set-back"


@attack("the wall clock stands still for 31 days of running")
def a_clock_that_stands_still_makes_no_license_longer(scene: Scene) -> str:
    site = _site(scene)
    site.set(ran_s=31 * _DAY_S, is_synchronised=False)
    site.shows(_FOR_EVER, "unsynchronised")
    return "it ends by the time of running"


@attack("a clock that nobody has synchronised shows 1970, then 2037")
def a_clock_that_is_not_synchronised_burns_nothing(scene: Scene) -> str:
    site = _site(scene)
    for wall_s in (0, _IN_2037):
        site.set(wall_s=wall_s, is_synchronised=False)
        site.goes_on_showing(_WITH_TRIAL, "unsynchronised")
        site.make_durable()
        site.goes_on_showing(_WITH_TRIAL, "unsynchronised")
    return "8 of 8 devices left, unsynchronised"


@attack("booted in 1970, as without a battery; in 1970 by a spoofed time server")
def a_start_in_1970_changes_nothing(scene: Scene) -> str:
    site = _site(scene)
    for is_synchronised, clock in ((False, "unsynchronised"), (True, "set-back")):
        site.server.kill()
        site.set(wall_s=0, is_synchronised=is_synchronised)
        site.server.start()
        site.goes_on_showing(_WITH_TRIAL, clock)
    return "8 of 8 devices left, set-back"


@attack("a spoofed time server says 2037, and that becomes durable; then the right time and a new grant")
def a_poisoned_clock_is_mended_by_a_new_grant(scene: Scene) -> str:
    site = _site(scene)
    site.set(wall_s=_IN_2037)
    site.shows(_FOR_EVER)
    site.make_durable()
    site.set()
    site.goes_on_showing(_FOR_EVER, "set-back")
    site.reset()
    site.shows(_WITH_TRIAL, "ok")
    return "8 of 8 devices again, ok"


@attack("the grant of before, against a clock in 2037: it moves no time, only a newer one does")
def an_older_grant_mends_no_clock(scene: Scene) -> str:
    site = _site(scene)
    last = scene.vendor.document("regrant", "--last", site.server.install_code)
    site.set(wall_s=_IN_2037)
    site.shows(_FOR_EVER)
    return scene.daemon_refuses(last, "grant-stale", server=site.server)


@attack("6 devices run, the trial ends; the clock jumps by 400 days, back, to 2037; then 8 days of running")
def no_jump_of_a_clock_ends_a_grace(scene: Scene) -> str:
    site, handles = _site(scene), [f"d{number}" for number in range(6)]
    with Client(site.server.broker.port) as client:
        fb = "glp/0/17site/fb/dev/modbus"
        client.subscribe(f"{fb}/+/lic")
        for each in handles:
            client.publish(f"{fb}/{each}/sts", json.dumps({"state": "provisioned"}), retain=True)
        wait_until(lambda: site.server.status()["used"] == len(handles) + 1, timeout_s=20, what="6 devices that run")
        for ahead_s in (31 * _DAY_S, 431 * _DAY_S, 0, _IN_2037 - int(time.time())):
            site.set(ahead_s=ahead_s)
            site.shows(_FOR_EVER)
            site.make_durable()
        site.goes_on_showing(_FOR_EVER)
        stopped = [each.topic for each in client.messages if not each.json()["licensed"]]
        status = site.server.status()
        if stopped or (status["state"], status["used"]) != ("over-capacity", len(handles) + 1):
            raise GotThroughError(f"stopped by a jump of the clock: {stopped}, {status['state']}")
        site.set(wall_s=_IN_2037, ran_s=8 * _DAY_S)
        client.wait_for(lambda message: message.json()["licensed"] is False, timeout_s=20)
    return "over-capacity, nothing stopped; after 8 days of running the newest"
