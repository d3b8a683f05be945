"""licensectl: the administrator's command.

Rules:
- exit codes: 0 yes, 1 no (a document that does not verify, a device or a return that is not known, a plan that does not
  fit, an update that may not be installed, a return that needs a word about what would run beyond the capacity, a
  document that could not be written in the end, something wrong that `doctor` found), 2 usage, 3 the daemon is not
  there, 4 refused; `status` is 0 whenever it could show one;
- errors go to stderr as `licensectl: cannot …: … [code]`, with `--json` also to stdout as
  `{"error": {"code", "message"}}`;
- `--json` is for programs: one document on stdout, the same keys for ever.

What this module does not do: it knows no D-Bus (`client`, imported only when it is needed) and lays nothing out
(`screens`, `answers`). Commands of a theme of their own are in `documents` and `updates`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartserver_licensed import VERSION
from smartserver_licensed.domain.errors import ArgumentError, DaemonUnreachableError, LicensedError
from smartserver_licensed.domain.licenses import MAX_DEVICES

from . import answers, documents, screens, updates
from .output_file import OutputError
from .terminal import EXIT_NO, EXIT_NO_DAEMON, EXIT_REFUSED, EXIT_USAGE, EXIT_YES, print_json, show

if TYPE_CHECKING:
    from .client import Client

_EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT
_NOT_KNOWN = {"device-unknown", "contact-unknown"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Usage errors end the program with 2, as argparse does."""
    arguments = _parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain at exit about what it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_YES
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return code


def _run(arguments: argparse.Namespace) -> int:
    try:
        command: Callable[..., int] = arguments.command
        if command is _doctor:
            return command(arguments)
        with arguments.around(arguments):  # files, before asking for a daemon
            from .client import Client  # noqa: PLC0415 - dbus-fast is most of the start: not for usage errors and --help

            with Client() as client:
                return command(client, arguments)
    except LicensedError as error:
        sys.stderr.write(f"licensectl: {screens.printable(error)} [{error.code}]\n")
        if arguments.json:
            print_json({"error": {"code": error.code, "message": str(error)}})
        return _exit_code(error, arguments)


def _exit_code(error: LicensedError, arguments: argparse.Namespace) -> int:
    if isinstance(error, DaemonUnreachableError):
        return EXIT_NO_DAEMON
    if isinstance(error, ArgumentError):
        return EXIT_USAGE
    is_answer = error.code in _NOT_KNOWN or isinstance(error, OutputError) or arguments.command is documents.run_verify
    return EXIT_NO if is_answer else EXIT_REFUSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="licensectl", description="Licenses and seats of this SmartServer.")
    parser.add_argument("--version", action="version", version=f"licensectl {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[..., int], what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.add_argument("--json", action="store_true", help="for programs: JSON on stdout")
        added.set_defaults(command=run, around=contextlib.nullcontext)
        return added

    command("status", _status, "Show capacity, seats, maintenance and what needs attention.")
    command("licenses", _licenses, "List the installed licenses.")
    devices = command("devices", _devices, "List the devices and their seats.")
    devices.add_argument("--waiting", action="store_true", help="only those that wait for a seat")
    explain = command("explain", _explain, "Say why a device is licensed, or is not.")
    explain.add_argument("device", metavar="DEVICE", help="protocol/handle, as `devices` shows it")
    plan = command("plan", _plan, "Say how many of N more devices fit, and what is missing.")
    plan.add_argument("count", metavar="N", type=_count, help="how many more devices")
    documents.add_commands(command)
    updates.add_commands(command)
    command("acknowledge", _acknowledge, "Take note that the ledger was repaired; only root may.")
    doctor = command("doctor", _doctor, "Look for what is wrong, and say what to do; changes nothing.")
    doctor.add_argument("--config", metavar="FILE", help="the daemon's configuration, where it is not the usual one")
    return parser


def _status(client: Client, arguments: argparse.Namespace) -> int:
    status = screens.status_json(client.properties(), client.licenses())
    show(arguments, status, lambda: screens.status_screen(status))
    return EXIT_YES


def _licenses(client: Client, arguments: argparse.Namespace) -> int:
    licenses = client.licenses()
    show(arguments, licenses, lambda: screens.licenses_table(licenses))
    return EXIT_YES


def _devices(client: Client, arguments: argparse.Namespace) -> int:
    rows = list(client.devices(waiting_only=arguments.waiting))
    show(arguments, rows, lambda: screens.devices_table(rows))
    return EXIT_YES


def _explain(client: Client, arguments: argparse.Namespace) -> int:
    explanation = client.explain(arguments.device)
    show(arguments, explanation, lambda: answers.explain_screen(explanation))
    return EXIT_YES


def _plan(client: Client, arguments: argparse.Namespace) -> int:
    plan = client.plan(arguments.count)
    show(arguments, plan, lambda: answers.plan_screen(plan))
    return EXIT_NO if plan["missing"] else EXIT_YES


def _acknowledge(client: Client, arguments: argparse.Namespace) -> int:
    from . import storage  # noqa: PLC0415

    repair = client.acknowledge_repair()
    answer = {"acknowledged": bool(repair), "repair": repair}
    show(arguments, answer, lambda: storage.acknowledged_screen(answer))
    return EXIT_YES


def _doctor(arguments: argparse.Namespace) -> int:
    """The one command that has something to say without the daemon."""
    from smartserver_licensed.config import DEFAULT_PATH  # noqa: PLC0415 - all of this only to look for trouble

    from . import doctor, findings  # noqa: PLC0415
    from .client import Client  # noqa: PLC0415

    answer: findings.Daemon | LicensedError
    try:
        with Client() as client:
            answer = findings.Daemon(client.properties(), client.licenses(), _storage(client))
    except LicensedError as error:
        answer = error
    found = doctor.examine(Path(arguments.config or DEFAULT_PATH), answer)
    report = findings.report(found, answer)
    show(arguments, report, lambda: screens.doctor_screen(report))
    if not report["daemon"]:
        return EXIT_NO_DAEMON
    return EXIT_YES if report["ok"] else EXIT_NO


def _storage(client: Client) -> dict[str, Any]:
    """Nothing of an older daemon, which does not know the question; that it is older, `doctor.bus` says."""
    from .client import RefusedError  # noqa: PLC0415

    try:
        return client.storage()
    except RefusedError:
        return {}


def _count(text: str) -> int:
    """A number of devices. Raises ValueError, from which argparse makes a usage error."""
    count = int(text)
    if not 1 <= count <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"{count}, expected 1 to {MAX_DEVICES}")
    return count


if __name__ == "__main__":
    sys.exit(main())
