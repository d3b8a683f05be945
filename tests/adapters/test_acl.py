"""The shipped configuration of a broker with credentials: who can do their work, and who cannot forge.

Each test has a real mosquitto that reads `etc/mosquitto-licensed.conf` and `.acl` as they are shipped, and passwords
made by mosquitto_passwd.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from smartserver_licensed.domain.devices import DeviceId
from smartserver_licensed.formats import iap
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Broker, Client, Message

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_passwd", "dbus-daemon")

ETC = Path(__file__).parents[2] / "etc"
SID = INSTALL_CODE
DEVICE = DeviceId("lon", "acme-wm2000.d-0")
DAEMON = ("smartserver-licensed", "the daemon's")
PIPELINE = (("cms", "the CMS's"), ("engine", "the engines'"))
STRANGER = ("visitor", "a stranger's")
_serial = itertools.count()

DAEMONS_OWN = [
    iap.lic_topic(SID, DEVICE),
    iap.status_topic(SID),
    iap.event_topic(SID),
    iap.MARKER_TOPIC,
]
# `.` in place of the SID means "this server": an engine might listen there too.
NOBODYS = ["glp/0/./fb/dev/lon/acme-wm2000.d-0/lic", "glp/0/./fb/lic", "glp/0/./ev/lic", "glp/0/./=licensed/more"]
PIPELINES_WORK = [
    iap.SID_TOPIC,
    "glp/0/././runlevel",
    "glp/0/./=engine/about",
    "glp/0/./=engine/lon/about",
    "glp/0/./=engine/lon/con/1/impl",
    "glp/0/./=logger/event",
    "glp/0/./=dcm/con/1/in",
    f"glp/0/{SID}/fb/cfg",
    f"glp/0/{SID}/fb/con/1/sts",
    iap.do_topic(SID, DEVICE),
    f"glp/0/{SID}/rq/dev/lon/1/if/switch/0/state/value",
    f"glp/0/{SID}/rq/con/1/do",
    iap.sts_topic(SID, DEVICE),
    f"glp/0/{SID}/fb/dev/{DEVICE}/cfg",
    f"glp/0/{SID}/fb/dev/{DEVICE}/if/block/0",
    f"glp/0/{SID}/fb/dev/{DEVICE}/if/block/0/Volts_1/value",
    f"glp/0/{SID}/fb/dev/{DEVICE}/impl",
    f"glp/0/{SID}/fb/dev/lon/type/900010500C08500",
    f"glp/0/{SID}/ev/data",
    f"glp/0/{SID}/ev/updated/dev/lon/type/900010500C08500",
    iap.error_topic(SID),
    f"glp/0/{SID}/ev/warning",
]


def shipped(directory: Path, *, more: str = "") -> str:
    """The shipped configuration with its files in `directory`, where a password for each user is made."""
    passwords = directory / "licensed.passwd"
    passwords.touch(0o600)
    for user, password in (DAEMON, *PIPELINE, STRANGER):
        subprocess.run(["mosquitto_passwd", "-b", str(passwords), user, password], check=True, capture_output=True)
    text = (ETC / "mosquitto-licensed.conf").read_text()
    text = text.replace("/etc/mosquitto/licensed.passwd", str(passwords))
    return text.replace("/etc/mosquitto/licensed.acl", str(ETC / "mosquitto-licensed.acl")) + more


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(access=shipped(tmp_path)) as broker:
        yield broker


def hears(listener: Client, speaker: Client, topic: str) -> bool:
    """Whether `listener` hears what `speaker` publishes; a marker behind it that both may use says when to give up."""
    said, barrier = f"said {next(_serial)}", f"barrier {next(_serial)}"
    speaker.publish(topic, said)
    speaker.publish(iap.do_topic(SID, DEVICE), barrier)
    listener.wait_for(lambda message: message.payload == barrier)
    return any((message.topic, message.payload) == (topic, said) for message in listener.messages)


# -- the pipeline ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", PIPELINE, ids=lambda credentials: credentials[0])
def test_the_pipeline_can_do_its_work(broker: Broker, credentials: tuple[str, str]) -> None:
    with Client(broker.port, credentials=credentials) as speaker, Client(broker.port, credentials=PIPELINE[0]) as other:
        other.subscribe("#")
        assert [topic for topic in PIPELINES_WORK if not hears(other, speaker, topic)] == []


@pytest.mark.parametrize("credentials", PIPELINE, ids=lambda credentials: credentials[0])
def test_the_pipeline_cannot_forge_what_only_the_daemon_says(broker: Broker, credentials: tuple[str, str]) -> None:
    with (
        Client(broker.port, credentials=credentials) as forger,
        Client(broker.port, credentials=PIPELINE[0]) as other,
        Client(broker.port, credentials=DAEMON) as daemon,
    ):
        other.subscribe("#")
        daemon.subscribe("#")
        for listener in (other, daemon):
            assert [topic for topic in DAEMONS_OWN + NOBODYS if hears(listener, forger, topic)] == []
        forger.publish(iap.lic_topic(SID, DEVICE), {"licensed": True}, retain=True)
        with Client(broker.port, credentials=PIPELINE[1]) as engine:  # nor is it kept for an engine that comes later
            engine.subscribe("glp/0/+/fb/dev/+/+/lic")
            assert engine.collect(0.3) == []


def test_a_forged_last_will_is_not_published_either(broker: Broker) -> None:
    with Client(broker.port, credentials=PIPELINE[1]) as engine:
        engine.subscribe("glp/0/#")
        dying = paho.Client(CallbackAPIVersion.VERSION2)
        dying.username_pw_set(*PIPELINE[0])
        dying.will_set(iap.lic_topic(SID, DEVICE), '{"licensed":true}', qos=1, retain=True)
        dying.connect("127.0.0.1", broker.port)
        dying.loop_start()
        wait_until(dying.is_connected, timeout_s=10, what="a connection")
        dying.loop_stop()
        dying._sock_close()  # without a goodbye
        dying._reset_sockets()
        assert engine.collect(0.5) == []


@pytest.mark.parametrize("topic", DAEMONS_OWN[:3])
def test_the_pipeline_hears_what_the_daemon_says(broker: Broker, topic: str) -> None:
    with Client(broker.port, credentials=DAEMON) as daemon, Client(broker.port, credentials=PIPELINE[1]) as engine:
        engine.subscribe("glp/0/#")
        assert hears(engine, daemon, topic)


# -- everybody else ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credentials", [None, ("cms", "wrong"), ("smartserver-licensed", ""), ("nobody", "")])
def test_without_a_right_password_nobody_comes_in(broker: Broker, credentials: tuple[str, str] | None) -> None:
    with pytest.raises(ConnectionRefusedError):
        Client(broker.port, credentials=credentials)


def test_a_user_without_a_block_of_lines_says_and_hears_nothing(broker: Broker) -> None:
    with (
        Client(broker.port, credentials=STRANGER) as stranger,
        Client(broker.port, credentials=PIPELINE[0]) as cms,
    ):
        stranger.subscribe("#")
        cms.subscribe("#")
        stranger.publish(iap.do_topic(SID, DEVICE), "from a stranger")
        cms.publish(iap.do_topic(SID, DEVICE), "from the CMS")
        cms.wait_for(lambda message: message.payload == "from the CMS")
        assert [message.payload for message in cms.messages] == ["from the CMS"]
        assert stranger.collect(0.3) == []


def test_clients_without_a_password_may_be_left_as_the_pipeline_and_cannot_forge(tmp_path: Path) -> None:
    access = shipped(tmp_path).replace("allow_anonymous false", "allow_anonymous true")
    with (
        Broker(access=access) as broker,
        Client(broker.port) as anybody,
        Client(broker.port, credentials=DAEMON) as daemon,
        Client(broker.port) as other,
    ):
        other.subscribe("#")
        daemon.subscribe("#")
        assert [topic for topic in PIPELINES_WORK if not hears(other, anybody, topic)] == []
        for listener in (other, daemon):
            assert [topic for topic in DAEMONS_OWN + NOBODYS if hears(listener, anybody, topic)] == []
        with pytest.raises(ConnectionRefusedError):
            Client(broker.port, credentials=(DAEMON[0], ""))


def test_what_the_acl_dropped_stands_in_the_log_with_log_type_debug(tmp_path: Path) -> None:
    with (
        Broker(access=shipped(tmp_path).replace("# log_type debug", "log_type debug")) as broker,
        Client(broker.port, credentials=PIPELINE[0]) as cms,
    ):
        cms.publish("glp/0/17qtest/fb/unheard-of", "x")
        assert re.search(r"Denied PUBLISH from .*'glp/0/17qtest/fb/unheard-of'", broker.log)


def test_the_pipeline_has_the_same_lines_in_each_block() -> None:
    anonymous, *users = re.split(r"^user ", (ETC / "mosquitto-licensed.acl").read_text(), flags=re.MULTILINE)
    blocks = {
        block.split("\n")[0]: [line for line in block.splitlines() if line.startswith("topic ")] for block in users
    }
    assert list(blocks) == ["cms", "engine", "smartserver-licensed"]
    assert blocks["cms"] == blocks["engine"] == [line for line in anonymous.splitlines() if line.startswith("topic ")]


# -- the daemon --------------------------------------------------------------------------------------------------------


def test_the_daemon_may_publish_what_it_decides_and_nothing_else(broker: Broker) -> None:
    own = {*DAEMONS_OWN, iap.do_topic(SID, DEVICE), iap.error_topic(SID), f"glp/0/{SID}/ev/warning"}
    with Client(broker.port, credentials=DAEMON) as daemon, Client(broker.port, credentials=DAEMON) as another:
        another.subscribe("#")
        with Client(broker.port, credentials=PIPELINE[0]) as cms:
            cms.subscribe("#")
            heard = {
                topic
                for topic in {*PIPELINES_WORK, *own}
                if hears(another if topic == iap.MARKER_TOPIC else cms, daemon, topic)
            }
    assert heard == own


def test_the_daemon_hears_all_that_it_decides_from(broker: Broker) -> None:
    snapshots = [iap.snapshot_filter(SID, kind).removesuffix("/#") for kind in ("sts", "lic", "cfg")]
    filters = [iap.SID_TOPIC, iap.MARKER_TOPIC, *iap.ENGINE_FILTERS, *iap.live_filters(SID), *snapshots]
    topics = [each.replace("+/+", str(DEVICE)).replace("+", "lon") for each in filters]
    with Client(broker.port, credentials=DAEMON) as daemon, Client(broker.port, credentials=PIPELINE[0]) as cms:
        daemon.subscribe("glp/0/#")
        for topic in topics:
            speaker = daemon if topic in DAEMONS_OWN else cms
            assert hears(daemon, speaker, topic), topic


def test_the_daemon_admits_and_refuses_devices_on_a_broker_with_credentials(tmp_path: Path) -> None:
    password = tmp_path / "mqtt-password"
    password.write_text(f"{DAEMON[1]}\n")
    own = f'username = "{DAEMON[0]}"\npassword_file = "{password}"'
    broker = Broker(access=shipped(tmp_path))
    first, second = DeviceId("lon", "1"), DeviceId("lon", "2")
    with (
        Box(capacity=2, sid=None, broker=broker, mqtt=own) as box,
        Client(broker.port, credentials=PIPELINE[1]) as engine,
        Client(broker.port, credentials=PIPELINE[0]) as cms,
    ):
        engine.subscribe("glp/0/+/fb/dev/+/+/lic")
        cms.subscribe(f"glp/0/{SID}/#")
        engine.publish(iap.SID_TOPIC, json.dumps(SID), retain=True)

        engine.publish(iap.sts_topic(SID, first), {"state": "unlicensed"}, retain=True)
        assert engine.wait_for(on(iap.lic_topic(SID, first)), 20).json()["licensed"] is True
        engine.publish(iap.sts_topic(SID, first), {"state": "provisioned"}, retain=True)
        cms.wait_for(with_value(iap.event_topic(SID), "event", "admission"))
        cms.wait_for(with_value(iap.status_topic(SID), "state", "full"))

        engine.publish(iap.sts_topic(SID, second), {"state": "unlicensed"}, retain=True)
        assert engine.wait_for(on(iap.lic_topic(SID, second))).json()["licensed"] is False
        cms.publish(iap.do_topic(SID, second), {"action": "provision"})
        cms.wait_for(with_value(iap.error_topic(SID), "code", "capacity-exceeded"))
        cms.wait_for(with_value(iap.event_topic(SID), "event", "rejection"))
        assert box.status()["used"] == 2


def on(topic: str) -> Callable[[Message], bool]:
    return lambda message: message.topic == topic


def with_value(topic: str, key: str, value: str) -> Callable[[Message], bool]:
    return lambda message: message.topic == topic and message.json().get(key) == value
