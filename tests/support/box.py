"""A whole SmartServer for tests: real mosquitto, private dbus-daemon, the daemon as a process, the programs beside it.

Rules: everything lives in one temporary directory; the daemon is the installed program, started, killed and stopped for
real; waiting is by looking, with a limit.

What this module does not do: it knows nothing of the daemon's inside.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.broker import Broker, Client
from support.bus import PrivateBus, on_bus

INSTALL_CODE = "17qtest"
CUSTOMER_ID = "11111111-2222-4333-8444-555555555555"
BIN = Path(sys.executable).parent


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Look until it holds. Raises AssertionError when it does not within the limit."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


class Box:
    """One SmartServer. A context manager; `start` starts the daemon and returns when it is READY to serve."""

    def __init__(
        self,
        *,
        capacity: int | None = None,
        sid: str | None = INSTALL_CODE,
        broker: Broker | None = None,
        mqtt: str = "",
        program: Sequence[str] = (),
        daemon_port: int | None = None,
        **policy: float | str,
    ) -> None:
        """`capacity` installs a license of so many devices at the start; `policy` goes to the configuration.

        A `broker` of the test's own takes the place of one that lets everybody in; `mqtt`: more lines of its section.
        `program` is started in place of the installed daemon; `daemon_port` is where it finds the broker, if elsewhere.
        """
        self.directory = Path(tempfile.mkdtemp(prefix="box-"))
        self.state = self.directory / "state"
        self.state.mkdir()
        self.broker = broker or Broker()
        self.directory.chmod(0o755)  # other users may reach the bus, unlike the state
        self.bus = PrivateBus(self.directory)
        self._capacity = capacity
        self._sid = sid
        self._mqtt = mqtt
        self._program = program or (str(BIN / "smartserver-licensed"),)
        self._daemon_port = daemon_port or self.broker.port
        self._policy = policy
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Box:  # noqa: PYI034 - typing.Self is Python 3.11's
        try:
            self._bring_up()
        except BaseException:
            self.__exit__()  # nobody else ends what runs already
            raise
        return self

    def _bring_up(self) -> None:
        self.broker.start()
        self.bus.start()
        self.authority("init", str(self.directory / "authority"))
        self.authority("trust", "--dir", str(self.directory / "authority"), "--out", str(self.directory / "root.json"))
        self._write_config()
        self.start()
        if self._sid is not None:
            with Client(self.broker.port) as client:
                client.publish("glp/0/././sid", json.dumps(self._sid), retain=True)
            wait_until(lambda: self.status()["state"] != "starting", timeout_s=20, what="a first snapshot")
        if self._capacity is not None:
            self.license(self._capacity)

    def __exit__(self, *_: object) -> None:
        if self._daemon is not None:
            self.kill()
        self.bus.kill()
        self.broker.__exit__()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _write_config(self) -> None:
        environment = self.directory / "environment"
        environment.write_text(f"APOLLO_INSTALL_CODE={INSTALL_CODE}\n")
        policy = "\n".join(f"{key} = {json.dumps(value)}" for key, value in self._policy.items())
        self.config.write_text(
            f"[mqtt]\nport = {self._daemon_port}\n{self._mqtt}\n"
            f'[state]\npath = "{self.state}"\n'
            f'[bus]\naddress = "{self.bus.address}"\n'
            f'[trust]\nroot = "{self.directory}/root.json"\n[identity]\nenvironment_file = "{environment}"\n'
            f'[policy]\n{policy}\n[log]\nlevel = "debug"\n'
        )

    # -- the daemon --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        """The daemon's configuration."""
        return self.directory / "config.toml"

    @property
    def log(self) -> str:
        """What the daemon wrote on stderr so far, over all its runs."""
        path = self.directory / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._daemon is not None
        return self._daemon.pid

    def start(self, *under: str) -> None:
        """Start the daemon, perhaps under another program; returns when it answers on the bus."""
        with (self.directory / "daemon.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [*under, *self._program, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, timeout_s=20, what="an answer on D-Bus")

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"the daemon ended: {self.log[-2_000:]}"
        return self.ctl("status", "--json", check=False).returncode == 0

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        assert self._daemon is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self._daemon.pid, number)  # its own group: whatever it runs under goes with it
        status = self._daemon.wait(10)
        self._daemon = None
        return status

    # -- the programs --------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, check: bool = True, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run licensectl."""
        done = subprocess.run(
            [str(BIN / "licensectl"), *arguments],
            check=False,
            capture_output=True,
            env=on_bus(self.bus.address),
            input=stdin,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"licensectl {arguments}: {done.stderr.decode()}"
        return done

    def authority(self, *arguments: str) -> None:
        """Run license-authority."""
        subprocess.run([str(BIN / "license-authority"), *arguments], check=True, capture_output=True, timeout=60)

    def issue(self, devices: int, *more: str, kind: str = "capacity", install_code: str = INSTALL_CODE) -> Path:
        """A grant with a license more."""
        out = self.directory / f"grant-{time.monotonic_ns()}.json"
        self.authority(
            "issue", "--dir", str(self.directory / "authority"), "--type", kind, "--devices", str(devices),
            "--customer-id", CUSTOMER_ID, "--install-code", install_code, *more, "--out", str(out),
        )  # fmt: skip
        return out

    def license(self, devices: int) -> None:
        """Issue and install a capacity license more."""
        self.ctl("install", str(self.issue(devices)))

    def status(self) -> dict[str, Any]:
        """`licensectl status --json`."""
        value = json.loads(self.ctl("status", "--json").stdout)
        assert isinstance(value, dict)
        return value

    def devices(self) -> dict[str, dict[str, Any]]:
        """`licensectl devices --json`, by name."""
        rows = json.loads(self.ctl("devices", "--json").stdout)
        rows = rows["devices"] if isinstance(rows, dict) else rows
        return {row["name"]: row for row in rows}
