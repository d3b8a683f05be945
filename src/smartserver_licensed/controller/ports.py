"""What the controller needs of the world, as Protocols; `daemon` wires the adapters in.

Rules: bytes and plain values only; nothing here blocks the loop; an adapter's failure is an event or one of the
project's errors, never a foreign exception.

What this module does not do: it holds no behaviour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from smartserver_licensed.domain.anchoring import Reading as AnchorReading
from smartserver_licensed.domain.status import Status
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats.bus import Plain
from smartserver_licensed.formats.connection import BrokerEvent


class Broker(Protocol):
    """The MQTT connection. Publishing without a connection is refused: the snapshot after the next one repairs."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection."""

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        """Up to `limit` events in order of arrival; waits for one, at most `timeout_s` seconds."""

    def take_drops(self) -> Mapping[str, int]:
        """What was dropped since the last call, by reason."""

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        """Subscribe to (filter, QoS) pairs."""

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe from filters."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Hand a message to the connection; False when there is none."""

    def flush(self) -> None:
        """Write what was handed over now, and not in the loop's next turn."""


class RecoveredLedger(Protocol):
    """What a ledger held: a snapshot, the events after it, and sentences on what was repaired."""

    @property
    def snapshot(self) -> bytes:
        """The body of the snapshot."""

    @property
    def events(self) -> tuple[bytes, ...]:
        """The bodies of the events after it, in order."""

    @property
    def repairs(self) -> tuple[str, ...]:
        """What was found damaged and is repaired from the twin; empty when healthy."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a power cut has left; no damage."""


class LedgerFigures(Protocol):
    """What is known of an open ledger."""

    seq: int
    size_bytes: int  # of each log
    fill_bytes: int  # of each log
    bytes_written: int  # to both, since it was opened


class Ledger(Protocol):
    """The durable record. Every method raises a StorageError when it cannot keep its promise."""

    async def open(self) -> RecoveredLedger:
        """Recover; afterwards `settle` is called with the snapshot of the replayed state."""

    async def settle(self, snapshot: bytes, *, is_changed: bool) -> None:
        """Bring both logs to the recovered state; `is_changed`: there is more in it than the replay says."""

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one body durable in both logs; `snapshot` gives the state before it, should a log be full."""

    async def rewrite(self, snapshot: bytes) -> None:
        """Rewrite both logs, so that no earlier copy is left to go back to."""

    async def release(self) -> None:
        """Let the path go until the next `open`."""

    @property
    def figures(self) -> LedgerFigures | None:
        """None while it is not open."""


class Anchor(Protocol):
    """A counter outside the ledger that nobody can set back. Methods raise AnchorError when it cannot be asked."""

    kind: str

    async def read(self) -> AnchorReading:
        """What it shows."""

    async def count(self) -> int:
        """Count one; makes the counter where there is none. What it shows now."""

    async def use(self) -> None:
        """Remember, for good, that a ledger is bound to it."""


class Clocks(Protocol):
    """The clocks; the one place where time is read."""

    def monotonic(self) -> float:
        """Seconds that never go back; for pauses and lifetimes."""

    def reading(self) -> Reading:
        """Wall clock, boot time and whether the wall clock is synchronised."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970 UTC, for people to read; no rule does."""


class Announcer(Protocol):
    """The D-Bus side."""

    def publish(self, status: Status) -> None:
        """Emit property changes."""

    def rejected(self, device: str, reason: str, details: Mapping[str, Plain]) -> None:
        """Emit AdmissionRejected."""

    def license_changed(self, summary: Mapping[str, Plain]) -> None:
        """Emit LicenseChanged."""

    def noticed(self, kind: str, details: Mapping[str, Plain]) -> None:
        """Emit Notice."""

    def tampered(self, topic: str, details: Mapping[str, Plain]) -> None:
        """Emit TamperDetected."""


class Notifier(Protocol):
    """The service manager."""

    def progressed(self) -> None:
        """A batch is finished: feed the watchdog."""

    def status(self, text: str) -> None:
        """The one line that `systemctl status` shows."""
