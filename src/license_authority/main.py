"""`license-authority`: the vendor's side on the command line.

Rules: exit code 0 yes, 1 no or refused, 2 usage. Errors go to stderr as
`license-authority: cannot <do>: <why> [code]`. It never asks: it runs in scripts. A command loads what it needs and no
more: `trust` and `inspect` work where no database library is.

What this module does not do: it holds no command (`ceremonies`, `desk`, `serving`) and no rule.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from smartserver_licensed.domain.errors import LicensedError

from . import ceremonies
from .errors import AuthorityError
from .options import parse
from .screens import printable

Commands: TypeAlias = "Mapping[str, Callable[[argparse.Namespace], int]]"

_EXIT_REFUSED = 1
_EXIT_INTERRUPTED = 130  # as shells count: 128 + SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is the answer."""
    try:
        code = _run(parse(argv))
        sys.stdout.flush()
    except SystemExit as leaving:  # argparse: help, or a wrong command line
        return leaving.code if isinstance(leaving.code, int) else 2
    except LicensedError as error:
        sys.stderr.write(f"license-authority: {printable(str(error))} [{error.code}]\n")
        return _EXIT_REFUSED
    except BrokenPipeError:
        # The reader (`| head`) has enough. Python would complain at exit about what it cannot flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return code


def _run(options: argparse.Namespace) -> int:
    return _commands(options.command)[options.command](options)


def _commands(name: str) -> Commands:
    """The commands of one theme."""
    if name in ceremonies.COMMANDS:
        return ceremonies.COMMANDS
    try:
        if name in {"token", "serve"}:
            from . import serving  # noqa: PLC0415 - SQLAlchemy and FastAPI are most of the start

            return serving.COMMANDS
        from . import desk  # noqa: PLC0415

        return desk.COMMANDS
    except ModuleNotFoundError as error:
        raise AuthorityError(
            f"cannot run {name}: {error.name} is not installed (pip install 'smartserver-licensed[authority]')"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
