"""A plant with one SmartServer, in one process: the daemon's core on its ledger files, a broker in memory, devices.

Rules:
- `Controller`, `Keeper`, `LedgerWriter`, `Service` and the grants are real; the broker keeps what is retained over the
  daemon's restarts, as a real one does, and its devices obey `lic`;
- nothing waits for a clock: a step is over when the controller has found nothing more to do.

What this module does not do: it judges nothing, and knows no damage.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.ports import Anchor
from smartserver_licensed.controller.service import Service
from smartserver_licensed.controller.storage_report import StorageReport
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.errors import LicensedError
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import ContactMark, License, LicenseType
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Received
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import FILES
from smartserver_licensed.store.log import create
from support.documents import GRANT, NOW, make_trust, sealed
from support.ports import Nobody, RecordingBroker, SetClocks, keeper_of

INSTALL_CODE = "17qtest"
_FB, _RQ = f"glp/0/{INSTALL_CODE}/fb/dev/modbus", f"glp/0/{INSTALL_CODE}/rq/dev/modbus"
_IDLE_S = 0.0005
_STRIPPED_BYTES = 64 * 1024  # at once


@dataclass
class MemoryBroker(RecordingBroker):
    """Implements `controller.ports.Broker`; `retained` outlives it."""

    retained: dict[str, bytes] = field(default_factory=dict)
    events: deque[BrokerEvent] = field(default_factory=lambda: deque([Connected()]))
    filters: dict[str, re.Pattern[str]] = field(default_factory=dict)
    idles: int = 0

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        if not self.events:
            self.idles += 1
            await asyncio.sleep(_IDLE_S)
        return [self.events.popleft() for _ in range(min(limit, len(self.events)))]

    def subscribe(self, filters: Sequence[tuple[str, int]]) -> None:
        for each, _ in filters:
            pattern = re.compile(re.escape(each).replace(r"\+", "[^/]+").replace(r"\#", ".*"))
            self.filters[each] = pattern
            held = [(topic, payload) for topic, payload in self.retained.items() if pattern.fullmatch(topic)]
            self.events += [Received(topic, payload, is_retained=True) for topic, payload in held]

    def unsubscribe(self, filters: Sequence[str]) -> None:
        for each in filters:
            self.filters.pop(each, None)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if retain and payload:
            self.retained[topic] = payload
        elif retain:
            self.retained.pop(topic, None)
        if any(pattern.fullmatch(topic) for pattern in self.filters.values()):
            self.events.append(Received(topic, payload, is_retained=False))
        return True


class Plant:
    """One SmartServer with a new ledger in a directory; `start` and `stop` are the daemon's."""

    def __init__(
        self,
        directory: Path,
        *,
        capacity: int,
        anchor: Anchor | None = None,
        open_ledger: Callable[[Path], LedgerWriter] = LedgerWriter,
    ) -> None:
        self.directory = directory
        self.capacity = capacity
        self.anchor = anchor
        self._open_ledger = open_ledger
        self.license_events = 0  # that went through, or were begun
        self.grants = 0  # the `seq` of the issuer's last one: no license event that an old copy lacks has a higher one
        self.returned = 0  # devices, as the issuer has been told
        self.upgrades = 0  # that the issuer has granted
        self.running: set[str] = set()
        self.doubled: list[str] = []  # documents that the issuer finds to be forked
        self._heard: dict[tuple[bytes, int], bytes] = {}
        self._last_heard: ContactMark | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._retained = {iap.SID_TOPIC: json.dumps(INSTALL_CODE).encode()}
        self._clocks = SetClocks()
        directory.mkdir()
        create(directory, encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=NOW)))

    # -- the daemon ------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start, and wait until the first snapshot is dealt with."""
        self._clocks.now_s += 60
        self._broker = MemoryBroker(retained=self._retained)
        self.ledger = self._open_ledger(self.directory)
        anchoring = Anchoring(self.anchor)
        self.keeper = keeper_of(self.ledger, self._clocks, install_code=INSTALL_CODE, anchoring=anchoring)
        trusted = Trusted(make_trust())
        self.controller = Controller(
            broker=self._broker,
            keeper=self.keeper,
            clocks=self._clocks,
            announcer=Nobody(),
            notifier=Nobody(),
            policy=Policy(),
            install_code=INSTALL_CODE,
            version="0",
            trusted=trusted,
            anchor=anchoring.kind,
        )
        report = StorageReport(self.keeper, self.ledger, anchoring, self._clocks, path=str(self.directory))
        licensing = Licensing(
            self.controller, self.keeper, self._clocks, trusted, anchoring, identity=Identity(INSTALL_CODE)
        )
        self._service = Service(
            self.controller,
            self.keeper,
            self._clocks,
            Nobody(),
            licensing,
            self.controller.noticing,
            report,
            install_code=INSTALL_CODE,
        )
        await self.controller.open()
        self._tasks.append(asyncio.create_task(self.controller.run()))
        await self.settle()

    async def stop(self) -> None:
        """Stop, or die: what is not on the disk is gone."""
        for task in self._tasks:
            task.cancel()
            await asyncio.wait([task])
        self._tasks.clear()
        await self.ledger.close()

    async def settle(self) -> None:
        """Until the controller has nothing more to do."""
        until = self._broker.idles + 2
        while self._broker.idles < until:
            await asyncio.sleep(_IDLE_S)
            for task in self._tasks:
                if task.done():
                    task.result()  # it ends by an exception only

    async def wait(self, seconds: float) -> None:
        """Time passes."""
        self._clocks.now_s += seconds
        await self.settle()

    # -- its documents ---------------------------------------------------------------------------------------------

    async def license(self) -> str:
        """Install the issuer's next grant; what it is refused with, or nothing.

        It grants anew what was returned, and an upgrade to this release more.
        """
        self.license_events += 1
        self.upgrades += 1
        self.grants = self.license_events
        granted = self.capacity + self.returned
        licenses = [License("cap-1", LicenseType.CAPACITY, granted, returned_total=self.returned)]
        licenses.append(License("up-1", LicenseType.UPGRADE, self.upgrades, release="99.0"))
        grant = replace(
            GRANT,
            seq=self.grants,
            install_code=INSTALL_CODE,
            issued_at=NOW + self.grants,
            licenses=tuple(licenses),
            contact=self._last_heard,
        )
        return await self._refused(self._service.install_document(sealed(grant)))

    async def ask_issuer(self) -> bytes:
        """A new request."""
        return await self._service.create_request("", [], is_new_key=False, is_fresh=True)

    async def give_back(self, devices: int) -> str:
        """Return so many devices, and tell the issuer; what it is refused with, or nothing."""
        self.license_events += 1
        return await self._refused(self._give_back(devices))

    async def _give_back(self, devices: int) -> None:
        proof = await self._service.create_return(
            "cap-1", devices, over_capacity=False, revoke_excess=False, another=True
        )
        self.tell_issuer(proof)

    async def ask_and_give_back(self) -> str:
        """A request, then a return of one device."""
        self.tell_issuer(await self.ask_issuer())
        return await self.give_back(1)

    def tell_issuer(self, document: bytes) -> None:
        """The issuer reads a request or return: it learns of what was returned, and remembers the number."""
        contact, mark = open_contact(document)
        known = self._heard.setdefault((contact.device_key, mark.number), document)
        if known != document:
            self.doubled.append(f"{contact.kind.value} {mark.number} is another one than that which left earlier")
        self._last_heard = mark
        self.returned = max([self.returned, *(each.returned_total for each in contact.totals if each.id == "cap-1")])

    def proofs(self) -> dict[int, bytes]:
        """Every return that can be exported, by its number."""
        numbers = [each["number"] for each in self._service.list_returns()]
        return {number: self._service.get_return(number) for number in numbers if isinstance(number, int)}

    async def upgrade(self, version: str) -> str:
        """A feature release was installed; what its confirmation is refused with, or nothing."""
        return await self._refused(self._service.confirm_update(version, "feature"))

    async def _refused(self, work: Coroutine[None, None, object]) -> str:
        try:
            await work
        except LicensedError as error:
            return f"{error} [{error.code}]"
        await self.settle()
        return ""

    def installed(self) -> int:
        """The number of the grant in force."""
        state = self.keeper.shown
        return state.installed.grant.seq if state and state.installed else 0

    # -- the devices -----------------------------------------------------------------------------------------------

    async def ask(self, name: str) -> bool:
        """A device is created and asks; if it is licensed it runs from now on."""
        self._broker.publish(f"{_FB}/{name}/sts", b'{"state":"unlicensed"}', retain=True)
        self._broker.publish(f"{_RQ}/{name}/do", b'{"action":"provision"}')
        await self.settle()
        if not self.may_run(name):
            return False
        self._broker.publish(f"{_FB}/{name}/sts", b'{"state":"provisioned"}', retain=True)
        self.running.add(name)
        await self.settle()
        return True

    async def delete(self, name: str) -> None:
        """A device is deleted."""
        self.running.discard(name)
        self._broker.publish(f"{_FB}/{name}/sts", b'{"state":"deleted"}', retain=True)
        await self.settle()
        self._broker.publish(f"{_FB}/{name}/sts", b"", retain=True)

    def may_run(self, name: str) -> bool:
        """What the broker holds for a device."""
        said = self._retained.get(f"{_FB}/{name}/lic")
        return said is not None and json.loads(said)["licensed"] is True

    def stopped(self) -> list[str]:
        """The running devices that heard `false`."""
        return [
            name for name in sorted(self.running) if f"{_FB}/{name}/lic" in self._retained and not self.may_run(name)
        ]

    def seats_beyond(self) -> int:
        """Seats given beyond the capacity."""
        return max(0, -self.controller.totals().free)

    def adopted(self) -> int:
        """Running units beyond the capacity, while they have a grace: nothing new is admitted, they run on."""
        grace = self.keeper.grace()
        return self.controller.totals().excess if grace.allowed_s and not grace.has_ended else 0

    # -- its files -------------------------------------------------------------------------------------------------

    def image(self) -> tuple[bytes, ...]:
        """Both logs as they are now, without the zeros at their ends."""
        return tuple(_without_zeros((self.directory / name).read_bytes()) for name in FILES)


def _without_zeros(content: bytes) -> bytes:
    end, zeros = len(content), bytes(_STRIPPED_BYTES)
    while content[end - len(zeros) : end] == zeros:
        end -= len(zeros)
    return content[:end]
