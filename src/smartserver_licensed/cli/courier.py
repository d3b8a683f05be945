"""license-courier: carries returns and a request to the vendor's license-authority and installs the answer.

A program of its own beside the daemon, which has no network but the broker's loopback. What it does, licensectl and a
USB stick do as well.

Rules:
- it keeps no state: returns are sent until the vendor's answer acknowledges them, the daemon gives a pending request
  again byte for byte, and the authority answers the same request with the same bytes. So it may be killed at any step
  and started again: nothing is given twice or lost;
- an answer that is installed already is success;
- exit codes: 0 done, 1 the authority is not there or its answer is none (try later), 2 usage, 3 the daemon is not
  there, 4 refused, by the daemon or by the authority;
- errors go to stderr as `license-courier: cannot …: … [code]`; no token is ever written.

What this module does not do: it speaks no HTTP (`authority`), reads no document and verifies nothing: the daemon does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from smartserver_licensed import VERSION
from smartserver_licensed.domain.errors import ArgumentError, DaemonUnreachableError, LicensedError, StaleGrantError

from .authority import DEFAULT_TIMEOUT_S, Authority, CourierError, CourierUsageError, RefusedByAuthorityError
from .client import Client
from .documents import add_wanted
from .screens import printable
from .terminal import EXIT_NO, EXIT_NO_DAEMON, EXIT_REFUSED, EXIT_USAGE, EXIT_YES

_EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT
_HOUR_S = 3_600.0
_FIRST_PAUSE_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Carry once, or every so often; the exit code. Usage errors end the program with 2, as argparse does."""
    arguments = _parser().parse_args(argv)
    try:
        authority = Authority(
            arguments.url, token_file=arguments.token_file, ca_file=arguments.ca_file, timeout_s=arguments.timeout
        )
        if arguments.every is None:
            return carry(authority, arguments)
        return _carry_for_ever(lambda: carry(authority, arguments), arguments.every * _HOUR_S)
    except LicensedError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def carry(authority: Authority, arguments: argparse.Namespace) -> int:
    """One exchange; the exit code, with what failed on stderr."""
    try:
        with Client() as client:
            for each in sorted(client.returns(), key=lambda row: int(row["number"])):
                if not each["acknowledged"]:
                    authority.post(client.get_return(each["number"]))
                    _say(f"return {each['number']} of {each['license_id']} is delivered")
            request = client.create_request(arguments.customer_id, arguments.licenses, is_new_key=False, is_fresh=False)
            answer = authority.post(request)
            _say(_install(client, answer))
    except LicensedError as error:
        return _fail(error)
    return EXIT_YES


def _install(client: Client, answer: bytes) -> str:
    try:
        summary = client.install(answer)
    except LicensedError as error:
        if (
            error.code == StaleGrantError.code
        ):  # an earlier run, or somebody with a file, has installed it or a newer one
            return "the answer is installed already"
        raise
    return f"the answer is installed: seq {summary.get('seq', '?')}, capacity {summary.get('capacity', '?')}"


def _carry_for_ever(once: Callable[[], int], interval_s: float) -> int:
    """Again after the interval; sooner, with growing pauses, where the authority or the daemon was not there."""
    pause_s = _FIRST_PAUSE_S
    while True:
        if once() in {EXIT_NO, EXIT_NO_DAEMON}:
            time.sleep(min(pause_s, interval_s))
            pause_s *= 2
        else:
            pause_s = _FIRST_PAUSE_S
            time.sleep(interval_s)


def _fail(error: LicensedError) -> int:
    sys.stderr.write(f"license-courier: {printable(error)} [{error.code}]\n")
    if isinstance(error, DaemonUnreachableError):
        return EXIT_NO_DAEMON
    if isinstance(error, CourierUsageError | ArgumentError):
        return EXIT_USAGE
    if isinstance(error, CourierError) and not isinstance(error, RefusedByAuthorityError):
        return EXIT_NO
    return EXIT_REFUSED


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="license-courier",
        description="Carry returns and a request for licenses to the vendor, and install the answer; only root may.",
    )
    parser.add_argument("--version", action="version", version=f"license-courier {VERSION}")
    parser.add_argument("--url", required=True, metavar="URL", help="the vendor's license-authority: https://HOST")
    parser.add_argument("--token-file", metavar="FILE", default="", help="its first line lets this customer in")
    parser.add_argument("--ca-file", metavar="FILE", default="", help="certificates to trust, in place of the system's")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_TIMEOUT_S,
        help="for each answer; default %(default)g",
    )
    add_wanted(parser)
    often = parser.add_mutually_exclusive_group()
    often.add_argument("--once", action="store_true", help="one exchange (the default)")
    often.add_argument("--every", metavar="HOURS", type=_hours, help="go on for ever, with so many hours in between")
    return parser


def _hours(text: str) -> float:
    return _positive(text, 8_784)


def _seconds(text: str) -> float:
    return _positive(text, 3_600)


def _positive(text: str, most: float) -> float:
    """Raises ArgumentTypeError or ValueError, from which argparse makes a usage error."""
    value = float(text)
    if not 0 < value <= most:  # also for what is not a number
        raise argparse.ArgumentTypeError(f"{text}, expected more than 0 and at most {most:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
