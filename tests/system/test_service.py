"""The daemon as a service: readiness, status line, watchdog, reload, stop; and what it says when it cannot start."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(120)]


class Manager:
    """The service manager's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.1)
        self.heard: list[str] = []

    def __enter__(self) -> Manager:  # noqa: PYI034 - typing.Self is Python 3.11's
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def listen(self, wanted: str, *, timeout_s: float = 20) -> None:
        """Wait until something beginning with `wanted` was said."""
        end = time.monotonic() + timeout_s
        while not any(said.startswith(wanted) for said in self.heard):
            assert time.monotonic() < end, f"no {wanted} in {self.heard}"
            try:
                self.heard += self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                continue

    def drain(self) -> None:
        """Forget what was said so far."""
        self.heard.clear()
        with contextlib.suppress(TimeoutError):
            while self._socket.recv(4096):
                pass


def test_ready_status_watchdog_reload_and_stop(tmp_path: Path) -> None:
    with Box(capacity=5) as box, Manager(tmp_path / "notify") as manager:
        box.stop()
        environment = os.environ | {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
        daemon = subprocess.Popen(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config)], env=environment, stderr=subprocess.PIPE
        )
        manager.listen("READY=1")
        assert box.status()["capacity"] == 5, "READY means: the state is loaded and the bus is there"
        manager.listen("STATUS=licensed: 1 of 5 devices")
        manager.heard.clear()
        manager.listen("WATCHDOG=1")
        box.config.write_text(
            box.config.read_text().replace("debug", "info").replace("[policy]", "[policy]\nsettle_s=9")
        )
        manager.heard.clear()
        daemon.send_signal(signal.SIGHUP)
        manager.listen("RELOADING=1")
        manager.listen("READY=1")
        start = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        manager.listen("STOPPING=1")
        _, stderr = daemon.communicate(timeout=10)
        assert daemon.returncode == 0
        assert time.monotonic() - start < 1.0
        assert b"NEEDS_RESTART=policy" in stderr


def test_a_loop_that_hangs_stops_feeding_the_watchdog(tmp_path: Path) -> None:
    with Box() as box, Manager(tmp_path / "notify") as manager:
        box.stop()
        environment = os.environ | {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000"}
        daemon = subprocess.Popen(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config)], env=environment, stderr=subprocess.DEVNULL
        )
        manager.listen("WATCHDOG=1")
        daemon.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        manager.drain()  # what was on its way may still come
        with pytest.raises(AssertionError, match="no WATCHDOG"):
            manager.listen("WATCHDOG=1", timeout_s=2)
        daemon.kill()
        daemon.wait()


def test_the_broker_may_be_away_at_the_start_and_the_status_says_so(tmp_path: Path) -> None:
    with Box() as box, Manager(tmp_path / "notify") as manager:
        box.stop()
        box.broker.kill()
        environment = os.environ | {"NOTIFY_SOCKET": str(manager.path)}
        daemon = subprocess.Popen(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config)], env=environment, stderr=subprocess.DEVNULL
        )
        manager.listen("READY=1")
        manager.listen("STATUS=starting: no license, the broker is away")
        assert box.status()["broker_connected"] is False
        box.broker.start()
        wait_until(lambda: box.status()["broker_connected"], timeout_s=50, what="the broker is found (promise: 5 s)")
        daemon.terminate()
        daemon.wait(10)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_while_the_broker_is_away_it_idles_though_devices_wait_to_hear_something_again() -> None:
    with Box(capacity=2) as box, Client(box.broker.port) as client:
        for number in range(5):
            client.publish(f"glp/0/{INSTALL_CODE}/fb/dev/modbus/{number}/sts", '{"state":"unlicensed"}', retain=True)
        wait_until(lambda: box.status()["waiting"] == 4, timeout_s=20, what="devices that wait")
        box.broker.kill()
        wait_until(lambda: not box.status()["broker_connected"], timeout_s=20, what="the loss is noticed")
        time.sleep(2)  # the pauses of what was said are over
        before = cpu_seconds(box.pid)
        time.sleep(3)
        assert cpu_seconds(box.pid) - before < 1.0


CANNOT_START = [
    ("port = 1883", "port = 0", 2, "mqtt.port is 0, expected a whole number from 1 to 65535"),
    ("[mqtt]", "[mqt]", 2, "did you mean 'mqtt'?"),
    ("[mqtt]", "[mqtt", 2, "line 1"),
    ("root.json", "nothing.json", 1, "cannot read the root of trust"),
    ("/environment", "/nothing", 1, "cannot read the install code"),
    ("unix:path=", "unix:path=/nothing", 1, "D-Bus"),
]


@pytest.mark.parametrize(("was", "now", "code", "says"), CANNOT_START, ids=[each[3][:30] for each in CANNOT_START])
def test_what_keeps_it_from_starting_is_said_in_one_line(was: str, now: str, code: int, says: str) -> None:
    with Box() as box:
        box.stop()
        text = box.config.read_text().replace(f"port = {box.broker.port}", "port = 1883")
        box.config.write_text(text.replace(was, now))
        done = subprocess.run(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config)],
            check=False,
            capture_output=True,
            timeout=30,
        )
        error = done.stderr.decode().splitlines()[-1]
        assert done.returncode == code
        assert error.startswith("smartserver-licensed: cannot ")
        assert says in error
        assert error.endswith("]")
        assert "Traceback" not in done.stderr.decode()
