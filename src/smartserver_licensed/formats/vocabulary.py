"""One word, one meaning: the names that the SmartServer's status has on each border.

Rules:
- this is the only table of D-Bus property ↔ key of `fb/lic` ↔ key of `licensectl status --json`; tests hold the
  introspection XML and the command line to it;
- a dot in a key means nesting: `maintenance.status` is `{"maintenance": {"status": …}}`;
- what a border does not show is None there.

What this module does not do: it reads no bytes and writes none (`bus`, `iap`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smartserver_licensed.domain.status import Status


@dataclass(frozen=True, slots=True)
class Word:
    """One fact of the status: `signature` is D-Bus' type, `of` takes it from a Status."""

    property: str | None
    signature: str
    lic: str | None
    json: str | None
    of: Callable[[Status], str | int | bool]


VOCABULARY = (
    Word("State", "s", "state", "state", lambda status: status.state.value),
    Word("TotalCapacity", "u", "capacity", "capacity", lambda status: status.totals.capacity),
    Word("UsedCapacity", "u", "used", "used", lambda status: status.totals.used),
    Word("ReservedCapacity", "u", "reserved", "reserved", lambda status: status.totals.reserved),
    Word("AvailableCapacity", "u", "available", "available", lambda status: status.totals.available),
    Word("WaitingDevices", "u", "waiting", "waiting", lambda status: status.totals.waiting),
    Word(
        "MaintenanceStatus", "s", "maintenance.status", "maintenance.status", lambda status: status.maintenance.status
    ),
    Word(
        "MaintenanceExpiry",
        "s",
        "maintenance.expires",
        "maintenance.expires",
        lambda status: status.maintenance.expires,
    ),
    Word(None, "u", "maintenance.devices", None, lambda status: status.maintenance.devices),
    Word("CustomerId", "s", "customerId", "customer_id", lambda status: status.customer_id),
    Word("SegmentId", "s", None, "segment_id", lambda status: status.segment_id),
    Word("InstallCode", "s", None, "install_code", lambda status: status.install_code),
    Word("StorageState", "s", "storage", "storage", lambda status: status.storage.value),
    Word("ClockState", "s", "clock", "clock", lambda status: status.clock.value),
    Word("BrokerConnected", "b", None, "broker_connected", lambda status: status.is_broker_connected),
    Word("Assurance", "s", None, "assurance", lambda status: status.assurance),
    Word("Version", "s", "version", "version", lambda status: status.version),
)


def nested(pairs: Iterable[tuple[str, object]]) -> dict[str, object]:
    """Keys with dots as nested dictionaries; at most one dot a key."""
    tree: dict[str, object] = {}
    for key, value in pairs:
        outer, _, inner = key.partition(".")
        if not inner:
            tree[outer] = value
            continue
        branch = tree.setdefault(outer, {})
        if not isinstance(branch, dict):
            raise TypeError(f"cannot nest {key!r}: {outer!r} is a value")
        branch[inner] = value
    return tree
