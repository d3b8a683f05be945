"""Ten years of one plant, with the real programs: what its administrator and its vendor do, and what they see.

Read it as a story. On each day the devices that licensectl shows, those that were given back and are on their way, and
those that the vendor has left add up to what was sold, for each license; and after each look the power goes, and
everything is the same afterwards (`lifetime.life`).
"""

from __future__ import annotations

import sys
import time

import pytest

from engines.runner import Engine
from lifetime.life import Life
from support.box import wait_until
from support.broker import Client

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(600)]

PROMISED_S = 90
PATIENCE = 5  # others may be busy on the same machine
SID = "17qtest"
RUNNING = 5  # four devices, and the SmartServer itself
NOTICED = [  # what the CMS made alarms and e-mails of in ten years: each once, whatever happened to the power
    ("expiry", 30),  # days: of the trial
    ("capacity", 100),  # percent
    ("expiry", 14),
    ("expiry", 0),
    ("cover-missing", 200),  # devices
    ("expiry", 60),  # of the first renewal
    ("renew", 5),  # the grant whose key was retired
    ("expiry", 0),  # the lapse
    ("over-capacity", 0),  # the new hardware, before its grant
    ("expiry", 0),  # the last maintenance
]


def test_ten_years_of_licenses_add_up_on_each_day_and_after_each_power_cut(capsys: pytest.CaptureFixture[str]) -> None:
    began_at = time.monotonic()
    life = Life("17qplant", release="3.2")
    life.on("2027-01-04", "a trial for five devices")
    with life, Engine(life.broker.port) as engine, Client(life.broker.port) as cms:
        cms.subscribe(f"glp/0/{SID}/fb/dev/+/+/lic", f"glp/0/{SID}/ev/warning")
        the_first_year(life, engine)
        growth_and_two_renewals(life)
        a_return_and_a_rotation(life)
        a_lapse_and_an_upgrade(life)
        a_second_return_and_a_hardware_swap(life)
        said = [message for message in cms.messages if message.topic.endswith("/lic") and message.payload]
        warned = [message.json() for message in cms.messages if message.topic.endswith("/warning")]
        assert said
        assert all(message.json()["licensed"] for message in said), "in ten years no device was ever stopped"
        assert [(each["code"], each["data"]["threshold"]) for each in warned] == NOTICED
    with capsys.disabled():
        sys.stdout.write(f"\n{life.table()}{len(warned)} notices, {time.monotonic() - began_at:.0f} s\n")
    assert time.monotonic() - began_at < PROMISED_S * PATIENCE


def the_first_year(life: Life, engine: Engine) -> None:
    """A trial, which is had once; then the first purchase."""
    life.sells("trial", 5, "--install-code", "17qplant")
    life.exchange()
    engine.create_devices(RUNNING - 1, provision=True)
    wait_until(lambda: life.status()["used"] == RUNNING, timeout_s=20, what="four devices run")
    life.expects(capacity=5, state="full", notices=("expiry 30", "capacity 100"))
    life.sells("trial", 5, "--install-code", "17qplant", is_refused="trial-used")

    life.on("2027-01-24", "the trial is nearly over")
    life.expects(capacity=5, state="full", notices=("expiry 14", "capacity 100"))

    life.on("2027-01-25", "the first purchase: 100 devices, with maintenance for a year")
    life.licenses["first capacity"] = life.sells("capacity", 100)
    life.licenses["maintenance"] = life.sells("maintenance", 100, "--years", "1")
    life.exchange("--customer-id", life.customer)
    life.expects(capacity=105, maintenance="Active", notices=("expiry 14",))

    life.on("2027-02-10", "the trial is over; nothing stops")
    life.expects(capacity=100, maintenance="Active", notices=("expiry 0",))


def growth_and_two_renewals(life: Life) -> None:
    """More capacity needs more maintenance; what ends is noticed in time, and a renewal silences the notice."""
    life.on("2027-06-10", "200 devices more; maintenance covers 100 of 300")
    life.licenses["second capacity"] = life.sells("capacity", 200)
    life.exchange("--license", life.licenses["second capacity"])
    life.expects(capacity=300, maintenance="Active", notices=("cover-missing 200",))
    life.checks_update("3.3", "maintenance-short")

    life.on("2027-06-11", "the first renewal, for all 300 devices, for a year beyond the first one")
    renews(life, devices=300, years=1)
    life.checks_update("3.3", "maintenance-current")
    life.expects(capacity=300, maintenance="Active")

    life.on("2028-12-10", "maintenance ends in 46 days, and that is noticed")
    life.expects(capacity=300, maintenance="Expiring 2029-01-25", notices=("expiry 60",))

    life.on("2028-12-11", "the second renewal, for three years; it silences the notice")
    renews(life, devices=300, years=3)
    life.expects(capacity=300, maintenance="Active")


