"""Whatever happens to the ledger, running devices keep running, and the daemon says why it admits nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

import pytest

from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client
from support.loop import loop

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(300)]
FB = f"glp/0/{INSTALL_CODE}/fb/dev/modbus"
RQ = f"glp/0/{INSTALL_CODE}/rq/dev/modbus"


def show(client: Client, handle: str, state: str, **more: str) -> None:
    client.publish(f"{FB}/{handle}/sts", json.dumps({"state": state} | more), retain=True)


def heard(client: Client) -> dict[str, bool]:
    lics = [message for message in client.messages if message.topic.endswith("/lic") and "/dev/" in message.topic]
    return {message.topic.split("/")[6]: json.loads(message.payload)["licensed"] for message in lics}


def three_devices(client: Client) -> None:
    """One runs, one is in a restart dip, one was never licensed."""
    show(client, "running", "provisioned")
    show(client, "dipping", "unprovisioned", provisioned="true")
    show(client, "new", "unlicensed")


def test_without_a_ledger_nobody_hears_false_and_it_appears_without_a_restart() -> None:
    with Box() as box, Client(box.broker.port) as client:
        box.license(2)
        box.stop()
        shutil.rmtree(box.state)
        three_devices(client)
        client.subscribe(f"{FB}/+/lic")
        client.subscribe(f"glp/0/{INSTALL_CODE}/ev/error")
        client.clear()
        box.start()
        wait_until(lambda: box.status()["state"] == "storage-fault", timeout_s=20, what="storage-fault")
        assert box.status()["storage"] == "missing"
        client.wait_for(lambda message: message.topic.endswith("running/lic"), timeout_s=20)
        client.publish(f"{RQ}/new/do", '{"action":"provision"}')
        refused = client.wait_for(lambda message: message.topic.endswith("/ev/error"), timeout_s=20)
        assert refused.json()["code"] == "storage-fault"
        assert heard(client) == {"running": True, "dipping": True}
        made_elsewhere = box.directory / "made"  # an empty one in its place the daemon fills itself
        made_elsewhere.mkdir()
        made = subprocess.run(
            [str(BIN / "smartserver-licensed"), "--config", str(box.config), "--init-state", str(made_elsewhere)],
            check=True,
            capture_output=True,
        )
        assert b"a new ledger" in made.stdout
        made_elsewhere.rename(box.state)
        wait_until(lambda: box.status()["storage"] == "ok", timeout_s=60, what="the ledger is taken up")
        wait_until(lambda: box.status()["state"] == "over-capacity", timeout_s=20, what="what runs is adopted")
        time.sleep(1)
        assert False not in [licensed for name, licensed in heard(client).items() if name != "new"]
        assert box.devices()["modbus/running"]["seat"] == "provisioned"


def test_a_damaged_ledger_is_served_as_corrupt_and_left_as_it_is() -> None:
    with Box(capacity=3) as box, Client(box.broker.port) as client:
        show(client, "running", "provisioned")
        wait_until(lambda: box.status()["used"] == 2, timeout_s=20, what="a seat")
        box.kill()
        for name in ("ledger.a", "ledger.b"):
            with (box.state / name).open("r+b") as file:
                file.seek(100)
                file.write(b"!!!!")
        before = [(box.state / name).read_bytes() for name in ("ledger.a", "ledger.b")]
        client.subscribe(f"{FB}/+/lic")
        box.start()
        wait_until(lambda: box.status()["storage"] == "corrupt", timeout_s=20, what="corrupt")
        show(client, "new", "unlicensed")
        time.sleep(1)
        assert False not in heard(client).values()
        assert [(box.state / name).read_bytes() for name in ("ledger.a", "ledger.b")] == before
        install = box.ctl("install", str(box.issue(5)), check=False)
        assert install.returncode == 4
        assert b"[not-ready]" in install.stderr


def test_one_damaged_log_is_repaired_and_everything_goes_on() -> None:
    with Box(capacity=3) as box, Client(box.broker.port) as client:
        show(client, "running", "provisioned")
        wait_until(lambda: box.status()["used"] == 2, timeout_s=20, what="a seat")
        box.kill()
        (box.state / "ledger.a").write_bytes(bytes(4 << 20))
        box.start()
        assert box.status()["storage"] == "degraded"
        wait_until(lambda: box.status()["used"] == 2, timeout_s=20, what="the same seat")
        box.kill()
        box.start()
        assert box.status()["storage"] == "degraded", "until somebody has taken note"
        box.ctl("acknowledge")
        assert box.status()["storage"] == "ok"
        box.kill()
        box.start()
        assert box.status()["storage"] == "ok"


def test_the_ledger_of_another_smartserver_is_foreign() -> None:
    with Box(capacity=3) as box:
        box.stop()
        environment = box.directory / "environment"
        environment.write_text("APOLLO_INSTALL_CODE=17other\n")
        config = box.config.read_text()
        box.config.write_text(config.replace("[identity]", '[identity]\nmac_interface = ""'))  # another board too
        box.start()
        wait_until(lambda: box.status()["storage"] == "foreign", timeout_s=20, what="foreign")
        assert box.status()["capacity"] == 0


@pytest.mark.needs("losetup", "root", "/dev/loop-control")
def test_on_a_block_device_the_daemon_never_makes_a_ledger_itself() -> None:
    with Box() as box:
        box.stop()
        image = box.directory / "disk.img"
        with image.open("wb") as file:
            file.truncate(16 << 20)
        with loop(image) as device:
            box.config.write_text(box.config.read_text().replace(str(box.state), str(device)))
            box.start()
            assert box.status()["storage"] == "missing"
            assert not any(image.read_bytes())
            subprocess.run([str(BIN / "smartserver-licensed"), "--init-state", device], check=True, capture_output=True)
            wait_until(lambda: box.status()["storage"] == "ok", timeout_s=60, what="the ledger is taken up")
            box.license(4)
            box.kill()
            box.start()
            assert box.status()["capacity"] == 4
            box.stop()


def test_a_trial_ends_by_its_own_date_and_a_second_one_is_refused() -> None:
    with Box() as box:
        box.ctl("install", str(box.issue(5, "--days", "30", kind="trial")))
        assert box.status()["capacity"] == 5
        (license_,) = box.status()["licenses"]
        assert license_["description"] == "5-device trial"
        assert license_["status"].startswith("Expiring ")
        with pytest.raises(subprocess.CalledProcessError):
            box.issue(5, kind="trial")


@pytest.mark.needs("strace")
def test_a_failed_sync_is_final_nothing_undurable_is_announced_and_it_recovers_by_itself() -> None:
    with Box(capacity=4) as box, Client(box.broker.port) as client:
        box.stop()
        client.subscribe(f"{FB}/+/lic")
        box.start(
            "strace", "-f", "-qq", "-o", "/dev/null",
            "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=7..8",
        )  # fmt: skip
        wait_until(lambda: box.status()["state"] == "licensed", timeout_s=20, what="a first snapshot")
        for number in range(1, 4):
            show(client, f"d{number}", "unlicensed")
            time.sleep(0.2)
        wait_until(lambda: "read-only" in box.log, timeout_s=20, what="the failed sync is said")
        said_before = box.log.count("WAS=read-only")
        wait_until(lambda: box.status()["storage"] == "ok", timeout_s=60, what="recovered (promise: 1 s of pause)")
        wait_until(lambda: len(heard(client)) == 3, timeout_s=20, what="everybody is answered")
        assert said_before == 0
        assert heard(client) == {"d1": True, "d2": True, "d3": True}
        assert box.status()["reserved"] == 3
