from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from smartserver_licensed.config import Config, Mqtt, Policy, load
from smartserver_licensed.domain.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "etc" / "config.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refused(file: Path, text: str) -> str:
    """What is said about a configuration that is refused; the file is always named."""
    file.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        load(file)
    assert refusal.value.code == "config-invalid"
    assert str(file) in str(refusal.value)
    return str(refusal.value)


def test_an_empty_file_gives_the_defaults(file: Path) -> None:
    file.write_text("")
    config = load(file)
    assert config == Config()
    assert (config.mqtt.host, config.mqtt.port) == ("127.0.0.1", 1883)
    assert config.state.path == "/dev/disk/by-partlabel/ss-license"
    assert config.bus.address == "system"
    assert config.trust.root == "/usr/share/smartserver-licensed/root.json"
    assert config.identity.environment_file == "/etc/apollo/environment"
    assert config.policy == Policy(enforcement="deprovision", settle_s=15, absence_grace_s=600, max_devices=4_000)
    assert config.log.level == "info"


def test_what_the_file_sets_is_taken_and_the_rest_stays(file: Path) -> None:
    file.write_text('[mqtt]\nport = 8883\nusername = "l"\npassword_file = "/p"\n[policy]\nenforcement = "report"\n')
    config = load(file)
    assert config.mqtt == Mqtt(host="127.0.0.1", port=8883, username="l", password_file="/p")
    assert config.policy == Policy(enforcement="report")
    assert config.state == Config().state


def test_a_factor_of_the_hardware_is_switched_off_by_an_empty_text(file: Path) -> None:
    assert (Config().identity.soc_serial, Config().identity.emmc_cid, Config().identity.mac_interface) == (
        "/sys/firmware/devicetree/base/serial-number",
        "/sys/block/mmcblk*/device/cid",
        "eth0",
    )
    file.write_text('[identity]\nsoc_serial = ""\nemmc_cid = "/tmp/cid"\nmac_interface = ""\n')
    identity = load(file).identity
    assert (identity.soc_serial, identity.emmc_cid, identity.mac_interface) == ("", "/tmp/cid", "")


def test_the_release_is_read_from_the_environment_file_unless_another_is_named(file: Path) -> None:
    file.write_text('[identity]\nenvironment_file = "/e"\n')
    assert (load(file).identity.release_source, load(file).identity.release_key) == ("/e", "APOLLO_VERSION")
    file.write_text('[identity]\nenvironment_file = "/e"\nrelease_file = "/r"\nrelease_key = "V"\n')
    assert (load(file).identity.release_source, load(file).identity.release_key) == ("/r", "V")


def test_the_shipped_file_shows_every_key_with_its_default(file: Path) -> None:
    assert load(SHIPPED) == Config()
    shown = re.sub(r"(?m)^# (\w+ = )", r"\1", SHIPPED.read_text("utf-8"))
    file.write_text(shown)
    example = Mqtt(username="smartserver-licensed", password_file="/etc/smartserver-licensed/mqtt-password")
    assert load(file) == dataclasses.replace(Config(), mqtt=example)
    for section in dataclasses.fields(Config):
        keys = {each.name for each in dataclasses.fields(getattr(Config(), section.name))}
        assert all(re.search(rf"(?m)^{key} = ", shown) for key in keys), section.name


def test_an_unknown_key_is_refused_with_the_nearest_known_one(file: Path) -> None:
    assert "unknown key in [mqtt] 'prot'; did you mean 'port'?" in refused(file, "[mqtt]\nprot = 1883\n")
    assert "unknown key in [log] 'colour'; known are level" in refused(file, '[log]\ncolour = "red"\n')


def test_an_unknown_section_is_refused_with_the_nearest_known_one(file: Path) -> None:
    assert "unknown section 'polcy'; did you mean 'policy'?" in refused(file, "[polcy]\n")
    assert "unknown section 'port'" in refused(file, "port = 1883\n")


@pytest.mark.parametrize(
    ("section", "line", "said"),
    [
        ("mqtt", "port = 0", "mqtt.port is 0, expected a whole number from 1 to 65535"),
        ("mqtt", "port = true", "mqtt.port is True, expected a whole number"),
        ("mqtt", 'port = "1883"', "mqtt.port is '1883', expected a whole number"),
        ("mqtt", 'host = " "', "mqtt.host is ' ', expected a text that is not empty"),
        ("mqtt", 'password_file = "/p"', "mqtt.password_file is set, expected mqtt.username with it"),
        ("state", 'path = "ledger"', "state.path is 'ledger', expected an absolute path"),
        ("identity", 'soc_serial = "serial"', "identity.soc_serial is 'serial', expected an absolute path, or ''"),
        ("identity", "mac_interface = 0", "identity.mac_interface is 0, expected a text that is not empty, or ''"),
        ("identity", 'environment_file = ""', "identity.environment_file is '', expected an absolute path"),
        ("bus", 'address = "session"', "bus.address is 'session', expected 'system' or a D-Bus address"),
        ("policy", 'enforcement = "off"', "policy.enforcement is 'off', expected one of 'deprovision', 'report'"),
        ("policy", "settle_s = 15.5", "policy.settle_s is 15.5, expected a whole number from 1 to 3600"),
        ("policy", "max_devices = 5001", "policy.max_devices is 5001, expected a whole number from 1 to 5000"),
        ("log", 'level = "loud"', "log.level is 'loud', expected one of 'debug', 'info', 'warning', 'error'"),
        ("log", "level = []", "log.level is [], expected one of"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_what_is_expected(file: Path, section: str, line: str, said: str) -> None:
    assert said in refused(file, f"[{section}]\n{line}\n")


def test_a_key_in_place_of_a_section_is_refused(file: Path) -> None:
    assert "mqtt is 5, expected a section [mqtt]" in refused(file, "mqtt = 5\n")


def test_broken_toml_is_refused_with_its_line(file: Path) -> None:
    assert "line 2" in refused(file, "[mqtt]\nport = \n")
    assert "overwrite" in refused(file, "[mqtt]\nport = 1\nport = 2\n")


def test_a_file_that_is_not_utf_8_is_refused(file: Path) -> None:
    file.write_bytes(b'[mqtt]\nhost = "\xff"\n')
    with pytest.raises(ConfigError, match="byte 15 is not UTF-8"):
        load(file)


def test_a_missing_file_is_refused_by_name(file: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot read {re.escape(str(file))}: No such file"):
        load(file)
