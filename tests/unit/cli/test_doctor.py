"""What the doctor says of what it was told and of what lies on the disk; the whole of it is in adapters/test_doctor."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from smartserver_licensed import VERSION, config
from smartserver_licensed.cli import doctor, places, storage
from smartserver_licensed.cli.findings import Daemon, Finding, Level, report
from smartserver_licensed.cli.screens import STORAGE_ADVICE, STORAGE_TODO, doctor_screen
from smartserver_licensed.domain.errors import DaemonUnreachableError
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.formats.bus import properties
from smartserver_licensed.store.area import AREA_BYTES
from smartserver_licensed.store.log import create
from support.bus import STATUS, LicenseAnswers

MQTT = config.Mqtt()


DESCRIBED: dict[str, Any] = {
    **LicenseAnswers().describe_storage(),
    "sequence": 12_345,
    "log_bytes": 4 << 20,
    "fill_bytes": 1 << 20,
    "written_bytes": 1_200_000_000,
    "written_per_day": 450_000,
    "life_bytes": 48_000_000_000,
    "anchor": "tpm",
    "anchor_count": 7,
}


def daemon(
    *, licenses: list[dict[str, Any]] | None = None, described: dict[str, Any] | None = None, **properties_: object
) -> Daemon:
    """A daemon to which nothing is the matter, but for what the test says."""
    plain = {name: value for name, (_, value) in properties(STATUS).items()}
    well = {"Version": VERSION, "WaitingDevices": 0}
    return Daemon(
        {**plain, **well, **properties_},
        list(LicenseAnswers().list_licenses() if licenses is None else licenses),
        DESCRIBED if described is None else described,
    )


def stored(condition: str, **described: object) -> dict[str, Finding]:
    """What is said of the storage, by check."""
    asked = daemon(StorageState=condition, described={**DESCRIBED, "condition": condition, **described})
    return {each.check: each for each in storage.findings(asked)}


def only(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_to_a_daemon_that_is_well_every_check_says_ok() -> None:
    well = daemon()
    findings = [
        doctor.bus(well, address="system"),
        *doctor.broker(MQTT, "", well),
        *doctor.segment(well),
        *storage.findings(well),
        doctor.clock(well, is_synchronised=True),
        doctor.seats(well),
        doctor.licenses(well),
    ]
    assert {each.check: each.level for each in findings if each.level is not Level.OK} == {}
    assert len({each.check for each in findings}) == 9


@pytest.mark.parametrize(
    ("why_not", "is_connected", "level", "said"),
    [
        ("Connection refused", False, Level.FAIL, "127.0.0.1:1883 cannot be reached: Connection refused"),
        ("", False, Level.FAIL, "accepts connections, but the daemon is not connected"),
        ("Connection refused", True, Level.WARN, "of the configuration file cannot be reached"),
    ],
)
def test_a_broker_that_is_away_is_told_from_one_that_lets_nobody_in(
    why_not: str, is_connected: bool, level: Level, said: str
) -> None:
    finding = only(doctor.broker(MQTT, why_not, daemon(BrokerConnected=is_connected)))
    assert finding.level is level
    assert said in finding.why
    assert finding.todo


def test_without_a_configuration_only_the_daemons_word_on_the_broker_is_passed_on() -> None:
    finding = only(doctor.broker(None, "", daemon(BrokerConnected=False)))
    assert (finding.level, finding.why) == (Level.FAIL, "the daemon is not connected; nothing can be admitted")


def test_without_the_daemon_a_broker_that_accepts_is_well() -> None:
    assert only(doctor.broker(MQTT, "", None)).level is Level.OK


def test_a_segment_that_is_not_provisioned_or_not_read_yet_is_worth_a_look() -> None:
    assert "no SID" in only(doctor.segment(daemon(SegmentId=""))).why
    assert "still being read" in only(doctor.segment(daemon(State="starting"))).why
    assert list(doctor.segment(daemon(BrokerConnected=False))) == []


@pytest.mark.parametrize("condition", [each.value for each in Storage if each is not Storage.OK])
def test_each_condition_of_the_ledger_comes_with_what_it_means_and_what_to_do(condition: str) -> None:
    finding = stored(condition, reason="record 7 is not whole")["ledger"]
    assert finding.level is (Level.WARN if condition == "degraded" else Level.FAIL)
    assert finding.why.startswith(f"{condition}: {STORAGE_ADVICE[condition]} (record 7 is not whole)")
    assert finding.todo.startswith(STORAGE_TODO[condition])
    assert ("nothing new is admitted" in finding.why) is (condition != "degraded")


def test_a_condition_of_a_later_daemon_is_shown_and_is_wrong() -> None:
    finding = stored("melted")["ledger"]
    assert (finding.level, finding.why.startswith("melted: a condition that this version")) == (Level.FAIL, True)
    assert finding.todo.startswith("ask the vendor; journalctl")


def test_a_whole_ledger_is_shown_with_the_fill_of_both_logs() -> None:
    assert stored("ok")["ledger"].why == "both logs are whole; 12,345 commits so far, each log 25 % full"
    repaired = stored("degraded", repair="log a had no whole snapshot")["ledger"]
    assert "(log a had no whole snapshot); 12,345 commits so far" in repaired.why
    assert "licensectl acknowledge" in repaired.todo


@pytest.mark.parametrize(
    ("written", "a_day", "level", "said"),
    [
        (1_200_000_000, 450_000, Level.OK, "1.2 GB written so far, 450.0 kB a day: more than 100 years left"),
        (999, 0, Level.OK, "999 B written so far; how much a day is not known yet"),
        (0, 10_000_000, Level.OK, "10.0 MB a day: about 13 years left"),
        (0, 30_000_000, Level.WARN, "30.0 MB a day: about 4 years left"),
        (47_999_000_000, 30_000_000, Level.WARN, "48.0 GB written so far, 30.0 MB a day: about 0 years left"),
        (3_000_000_000_000, 1, Level.WARN, "3.0 TB written so far, 1 B a day: about 0 years left"),
    ],
)
def test_wear_is_the_years_left_at_todays_rate_and_never_wrong(
    written: int, a_day: int, level: Level, said: str
) -> None:
    finding = stored("ok", written_bytes=written, written_per_day=a_day)["wear"]
    assert finding.level is level
    assert said in finding.why
    assert bool(finding.todo) is (level is Level.WARN)


def test_an_anchor_that_the_ledger_does_not_fit_is_wrong_and_asks_for_a_grant() -> None:
    assert stored("ok")["anchor"].why == "tpm, 7 license events counted"
    for condition in ("rolled-back", "anchor-lost"):
        finding = stored(condition)["anchor"]
        assert (finding.level, "licensectl install ANSWER" in finding.todo) == (Level.FAIL, True)
    without = stored("ok", anchor="none", anchor_count=0)["anchor"]
    assert (without.level, "found by the vendor" in without.why) == (Level.OK, True)


@pytest.mark.parametrize("condition", ["missing", "read-only", "foreign", "corrupt", "newer"])
def test_of_a_ledger_that_is_not_open_no_figures_are_shown(condition: str) -> None:
    assert list(stored(condition, sequence=0, log_bytes=0, fill_bytes=0, life_bytes=0)) == ["ledger"]


def test_a_daemon_that_does_not_know_the_question_is_believed_without_figures() -> None:
    (finding,) = storage.findings(daemon(described={}))
    assert (finding.level, finding.why) == (Level.OK, "both logs are whole")


def test_a_clock_that_only_the_daemon_does_not_see_points_to_its_sandbox() -> None:
    assert "adjtimex" in doctor.clock(daemon(ClockState="unsynchronised"), is_synchronised=True).todo
    assert "time server" in doctor.clock(daemon(ClockState="unsynchronised"), is_synchronised=False).todo
    assert "set back" in doctor.clock(daemon(ClockState="set-back"), is_synchronised=True).why


def test_without_the_daemon_the_kernels_word_counts() -> None:
    assert doctor.clock(None, is_synchronised=True).level is Level.OK
    assert doctor.clock(None, is_synchronised=False).level is Level.WARN


def test_over_capacity_is_wrong_and_says_how_many_devices_a_license_needs() -> None:
    finding = doctor.seats(daemon(State="over-capacity", TotalCapacity=30, UsedCapacity=37))
    assert finding.level is Level.FAIL
    assert "at least 7 devices" in finding.todo


def test_full_and_waiting_are_worth_a_look() -> None:
    assert doctor.seats(daemon(State="full")).level is Level.WARN
    assert "devices --waiting" in doctor.seats(daemon(State="full", WaitingDevices=2)).todo


def test_no_license_and_one_that_ends_soon_are_worth_a_look() -> None:
    assert "none is installed" in doctor.licenses(daemon(licenses=[])).why
    trial = {"license_id": "T-1", "description": "5-device trial", "status": "Expiring 2028-10-23"}
    finding = doctor.licenses(daemon(licenses=[trial]))
    assert (finding.level, finding.why) == (Level.WARN, "5-device trial (T-1): Expiring 2028-10-23")


def test_a_daemon_of_another_version_wants_a_restart() -> None:
    assert doctor.bus(daemon(Version="0.0.9"), address="system").todo.startswith("systemctl restart")


def test_a_daemon_on_another_bus_is_found_by_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS", raising=False)
    error = DaemonUnreachableError("cannot ask the daemon: it does not run")
    elsewhere = doctor.bus(error, address="unix:path=/run/other")
    assert "DBUS_SYSTEM_BUS_ADDRESS=unix:path=/run/other" in elsewhere.todo
    assert "journalctl" in doctor.bus(error, address="system").todo


# -- what lies on the disk --------------------------------------------------------------------------------


def test_a_partition_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    finding = only(places.partition(tmp_path / "none", None))
    assert finding.level is Level.FAIL
    assert "packaging/partition DISK" in finding.todo


def test_without_the_daemon_a_file_is_looked_into_for_a_ledger(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(2 * AREA_BYTES))
    image.chmod(0o600)
    levels = {each.check: each.level for each in places.partition(image, None)}
    assert levels == {"partition": Level.WARN, "ledger": Level.FAIL}
    create(image, b"a state")
    before = image.read_bytes()
    assert {each.check: each.level for each in places.partition(image, None)}["ledger"] is Level.OK
    assert image.read_bytes() == before


def test_with_the_daemon_its_word_on_the_ledger_is_enough(tmp_path: Path) -> None:
    assert [each.check for each in places.partition(tmp_path, daemon())] == ["partition"]


def test_a_ledger_that_everybody_can_write_is_wrong(tmp_path: Path) -> None:
    create(tmp_path, b"a state")
    (tmp_path / "ledger.b").chmod(0o666)
    finding = only(places.partition(tmp_path, daemon()))
    assert finding.level is Level.FAIL
    assert "by everybody" in finding.why


def test_a_root_that_is_none_and_one_that_is_missing_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    for name in ("root.json", "none"):
        finding = places.trust(tmp_path / name)
        assert finding.level is Level.FAIL
        assert "no license can be verified" in finding.why


def test_an_install_code_that_has_changed_since_the_start_is_worth_a_look(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    environment.write_text("APOLLO_INSTALL_CODE=IC-0002\n")
    settings = config.Identity(environment_file=str(environment))
    assert places.identity(settings, daemon()).level is Level.WARN
    assert places.identity(settings, None).level is Level.OK
    assert places.identity(config.Identity(environment_file=str(tmp_path / "none")), None).level is Level.FAIL


def test_it_is_said_by_what_the_hardware_is_known(tmp_path: Path) -> None:
    environment, serial = tmp_path / "environment", tmp_path / "serial"
    environment.write_text("APOLLO_INSTALL_CODE=IC-0001\n")
    settings = config.Identity(
        environment_file=str(environment), soc_serial=str(serial), emmc_cid="", mac_interface="lo"
    )
    assert places.identity(settings, daemon()).why.endswith("; the hardware is known by nothing that can be read")
    serial.write_text("0a1b\0")
    assert places.identity(settings, daemon()).why.endswith("; the hardware is known by soc")


def test_a_password_that_everybody_can_read_is_worth_a_look(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("x")
    secret.chmod(0o644)
    assert only(places.password(str(secret))).level is Level.WARN
    secret.chmod(0o400)
    assert only(places.password(str(secret))).level is Level.OK
    assert only(places.password(str(tmp_path / "none"))).level is Level.FAIL
    assert list(places.password("")) == []


def test_a_configuration_that_is_not_there_is_another_one_where_the_daemon_runs(tmp_path: Path) -> None:
    nowhere = tmp_path / "none.toml"
    assert places.configuration(nowhere, is_daemon_there=True)[1].level is Level.WARN
    assert places.configuration(nowhere, is_daemon_there=False)[1].level is Level.FAIL
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[mqqt]\n")
    settings, finding = places.configuration(wrong, is_daemon_there=True)
    assert (settings, finding.level) == (None, Level.FAIL)
    assert "did you mean 'mqtt'?" in finding.why


# -- the screen -------------------------------------------------------------------------------------------


def test_the_screen_has_a_line_a_check_and_a_verdict() -> None:
    findings = [
        Finding("bus", Level.OK, "the daemon answers"),
        Finding("broker", Level.FAIL, "it is away", "systemctl status mosquitto"),
        Finding("clock", Level.WARN, "a\x1b[2J"),
    ]
    said = report(findings, daemon())
    assert said["ok"] is False
    assert said["storage"] == DESCRIBED
    assert doctor_screen(said).splitlines() == [
        "ok    bus     - the daemon answers",
        "FAIL  broker  - it is away -> systemctl status mosquitto",
        "warn  clock   - a\ufffd[2J",
        "",
        "3 checks: 1 wrong, 1 to look at.",
    ]
    well = report(findings[:1], DaemonUnreachableError("cannot ask the daemon: it does not run"))
    assert well["storage"] == {}
    assert doctor_screen(well).endswith("1 checks: all is well; what needs the daemon was left out.")


def test_every_check_has_an_entry_in_the_pages_for_operators() -> None:
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    source = "".join(inspect.getsource(module) for module in (doctor, places, storage))
    checks = set(re.findall(r'Finding\(\s*"([a-z ]+)"', source))
    assert len(checks) == 14
    assert {each for each in checks if f"| `{each}` |" not in page} == set()
