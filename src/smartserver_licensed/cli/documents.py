"""The commands about documents: install, verify, request, return, returns.

Rules:
- files are read, and made ready to be written (`output_file`), before the daemon is asked;
- a proof of a return never replaces a file; a request does, as the pending one is given again byte for byte;
- a return that was made is never lost: what fails afterwards says how to have its proof again.

What this module does not do: it verifies and decides nothing; the daemon does.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smartserver_licensed.domain.errors import ArgumentError, DaemonUnreachableError, LicensedError
from smartserver_licensed.domain.licenses import MAX_DEVICES
from smartserver_licensed.formats.bus import MAX_ARMORED_BYTES

from . import screens
from .output_file import STDOUT, OutputError, OutputFile
from .terminal import EXIT_NO, EXIT_YES, AddCommand, show

if TYPE_CHECKING:
    from .client import Client

_SHOWN_DEVICES = 20


def add_commands(command: AddCommand) -> None:
    """Make the commands of this module known."""
    install = command("install", _install, "Install a license document.")
    verify = command("verify", run_verify, "Say what a document is and whether it verifies here; changes nothing.")
    for reader in (install, verify):
        reader.add_argument("file", metavar="FILE", help="the document, plain or armored, or - for stdin")
        reader.set_defaults(around=_reading)
    request = command("request", _request, "Write a request for licenses, for the vendor to answer; only root may.")
    _add_output(request, may_replace=True, is_required=True)
    add_wanted(request)
    request.add_argument("--new-key", action="store_true", help="with a new device key: the vendor has to confirm it")
    request.add_argument("--fresh", action="store_true", help="a new request, also where one is pending")
    _add_return(command)
    returns = command("returns", _returns, "List the returns that were made, or have the proof of one again.")
    returns.add_argument("number", metavar="NUMBER", nargs="?", type=_number, help="write the proof of this one")
    _add_output(returns, may_replace=False, is_required=False)


def add_wanted(parser: argparse.ArgumentParser) -> None:
    """What a request asks for; with neither what the vendor has for this SmartServer."""
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--customer-id", metavar="UUID", default="", help="all free licenses of this customer")
    wanted.add_argument(
        "--license",
        dest="licenses",
        metavar="ID[=N]",
        action="append",
        default=[],
        help="this one, or N devices of it; may be said again",
    )


def _add_return(command: AddCommand) -> None:
    parser = command("return", _return, "Return a license, or devices of it, for good; only root may.")
    parser.add_argument("license", metavar="ID", help="the license, as `licenses` shows it")
    parser.add_argument("--devices", metavar="N", type=_devices, default=0, help="so many devices of it; else all")
    parser.add_argument("--dry-run", action="store_true", help="only say what would happen; changes nothing")
    excess = parser.add_mutually_exclusive_group()
    excess.add_argument(
        "--over-capacity", action="store_true", help="what is beyond the capacity runs on for the grace"
    )
    excess.add_argument("--revoke-excess", action="store_true", help="what is beyond the capacity stops at once")
    parser.add_argument("--another", action="store_true", help="also where the same return was just made")
    _add_output(parser, may_replace=False, is_required=False)


def _add_output(parser: argparse.ArgumentParser, *, may_replace: bool, is_required: bool) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=is_required, help="the file to write, or - for stdout"
    )
    parser.add_argument("--armor", action="store_true", help="as a block of text, for an e-mail")
    parser.set_defaults(around=_writing, may_replace=may_replace)


@contextlib.contextmanager
def _reading(arguments: argparse.Namespace) -> Iterator[None]:
    arguments.document = read_document(arguments.file)
    yield


@contextlib.contextmanager
def _writing(arguments: argparse.Namespace) -> Iterator[None]:
    """Have `arguments.output` ready; None where nothing is to be written."""
    is_writing = not getattr(arguments, "dry_run", False) and getattr(arguments, "number", 1) is not None
    if is_writing != (arguments.output is not None):
        missing = "-o FILE has to say where the document goes" if is_writing else "there is nothing to write to -o FILE"
        raise ArgumentError(f"cannot write: {missing}")
    if arguments.output is None:
        yield
        return
    with OutputFile(arguments.output, may_replace=arguments.may_replace) as arguments.output:
        yield


def read_document(name: str) -> bytes:
    """The document; of a file that is too large only so much that the daemon sees it and says so."""
    limit = MAX_ARMORED_BYTES + 1
    try:
        if name == STDOUT:
            return sys.stdin.buffer.read(limit)
        with Path(name).open("rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ArgumentError(f"cannot read {name}: {error.strerror}") from error


def _install(client: Client, arguments: argparse.Namespace) -> int:
    summary = client.install(arguments.document)
    show(arguments, summary, lambda: "Installed.\n" + screens.facts_screen(summary))
    return EXIT_YES


def run_verify(client: Client, arguments: argparse.Namespace) -> int:
    """For `main`, to whom a document that cannot be read is a no as well."""
    findings = client.verify(arguments.document)
    show(arguments, findings, lambda: screens.facts_screen(findings))
    return EXIT_NO if findings.get("verified") is False else EXIT_YES


def _request(client: Client, arguments: argparse.Namespace) -> int:
    document = client.create_request(
        arguments.customer_id, arguments.licenses, is_new_key=arguments.new_key, is_fresh=arguments.fresh
    )
    _write(arguments, document)
    if arguments.output.name != STDOUT:
        written = {"file": arguments.output.name, "bytes": len(document)}
        text = f"The request is in {arguments.output.name}. Have the vendor answer it, then: licensectl install ANSWER"
        show(arguments, written, lambda: screens.printable(text))
    return EXIT_YES


def _return(client: Client, arguments: argparse.Namespace) -> int:
    preview = client.preview_return(arguments.license, arguments.devices)
    has_answer = not preview["excess"] or arguments.over_capacity or arguments.revoke_excess
    if arguments.dry_run:
        show(arguments, preview, lambda: preview_screen(preview))
        return EXIT_YES if has_answer else EXIT_NO
    if not has_answer:
        sys.stderr.write(preview_screen(preview) + "\n\n")  # and the daemon refuses it, with its code
    try:
        proof = client.create_return(
            arguments.license,
            arguments.devices,
            over_capacity=arguments.over_capacity,
            revoke_excess=arguments.revoke_excess,
            another=arguments.another,
        )
    except DaemonUnreachableError as error:
        raise DaemonUnreachableError(f"{error}; licensectl returns shows whether the return was made") from error
    try:
        _write(arguments, proof)
    except OutputError as error:
        again = f"licensectl returns {_newest(client)} -o FILE"
        raise OutputError(f"{error}; the return is made, and this gives its proof again: {again}") from error
    if arguments.output.name != STDOUT:
        written = {"file": arguments.output.name, "bytes": len(proof), "number": _newest(client)}
        text = f"Returned. The proof is in {arguments.output.name}: give it to the vendor. "
        text += f"To have it again: licensectl returns {written['number']} -o FILE"
        show(arguments, written, lambda: screens.printable(text))
    return EXIT_YES


def _newest(client: Client) -> int | str:
    """The number of the return that was just made; a word where the daemon does not say any more."""
    try:
        return max(int(each["number"]) for each in client.returns())
    except (LicensedError, ValueError):
        return "NUMBER"


def _returns(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.number is None:
        rows = client.returns()
        show(arguments, rows, lambda: returns_table(rows))
        return EXIT_YES
    proof = client.get_return(arguments.number)
    _write(arguments, proof)
    if arguments.output.name != STDOUT:
        written = {"file": arguments.output.name, "bytes": len(proof), "number": arguments.number}
        text = f"The proof of return {arguments.number} is in {arguments.output.name}."
        show(arguments, written, lambda: screens.printable(text))
    return EXIT_YES


def _write(arguments: argparse.Namespace, document: bytes) -> None:
    if arguments.armor:
        from smartserver_licensed.documents import armor  # noqa: PLC0415 - brings cryptography in

        document = armor.wrap(document).encode()
    arguments.output.write(document)


def preview_screen(preview: screens.Row) -> str:
    """What a return would do, and to whom."""
    before, after, used, excess = (preview[key] for key in ("capacity_before", "capacity_after", "used", "excess"))
    lines = [f"The capacity would be {after}, now it is {before}; {used} in use.", ""]
    if not excess:
        return "\n".join([*lines, *screens.item(" ", "Nothing that runs would be touched.")])
    lines += screens.item("!", f"Beyond the capacity would run {excess}, the newest first:")
    devices = preview["devices_affected"]
    lines += [f"      {screens.printable(each)}" for each in devices[:_SHOWN_DEVICES]]
    more = excess - len(devices[:_SHOWN_DEVICES])
    lines += [f"      and {more} more (--json names up to 1000)"] * (more > 0)
    grace = preview["grace_days"]
    lines += ["", *screens.item("-", f"With --over-capacity they run on for {grace} days; nothing new is admitted.")]
    lines += screens.item("-", "With --revoke-excess they stop at once.")
    return "\n".join(lines)


def returns_table(rows: list[dict[str, object]]) -> str:
    """One line a return."""
    if not rows:
        return "Nothing was returned."
    columns = {
        "number": "NUMBER",
        "license_id": "LICENSE",
        "devices": "DEVICES",
        "made_at": "MADE",
        "acknowledged": "ACKNOWLEDGED",
    }
    return screens.table(columns.values(), ([row.get(key, "") for key in columns] for row in rows))


def _devices(text: str) -> int:
    """A number of devices. Raises ArgumentTypeError or ValueError, from which argparse makes a usage error."""
    count = int(text)
    if not 1 <= count <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"{count}, expected 1 to {MAX_DEVICES}")
    return count


def _number(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**32:
        raise argparse.ArgumentTypeError(f"{number}, expected the number of a return")
    return number
