"""licensectl doctor on the whole SmartServer: each trouble is made for real, and must be named with what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.box import INSTALL_CODE, Box, wait_until
from support.bus import LicenseAnswers
from support.tpm import Tpm

pytestmark = pytest.mark.needs("mosquitto", "dbus-daemon")


@pytest.fixture
def box() -> Iterator[Box]:
    with Box() as box:
        yield box


def examined(box: Box) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the findings by the name of their check."""
    done = box.ctl("doctor", "--config", str(box.config), "--json", check=False)
    report = json.loads(done.stdout)
    assert report["ok"] is (all(each["level"] != "fail" for each in report["checks"]))
    return done.returncode, {each["check"]: each for each in report["checks"]}


def wrong(checks: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, each in checks.items() if each["level"] == "fail"}


def test_a_smartserver_without_a_license_is_not_wrong_but_told_what_to_install(box: Box) -> None:
    code, checks = examined(box)
    assert (code, wrong(checks)) == (0, set())
    assert {name for name, each in checks.items() if each["level"] == "ok"} >= {
        "config", "bus", "broker", "segment", "ledger", "seats", "trust root", "identity",
    }  # fmt: skip
    assert checks["licenses"]["todo"] == "licensectl install FILE"
    box.license(5)
    assert examined(box)[1]["licenses"]["level"] == "ok"


def test_a_trial_is_told_to_end_soon(box: Box) -> None:
    box.ctl("install", str(box.issue(5, kind="trial")))
    licenses = examined(box)[1]["licenses"]
    assert licenses["level"] == "warn"
    assert licenses["why"].startswith("5-device trial (")
    assert ": Expiring 2" in licenses["why"]


def test_a_dead_broker_is_wrong_and_its_service_is_named(box: Box) -> None:
    box.broker.kill()
    wait_until(lambda: not box.status()["broker_connected"], timeout_s=30, what="the loss of the broker to be noticed")
    code, checks = examined(box)
    assert (code, wrong(checks)) == (1, {"broker"})
    assert "Connection refused" in checks["broker"]["why"]
    assert "systemctl status mosquitto" in checks["broker"]["todo"]
    screen = box.ctl("doctor", "--config", str(box.config), check=False).stdout.decode()
    assert [line[:12] for line in screen.splitlines() if line.startswith("FAIL")] == ["FAIL  broker"]


def test_a_repair_is_worth_a_look_until_it_is_acknowledged(box: Box) -> None:
    box.kill()
    (box.state / "ledger.a").write_bytes(bytes(4 << 20))
    for _ in range(2):  # over a restart too
        box.start()
        code, checks = examined(box)
        assert (code, checks["ledger"]["level"]) == (0, "warn")
        assert "log a " in checks["ledger"]["why"]
        assert "licensectl acknowledge" in checks["ledger"]["todo"]
        box.stop()
    box.start()
    assert "licensectl acknowledge" in box.ctl("status").stdout.decode()
    said = box.ctl("acknowledge").stdout.decode()
    assert said.startswith("Acknowledged: log a ")
    assert examined(box)[1]["ledger"]["level"] == "ok"
    assert json.loads(box.ctl("acknowledge", "--json").stdout) == {"acknowledged": False, "repair": ""}


def test_the_figures_of_the_storage_are_shown_and_are_there_for_programs(box: Box) -> None:
    done = box.ctl("doctor", "--config", str(box.config), "--json")
    storage = json.loads(done.stdout)["storage"]
    assert storage.keys() == LicenseAnswers().describe_storage().keys()
    checks = examined(box)[1]
    assert re.fullmatch(r"both logs are whole; \d+ commits so far, each log 0 % full", checks["ledger"]["why"])
    assert re.fullmatch(r"\d+\.\d kB written so far; how much a day is not known yet", checks["wear"]["why"])
    assert checks["anchor"]["why"].startswith("none is set up: ")
    assert {checks[name]["level"] for name in ("ledger", "wear", "anchor")} == {"ok"}


