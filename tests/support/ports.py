"""Stand-ins behind the controller's Protocols: a broker that records, set clocks, a ledger in memory, nobody."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.keeper import Keeper
from smartserver_licensed.controller.ports import Clocks, Ledger
from smartserver_licensed.domain.binding import NO_FACTORS, Factors, Identity
from smartserver_licensed.domain.errors import StorageError
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.status import Status
from smartserver_licensed.domain.trusted_time import Reading
from smartserver_licensed.formats.bus import Plain
from smartserver_licensed.formats.connection import BrokerEvent
from support.documents import INSTALL_CODE, NOW


@dataclass
class RecordingBroker:
    """Implements `controller.ports.Broker`; delivers nothing, remembers everything."""

    is_connected: bool = True
    published: list[tuple[str, bytes, int, bool]] = field(default_factory=list)
    subscribed: list[tuple[str, int]] = field(default_factory=list)

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        return []

    def take_drops(self) -> Mapping[str, int]:
        return {}

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        self.subscribed += filters

    def unsubscribe(self, filters: Sequence[str]) -> None:
        self.subscribed = [each for each in self.subscribed if each[0] not in filters]

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if self.is_connected:
            self.published.append((topic, payload, qos, retain))
        return self.is_connected

    def flush(self) -> None:
        pass

    def said(self) -> list[tuple[str, bool]]:
        """(handle, licensed) of each `lic`, in order; forgets them."""
        lics = [(topic.split("/")[6], json.loads(payload)["licensed"]) for topic, payload, _, _ in self.published]
        self.published.clear()
        return lics


DEVICE_SEED = b"\x05" * 32


def keeper_of(
    ledger: Ledger,
    clocks: Clocks,
    *,
    install_code: str = INSTALL_CODE,
    factors: Factors = NO_FACTORS,
    check_documents: Callable[[LedgerState], None] = lambda _: None,
    floor_s: int = NOW,
    anchoring: Anchoring | None = None,
) -> Keeper:
    """A keeper that finds every document in order, and makes one device key."""
    return Keeper(
        ledger,
        clocks,
        identity=Identity(install_code, factors),
        check_documents=check_documents,
        new_seed=lambda: DEVICE_SEED,
        floor_s=floor_s,
        anchoring=anchoring,
    )


class Nobody:
    """Implements `controller.ports.Announcer` and `Notifier`; hears all, keeps nothing."""

    def publish(self, status: Status) -> None: ...

    def rejected(self, device: str, reason: str, details: Mapping[str, Plain]) -> None: ...

    def license_changed(self, summary: Mapping[str, Plain]) -> None: ...

    def noticed(self, kind: str, details: Mapping[str, Plain]) -> None: ...

    def tampered(self, topic: str, details: Mapping[str, Plain]) -> None: ...

    def progressed(self) -> None: ...

    def status(self, text: str) -> None: ...


@dataclass
class SetClocks:
    """Implements `controller.ports.Clocks`."""

    now_s: float = 1_000.0
    is_synchronised: bool = True

    def monotonic(self) -> float:
        return self.now_s

    def reading(self) -> Reading:
        return Reading(1_795_500_000 + int(self.now_s), self.now_s, is_synchronised=self.is_synchronised)

    def wall_ms(self) -> int:
        return int(self.now_s * 1_000)


@dataclass
class MemoryLedger:
    """Implements `controller.ports.Ledger`; `fails` is raised by the next call that writes, once."""

    snapshot: bytes
    events: tuple[bytes, ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    fails: StorageError | None = None
    seq: int = 0
    size_bytes: int = 4 << 20
    fill_bytes: int = 4096
    bytes_written: int = 0
    opened: int = 0
    is_changed: bool = False

    async def open(self) -> MemoryLedger:
        self.opened += 1
        return self

    @property
    def figures(self) -> MemoryLedger:
        return self

    async def release(self) -> None:
        pass

    async def settle(self, snapshot: bytes, *, is_changed: bool) -> None:
        self.is_changed = is_changed
        if is_changed:
            await self.rewrite(snapshot)

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        self._maybe_fail()
        self.events += (body,)
        self.bytes_written += 8192

    async def rewrite(self, snapshot: bytes) -> None:
        self._maybe_fail()
        self.snapshot, self.events = snapshot, ()

    def _maybe_fail(self) -> None:
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
