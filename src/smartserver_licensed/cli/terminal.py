"""What every command ends with: an exit code, and an answer for people or for programs.

Rules: `--json` is one document on stdout; exit codes as `main` says.

What this module does not do: it lays nothing out (`screens`, `answers`) and asks nobody.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Protocol

EXIT_YES, EXIT_NO, EXIT_USAGE, EXIT_NO_DAEMON, EXIT_REFUSED = range(5)


class AddCommand(Protocol):
    """How a module of commands makes one known; what is given back takes its arguments."""

    def __call__(self, name: str, run: Callable[..., int], what: str) -> argparse.ArgumentParser:
        """`run` is given a client and the arguments, and gives an exit code back."""


def show(arguments: argparse.Namespace, value: object, screen: Callable[[], str]) -> None:
    """The answer, as `--json` or as people read it."""
    if arguments.json:
        print_json(value)
    else:
        sys.stdout.write(screen() + "\n")


def print_json(value: object) -> None:
    """One document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
