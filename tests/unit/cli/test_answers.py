from __future__ import annotations

import re

from smartserver_licensed.cli.answers import explain_screen, plan_screen

PLAN: dict[str, object] = {
    "count": 10,
    "fits": 6,
    "missing": 4,
    "reason": "capacity-exceeded",
    "capacity": 200,
    "used": 194,
    "reserved": 2,
    "free": 4,
    "available": 6,
    "waiting": 3,
    "license_type": "capacity",
    "license_devices": 4,
    "license_devices_for_all": 9,
}
EXPLANATION: dict[str, object] = {
    "name": "iap/iox1.dio",
    "unit": "iox/iox1",
    "state": "unlicensed",
    "seat": "waiting",
    "absent": False,
    "licensed": False,
    "rule": "It has no seat.",
    "reason": "capacity-exceeded",
    "capacity": 5,
    "used": 5,
    "reserved": 0,
    "available": 0,
    "waiting": 3,
    "takeable": 0,
    "place": 1,
    "asked_seconds_ago": 75,
    "request_is_fresh": False,
    "documents": ["L-1: 5-device capacity, Active"],
    "advice": [
        "Deprovision or delete a device.",
        "Install a capacity license of many devices: licensectl install FILE",
    ],
}


def test_a_plan_says_what_fits_what_is_there_and_what_helps() -> None:
    assert plan_screen(PLAN).splitlines() == [
        "10 more devices: 6 of 10 can be provisioned, 4 not (capacity-exceeded).",
        "",
        "  In use       194 of 200 seats; the SmartServer itself has one",
        "  Available    6: 4 that nobody holds, 2 of devices that do not run: a request",
        "               to provision another takes them",
        "  Not running  2 with a reserved seat, 3 waiting for one",
        "",
        "  ! What helps: a capacity license of at least 4 devices",
        "    (licensectl install FILE).",
        "",
        "    For the devices that wait or have a reserved seat to run as well: a capacity",
        "    license of at least 9 devices.",
    ]


def test_a_plan_that_fits_is_short() -> None:
    fits = {"count": 1, "fits": 1, "missing": 0, "reason": "", "reserved": 0, "waiting": 0, "available": 4}
    plan = {**PLAN, **fits, "license_devices": 0, "license_devices_for_all": 0}
    assert plan_screen(plan).splitlines() == [
        "1 more device: 1 can be provisioned.",
        "",
        "  In use       194 of 200 seats; the SmartServer itself has one",
        "  Available    4: 4 that nobody holds",
    ]


def test_without_a_ledger_a_plan_shows_no_numbers_but_where_to_look() -> None:
    screen = plan_screen({**PLAN, "fits": 0, "missing": 10, "reason": "storage-fault"})
    assert screen.startswith("10 more devices: none can be provisioned.\n")
    assert "licensectl doctor" in screen
    assert "200" not in screen


def test_an_explanation_reads_from_the_answer_to_what_to_do() -> None:
    assert explain_screen(EXPLANATION).splitlines() == [
        "iap/iox1.dio: not licensed, waits for a seat",
        "",
        "  Why          It has no seat.",
        "  Request      asked for 75 s ago and refused: capacity-exceeded; too long ago",
        "               to take a seat",
        "  Queue        number 1 of 3 that wait for a seat; a request can take none now",
        "               from devices that do not run",
        "  Seats        5 of 5 in use (the SmartServer itself is one), 0 reserved, 0",
        "               available, 3 waiting",
        "  Device       its engine says unlicensed; counted with iox/iox1",
        "  License      L-1: 5-device capacity, Active",
        "",
        "  What to do",
        "  - Deprovision or delete a device.",
        "  - Install a capacity license of many devices: licensectl install FILE",
    ]


def test_a_command_to_copy_is_never_broken() -> None:
    for width in range(40):
        screen = explain_screen({"name": "lon/1", "advice": ["x" * width + " do: licensectl install FILE"]})
        assert "licensectl install FILE" in screen
        assert all(len(line) <= 80 for line in screen.splitlines())


def test_what_only_a_later_daemon_knows_is_shown_as_it_is() -> None:
    screen = explain_screen({"name": "lon/1", "licensed": True, "seat": "loaned", "enforced_by": "lender"})
    assert screen.splitlines() == [
        "lon/1: licensed, loaned",
        "",
        "  License      none is installed",
        "  enforced by  lender",
    ]


def test_no_control_character_of_a_device_reaches_the_terminal() -> None:
    evil = "a\x1b[2J\x9b\r\n\u202eb"
    screen = explain_screen({**EXPLANATION, "name": evil, "unit": evil, "state": evil, "seat": evil, "new": evil})
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", screen)
