"""A private dbus-daemon that allows everything, and a stand-in for the controller to answer on it.

`LicenseAnswers` implements `formats.bus.LicenseService` with plain data of its own: it replaces nothing of ours.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smartserver_licensed.domain.errors import (
    ArgumentError,
    EnvelopeError,
    ReturnLeavesExcessError,
    UnknownContactError,
    UnknownDeviceError,
    UnknownLicenseError,
)
from smartserver_licensed.domain.status import Clock, Maintenance, State, Status, Storage, Totals
from smartserver_licensed.formats.bus import Plain

_CONFIG = """<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
  {more}
</busconfig>
"""

STATUS = Status(
    state=State.LICENSED,
    totals=Totals(capacity=200, provisioned=36, reserved=2, waiting=3),
    storage=Storage.OK,
    clock=Clock.OK,
    is_broker_connected=True,
    customer_id="ACME",
    segment_id="17q1abc",
    install_code="IC-0001",
    assurance="full",
    version="0.1.0",
    maintenance=Maintenance(status="Active", expires="2028-03-01", devices=200),
)


class PrivateBus:
    """One dbus-daemon on a socket that every user can reach; may be killed and started again at the same address."""

    def __init__(self, directory: Path, *, more_config: str = "") -> None:
        self._socket = directory / "bus"
        self._config = directory / "bus.conf"
        self._config.write_text(_CONFIG.format(socket=self._socket, more=more_config))
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self._socket}"

    @property
    def pid(self) -> int:
        assert self._daemon is not None
        return self._daemon.pid

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        command = ["dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile"]
        self._daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not self._listens():
            assert self._daemon.poll() is None, "dbus-daemon ended"
            assert time.monotonic() < deadline, "dbus-daemon does not listen"
            time.sleep(0.01)

    def _listens(self) -> bool:
        """The socket's file is there a moment before the daemon listens."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    def kill(self) -> None:
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None


@contextlib.contextmanager
def private_bus(*, more_config: str = "") -> Iterator[PrivateBus]:
    """A running private bus; its directory is open to other users, unlike pytest's own ones."""
    directory = Path(tempfile.mkdtemp(prefix="bus-"))
    directory.chmod(0o755)
    bus = PrivateBus(directory, more_config=more_config)
    try:
        bus.start()
        yield bus
    finally:
        bus.kill()
        shutil.rmtree(directory)


