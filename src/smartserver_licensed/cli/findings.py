"""What `licensectl doctor` says of one check, and what it was given by the daemon.

What this module does not do: it looks at nothing (`doctor`, `places`) and lays nothing out (`screens`).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smartserver_licensed.domain.errors import DaemonUnreachableError, LicensedError

RESTART = "systemctl restart smartserver-licensed"
JOURNAL = "journalctl -u smartserver-licensed"


class Level(enum.Enum):
    """How bad it is; only `FAIL` makes the whole verdict a no."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `todo` is empty where all is well."""

    check: str
    level: Level
    why: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the daemon answered: its properties by name, a row a license, and what it says of its storage.

    `storage` is empty where it could not say: an older daemon does not know the question.
    """

    properties: Mapping[str, Any]
    licenses: Sequence[Mapping[str, Any]]
    storage: Mapping[str, Any] = field(default_factory=dict)


def report(findings: Sequence[Finding], answer: Daemon | LicensedError) -> dict[str, object]:
    """The findings as JSON shows them, and the figures of the storage as the daemon gave them."""
    return {
        "ok": all(each.level is not Level.FAIL for each in findings),
        "daemon": not isinstance(answer, DaemonUnreachableError),
        "storage": dict(answer.storage) if isinstance(answer, Daemon) else {},
        "checks": [
            {"check": each.check, "level": each.level.value, "why": each.why, "todo": each.todo} for each in findings
        ],
    }
