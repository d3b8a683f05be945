"""`license-authority`: the vendor's side on the command line.

Rules: exit code 0 yes, 1 no or refused, 2 usage. Errors go to stderr as
`license-authority: cannot <do>: <why> [code]`. It never asks: it runs in scripts.

What this module does not do: it holds no rule of issuing (`issuing`) and no form of a document (`documents`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from smartserver_licensed.documents.acceptance import Inspection, inspect_document
from smartserver_licensed.documents.envelope import MAX_DOCUMENT_BYTES, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.domain.errors import ArgumentError, LicensedError
from smartserver_licensed.domain.licenses import MAX_DEVICES, LicenseType

from .errors import FileAccessError
from .issuing import TRIAL_DAYS, new_license, next_grant
from .keyring import load_keyring, load_trusted_root, make_authority
from .register import open_register

_MAX_DAYS = 366


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the answer."""
    try:
        options = _options(argv)
        if options.command == "init":
            return _init(options.directory)
        if options.command == "trust":
            return _trust(options.directory, options.out)
        if options.command == "issue":
            return _issue(options)
        return _inspect(options.file, options.directory, as_json=options.json)
    except SystemExit as leaving:  # argparse: help, or a wrong command line
        return leaving.code if isinstance(leaving.code, int) else 2
    except LicensedError as error:
        sys.stderr.write(f"license-authority: {error} [{error.code}]\n")
        return 1


def _init(directory: Path) -> int:
    keyring = make_authority(directory, now=int(time.time()))
    sys.stdout.write(
        f"demonstration authority in {directory}: keys without password, grants without activation; "
        f"root version {keyring.root.version}\n"
    )
    return 0


def _trust(directory: Path, out: str) -> int:
    _, envelope = load_trusted_root(directory)
    with _output(out) as file:
        file.write(envelope)
    return 0


def _issue(options: argparse.Namespace) -> int:
    keyring = load_keyring(options.directory)
    now = int(time.time())
    added = new_license(
        options.type,
        license_id=str(uuid.uuid4()),
        devices=options.devices,
        days=options.days or TRIAL_DAYS,
        note=options.note,
        now=now,
    )
    with open_register(options.directory) as register:
        grant = next_grant(
            register.last_grant(options.install_code),
            added,
            customer_id=options.customer_id,
            install_code=options.install_code,
            root_version=keyring.root.version,
            now=now,
        )
        document = seal(GRANT_TYPE, encode_grant(grant), [keyring.grant_key])
        with _output(options.out) as file:  # opened before: a wrong path must not use up a trial
            register.remember(grant)
            file.write(document)
    return 0


def _inspect(file: str, directory: Path | None, *, as_json: bool) -> int:
    root = load_trusted_root(directory)[0] if directory else None
    found = inspect_document(_read(file), root)
    sys.stdout.write(f"{json.dumps(found, indent=2)}\n" if as_json else _screen(found))
    return 0 if found["verified"] or root is None else 1


def _screen(found: Inspection) -> str:
    lines = [str(found["summary"]), "verified: yes" if found["verified"] else f"verified: no: {found['reason']}"]
    for name, value in found.items():
        if name not in {"kind", "summary", "verified", "reason", "code"}:
            values = value if isinstance(value, list) else [value]
            lines += [f"{name.replace('_', ' ')}: {each}" for each in values]
    return "".join(f"{line}\n" for line in lines)


def _read(file: str) -> bytes:
    """At most one byte more than a document may have: enough to refuse it."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
        with Path(file).open("rb") as opened:
            return opened.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise FileAccessError(f"cannot read {file}: {error.strerror}") from error


@contextmanager
def _output(out: str) -> Iterator[BinaryIO]:
    """Written in place, since it may be a pipe: half a document verifies nowhere."""
    try:
        if out == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with Path(out).open("wb") as file:
                yield file
    except OSError as error:
        raise FileAccessError(f"cannot write {out}: {error.strerror}") from error


class _Parser(argparse.ArgumentParser):
    """argparse with this program's form of an error."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(2, f"license-authority: cannot read the command line: {message} [{ArgumentError.code}]\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(argv)
    if options.command == "issue" and options.type is LicenseType.CAPACITY and options.days is not None:
        parser.error("--days is for a trial: capacity never expires")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="license-authority", description="Makes licenses for SmartServers: the vendor's side.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="make a demonstration authority: keys without password, root, register")
    init.add_argument("directory", metavar="DIR", type=Path, help="new or empty")

    trust = commands.add_parser("trust", help="write the root document that a SmartServer trusts")
    _add_directory(trust, is_required=True)
    _add_out(trust)

    issue = commands.add_parser("issue", help="add a license to a SmartServer and write its whole grant")
    _add_directory(issue, is_required=True)
    issue.add_argument("--type", required=True, type=_type, metavar="{capacity,trial}")
    issue.add_argument("--devices", required=True, type=_devices, metavar="N")
    issue.add_argument("--customer-id", required=True, type=_customer_id, metavar="UUID")
    issue.add_argument("--install-code", required=True, metavar="CODE")
    issue.add_argument("--days", type=_days, metavar="N", help=f"of a trial; default {TRIAL_DAYS}")
    issue.add_argument("--note", default="", metavar="TEXT")
    _add_out(issue)

    inspect = commands.add_parser("inspect", help="say what a document is; exits 1 if it does not verify against DIR")
    inspect.add_argument("file", metavar="FILE", help="- for stdin")
    _add_directory(inspect, is_required=False)
    inspect.add_argument("--json", action="store_true", help="for programs")
    return parser


def _add_directory(parser: argparse.ArgumentParser, *, is_required: bool) -> None:
    parser.add_argument("--dir", dest="directory", required=is_required, type=Path, metavar="DIR", help="the authority")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="FILE", help="- for stdout")


def _type(text: str) -> LicenseType:
    if text not in {LicenseType.CAPACITY.value, LicenseType.TRIAL.value}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither capacity nor trial")
    return LicenseType(text)


def _devices(text: str) -> int:
    return _number(text, MAX_DEVICES)


def _days(text: str) -> int:
    return _number(text, _MAX_DAYS)


def _number(text: str, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(highest)) and 1 <= int(text) <= highest):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {highest}")
    return int(text)


def _customer_id(text: str) -> str:
    """In the one form that ids are compared in."""
    try:
        return str(uuid.UUID(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no UUID") from error


if __name__ == "__main__":
    sys.exit(main())