def on_bus(address: str) -> dict[str, str]:
    """The environment in which programs take `address` for the system bus."""
    return {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": address}


@dataclass
class LicenseAnswers:
    """Answers from plain data; what was installed is kept in `installed`, what was asked for in `asked`.

    Its one license, L-1, has 200 devices, of which 37 are in use.
    """

    current: Status = STATUS
    devices: int = 3
    installed: list[bytes] = field(default_factory=list)
    asked: list[tuple[object, ...]] = field(default_factory=list)
    returns: list[dict[str, Plain]] = field(default_factory=list)
    notice_days: list[int] = field(default_factory=list)

    def status(self) -> Status:
        return self.current

    def list_licenses(self) -> list[dict[str, Plain]]:
        return [
            {
                "segment_controller": "17q1abc",
                "description": "200-device capacity",
                "status": "Active",
                "activation_date": "2026-02-03T04:05:06Z",
                "license_id": "L-1",
                "note": "Grüße aus Halle 4",
                "type": "capacity",
                "devices": 200,
                "expires_at": "",
            },
        ]

    def list_devices(self, *, waiting_only: bool, after: str, limit: int) -> list[dict[str, Plain]]:
        names = [f"lon/d{number:05}" for number in range(self.devices)]
        rows: list[dict[str, Plain]] = [
            {
                "name": name,
                "unit": name,
                "state": "provisioned",
                "seat": "waiting" if name.endswith("1") else "provisioned",
                "absent": False,
                "licensed": not name.endswith("1"),
            }
            for name in names
            if name > after
        ]
        return [row for row in rows if row["seat"] == "waiting" or not waiting_only][:limit]

    def describe_storage(self) -> dict[str, Plain]:
        return {
            "condition": self.current.storage.value,
            "reason": "",
            "repair": "",
            "path": "/dev/disk/by-partlabel/ss-license",
            "sequence": 12,
            "log_bytes": 4 << 20,
            "fill_bytes": 40_960,
            "written_bytes": 1_000_000,
            "written_per_day": 200_000,
            "life_bytes": 24 << 30,
            "anchor": "none",
            "anchor_count": 0,
        }

    async def acknowledge_repair(self) -> str:
        return "log a had no whole snapshot"

    def explain(self, device: str) -> dict[str, Plain]:
        if device == "lon/broken":
            raise ZeroDivisionError("secret of the house")
        if not device.startswith("lon/d"):
            raise UnknownDeviceError(f"cannot explain {device!r}: no device of that name is known")
        return {
            "name": device,
            "licensed": True,
            "rule": "A device counts when it is provisioned; it holds a seat.",
            "capacity": 200,
            "documents": ["L-1: 200-device capacity, Active"],
            "numbers": {"used": 37, "big": 2**40},
        }

    def plan(self, count: int) -> dict[str, Plain]:
        fits = min(count, 163)
        return {
            "count": count,
            "fits": fits,
            "missing": count - fits,
            "reason": "capacity-exceeded" if count > fits else "",
            "capacity": 200,
            "used": 37,
            "reserved": 2,
            "free": 161,
            "available": 163,
            "waiting": 3,
            "license_type": "capacity" if count > 158 else "",
            "license_devices": count - fits,
            "license_devices_for_all": max(0, count - 158),
        }

    def verify_document(self, data: bytes) -> dict[str, Plain]:
        if data[:1] != b"{":
            raise EnvelopeError("cannot read the document: it is not a DSSE envelope")
        return {"kind": "grant", "size": len(data)}

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        findings = self.verify_document(data)
        self.installed.append(data)
        return {"seq": 7, **findings}

    def list_notices(self) -> list[dict[str, Plain]]:
        return [
            {
                "kind": "expiry",
                "key": "maintenance",
                "threshold": 90,
                "sentence": "Maintenance for 200 devices ends on 2028-03-01.",
                "due": "2028-03-01",
            }
        ]

    async def set_notice_days(self, days: Sequence[int]) -> None:
        if not days:
            raise ArgumentError("cannot set the days of notices: there is none, expected 1 to 16")
        self.notice_days = list(days)

    def check_update(self, version: str, kind: str, released: str) -> dict[str, Plain]:
        self.asked.append((version, kind, released))
        allowed = kind != "platform"
        return {
            "allowed": allowed,
            "code": "" if allowed else "platform-not-covered",
            "sentence": f"{version} may be installed." if allowed else "No license names this platform.",
            "license_id": "M-1" if allowed else "",
            "installed": "3.5.1",
        }

    async def confirm_update(self, version: str, kind: str) -> dict[str, Plain]:
        return self.check_update(version, kind, "") | {"installed": version, "license_id": "U-1"}

    def list_returns(self) -> list[dict[str, Plain]]:
        return self.returns

    def get_return(self, number: int) -> bytes:
        if not 1 <= number <= len(self.returns):
            raise UnknownContactError(f"cannot give return {number}: none of that number is kept")
        return b'{"return": %d}' % number

    def preview_return(self, license_id: str, devices: int) -> dict[str, Plain]:
        if license_id != "L-1":
            raise UnknownLicenseError(f"cannot return {license_id!r}: no such license is installed")
        after = 200 - (devices or 200)
        excess = max(0, 37 - max(1, after))
        return {
            "capacity_before": 200,
            "capacity_after": after,
            "used": 37,
            "excess": excess,
            "devices_affected": [f"lon/d{number:05}" for number in reversed(range(36 - excess, 36))],
            "grace_days": 30,
        }

    async def create_request(
        self, customer_id: str, licenses: Sequence[str], *, is_new_key: bool, is_fresh: bool
    ) -> bytes:
        self.asked.append((customer_id, tuple(licenses), is_new_key, is_fresh))
        return b'{"request": %d}' % (len(self.installed) + 1)  # the same until an answer is installed

    async def create_return(
        self, license_id: str, devices: int, *, over_capacity: bool, revoke_excess: bool, another: bool
    ) -> bytes:
        excess = self.preview_return(license_id, devices)["excess"]
        if excess and not (over_capacity or revoke_excess):
            raise ReturnLeavesExcessError(
                f"cannot return {license_id!r}: {excess} devices would run beyond the capacity"
            )
        self.asked.append((license_id, devices, over_capacity, revoke_excess, another))
        number = len(self.returns) + 1
        made: dict[str, Plain] = {"made_at": "2026-02-03T04:05:06Z", "acknowledged": False}
        self.returns.append({"number": number, "license_id": license_id, "devices": devices or 200, **made})
        return self.get_return(number)
