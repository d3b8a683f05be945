"""The service manager's socket, the clocks, the environment file and the files in `systemd/`, on the real things."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartserver_licensed.adapters.clock import SystemClocks
from smartserver_licensed.adapters.identity import read_install_code
from smartserver_licensed.adapters.systemd import Notifier
from smartserver_licensed.domain.errors import ConfigError

UNIT = Path(__file__).parents[2] / "systemd" / "smartserver-licensed.service"


@pytest.fixture
def manager_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield receiver


@pytest.fixture
def manager(manager_socket: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    manager = Notifier()
    yield manager
    manager.close()


def test_systemd_hears_ready_status_reload_and_stop(manager: Notifier, manager_socket: socket.socket) -> None:
    manager.ready()
    manager.status("licensed: 37 of 200 in use\nstorage ok – Grüße €")
    manager.reloading()
    manager.stopping()
    heard = [manager_socket.recv(4_096).decode() for _ in range(4)]
    assert heard[:2] == ["READY=1", "STATUS=licensed: 37 of 200 in use storage ok – Grüße €"]
    reloading, clock = heard[2].split("\n")
    assert reloading == "RELOADING=1"
    assert abs(int(clock.removeprefix("MONOTONIC_USEC=")) - time.monotonic_ns() // 1_000) < 5_000_000
    assert heard[3] == "STOPPING=1"


def test_progress_feeds_the_watchdog_four_times_an_interval_at_most(
    manager: Notifier, manager_socket: socket.socket
) -> None:
    assert manager.watchdog_s == 0.2
    for _ in range(100):
        manager.progressed()
    time.sleep(0.06)
    manager.progressed()
    manager.stopping()
    heard = [manager_socket.recv(100) for _ in range(3)]
    assert heard == [b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"]


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}]
)
def test_a_watchdog_that_is_not_ours_is_not_fed(manager_socket: socket.socket, environment: dict[str, str]) -> None:
    manager = Notifier({"NOTIFY_SOCKET": "set", **environment})
    assert manager.watchdog_s is None
    manager.progressed()
    manager.stopping()
    assert manager_socket.recv(100) == b"STOPPING=1"
    manager.close()


def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager = Notifier()
    manager.ready()
    manager.status("alone")
    manager.progressed()
    manager.close()


def test_a_service_manager_that_is_gone_does_not_matter(manager: Notifier, manager_socket: socket.socket) -> None:
    manager_socket.close()
    manager.ready()


def test_clocks_go_on_and_agree_with_the_system() -> None:
    clocks = SystemClocks()
    first = clocks.reading()
    before = clocks.monotonic()
    time.sleep(0.02)
    second = clocks.reading()
    assert second.boottime_s > first.boottime_s
    assert clocks.monotonic() > before
    assert abs(second.wall_s - time.time()) <= 2
    assert abs(clocks.wall_ms() / 1_000 - time.time()) < 2
    assert abs(second.boottime_s - float(Path("/proc/uptime").read_text().split()[0])) < 2


_ADJTIMEX = {"x86_64": 159, "aarch64": 171, "armv7l": 124, "i686": 124}  # the system call's number
_ASK_PERL = """
my $timex = "\\0" x 512;
my $state = syscall($ARGV[0], $timex);
print "$state ", (unpack("I x![l!] l! l! l! l! i", $timex))[5];
"""


@pytest.mark.needs("perl")
@pytest.mark.skipif(platform.machine() not in _ADJTIMEX, reason="the system call's number is not known here")
def test_synchronised_is_what_the_kernel_says() -> None:
    command = ["perl", "-e", _ASK_PERL, str(_ADJTIMEX[platform.machine()])]
    state, status = map(int, subprocess.run(command, check=True, capture_output=True).stdout.split())
    is_synchronised = 0 <= state < 5 and not status & 0x40
    assert SystemClocks().reading().is_synchronised is is_synchronised


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("APOLLO_INSTALL_CODE=IC-1", "IC-1"),
        ('export APOLLO_INSTALL_CODE="IC 2"', "IC 2"),
        ("# APOLLO_INSTALL_CODE=old\n  APOLLO_INSTALL_CODE='IC-3' # new\n", "IC-3"),
        ("APOLLO_INSTALL_CODE=old\nOTHER='\nAPOLLO_INSTALL_CODE=IC-4\r\n", "IC-4"),
        ("XAPOLLO_INSTALL_CODE=no\nAPOLLO_INSTALL_CODE_2=no\nAPOLLO_INSTALL_CODE=IC-5=x\n", "IC-5=x"),
        ("A=\xff\nAPOLLO_INSTALL_CODE=$IC\n", "$IC"),
    ],
)
def test_the_install_code_is_read_as_a_shell_would(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "environment"
    file.write_bytes(text.encode("latin-1"))
    assert read_install_code(file) == code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not set APOLLO_INSTALL_CODE"),
        ("APOLLO_INSTALL_CODE=\n", "does not set APOLLO_INSTALL_CODE"),
        ("APOLLO_INSTALL_CODE=''\n", "does not set APOLLO_INSTALL_CODE"),
        ("APOLLO_INSTALL_CODE= IC-1\n", "does not set APOLLO_INSTALL_CODE"),
        ("A=1\nAPOLLO_INSTALL_CODE='IC\n", "line 2: APOLLO_INSTALL_CODE is not quoted right"),
        ("APOLLO_INSTALL_CODE=a\x07b\n", "expected at most 128 printable characters"),
        ("APOLLO_INSTALL_CODE=" + "x" * 129, "expected at most 128 printable characters"),
    ],
)
def test_an_install_code_that_is_missing_or_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "environment"
    file.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_install_code(file)


def test_a_missing_environment_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="environment: No such file"):
        read_install_code(tmp_path / "environment")


@pytest.mark.needs("systemd-analyze", "root")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "smartserver-licensed"  # verify asks that the program is there
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/usr/bin/smartserver-licensed", str(program)))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True
    )
    complaints = [line for line in verified.stderr.splitlines() if UNIT.name in line]
    assert (verified.returncode, complaints) == (0, [])
