"""What a device is called and what it can say of itself: the vocabulary that every other module shares.

Rules (WIRE.md, `sts`; LICENSING §2):
- a device is named by protocol and handle; handles contain dots and dashes, so no name is ever matched by a pattern;
- older engines' `created` and `provisioning` are `unprovisioned`; every value that is not known is `UNKNOWN` and
  counts for nothing;
- the restore mark (`"provisioned":"true"`) says that a device *wants to be* provisioned; only `state` says what is.

What this module does not do: it keeps no table (that is `facts`) and counts nothing (`counting`, `seats`).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class DeviceId:
    """A device by protocol and handle, as in `glp/0/{SID}/fb/dev/{protocol}/{handle}/sts`."""

    protocol: str
    handle: str

    def __str__(self) -> str:
        return f"{self.protocol}/{self.handle}"


class DeviceState(enum.Enum):
    """The states that rules know; the order of the members says nothing."""

    UNKNOWN = "unknown"
    UNLICENSED = "unlicensed"
    UNPROVISIONED = "unprovisioned"
    PROVISIONED = "provisioned"
    DELETED = "deleted"

    @classmethod
    def from_wire(cls, text: str | None) -> DeviceState | None:
        """The state an `sts` shows; None where it shows none (older engines leave such ghosts)."""
        if text is None:
            return None
        return _WIRE_STATES.get(text, cls.UNKNOWN)


_WIRE_STATES = {state.value: state for state in DeviceState} | {
    "created": DeviceState.UNPROVISIONED,
    "provisioning": DeviceState.UNPROVISIONED,
}


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One `sts` of one device, as far as rules read it."""

    state: DeviceState | None
    has_restore_mark: bool = False
    is_infrastructure: bool = False  # `cat` says "infrastructure": a claim, weighed by `counting`
    is_troubled: bool = False  # `error` is set or `health` is "down"


class Action(enum.Enum):
    """The actions of a `do` message that some rule reads; every other one is ignored by the parser."""

    CREATE = "create"
    PROVISION = "provision"
    DEPROVISION = "deprovision"
    DELETE = "delete"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """One `do` message: what somebody asked of a device's engine."""

    action: Action
    wants_provision: bool = False  # `provision`, or `create` with `"provision": true`
    is_local_attach: bool = False  # `create` of an internal application: `"lon.attach":"local"`
