"""What licensectl does before it asks anybody: usage, files, and what it imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from smartserver_licensed.cli import main
from smartserver_licensed.cli.client import Client, RefusedError

NO_BUS = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere/bus"}
COMMANDS = (
    ("status",),
    ("licenses",),
    ("devices",),
    ("devices", "--waiting"),
    ("explain", "lon/1"),
    ("plan", "3"),
    ("acknowledge",),
    ("request", "-o", "-"),
    ("return", "L-1", "--dry-run"),
    ("returns",),
    ("returns", "1", "-o", "-"),
    ("check-update", "4.0", "--kind", "feature"),
    ("confirm-update", "4.0"),
    ("notices",),
    ("notices", "--days", "30,7,0"),
)


def licensectl(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "smartserver_licensed.cli.main", *arguments]
    return subprocess.run(command, env=NO_BUS, input=stdin, capture_output=True, check=False, timeout=30)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("status", "--colour"),
        ("explain",),
        ("install",),
        ("verify",),
        ("plan",),
        ("request",),
        ("request", "-o", "-", "--customer-id", "C-1", "--license", "L-1"),
        ("return", "-o", "-"),
        ("return", "L-1", "-o", "-", "--over-capacity", "--revoke-excess"),
        ("return", "L-1", "-o", "-", "--devices", "0"),
        ("returns", "0", "-o", "-"),
        ("returns", "4294967296", "-o", "-"),
        ("check-update", "4.0"),
        ("check-update", "4.0", "--kind", "major"),
        ("notices", "--days", "soon"),
        ("notices", "--days", "-1"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_how(arguments: tuple[str, ...]) -> None:
    done = licensectl(*arguments)
    assert done.returncode == 2
    assert b"usage: licensectl" in done.stderr
    assert done.stdout == b""


def test_help_names_every_command() -> None:
    done = licensectl("--help")
    assert done.returncode == 0
    commands = "status licenses devices explain plan install verify request return returns check-update confirm-update"
    for command in f"{commands} notices acknowledge doctor".split():
        assert f"\n    {command}" in re.findall(r"\n    [a-z-]+", done.stdout.decode())


@pytest.mark.parametrize("arguments", COMMANDS)
def test_without_a_bus_every_command_ends_with_3_and_says_why(arguments: tuple[str, ...]) -> None:
    done = licensectl(*arguments, "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "daemon-unreachable"
    assert done.stderr.decode() == f"licensectl: {error['message']} [daemon-unreachable]\n"
    assert error["message"].startswith("cannot ask the daemon: no D-Bus:")
    assert licensectl(*arguments).stdout == b""


@pytest.mark.parametrize("command", ["install", "verify"])
def test_a_file_that_cannot_be_read_ends_with_2(command: str, tmp_path: Path) -> None:
    done = licensectl(command, str(tmp_path / "none"), "--json")
    assert done.returncode == 2
    assert b"none: No such file or directory [argument-invalid]" in done.stderr
    assert json.loads(done.stdout)["error"]["code"] == "argument-invalid"


@pytest.mark.parametrize(
    "arguments",
    [
        ("return", "L-1"),
        ("returns", "1"),
        ("return", "L-1", "--dry-run", "-o", "FILE"),
        ("returns", "-o", "FILE"),
        ("request", "-o", "/nowhere/request"),
        ("request", "-o", "/dev/null"),
        ("request", "-o", ""),
        ("request", "-o", "."),
        ("request", "-o", "x" * 250),
        ("return", "L-1", "-o", "/nowhere/proof"),
    ],
)
def test_a_document_that_could_not_be_written_is_not_even_asked_for(arguments: tuple[str, ...]) -> None:
    done = licensectl(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"licensectl: cannot write")
    assert done.stderr.endswith(b"[argument-invalid]\n")


@pytest.mark.parametrize("number", ["0", "-1", "many", "1000001"])
def test_a_plan_of_no_number_of_devices_is_wrong_usage(number: str) -> None:
    done = licensectl("plan", number)
    assert done.returncode == 2
    assert b"usage: licensectl plan" in done.stderr


def test_the_doctor_has_something_to_say_without_a_bus_and_without_a_configuration(tmp_path: Path) -> None:
    done = licensectl("doctor", "--config", str(tmp_path / "none.toml"), "--json")
    assert (done.returncode, done.stderr) == (3, b"")
    report = json.loads(done.stdout)
    assert (report["ok"], report["daemon"]) == (False, False)
    assert {each["check"]: each["level"] for each in report["checks"] if each["check"] != "clock"} == {
        "config": "fail",
        "bus": "fail",
    }


class OlderDaemon:
    """A client of a daemon that knows less than licensectl."""

    def storage(self) -> dict[str, object]:
        raise RefusedError("internal-error", "cannot call DescribeStorage: no such method here")


def test_the_doctor_makes_do_with_a_daemon_that_cannot_describe_its_storage() -> None:
    assert main._storage(cast("Client", OlderDaemon())) == {}


def test_dbus_is_imported_only_to_ask() -> None:
    program = (
        "import sys; from smartserver_licensed.cli import main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('dbus_fast' in sys.modules or 'asyncio' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
