"""The command line: every command with its options.

Rules: a place has an environment variable too (`LICENSE_AUTHORITY_DIR`, `…_PASSWORD_FILE`, `…_DATABASE`), so that it
need not be repeated, and a URL with a password is not seen in the list of processes. A wrong command line exits with 2.

What this module does not do: it runs nothing (`main`).
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from smartserver_licensed import VERSION
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.licenses import MAX_DEVICES, LicenseType

TOPICS = ("balance", "customers", "orders", "licenses", "smartservers", "forks", "audit")

_MAX_DAYS = 3_660
_MAX_YEARS = 10
_MAX_KEYS = 16
_MAX_PORT = 65_535
_ISSUED = (LicenseType.CAPACITY, LicenseType.TRIAL)
_ORDERED = tuple(each for each in LicenseType if each is not LicenseType.EMERGENCY)


class _Parser(argparse.ArgumentParser):
    """argparse with this program's form of an error."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"license-authority: cannot read the command line: {message} [{ArgumentError.code}]\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options. Ends the program, as argparse does, for a wrong command line and for help."""
    parser = _Parser(prog="license-authority", description="Makes licenses for SmartServers: the vendor's side.")
    parser.add_argument("--version", action="version", version=f"license-authority {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")

    for add in (_add_keys, _add_selling, _add_contacts, _add_serving):
        add(command)
    options = parser.parse_args(argv)
    if getattr(options, "directory", "") is None and options.command != "inspect":
        parser.error("--dir is missing (or LICENSE_AUTHORITY_DIR)")
    if options.command == "issue" and options.type is LicenseType.CAPACITY and options.days:
        parser.error("--days is for a trial: capacity never expires")
    if options.command == "serve" and bool(options.certfile) != bool(options.keyfile):
        parser.error("--certfile and --keyfile belong together")
    return options


