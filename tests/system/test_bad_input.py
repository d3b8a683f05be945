"""Bad input: an error with a code, nothing changed, and the next good message is answered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(300)]
FB = f"glp/0/{INSTALL_CODE}/fb/dev/modbus"
RQ = f"glp/0/{INSTALL_CODE}/rq/dev/modbus"
GOOD = {"state": "unlicensed", "unid": "001", "health": "normal", "cat": "i/o"}
BAD = {
    "broken JSON": b'{"state":"unlicensed"',
    "no object": b"[1,2,3]",
    "NaN": b'{"state":"unlicensed","lat":NaN}',
    "duplicate keys": b'{"state":"unlicensed","state":"provisioned"}',
    "invalid UTF-8": b'{"state":"unlic\xff\xfe"}',
    "deep nesting": b"[" * 30_000 + b"]" * 30_000,
    "a huge integer": b'{"state":' + b"9" * 20_000 + b"}",
    "just under 64 KiB of nothing": b'{"state":"' + b"x" * 65_000 + b'"}',
    "64 KiB and a byte": b'{"state":"unlicensed","x":"' + b"x" * 65_536 + b'"}',
    "10 MB": b'{"state":"unlicensed","x":"' + b"x" * 10_000_000 + b'"}',
    "state is a number": b'{"state":1}',
    "state is a fraction": b'{"state":1.5}',
    "state is true": b'{"state":true}',
    "state is a list": b'{"state":["unlicensed"]}',
    "state is an object": b'{"state":{}}',
}


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box(capacity=3) as running:
        yield running


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_a_bad_sts_changes_nothing_and_the_next_good_one_is_answered(box: Box, payload: bytes) -> None:
    with Client(box.broker.port) as client:
        before = box.status(), box.devices()
        client.publish(f"{FB}/bad/sts", payload, retain=False)
        client.publish(f"{RQ}/bad/do", payload, retain=False)
        client.subscribe(f"{FB}/good/lic")
        client.publish(f"{FB}/good/sts", json.dumps(GOOD))
        client.wait_for(lambda message: message.json()["licensed"] is True, timeout_s=20)
        assert "modbus/bad" not in box.devices()
        client.publish(f"{FB}/good/sts", json.dumps(GOOD | {"state": "deleted"}))
        wait_until(lambda: (box.status(), box.devices()) == before, timeout_s=20, what="as before")


@pytest.mark.parametrize("field", ["health", "cat", "error", "provisioned", "unid", "type", "action", "mru"])
def test_whatever_stands_in_another_field_the_state_is_read(box: Box, field: str) -> None:
    with Client(box.broker.port) as client:
        client.subscribe(f"{FB}/odd/lic")
        values: list[object] = [None, 1, 1.5, True, [], {"a": [1]}, "x" * 1_000]
        for value in values:
            client.publish(f"{FB}/odd/sts", json.dumps(GOOD | {field: value}))
        client.wait_for(lambda message: message.json()["licensed"] is True, timeout_s=20)
        client.publish(f"{FB}/odd/sts", json.dumps(GOOD | {"state": "deleted"}))
        client.wait_for(lambda message: message.json()["licensed"] is False, timeout_s=20)


def test_a_forged_lic_is_overwritten_and_a_forged_status_too(box: Box) -> None:
    with Client(box.broker.port) as client:
        for number in range(3):
            client.publish(f"{FB}/f{number}/sts", json.dumps(GOOD))
        client.subscribe(f"{FB}/f2/lic", f"glp/0/{INSTALL_CODE}/fb/lic")
        client.wait_for(lambda message: message.topic.endswith("f2/lic"), timeout_s=20)
        client.clear()
        client.publish(f"{FB}/f2/lic", '{"licensed":true}', retain=True)
        client.publish(f"glp/0/{INSTALL_CODE}/fb/lic", '{"state":"licensed","capacity":1000}', retain=True)
        client.wait_for(
            lambda message: message.topic.endswith("f2/lic") and message.json()["licensed"] is False, timeout_s=20
        )
        client.wait_for(
            lambda message: message.topic.endswith("fb/lic") and message.json()["capacity"] == 3, timeout_s=20
        )
        for number in range(3):
            client.publish(f"{FB}/f{number}/sts", json.dumps(GOOD | {"state": "deleted"}))
        wait_until(lambda: box.status()["used"] == 1 and not box.devices(), timeout_s=20, what="empty again")


def refused(box: Box, data: bytes) -> str:
    """The code with which a document is refused; the status must not change."""
    done = box.ctl("install", "-", "--json", stdin=data, check=False)
    assert done.returncode == 4, done
    return str(json.loads(done.stdout)["error"]["code"])


def test_a_grant_cut_or_changed_is_refused_with_a_code_and_nothing_changes(box: Box) -> None:
    """Every byte is tried at the parser (`tests/unit/documents`); here some of them through the whole daemon."""
    good = box.issue(7).read_bytes()
    before = box.status()
    for place in range(0, len(good), len(good) // 12):
        assert refused(box, good[:place])
        assert refused(box, good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    assert refused(box, b"{" + b" " * 70_000) == "document-too-large"
    assert box.status() == before


def test_a_grant_of_another_smartserver_and_an_older_one_are_refused(box: Box) -> None:
    before = box.status()
    other = box.issue(9, install_code="17other").read_bytes()
    assert refused(box, other) == "wrong-smartserver"
    older, newer = box.issue(1).read_bytes(), box.issue(1).read_bytes()
    box.ctl("install", "-", stdin=newer)
    assert refused(box, older) == "grant-stale"
    assert box.status()["capacity"] > before["capacity"]


def test_the_drops_are_reported_with_their_reasons(box: Box) -> None:
    with Client(box.broker.port) as client:
        client.publish(f"{FB}/bad/sts", b"{")
        wait_until(lambda: "Messages from the broker were dropped" in box.log, timeout_s=90, what="a report")


def test_a_wrong_configuration_is_refused_with_the_nearest_key(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[policy]\nsettle = 3\n")
    done = subprocess.run(
        [str(BIN / "smartserver-licensed"), "--config", str(config), "--check-config"], check=False, capture_output=True
    )
    assert done.returncode == 2
    assert "settle_s" in done.stderr.decode()


def test_more_handles_than_the_limit_are_dropped_and_that_is_reported() -> None:
    with Box(max_devices=10) as box, Client(box.broker.port) as client:
        for number in range(25):
            client.publish(f"{FB}/n{number}/sts", json.dumps(GOOD))
        wait_until(lambda: "too-many-devices" in box.log, timeout_s=30, what="a report")
        assert len(box.devices()) == 10
