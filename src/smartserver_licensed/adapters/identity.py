"""Who this SmartServer is: the install code from the environment file of the platform.

Rules: the file has lines `KEY=VALUE` as a shell takes them (quotes, `export`, comments), and the last one wins; lines
that are not of that form are somebody else's and do not matter.

What this module does not do: it expands no variables and runs no shell.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from smartserver_licensed.domain.errors import ConfigError

INSTALL_CODE = "APOLLO_INSTALL_CODE"
_MAX_FILE_BYTES = 256 * 1024
_MAX_CODE_LENGTH = 128


def read_install_code(path: str | Path) -> str:
    """The install code. Raises ConfigError: no file, no install code in it, or one that cannot be one."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"cannot read the install code: {path}: {error.strerror}") from error
    code = None
    for number, line in enumerate(text.splitlines(), start=1):
        key, separator, value = line.strip().removeprefix("export ").lstrip().partition("=")
        if separator and key == INSTALL_CODE:
            code = _unquoted(value, where=f"{path}, line {number}")
    if not code:
        raise ConfigError(f"cannot read the install code: {path} does not set {INSTALL_CODE}")
    if len(code) > _MAX_CODE_LENGTH or not code.isprintable():
        raise ConfigError(
            f"cannot read the install code: {INSTALL_CODE} in {path} is {code[:_MAX_CODE_LENGTH]!r}, "
            f"expected at most {_MAX_CODE_LENGTH} printable characters"
        )
    return code


def _unquoted(value: str, *, where: str) -> str:
    try:
        words = shlex.split(value, comments=True)
    except ValueError as error:
        raise ConfigError(f"cannot read the install code: {where}: {INSTALL_CODE} is not quoted right") from error
    return words[0] if words and not value[:1].isspace() else ""
