"""What the administrator may set of the rules, as the controller takes it.

What this module does not do: it reads no file (`config`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds, and a number of handles. `is_reporting_only`: older engines are asked for nothing (`enforcing`)."""

    settle_s: float = 15.0
    absence_grace_s: float = 600.0
    max_devices: int = 4_000
    is_reporting_only: bool = False
