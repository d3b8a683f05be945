"""The commands about updates of the SmartServer's software and about what ends soon.

They are check-update, confirm-update and notices.

Rules: `check-update` is for installers: its exit status is the answer, its sentence is for people.

What this module does not do: it judges nothing; the daemon does.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from . import screens
from .terminal import EXIT_NO, EXIT_YES, AddCommand, show

if TYPE_CHECKING:
    from .client import Client

_KINDS = ("feature", "update", "platform")
_MAX_UINT32 = 2**32 - 1


def add_commands(command: AddCommand) -> None:
    """Make the commands of this module known."""
    check = command("check-update", _check, "Say whether an update of the SmartServer may be installed: exit 0 or 1.")
    check.add_argument("version", metavar="VERSION", help="as in 4.0")
    check.add_argument("--kind", required=True, choices=_KINDS, help="what it is, as its release notes say")
    check.add_argument("--released", metavar="DATE", default="", help="when it was released (ISO 8601); else today")
    confirm = command("confirm-update", _confirm, "Take note that an update is installed; only root may.")
    confirm.add_argument("version", metavar="VERSION", help="as in 4.0")
    confirm.add_argument("--kind", default="update", choices=_KINDS, help="as it was checked; else update")
    notices = command("notices", _notices, "List the notices in force: what ends soon, and what is nearly used.")
    notices.add_argument(
        "--days", metavar="N,N,…", type=_days, help="have them so many days before an end; only root may"
    )


def _check(client: Client, arguments: argparse.Namespace) -> int:
    verdict = client.check_update(arguments.version, arguments.kind, arguments.released)
    show(arguments, verdict, lambda: verdict_screen(verdict))
    return EXIT_YES if verdict["allowed"] else EXIT_NO


def verdict_screen(verdict: screens.Row) -> str:
    """Yes or no, and why."""
    answer = "Allowed" if verdict["allowed"] else f"Not allowed ({verdict['code']})"
    return screens.printable(f"{answer}: {verdict['sentence']}")


def _confirm(client: Client, arguments: argparse.Namespace) -> int:
    verdict = client.confirm_update(arguments.version, arguments.kind)
    show(arguments, verdict, lambda: confirmed_screen(verdict))
    return EXIT_YES


def confirmed_screen(verdict: screens.Row) -> str:
    """What was noted, and what it has cost."""
    used = f" Upgrade license {verdict['license_id']} is used up." if verdict["license_id"] else ""
    covered = "" if verdict["allowed"] else f" It was not covered ({verdict['code']}); nothing stops."
    return screens.printable(f"Noted: {verdict['installed']} is installed.{used}{covered}")


def _notices(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.days is not None:
        client.set_notice_days(arguments.days)
    rows = client.notices()
    show(arguments, rows, lambda: notices_screen(rows))
    return EXIT_YES


def notices_screen(rows: list[dict[str, object]]) -> str:
    """A paragraph a notice."""
    if not rows:
        return "There is nothing to take notice of."
    return "\n".join(line for row in rows for line in screens.item("!", row["sentence"]))


def _days(text: str) -> list[int]:
    """Raises ArgumentTypeError or ValueError, from which argparse makes a usage error."""
    days = [int(each) for each in text.split(",")]
    if not all(0 <= each <= _MAX_UINT32 for each in days):
        raise argparse.ArgumentTypeError(f"{text}, expected numbers of days")
    return days
