"""licensectl doctor: what is wrong with the licensing of this SmartServer, and what to do about it.

Rules:
- one finding a check: what was seen and, unless all is well, what to do;
- it only looks (`places`), and is given what the daemon answered;
- the daemon's own word comes first: it runs as another user, in a sandbox;
- without the daemon every check is done that needs none, without a configuration file those that need no file.

What this module does not do: it speaks no D-Bus (`client`), judges no ledger (`storage`) and lays nothing out
(`screens`). Not looked at in this first form: the broker's access list and the systemd units.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from smartserver_licensed import VERSION, config
from smartserver_licensed.adapters.clock import SystemClocks
from smartserver_licensed.domain.errors import DaemonUnreachableError, LicensedError
from smartserver_licensed.domain.status import Clock, State

from . import places, storage
from .findings import JOURNAL, RESTART, Daemon, Finding, Level
from .screens import CLOCK_ADVICE

_BUS_VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"


def examine(config_path: Path, answer: Daemon | LicensedError) -> list[Finding]:
    """All findings. `answer` is the daemon's, or the error that asking it ended with."""
    daemon = answer if isinstance(answer, Daemon) else None
    settings, finding = places.configuration(config_path, is_daemon_there=daemon is not None)
    findings = [finding, bus(answer, address=settings.bus.address if settings else "system")]
    if settings is not None:
        why_not = places.why_unreachable(settings.mqtt.host, settings.mqtt.port)
        findings += broker(settings.mqtt, why_not, daemon)
        findings += places.password(settings.mqtt.password_file)
        findings += places.partition(Path(settings.state.path), daemon)
    elif daemon is not None:
        findings += broker(None, "", daemon)
    if daemon is not None:
        findings += [*segment(daemon), *storage.findings(daemon)]
    findings.append(clock(daemon, is_synchronised=SystemClocks().reading().is_synchronised))
    if daemon is not None and daemon.properties["StorageState"] in storage.USABLE:  # without a ledger it knows of none
        findings += [seats(daemon), licenses(daemon)]
    if settings is not None:
        findings += [
            places.trust(Path(settings.trust.root)),
            places.identity(settings.identity, daemon),
        ]
    return findings


def bus(answer: Daemon | LicensedError, *, address: str) -> Finding:
    """Whether the daemon answers; `address` is where the configuration file puts it."""
    asked = os.environ.get(_BUS_VARIABLE) or "system"
    if isinstance(answer, LicensedError):
        todo = f"systemctl status dbus smartserver-licensed; {JOURNAL}"
        if isinstance(answer, DaemonUnreachableError) and address not in {"system", asked}:
            todo = f"the daemon is configured for another bus: {_BUS_VARIABLE}={address} licensectl doctor"
        return Finding("bus", Level.FAIL, str(answer), todo)
    version = answer.properties["Version"]
    if version != VERSION:
        return Finding("bus", Level.WARN, f"the daemon has version {version}, licensectl {VERSION}", RESTART)
    return Finding("bus", Level.OK, f"the daemon answers, version {version}")


def broker(mqtt: config.Mqtt | None, why_not: str, daemon: Daemon | None) -> Iterator[Finding]:
    """Whether the broker is there, and the daemon connected to it. `why_not`: it cannot be reached from here."""
    where = f"{mqtt.host}:{mqtt.port}" if mqtt else "the broker"
    is_connected = daemon is not None and daemon.properties["BrokerConnected"]
    if is_connected and why_not:
        why = f"the daemon is connected, but {where} of the configuration file cannot be reached: {why_not}"
        yield Finding("broker", Level.WARN, why, f"was [mqtt] changed since the start? {RESTART}")
    elif why_not:
        why = f"{where} cannot be reached: {why_not}; nothing can be admitted"
        yield Finding("broker", Level.FAIL, why, "systemctl status mosquitto; are host and port in [mqtt] right?")
    elif daemon is not None and not is_connected:
        accepts = f"{where} accepts connections, but " if mqtt else ""
        why = f"{accepts}the daemon is not connected; nothing can be admitted"
        todo = f"{JOURNAL} says why; does the broker ask for a user and a password ([mqtt])?"
        yield Finding("broker", Level.FAIL, why, todo)
    else:
        connected = "the daemon is connected" if is_connected else "it accepts connections"
        yield Finding("broker", Level.OK, f"{where}: {connected}")


def segment(daemon: Daemon) -> Iterator[Finding]:
    """Whether the SID was seen; nothing where the broker is not connected, which is said already."""
    if not daemon.properties["BrokerConnected"]:
        return
    sid = daemon.properties["SegmentId"]
    if not sid:
        why = "no SID on the broker (glp/0/././sid); nothing is decided without one"
        yield Finding("segment", Level.WARN, why, "provision the segment in the CMS")
    elif daemon.properties["State"] == State.STARTING.value:
        why = f"{sid}; the broker's retained messages are still being read, nothing is decided before"
        yield Finding("segment", Level.WARN, why, f"ask again in a moment; if it stays so: {JOURNAL}")
    else:
        yield Finding("segment", Level.OK, str(sid))


def clock(daemon: Daemon | None, *, is_synchronised: bool) -> Finding:
    """Whether the time can be believed; `is_synchronised` is what the kernel says here."""
    condition = str(daemon.properties["ClockState"]) if daemon else Clock.OK.value
    if condition == Clock.UNSYNCHRONISED.value and is_synchronised:
        why = "it is synchronised, but the daemon does not see it"
        return Finding("clock", Level.WARN, why, "does the service allow adjtimex? systemctl cat smartserver-licensed")
    if daemon is None and not is_synchronised:
        condition = Clock.UNSYNCHRONISED.value
    if condition != Clock.OK.value:
        why = CLOCK_ADVICE.get(condition, condition)
        return Finding("clock", Level.WARN, why, "timedatectl; is a time server set up and reachable?")
    return Finding("clock", Level.OK, "it is synchronised")


def seats(daemon: Daemon) -> Finding:
    """The seats in use against the capacity."""
    status = daemon.properties
    used, capacity, waiting = status["UsedCapacity"], status["TotalCapacity"], status["WaitingDevices"]
    why = f"{used} of {capacity} in use, {status['ReservedCapacity']} reserved, {waiting} waiting"
    if status["State"] == State.OVER_CAPACITY.value:
        why += "; more run than are licensed, the newest stop when the grace is over"
        todo = f"install a capacity license of at least {used - capacity} devices, or deprovision devices"
        return Finding("seats", Level.FAIL, why, todo)
    if waiting:
        return Finding("seats", Level.WARN, why, "licensectl devices --waiting; licensectl explain DEVICE")
    if status["State"] == State.FULL.value:
        return Finding("seats", Level.WARN, f"{why}; all are taken", "licensectl plan N says what more devices need")
    return Finding("seats", Level.OK, why)


def licenses(daemon: Daemon) -> Finding:
    """What is installed, and whether it ends soon."""
    if not daemon.licenses:
        return Finding("licenses", Level.WARN, "none is installed; no device is admitted", "licensectl install FILE")
    ending = [each for each in daemon.licenses if str(each["status"]).startswith("Expiring")]
    if ending:
        why = ", ".join(f"{each['description']} ({each['license_id']}): {each['status']}" for each in ending)
        return Finding("licenses", Level.WARN, why, "ask the vendor for a renewal in time")
    return Finding("licenses", Level.OK, f"{len(daemon.licenses)} installed, none ends within 90 days")
