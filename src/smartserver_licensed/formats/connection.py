"""What comes from the broker, in order of arrival: the values that pass from the MQTT adapter to the controller.

What this module does not do: it parses nothing (`iap`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted a new connection; it knows nothing of an earlier one."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or could not be made; `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Received:
    """One message. `is_retained`: delivered because of a subscription, not because somebody just published it."""

    topic: str
    payload: bytes
    is_retained: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """Messages were dropped here; how many, `take_drops` says. `is_incomplete`: facts are missing until a snapshot."""

    reason: str
    is_incomplete: bool


BrokerEvent: TypeAlias = Connected | Disconnected | Received | Dropped
