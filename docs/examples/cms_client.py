#!/usr/bin/python3
"""What a CMS in Python does with the licensing daemon: reads, lists, explains, installs, follows.

Run it with the system's Python and Debian's python3-pydbus (the one on PyPI lacks `gi`):

    cms_client.py [--bus ADDRESS] status | licenses | devices [--waiting] | explain DEVICE | notices
    cms_client.py [--bus ADDRESS] request FILE [--license ID[=N]]... | install FILE
    cms_client.py [--bus ADDRESS] check-update VERSION feature|update|platform [--released DATE]
    cms_client.py [--bus ADDRESS] watch [--seconds N]

Rules:
- one JSON value a line: the answer, a row of a list, or a signal;
- every type is D-Bus's own: pydbus gives numbers, texts, truths, lists and dictionaries; nothing is parsed;
- a list is read in pages until a page is shorter than asked for, so that no call is long;
- who follows subscribes first and reads then: what changes in between is told;
- exit status: 0 done, 2 usage, 3 the daemon is not there, 4 refused (the error's code is on stderr).

What this program does not do: it imports nothing of the daemon, and keeps no state.
"""

# ruff: noqa: ANN401 - pydbus makes its classes from what the daemon tells of itself

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydbus
from gi.repository import Gio, GLib

NAME = "com.enocean.SmartServer.License1"  # pydbus finds the object from the name
PROPERTIES = "org.freedesktop.DBus.Properties"
SIGNALS = ("AdmissionRejected", "LicenseChanged", "TamperDetected", "Notice")
PAGE = 500


def status(service: Any) -> dict[str, Any]:
    """All properties at once; `service.UsedCapacity` reads a single one."""
    return dict(service[PROPERTIES].GetAll(NAME))


def devices(service: Any, *, waiting_only: bool) -> Iterator[dict[str, Any]]:
    """All devices in the order of their names, a page at a time. A filter's values are variants."""
    after = ""
    while True:
        wanted = {"after": GLib.Variant("s", after), "limit": GLib.Variant("u", PAGE)}
        if waiting_only:
            wanted["waiting"] = GLib.Variant("b", True)
        page = service.ListDevices(wanted)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]["name"]


def request(service: Any, file: Path, licenses: list[str]) -> dict[str, Any]:
    """An activation request in a file; the options' values are variants, the document is a list of bytes."""
    document = bytes(service.CreateActivationRequest({"licenses": GLib.Variant("as", licenses)}))
    file.write_bytes(document)
    return {"file": str(file), "size": len(document)}


def watch(bus: Any, service: Any, seconds: int | None) -> None:
    """Say each signal, and the whole status now and whenever the daemon has come (back)."""
    loop = GLib.MainLoop()
    for name in SIGNALS:
        getattr(service, name).connect(lambda *values, name=name: say({"signal": name, "values": values}))
    service.PropertiesChanged.connect(
        lambda _interface, changed, _invalidated: say({"signal": "PropertiesChanged", "values": changed})
    )
    bus.watch_name(
        NAME,
        name_appeared=lambda _owner: say({"status": status(service)}),
        name_vanished=lambda: say({"status": None}),
    )
    if seconds is not None:
        GLib.timeout_add_seconds(seconds, loop.quit)
    loop.run()


def say(value: object) -> None:
    """One JSON value a line, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    bus = pydbus.connect(arguments.bus) if arguments.bus else pydbus.SystemBus()
    service = bus.get(NAME)
    if arguments.command == "status":
        say(status(service))
    elif arguments.command == "licenses":
        for row in service.ListLicenses():
            say(row)
    elif arguments.command == "devices":
        for row in devices(service, waiting_only=arguments.waiting):
            say(row)
    elif arguments.command == "explain":
        say(service.Explain(arguments.device))
    elif arguments.command == "notices":
        for row in service.ListNotices():
            say(row)
    elif arguments.command == "check-update":
        say(service.CheckUpdate(arguments.version, arguments.kind, arguments.released))
    elif arguments.command == "request":
        say(request(service, arguments.file, arguments.licenses))
    elif arguments.command == "install":
        say(service.InstallDocument(arguments.file.read_bytes()))
    else:
        watch(bus, service, arguments.seconds)


def command_line() -> argparse.ArgumentParser:
    """The arguments; see the docstring above."""
    parser = argparse.ArgumentParser(description="A CMS's view of the licensing daemon.")
    parser.add_argument("--bus", help="a D-Bus address; the system bus where it is left out")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="all properties")
    commands.add_parser("licenses", help="one line a license")
    commands.add_parser("devices", help="one line a device").add_argument("--waiting", action="store_true")
    commands.add_parser("explain", help="why a device is licensed, or is not").add_argument("device")
    commands.add_parser("notices", help="one line a notice in force")
    update = commands.add_parser("check-update", help="whether an update may be installed")
    update.add_argument("version")
    update.add_argument("kind", choices=["feature", "update", "platform"])
    update.add_argument("--released", default="", help="an ISO date; today where it is left out")
    wanted = commands.add_parser("request", help="write an activation request; for root")
    wanted.add_argument("file", type=Path)
    wanted.add_argument("--license", dest="licenses", action="append", default=[], help="ID, or ID=N for N devices")
    commands.add_parser("install", help="install a license; for root").add_argument("file", type=Path)
    commands.add_parser("watch", help="one line a change").add_argument("--seconds", type=int)
    return parser


def main() -> int:
    """Run, and turn D-Bus errors into exit statuses."""
    try:
        run(command_line().parse_args())
    except KeyboardInterrupt:  # the usual end of `watch`
        return 0
    except GLib.Error as error:
        name = Gio.DBusError.get_remote_error(error) or ""
        if not name.startswith(f"{NAME}.Error."):
            print(f"the licensing daemon is not there: {error.message}", file=sys.stderr)
            return 3
        sentence = error.message.rpartition(f"{name}: ")[2]
        print(f"{name.rpartition('.')[2]}: {sentence}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
