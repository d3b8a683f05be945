"""A SmartServer in one process: the daemon's own licensing over the real ledger, on a disk that loses its power.

Rules:
- `Keeper`, `Controller`, `Licensing` and `store.log` are the real ones; only disk, clock and broker are not;
- each write and each sync of the disk is a step; `cut_at` counts down to the one at which the power goes. What had not
  been synced then may have arrived, or a part of it, or a page is gone; afterwards the daemon starts anew, and may be
  cut again while it recovers.

What this module does not do: it does not know what is right (`lines`, `field`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.contacting import Asked, Return
from smartserver_licensed.controller.entitling import licenses_of
from smartserver_licensed.controller.keeper import Keeper
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.documents.keys import SigningKey, key_id
from smartserver_licensed.documents.trust import Trust
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.entitlement import unused, usable
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import LicenseType
from smartserver_licensed.domain.updates import UpdateKind, Version
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.store.log import Ledger
from smartserver_licensed.store.record import FIRST_HEAD, SECRET_BYTES, Kind, frame
from smartserver_licensed.store.recovery import Recovered
from support.disk import MODES, Disk, after_power_cut
from support.documents import NOW
from support.ports import Nobody, RecordingBroker, SetClocks

AREA_BYTES = 256 << 10  # the smaller, the more often a log is full

_T = TypeVar("_T")


class BrokenError(AssertionError):
    """A promise is broken."""


class PowerCutError(BaseException):
    """The power is gone: nothing of the program may catch this."""


@dataclass
class Fuse:
    """Blows at the step that it counts down to; 0: never."""

    cut_at: int = 0
    steps: int = 0

    def step(self) -> None:
        self.steps += 1
        if self.cut_at and self.steps >= self.cut_at:
            raise PowerCutError


@dataclass
class FusedDisk(Disk):
    """A disk in memory whose power goes before a write or a sync."""

    fuse: Fuse = field(default_factory=Fuse)

    def write(self, offset: int, data: bytes) -> None:
        self.fuse.step()
        super().write(offset, data)
        self.written.clear()

    def sync(self) -> None:
        self.fuse.step()
        super().sync()


class LedgerInProcess:
    """Implements `controller.ports.Ledger` as `LedgerWriter` does, without its thread."""

    def __init__(self, disks: list[FusedDisk]) -> None:
        self._disks = disks
        self.figures: Ledger | None = None

    async def open(self) -> Recovered:
        self.figures = Ledger(self._disks)
        return self.figures.recovered

    async def settle(self, snapshot: bytes, *, is_changed: bool = False) -> None:
        self._opened.settle(snapshot, is_changed=is_changed)

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        self._opened.append(body, snapshot)

    async def rewrite(self, snapshot: bytes) -> None:
        self._opened.rewrite(snapshot)

    async def release(self) -> None:
        self.figures = None

    @property
    def _opened(self) -> Ledger:
        assert self.figures is not None
        return self.figures


Image = tuple[bytes, bytes]
"""What both logs hold on the disk: what somebody copies who copies the card."""


class SmartServer:
    """One board with its disk. The daemon runs always; where it was cut, it has started anew."""

    def __init__(
        self,
        identity: Identity,
        clocks: SetClocks,
        trust: Trust,
        chance: random.Random,
        *,
        image: Image | None = None,
        is_honest: bool = True,
    ) -> None:
        """Of a board with a copied card, or a new ledger; `is_honest`: whether the disk's syncs do anything."""
        self.identity = identity
        self.cuts = 0
        self._clocks, self._trust, self._chance, self._is_honest = clocks, trust, chance, is_honest
        self.put_back(image or _new_image(identity.install_code))

    # -- the disk ----------------------------------------------------------------------------------------------------

    def image(self) -> Image:
        """A copy of its disk, as it is while the power is on."""
        a, b = (bytes(disk.content) for disk in self._disks)
        return a, b

    def put_back(self, image: Image) -> None:
        """Start from this copy of a disk."""
        self._plug_in(bytearray(image[0]), bytearray(image[1]))

    def wipe(self) -> None:
        """Its partition is lost; the next start makes a new ledger."""
        self.put_back(_new_image(self.identity.install_code))

    def exchange_board(self, identity: Identity) -> None:
        """The same disk in another board."""
        self.identity = identity
        self.put_back(self.image())

    def _plug_in(self, *contents: bytearray, cut_at: int = 0) -> None:
        self._fuse = Fuse(cut_at)
        self._disks = [FusedDisk(content, fuse=self._fuse, is_honest=self._is_honest) for content in contents]
        try:
            self._start()
        except PowerCutError:
            self._lose_power()
        self._fuse.cut_at = 0

    def _lose_power(self) -> None:
        """What is left on the disk, and a new start, which may be cut as well."""
        self.cuts += 1
        mode = self._chance.choice(MODES)
        left = [after_power_cut(disk, self._chance, mode) for disk in self._disks]
        self._plug_in(*left, cut_at=self._chance.choice((0, 0, 0, *range(1, 9))))

    def _start(self) -> None:
        trusted, anchoring = Trusted(self._trust), Anchoring(None)
        self._keeper = Keeper(
            LedgerInProcess(self._disks),
            self._clocks,
            identity=self.identity,
            check_documents=trusted.check,
            new_seed=lambda: SigningKey.generate().seed,
            floor_s=NOW,
            anchoring=anchoring,
        )
        controller = Controller(
            broker=RecordingBroker(),
            keeper=self._keeper,
            clocks=self._clocks,
            announcer=Nobody(),
            notifier=Nobody(),
            policy=Policy(),
            install_code=self.identity.install_code,
            version="0",
            trusted=trusted,
            anchor=anchoring.kind,
        )
        self._licensing = Licensing(controller, self._keeper, self._clocks, trusted, anchoring, identity=self.identity)
        _done(controller.open())

    def _do(self, work: Callable[[], Coroutine[Any, Any, _T]], cut_at: int) -> _T | None:
        """Let the daemon work; None where the power went. `cut_at`: at which of the disk's steps; 0: never."""
        self._fuse.steps, self._fuse.cut_at = 0, cut_at
        try:
            return _done(work())
        except PowerCutError:
            self._lose_power()
            return None
        finally:
            self._fuse.cut_at = 0

    # -- what its administrator does ---------------------------------------------------------------------------------

    def restart(self) -> None:
        """Pull the plug while nothing happens."""
        self.put_back(self.image())

    def request(self, asked: Asked, *, cut_at: int = 0) -> bytes | None:
        """A request; None where the power went. Raises LicensedError."""
        return self._do(lambda: self._licensing.request(asked), cut_at)

    def make_return(self, wanted: Return, *, cut_at: int = 0) -> bytes | None:
        """A return; None where the power went. Raises LicensedError."""
        return self._do(lambda: self._licensing.make_return(wanted), cut_at)

    def install(self, document: bytes, *, cut_at: int = 0) -> bool:
        """Install a grant; False where the power went. Raises LicensedError."""
        return self._do(lambda: self._licensing.install(document), cut_at) is not None

    def confirm_update(self, version: Version, *, cut_at: int = 0) -> bool:
        """A version was installed; False where the power went. Raises LicensedError."""
        return self._do(lambda: self._licensing.confirm_update(version, UpdateKind.FEATURE), cut_at) is not None

    def proof(self, number: int) -> bytes:
        """A return that was made, exported again. Raises LicensedError."""
        return self._licensing.proof(number)

    # -- what it holds -----------------------------------------------------------------------------------------------

    @property
    def is_serving(self) -> bool:
        """Whether it uses its ledger; not that of a third board."""
        return self._keeper.state is not None

    @property
    def state(self) -> LedgerState:
        """What is durable. Raises BrokenError: no power cut may take the ledger."""
        state = self._keeper.state
        if state is None:
            raise BrokenError(f"{self.identity.install_code} has lost its ledger: {self._keeper.storage_reason}")
        return state

    @property
    def key_id(self) -> str:
        """Of its device key."""
        return key_id(SigningKey(self.state.device_seed).public.raw)

    @property
    def seq(self) -> int:
        """Of the grant that is installed; 0 without one."""
        installed = self.state.installed
        return installed.grant.seq if installed else 0

    def usable(self) -> dict[str, int]:
        """Devices of each license that can be used here or were used up, whether it has ended or not."""
        state = self.state
        return {each.id: usable(each, state.returned) for each in licenses_of(state)}

    def returnable(self) -> dict[str, int]:
        """Devices of each license that may be returned."""
        state = self.state
        kinds = {LicenseType.CAPACITY, LicenseType.MAINTENANCE, LicenseType.UPGRADE}
        left = {
            each.id: unused(each, state.returned, state.consumed) for each in licenses_of(state) if each.type in kinds
        }
        return {license_id: devices for license_id, devices in left.items() if devices}


def _new_image(install_code: str) -> Image:
    secret = random.Random(install_code).randbytes(SECRET_BYTES)
    body = secret + encode_snapshot(LedgerState(install_code=install_code, mark_s=NOW))
    content = frame(Kind.SNAPSHOT, 0, FIRST_HEAD, body, secret=secret).ljust(AREA_BYTES, b"\0")
    return content, content


def board(number: int) -> Factors:
    """The hardware factors of one board."""
    return Factors(f"soc-{number}", f"emmc-{number}", f"00:d0:71:00:00:{number:02x}")


def _done(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end what waits for nobody: the ledger has no thread here, and the lock no second holder."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        value: _T = end.value
        return value