@pytest.mark.needs("swtpm", "tpm2_clear")
def test_an_old_copy_and_a_lost_anchor_are_wrong_until_a_new_grant_is_installed(box: Box) -> None:
    with Tpm() as tpm:
        box.stop()
        anchored = f'[state]\nanchor = "tpm"\nanchor_tcti = "{tpm.tcti}"\n'
        box.config.write_text(box.config.read_text().replace("[state]\n", anchored))
        box.start()
        box.license(3)
        assert examined(box)[1]["anchor"]["why"].startswith("tpm, ")
        box.stop()
        shutil.copytree(box.state, box.directory / "old")
        box.start()
        box.license(4)
        box.stop()
        shutil.copytree(box.directory / "old", box.state, dirs_exist_ok=True)
        for condition in ("rolled-back", "anchor-lost"):
            box.start()
            code, checks = examined(box)
            assert (code, wrong(checks)) == (1, {"ledger", "anchor"})
            assert checks["ledger"]["why"].startswith(f"{condition}: ")
            assert {"licensectl install ANSWER" in checks[name]["todo"] for name in ("ledger", "anchor")} == {True}
            screen = box.ctl("status").stdout.decode()
            assert f"Storage is {condition}: " in screen
            assert "licensectl install ANSWER" in screen
            assert box.ctl("acknowledge", check=False).returncode == 4
            box.license(5)
            assert wrong(examined(box)[1]) == set()
            box.stop()
            tpm.clear()


def test_a_missing_ledger_is_wrong_and_the_way_to_make_one_is_named(box: Box) -> None:
    box.stop()
    box.state.rename(box.directory / "lost")
    box.start()
    code, checks = examined(box)
    assert (code, wrong(checks)) == (1, {"partition", "ledger"})
    assert "does not exist" in checks["partition"]["why"]
    assert "--init-state" in checks["ledger"]["todo"]
    assert not {"wear", "anchor", "seats", "licenses"} & checks.keys()  # without a ledger nothing is known of them


def test_without_the_daemon_all_else_is_still_looked_at(box: Box) -> None:
    box.stop()
    code, checks = examined(box)
    assert (code, wrong(checks)) == (3, {"bus"})
    assert "it does not run" in checks["bus"]["why"]
    assert {name: checks[name]["level"] for name in ("broker", "ledger", "trust root", "identity")} == {
        "broker": "ok",
        "ledger": "ok",
        "trust root": "ok",
        "identity": "ok",
    }
    assert INSTALL_CODE in checks["identity"]["why"]
    (box.directory / "root.json").unlink()
    box.broker.kill()
    code, checks = examined(box)
    assert (code, wrong(checks)) == (3, {"bus", "broker", "trust root"})


def test_a_daemon_with_another_configuration_is_still_asked(box: Box) -> None:
    done = box.ctl("doctor", "--config", "/nowhere/config.toml", "--json", check=False)
    checks = {each["check"]: each["level"] for each in json.loads(done.stdout)["checks"]}
    assert (done.returncode, checks["config"]) == (0, "warn")
    assert {checks[name] for name in ("bus", "broker", "segment", "ledger")} == {"ok"}


def test_a_segment_that_is_not_provisioned_is_worth_a_look() -> None:
    with Box(sid=None) as box:
        wait_until(lambda: bool(box.status()["broker_connected"]), timeout_s=20, what="a connection to the broker")
        code, checks = examined(box)
    assert (code, checks["segment"]["level"]) == (0, "warn")
    assert "glp/0/././sid" in checks["segment"]["why"]


def test_the_doctor_changes_nothing(box: Box) -> None:
    def looks() -> dict[str, tuple[bytes, float]]:
        files = [each for each in box.directory.rglob("*") if each.is_file() and each.name != "daemon.log"]
        return {str(each): (each.read_bytes(), os.stat(each).st_mtime) for each in files}

    box.stop()
    before = looks()
    examined(box)
    assert looks() == before
    assert Path(box.state).is_dir()