def renews(life: Life, *, devices: int, years: int) -> None:
    """The maintenance that there is is replaced by one that begins where it ends."""
    predecessor = life.licenses["maintenance"]
    renewal = life.sells("maintenance", devices, "--years", str(years), "--replaces", predecessor)
    life.licenses["maintenance"] = renewal
    life.exchange("--license", renewal)


def a_return_and_a_rotation(life: Life) -> None:
    """Devices go back to the vendor, once; a new root retires the key that signed, and nobody loses anything by it."""
    second = life.licenses["second capacity"]
    life.on("2029-05-02", "80 of the second 200 devices are returned; the proof is on its way")
    proof = life.gives_back(second, 80)
    life.expects(capacity=220, maintenance="Active")

    life.on("2029-05-03", "the proof arrives, twice; it credits once")
    assert (life.credits(proof), life.credits(proof)) == (80, 0)
    life.expects(capacity=220, maintenance="Active")

    life.on(
        "2030-03-01", "a new root retires the key that signs grants; the capacity stays, a notice asks for a renewal"
    )
    life.vendor("rotate", "--retire", "grant")
    life.vendor("trust", "-o", str(life.paper("root")))
    life.ctl("install", str(life.paper("root")))
    life.expects(capacity=220, maintenance="Active", notices=("renew 5",))

    life.on("2030-03-02", "the next exchange mends it, and brings 50 of the returned devices back")
    life.exchange("--license", f"{second}=50")
    life.expects(capacity=270, maintenance="Active")


def a_lapse_and_an_upgrade(life: Life) -> None:
    """Maintenance lapses: no feature release, and no maintenance, unless an upgrade license is bought first."""
    life.on("2032-02-01", "maintenance has lapsed: no feature release any more; what runs runs")
    life.checks_update("4.0", "maintenance-expired")
    life.sells("maintenance", 270, "--years", "3", is_refused="maintenance-lapsed")
    life.expects(capacity=270, maintenance="Expired 2032-01-25", notices=("expiry 0",))

    life.on("2032-02-02", "an upgrade license; 4.0 is installed, the power goes before that is confirmed: used once")
    life.exchange("--license", life.sells("upgrade", 1, "--release", "4.0"))
    life.checks_update("4.0", "upgrade-license")
    life.installs_release("4.0")
    life.power_cut()
    for _ in range(2):
        life.ctl("confirm-update", "4.0", "--kind", "feature")
    life.expects(capacity=270, maintenance="Expired 2032-01-25", notices=("expiry 0",), consumed=1)

    life.on("2032-02-20", "within 30 days of it maintenance can be bought again")
    life.exchange("--license", life.sells("maintenance", 270, "--years", "3"))
    life.checks_update("4.1", "maintenance-current")
    life.expects(capacity=270, maintenance="Active", consumed=1)


def a_second_return_and_a_hardware_swap(life: Life) -> None:
    """The first SmartServer dies; what it had is had by another one, and it is refused should it come back."""
    life.on("2034-07-01", "30 of the first 100 devices are returned")
    assert life.credits(life.gives_back(life.licenses["first capacity"], 30)) == 30
    life.expects(capacity=240, maintenance="Active", consumed=1)

    life.on("2034-09-01", "the SmartServer is dead; another one takes its place: what runs keeps running")
    dead = life.state
    life.takes_hardware("17qsecond", life.directory / "second-state")
    assert (life.look().capacity, life.look().used) == (0, RUNNING)
    life.vendor("rma", "--from", "17qplant", "--to", "17qsecond")
    life.exchange()
    life.expects(capacity=240, maintenance="Active")

    life.on("2034-09-02", "the dead one comes back: the vendor refuses it at its first contact")
    second = life.state
    life.takes_hardware("17qplant", dead)
    life.ctl("request", "--fresh", "-o", str(life.paper("ghost")))
    life.vendor("activate", str(life.paper("ghost")), "-o", str(life.paper("none")), is_refused="smartserver-retired")
    life.takes_hardware("17qsecond", second)
    life.expects(capacity=240, maintenance="Active")

    life.on("2037-01-04", "ten years later: capacity never expires")
    life.expects(capacity=240, maintenance="Expired 2035-02-20", notices=("expiry 0",))
