from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from smartserver_licensed.cli.screens import (
    STORAGE_ADVICE,
    STORAGE_TODO,
    attention,
    bar,
    devices_table,
    facts_screen,
    licenses_table,
    local_time,
    printable,
    status_screen,
    table,
)
from smartserver_licensed.domain.status import Storage

STATUS: dict[str, object] = {
    "state": "licensed",
    "capacity": 200,
    "used": 37,
    "reserved": 2,
    "available": 163,
    "waiting": 0,
    "maintenance": {"status": "Active", "expires": "2028-03-01"},
    "customer_id": "ACME",
    "segment_id": "17q1abc",
    "install_code": "IC-0001",
    "storage": "ok",
    "clock": "ok",
    "broker_connected": True,
    "assurance": "full",
    "version": "0.1.0",
    "licenses": [],
}


def license_row(kind: str, devices: int, **more: object) -> dict[str, object]:
    """A row of ListLicenses."""
    row: dict[str, object] = {
        "license_id": f"{kind[0].upper()}-1",
        "description": f"{devices}-device {kind}",
        "status": "Active",
        "activation_date": "2026-02-03",
        "note": "",
        "type": kind,
        "devices": devices,
        "expires_at": "",
        "returned": 0,
        "usable": devices,
        "consumed": 0,
        "release": "",
        "replaces": "",
        "host": "",
    }
    return {**row, **more}


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import time  # noqa: PLC0415 - only here the zone is changed

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_the_status_screen_shows_the_bar_the_numbers_and_the_facts() -> None:
    assert status_screen(STATUS).splitlines() == [
        "SmartServer 17q1abc: licensed",
        "",
        "  [#######=................................]  37 of 200 in use",
        "  163 available, 2 reserved, 0 waiting",
        "",
        "  Maintenance   Active, until 2028-03-01",
        "  Customer      ACME",
        "  Segment       17q1abc",
        "  Install code  IC-0001",
        "  Storage       ok",
        "  Clock         ok",
        "  Broker        connected",
        "  Assurance     full",
        "  Version       0.1.0",
    ]


def test_a_smartserver_without_a_segment_is_named_by_its_install_code() -> None:
    screen = status_screen({**STATUS, "segment_id": "", "customer_id": ""})
    assert screen.startswith("SmartServer IC-0001: licensed\n")
    assert "  Customer      -\n" in screen


def test_what_needs_attention_stands_before_the_numbers() -> None:
    screen = status_screen({**STATUS, "storage": "missing", "state": "storage-fault", "broker_connected": False})
    lines = screen.splitlines()
    assert max(map(len, lines)) <= 80
    troubles = [line for line in lines if line.startswith("  ! ")]
    assert [each[4:14] for each in troubles] == ["The ledger", "Storage is", "The MQTT b"]
    first_fact = next(number for number, line in enumerate(lines) if line.startswith("  ["))
    assert lines.index(troubles[-1]) < first_fact


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "full"}, "All seats are in use."),
        ({"state": "unlicensed"}, "licensectl install FILE"),
        ({"state": "rebind-needed"}, "licensectl request -o FILE"),
        ({"storage": "degraded"}, "licensectl acknowledge"),
        ({"storage": "read-only"}, "journalctl -k"),
        ({"storage": "rolled-back"}, "licensectl install ANSWER"),
        ({"storage": "of-a-later-version"}, "licensectl doctor"),
        ({"clock": "set-back"}, "the clock was set back"),
        ({"waiting": 3}, "3 waiting for a seat (licensectl devices --waiting)"),
        ({"used": 180}, "90 % of the capacity is in use"),
        ({"maintenance": {"status": "Expiring 2028-10-23", "expires": "2028-10-23"}}, "Expiring 2028-10-23"),
        ({"broker_connected": False}, "systemctl status mosquitto"),
    ],
)
def test_each_trouble_is_said_with_what_to_do(change: dict[str, object], said: str) -> None:
    found = attention({**STATUS, **change})
    assert len(found) == 1
    assert said in found[0]


def test_emergency_capacity_and_a_trial_are_called_what_they_are_with_their_end() -> None:
    licenses = [
        license_row("emergency", 50, expires_at="2026-03-15T10:00:00Z"),
        license_row("trial", 5, expires_at="2026-03-01T10:00:00Z", status="Expiring 2026-03-01"),
        license_row("trial", 5, expires_at="2026-01-01T10:00:00Z", status="Expired 2026-01-01"),
    ]
    assert attention({**STATUS, "licenses": licenses}) == [
        "Emergency capacity: 50 devices of E-1 end on 2026-03-15.",
        "Trial: 5 devices of T-1 end on 2026-03-01.",
    ]


def test_maintenance_for_too_few_devices_says_how_many_are_missing() -> None:
    capacity = license_row("capacity", 1_000, usable=700, returned=300)
    old = license_row("maintenance", 700, license_id="M-1")
    less = license_row("maintenance", 500, license_id="M-2", replaces="M-1")
    (said,) = attention({**STATUS, "licenses": [capacity, old, less]})
    assert said.startswith("Maintenance covers 500 of 700 licensed devices, 200 are missing:")
    more = license_row("maintenance", 200, license_id="M-3")
    assert attention({**STATUS, "licenses": [capacity, old, less, more]}) == []
    ended = license_row("maintenance", 5, status="Expired 2026-01-01")
    assert attention({**STATUS, "licenses": [capacity, ended]}) == []  # that it has ended is the property's to say


