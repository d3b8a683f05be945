"""An old copy of the ledger, a TPM that was cleared or is gone: said, nothing is admitted, left without a restart."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client
from support.tpm import Tpm

pytestmark = [
    pytest.mark.needs("mosquitto", "dbus-daemon", "busctl", "swtpm", "tpm2_nvread"),
    pytest.mark.timeout(300),
]
FB = f"glp/0/{INSTALL_CODE}/fb/dev/modbus"
RQ = f"glp/0/{INSTALL_CODE}/rq/dev/modbus"
NAME, PATH = "com.enocean.SmartServer.License1", "/com/enocean/SmartServer/License1"


@contextmanager
def anchored(tpm: Tpm) -> Iterator[Box]:
    """A SmartServer with a TPM, a license for three and a device that runs."""
    with Box() as box, Client(box.broker.port) as client:
        box.stop()
        without = box.config.read_text()
        box.config.write_text(without.replace("[state]\n", f'[state]\nanchor = "tpm"\nanchor_tcti = "{tpm.tcti}"\n'))
        box.start()
        box.license(3)
        client.publish(f"{FB}/running/sts", '{"state":"provisioned"}', retain=True)
        wait_until(lambda: box.status()["used"] == 2, timeout_s=20, what="a seat")
        yield box


def on_bus(box: Box, name: str) -> str:
    """A property, as D-Bus says it."""
    address = f"--address={box.bus.address}"
    command = ["busctl", address, "--json=short", "get-property", NAME, PATH, NAME, name]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return str(json.loads(done.stdout)["data"])


def put_back(box: Box, copy: str) -> None:
    """The copy in place of the ledger."""
    shutil.rmtree(box.state)
    shutil.copytree(box.directory / copy, box.state)


def check_nothing_is_admitted(box: Box, condition: str) -> None:
    """D-Bus, licensectl and the journal say the condition; nobody is admitted, and who runs is not stopped."""
    wait_until(lambda: on_bus(box, "StorageState") == condition, timeout_s=20, what=condition)
    wait_until(lambda: box.status()["state"] == "storage-fault", timeout_s=20, what="a first snapshot")
    assert condition in box.ctl("status", check=False).stdout.decode()
    assert f"STORAGE={condition} " in box.log
    doctor = json.loads(box.ctl("doctor", "--json", check=False).stdout)
    assert condition in json.dumps(doctor)
    with Client(box.broker.port) as client:
        client.subscribe(f"{FB}/+/lic")
        client.subscribe(f"glp/0/{INSTALL_CODE}/ev/error")
        client.publish(f"{FB}/new/sts", '{"state":"unlicensed"}', retain=True)
        client.publish(f"{RQ}/new/do", '{"action":"provision"}')
        refused = client.wait_for(lambda message: message.topic.endswith("/ev/error"), timeout_s=20)
        assert refused.json()["code"] == "storage-fault"
        time.sleep(1)
        heard = [
            (each.topic.split("/")[6], each.json()["licensed"]) for each in client.messages if "/lic" in each.topic
        ]
    assert ("running", True) in heard
    assert not [each for each in heard if each != ("running", True)]


def check_it_goes_on(box: Box, *, pid: int) -> None:
    """Everything is admitted again, by the same process."""
    wait_until(
        lambda: on_bus(box, "StorageState") == "ok", timeout_s=100, what="ok (at once, or after a pause of 60 s)"
    )
    wait_until(lambda: box.devices().get("modbus/new", {}).get("seat") == "reserved", timeout_s=20, what="a new seat")
    assert box.devices()["modbus/running"]["seat"] == "provisioned"
    assert box.pid == pid


def test_an_old_copy_is_rolled_back_until_a_new_license_comes_and_needs_no_restart() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        box.stop()
        shutil.copytree(box.state, box.directory / "copy")
        box.start()
        box.license(2)
        assert box.status()["capacity"] == 5
        box.stop()
        put_back(box, "copy")
        box.start()
        pid = box.pid
        check_nothing_is_admitted(box, "rolled-back")
        box.license(1)
        check_it_goes_on(box, pid=pid)
        assert box.status()["capacity"] == 6
        box.kill()
        box.start()
        assert box.status()["storage"] == "ok", "it is bound anew"


def test_a_copy_of_the_same_license_is_not_told_and_neither_is_a_restart() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        for _ in range(2):
            box.kill()
            box.start()
            assert box.status()["storage"] == "ok"
        box.stop()
        shutil.copytree(box.state, box.directory / "copy")
        put_back(box, "copy")
        box.start()
        assert box.status()["storage"] == "ok"


def test_a_cleared_tpm_is_an_anchor_lost_until_a_new_license_comes_and_needs_no_restart() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        box.stop()
        tpm.clear()
        box.start()
        pid = box.pid
        check_nothing_is_admitted(box, "anchor-lost")
        box.license(1)
        check_it_goes_on(box, pid=pid)
        box.kill()
        box.start()
        assert box.status()["storage"] == "ok", "it is bound to the TPM as it is now"


def test_a_tpm_that_is_gone_is_an_anchor_lost_until_it_is_there_again() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        box.stop()
        tpm.remove()
        box.start()
        pid = box.pid
        check_nothing_is_admitted(box, "anchor-lost")
        refused = box.ctl("install", str(box.issue(1)), check=False)
        assert refused.returncode != 0
        assert b"[anchor-unreachable]" in refused.stderr
        tpm.insert()
        check_it_goes_on(box, pid=pid)
        box.license(1)
        assert box.status()["capacity"] == 5, "the license that was refused is in the next grant too"


def test_who_gives_the_anchor_up_needs_a_new_license() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        box.stop()
        box.config.write_text(box.config.read_text().replace('anchor = "tpm"', 'anchor = "none"'))
        box.start()
        pid = box.pid
        check_nothing_is_admitted(box, "anchor-lost")
        box.license(1)
        check_it_goes_on(box, pid=pid)


def test_a_tpm_that_goes_while_a_license_comes_says_so_and_the_license_comes_later() -> None:
    with Tpm() as tpm, anchored(tpm) as box:
        tpm.remove()
        grant = box.issue(2)
        refused = box.ctl("install", str(grant), check=False)
        assert b"[anchor-unreachable]" in refused.stderr
        assert box.status()["capacity"] == 3, "nothing has changed"
        tpm.insert()
        box.ctl("install", str(grant))
        assert (box.status()["storage"], box.status()["capacity"]) == ("ok", 5)