def _add_keys(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    init = command("init", "make an authority: keys, root, register; without a password a demonstration")
    init.add_argument("directory", metavar="DIR", type=Path, nargs="?", default=_place("DIR"), help="new or empty")
    init.add_argument("--demo", action="store_true", help="a demonstration, whatever the environment says")
    _add_password(init)
    _add_database(init)
    for role in ("root", "grant"):
        init.add_argument(f"--{role}-keys", type=_number(_MAX_KEYS), default=1, metavar="N")
        init.add_argument(f"--{role}-threshold", type=_number(_MAX_KEYS), default=1, metavar="N")
    init.add_argument("--emergency-devices", type=_number(MAX_DEVICES, lowest=0), metavar="N", help="at most")
    _add_root_keys(init, "where root keys go, in turn; default: with the others")

    trust = command("trust", "write the root document that a SmartServer trusts")
    _add_directory(trust)
    _add_out(trust, with_armor=False)

    rotate = command("rotate", "make the next root: retire keys, add keys, change thresholds")
    _add_directory(rotate)
    _add_password(rotate)
    rotate.add_argument("--retire", action="append", default=[], metavar="KEY", help="a key id, or root, or grant")
    for role in ("root", "grant"):
        rotate.add_argument(f"--{role}-keys", type=_number(_MAX_KEYS), metavar="N", help="default: as many as before")
        rotate.add_argument(f"--{role}-threshold", type=_number(_MAX_KEYS), metavar="N", help="default: as before")
    rotate.add_argument(
        "--emergency-devices",
        type=_number(MAX_DEVICES, lowest=0),
        metavar="N",
        help="at most; where a SmartServer has more that run, it gets no grant until they have ended",
    )
    rotate.add_argument("--version", type=_number(2**31 - 1), metavar="N", help="make this one; nothing if it is there")
    _add_root_keys(rotate, "where root keys are, and where new ones go, in turn")

    inspect = command("inspect", "say what a document is; exits 1 if it does not verify against DIR")
    inspect.add_argument("file", metavar="FILE", help="- for stdin")
    _add_directory(inspect)
    _add_json(inspect)


def _add_selling(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    customer = command("customer", "add or list customers")
    customers = customer.add_subparsers(dest="act", required=True, metavar="{add,list}")
    add, listed = customers.add_parser("add", help="prints the id"), customers.add_parser("list")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--id", type=_uuid, default=None, metavar="UUID", help="default: a new one")
    _add_json(listed)
    for each in (add, listed):
        _add_register(each)

    order = command("order", "sell a license; prints its id")
    _add_register(order)
    _add_purchase(order, _ORDERED)
    order.add_argument("--devices", type=_number(MAX_DEVICES), default=1, metavar="N")
    order.add_argument("--years", type=_number(_MAX_YEARS), default=0, metavar="N", help="of maintenance: 1 or 3")
    order.add_argument("--release", default="", metavar="X.Y", help="the newest release that an upgrade allows")
    order.add_argument("--host", default="", metavar="NAME", help="of a remote CMS")
    order.add_argument("--install-code", default="", metavar="CODE", help="reserve it for this SmartServer")
    order.add_argument("--replaces", default="", metavar="ID", help="the maintenance that this one renews")

    issue = command("issue", "demonstration only: add a license to a SmartServer, without activation")
    _add_signing(issue)
    _add_purchase(issue, _ISSUED)
    issue.add_argument("--devices", required=True, type=_number(MAX_DEVICES), metavar="N")
    issue.add_argument("--install-code", required=True, metavar="CODE")
    _add_out(issue)

    show = command("show", "show what is sold, where it is, and what was found")
    show.add_argument("topic", nargs="?", choices=TOPICS, default=TOPICS[0], metavar=f"{{{','.join(TOPICS)}}}")
    show.add_argument("--customer-id", type=_uuid, default=None, metavar="UUID", help="orders and licenses of this one")
    show.add_argument("--install-code", default="", metavar="CODE", help="this SmartServer only")
    _add_register(show)
    _add_json(show)


def _add_contacts(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    activate = command("activate", "answer a request with a grant; the same request gets the same answer")
    activate.add_argument("file", metavar="FILE", help="the request; - for stdin")
    activate.add_argument(
        "--confirm", action="store_true", help="a new device key, another board, or an unknown SmartServer is right"
    )
    activate.add_argument(
        "--license",
        action="append",
        default=[],
        type=_wanted,
        metavar="ID[=N]",
        help="add this, all of it or N devices",
    )
    return_ = command("return", "credit what a SmartServer gave back")
    transfer = command("transfer", "credit what a SmartServer gave back, and reserve it for another one")
    for each in (return_, transfer):
        each.add_argument("file", metavar="FILE", help="the return; - for stdin")
        _add_register(each)
        _add_json(each)
    transfer.add_argument("--to", required=True, metavar="CODE", help="its install code")

    rma = command("rma", "write off a dead SmartServer and give what it had to another one")
    rma.add_argument("--from", required=True, dest="from_code", metavar="CODE", help="install code of the dead one")
    rma.add_argument("--to", required=True, metavar="CODE", help="install code of the new one")
    release = command("release", "free an install code, of which nothing is in use, for any customer")
    release.add_argument("install_code", metavar="CODE")
    _add_register(release)
    emergency = command("emergency", "give an enrolled SmartServer capacity for days, without an order")
    emergency.add_argument("--devices", required=True, type=_number(MAX_DEVICES), metavar="N")
    emergency.add_argument("--days", required=True, type=_number(_MAX_DAYS), metavar="N")
    regrant = command("regrant", "make the grant of a SmartServer anew")
    regrant.add_argument("--last", action="store_true", help="the last one again, byte for byte")
    for each in (emergency, regrant):
        each.add_argument("install_code", metavar="CODE")
    for each in (activate, rma, emergency, regrant):
        _add_signing(each)
        _add_out(each, is_required=each is not rma)


def _add_serving(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    token = command("token", "let couriers use `serve`")
    tokens = token.add_subparsers(dest="act", required=True, metavar="{add,revoke,list}")
    add, revoke, listed = (tokens.add_parser(each) for each in ("add", "revoke", "list"))
    add.add_argument("--customer-id", type=_uuid, default=None, metavar="UUID", help="for this one's SmartServers only")
    for each in (add, revoke):
        each.add_argument("name", metavar="NAME")
    _add_json(listed)
    for each in (add, revoke, listed):
        _add_register(each)

    serve = command("serve", "answer requests and returns over HTTPS")
    _add_signing(serve)
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default 127.0.0.1")
    serve.add_argument("--port", default=8443, type=_number(_MAX_PORT, lowest=0), metavar="N", help="default 8443")
    serve.add_argument("--certfile", type=Path, metavar="FILE", help="TLS: the certificate chain, PEM")
    serve.add_argument("--keyfile", type=Path, metavar="FILE", help="TLS: its key, PEM")
    serve.add_argument("--insecure", action="store_true", help="without TLS beyond this machine: a proxy does it")
    serve.add_argument("--proxy", type=_address, metavar="ADDRESS", help="where X-Forwarded-For is believed from")
    serve.add_argument(
        "--rate", default="60/minute", metavar="N/PERIOD", help="contacts per token, and per address without a good one"
    )


# -- options that several commands have ----------------------------------------------------------------------------


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dir", dest="directory", type=Path, default=_place("DIR"), metavar="DIR", help="the authority"
    )


def _add_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-file", type=Path, default=_place("PASSWORD_FILE"), metavar="FILE")


def _add_database(parser: argparse.ArgumentParser) -> None:
    database = os.environ.get("LICENSE_AUTHORITY_DATABASE", "")
    parser.add_argument("--database", default=database, metavar="URL", help="default: a SQLite file in DIR")


def _add_register(parser: argparse.ArgumentParser) -> None:
    _add_directory(parser)
    _add_database(parser)


def _add_signing(parser: argparse.ArgumentParser) -> None:
    _add_register(parser)
    _add_password(parser)


def _add_root_keys(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--root-key-dir", action="append", default=[], type=Path, metavar="DIR", help=what)


def _add_purchase(parser: argparse.ArgumentParser, types: Sequence[LicenseType]) -> None:
    names = ",".join(each.value for each in types)
    parser.add_argument("--type", required=True, type=_type(types), metavar=f"{{{names}}}")
    parser.add_argument("--customer-id", required=True, type=_uuid, metavar="UUID")
    parser.add_argument("--days", type=_number(_MAX_DAYS), default=0, metavar="N", help="of a trial; default 30")
    parser.add_argument("--note", default="", metavar="TEXT")


def _add_out(parser: argparse.ArgumentParser, *, is_required: bool = True, with_armor: bool = True) -> None:
    parser.add_argument("-o", "--out", required=is_required, metavar="FILE", help="- for stdout")
    if with_armor:
        parser.add_argument("--armor", action="store_true", help="as a block of text to paste")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _place(name: str) -> Path | None:
    value = os.environ.get(f"LICENSE_AUTHORITY_{name}")
    return Path(value) if value else None


def _type(types: Sequence[LicenseType]) -> Callable[[str], LicenseType]:
    def parse(text: str) -> LicenseType:
        found = next((each for each in types if each.value == text), None)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(each.value for each in types)}")
        return found

    return parse


def _number(highest: int, *, lowest: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (
            text.isascii() and text.isdigit() and len(text) <= len(str(highest)) and lowest <= int(text) <= highest
        ):
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {lowest} to {highest}")
        return int(text)

    return parse


def _wanted(text: str) -> Wanted:
    license_id, is_part, devices = text.partition("=")
    return Wanted(license_id, _number(MAX_DEVICES)(devices) if is_part else 0)


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no address") from error


def _uuid(text: str) -> str:
    """In the one form that ids are compared in."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no UUID") from error