def test_a_license_shows_what_became_of_it() -> None:
    rows = [
        license_row("capacity", 1_000, returned=300, usable=700),
        license_row("maintenance", 700, replaces="M-0", expires_at="2029-03-01T00:00:00Z"),
        license_row("upgrade", 1, description="upgrade", release="4.0", consumed=1),
        license_row("remote-cms", 1, description="remote-cms", host="cms.example.com"),
    ]
    shown = licenses_table(rows)
    for said in (
        "1000-device capacity, 300 returned",
        "700-device maintenance, renews M-0",
        "Active until 2029-03-01",
        "upgrade to 4.0, used",
        "remote-cms for cms.example.com",
    ):
        assert said in shown


def test_every_condition_of_the_storage_has_a_meaning_and_a_remedy() -> None:
    conditions = {each.value for each in Storage} - {"ok"}
    assert STORAGE_ADVICE.keys() == STORAGE_TODO.keys() == conditions


def test_nothing_needs_attention_when_all_is_well() -> None:
    assert attention(STATUS) == []
    assert "!" not in status_screen(STATUS)


@pytest.mark.parametrize(
    ("capacity", "used", "reserved", "filled", "held"),
    [
        (0, 1, 0, 0, 0),
        (200, 0, 0, 0, 0),
        (10_000, 1, 1, 1, 1),
        (200, 199, 1, 39, 1),
        (200, 200, 0, 40, 0),
        (200, 250, 0, 40, 0),
        (5, 1, 4, 8, 32),
        (40, 39, 40, 39, 1),
    ],
)
def test_the_bar_has_one_width_and_is_full_only_when_nothing_is_free(
    capacity: int, used: int, reserved: int, filled: int, held: int
) -> None:
    shown = bar(capacity=capacity, used=used, reserved=reserved)
    assert re.fullmatch(r"\[#*=*\.*\]", shown)
    assert (len(shown), shown.count("#"), shown.count("=")) == (42, filled, held)


def test_tables_align_and_have_no_trailing_blanks() -> None:
    assert table(("A", "LONG"), [("long cell", "x"), ("y", "")]) == "A          LONG\nlong cell  x\ny"


def test_devices_show_their_seat_and_the_unit_they_belong_to() -> None:
    rows: list[dict[str, object]] = [
        {
            "name": "lon/1",
            "unit": "lon/1",
            "state": "provisioned",
            "seat": "provisioned",
            "absent": True,
            "licensed": True,
        },
        {"name": "iap/iox1.dio", "unit": "iox/iox1", "state": "unlicensed", "seat": "waiting", "licensed": False},
    ]
    assert devices_table(rows).splitlines() == [
        "DEVICE        STATE        SEAT                  LICENSED  UNIT",
        "lon/1         provisioned  provisioned (absent)  yes",
        "iap/iox1.dio  unlicensed   waiting               no        iox/iox1",
    ]
    assert devices_table([]) == "No such device."


def test_people_see_local_time_with_its_offset(berlin: None) -> None:
    assert local_time("2026-02-03T04:05:06Z") == "2026-02-03 05:05+01:00"
    assert local_time("2026-07-03T04:05:06Z") == "2026-07-03 06:05+02:00"
    assert local_time("2026-02-03") == "2026-02-03"
    licenses = licenses_table([{"license_id": "L-1", "activation_date": "2026-02-03T04:05:06Z"}])
    assert "2026-02-03 05:05+01:00" in licenses


def test_without_licenses_a_sentence_says_so() -> None:
    assert licenses_table([]) == "No license is installed."


def test_facts_have_a_line_each_and_lists_a_line_an_item() -> None:
    facts = {"device_name": "lon/1", "licensed": True, "documents": ["a", "b"], "none": [], "numbers": {"used": 1}}
    assert facts_screen(facts).splitlines() == [
        "  device name  lon/1",
        "  licensed     yes",
        "  documents    a",
        "               b",
        "  none",
        "  numbers      used 1",
    ]


def test_no_control_character_reaches_the_terminal() -> None:
    evil = "a\x1b[2J\x9b\r\n\u202eb"
    assert printable(evil) == "a\ufffd[2J\ufffd\ufffd\ufffd\ufffdb"
    row: dict[str, object] = {"name": evil, "state": evil, "seat": evil, "licensed": False, "unit": evil}
    screens = [
        devices_table([row]),
        facts_screen({evil: evil, "list": [evil], "dict": {evil: evil}}),
        licenses_table(
            [license_row("capacity", 5, license_id=evil, note=evil, release=evil, host=evil, replaces=evil)]
        ),
        "\n".join(attention({**STATUS, "licenses": [license_row("trial", 5, license_id=evil, expires_at=evil)]})),
        status_screen(
            {**STATUS, "segment_id": evil, "customer_id": evil, "maintenance": {"status": evil, "expires": ""}}
        ),
    ]
    for screen in screens:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", screen)
