"""The configuration file: TOML → frozen values.

Rules:
- every key has a default, so that an empty file is a good one; `etc/config.toml` shows them all;
- a section or key that is not known is an error that names the nearest known one: a misspelled key that is silently
  ignored would let somebody believe in a protection that is not there;
- every error names the file, the key, the value and what is expected.

What this module does not do: it opens nothing that the values point to, the password file included (`daemon` does).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

from smartserver_licensed.domain.errors import ConfigError

DEFAULT_PATH = Path("/etc/smartserver-licensed/config.toml")


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The SmartServer's own broker; no user name: without credentials. `password_file`: the first line is it."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str = ""
    password_file: str = ""


@dataclass(frozen=True, slots=True)
class StateLocation:
    """Where the ledger is: a partition or a file; and what anchors it: "none", or "tpm" at a TCTI of tpm2-tools."""

    path: str = "/dev/disk/by-partlabel/ss-license"
    anchor: str = "none"
    anchor_tcti: str = "device:/dev/tpmrm0"


@dataclass(frozen=True, slots=True)
class Bus:
    """D-Bus: "system", or an address."""

    address: str = "system"


@dataclass(frozen=True, slots=True)
class Trust:
    """The first root document; later ones come with grants."""

    root: str = "/usr/share/smartserver-licensed/root.json"


@dataclass(frozen=True, slots=True)
class Identity:
    """Where the install code, the factors of the hardware and the installed release are read from.

    "" switches a factor or the release off; an empty `release_file` is the environment file.
    """

    environment_file: str = "/etc/apollo/environment"
    soc_serial: str = "/sys/firmware/devicetree/base/serial-number"
    emmc_cid: str = "/sys/block/mmcblk*/device/cid"
    mac_interface: str = "eth0"
    release_file: str = ""
    release_key: str = "APOLLO_VERSION"

    @property
    def release_source(self) -> str:
        """The file that says which release is installed."""
        return self.release_file or self.environment_file


@dataclass(frozen=True, slots=True)
class Policy:
    """What the administrator may set of the rules; seconds, and a number of handles."""

    enforcement: str = "deprovision"
    settle_s: int = 15
    absence_grace_s: int = 600
    max_devices: int = 4_000


@dataclass(frozen=True, slots=True)
class Log:
    """The least important level that is written."""

    level: str = "info"


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; one attribute a section."""

    mqtt: Mqtt = Mqtt()
    state: StateLocation = StateLocation()
    bus: Bus = Bus()
    trust: Trust = Trust()
    identity: Identity = Identity()
    policy: Policy = Policy()
    log: Log = Log()


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value must be, in words and as a test."""

    expected: str
    accepts: Callable[[Any], bool]


def _between(low: int, high: int) -> _Rule:
    # `type() is int`: a TOML boolean is an int to isinstance.
    return _Rule(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def _one_of(*words: str) -> _Rule:
    return _Rule(f"one of {', '.join(map(repr, words))}", lambda value: value in words)


def _or_off(rule: _Rule) -> _Rule:
    return _Rule(f"{rule.expected}, or ''", lambda value: value == "" or rule.accepts(value))


_PATH = _Rule("an absolute path", lambda value: isinstance(value, str) and value.startswith("/") and "\0" not in value)
_NAME = _Rule("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
_ADDRESS = _Rule(
    "'system' or a D-Bus address such as 'unix:path=/run/dbus/system_bus_socket'",
    lambda value: isinstance(value, str) and (value == "system" or ":" in value),
)
_RULES: dict[str, dict[str, _Rule]] = {
    "mqtt": {"host": _NAME, "port": _between(1, 65_535), "username": _NAME, "password_file": _PATH},
    "state": {"path": _PATH, "anchor": _one_of("none", "tpm"), "anchor_tcti": _NAME},
    "bus": {"address": _ADDRESS},
    "trust": {"root": _PATH},
    "identity": {
        "environment_file": _PATH,
        "soc_serial": _or_off(_PATH),
        "emmc_cid": _or_off(_PATH),
        "mac_interface": _or_off(_NAME),
        "release_file": _or_off(_PATH),
        "release_key": _or_off(_NAME),
    },
    "policy": {
        "enforcement": _one_of("deprovision", "report"),
        "settle_s": _between(1, 3_600),
        "absence_grace_s": _between(1, 86_400),
        "max_devices": _between(1, 5_000),
    },
    "log": {"level": _one_of("debug", "info", "warning", "error")},
}


def load(path: Path) -> Config:
    """The configuration in a file. Raises ConfigError; there is no half-read configuration."""
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: byte {error.start} is not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return parse(document, source=str(path))


def parse(document: Mapping[str, object], *, source: str) -> Config:
    """The configuration in a parsed document; `source` is named in errors. Raises ConfigError."""
    _require_known(document, _RULES, what="section", where=source)
    sections: dict[str, object] = {}
    for section in dataclasses.fields(Config):
        given = document.get(section.name, {})
        if not isinstance(given, dict):
            raise ConfigError(f"cannot read {source}: {section.name} is {given!r}, expected a section [{section.name}]")
        _check_section(section.name, given, source=source)
        sections[section.name] = dataclasses.replace(getattr(Config(), section.name), **given)
    config = Config(**sections)  # type: ignore[arg-type]  # each section was made from its own default
    if config.mqtt.password_file and not config.mqtt.username:
        raise ConfigError(f"cannot read {source}: mqtt.password_file is set, expected mqtt.username with it")
    return config


def _check_section(section: str, given: Mapping[str, object], *, source: str) -> None:
    rules = _RULES[section]
    _require_known(given, rules, what=f"key in [{section}]", where=source)
    for key, value in given.items():
        if not rules[key].accepts(value):
            raise ConfigError(f"cannot read {source}: {section}.{key} is {value!r}, expected {rules[key].expected}")


def _require_known(given: Mapping[str, object], known: Mapping[str, object], *, what: str, where: str) -> None:
    for name in given:
        if name not in known:
            import difflib  # noqa: PLC0415 - for an error only; each start would pay for it

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"cannot read {where}: unknown {what} {name!r}; {hint}")
