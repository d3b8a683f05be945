"""(i) what a document costs: a request made, a grant with ten licenses installed, a return made.

Rules:
- ours is `Licensing` as the daemon has it: verify or sign, the real ledger and its thread, the decisions that follow;
  the limit is one bare Ed25519 verification or signature of as many bytes, then the same bytes written and the same
  syncs, in the same order and at the same places of files of the same kind beside it;
- what is written and synced was noted between the same log and its files, in a run before;
- both take turns, in a new order each time; no device is there, so that nothing is decided about any.

What this module does not do: it measures no transport (D-Bus, a file), no journal and no tool.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from benchmarks.smartserver import BUILD
from benchmarks.table import Aim, Figures, Row
from smartserver_licensed.adapters.clock import SystemClocks
from smartserver_licensed.controller.anchoring import Anchoring
from smartserver_licensed.controller.contacting import Asked, Return
from smartserver_licensed.controller.keeper import Keeper
from smartserver_licensed.controller.licensing import Licensing
from smartserver_licensed.controller.loop import Controller
from smartserver_licensed.controller.policy import Policy
from smartserver_licensed.controller.ports import Clocks
from smartserver_licensed.controller.trusting import Trusted
from smartserver_licensed.documents.envelope import pae, parse_envelope
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.binding import Factors, Identity
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.formats import iap
from smartserver_licensed.formats.connection import BrokerEvent, Connected, Received
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import FILES, FileArea, Place
from smartserver_licensed.store.log import Ledger, create
from smartserver_licensed.store.recovery import Recovered
from support.documents import GRANT, GRANT_KEY, INSTALL_CODE, NOW, make_trust, sealed
from support.ports import Nobody, RecordingBroker

_MS = 1e3
_AIM = Aim("<= 1.5x", at_most=1.5)
_WHAT = {"request": "  a request made", "": "a grant of 10 licenses", "return": "  a return made"}  # in this order
_IDENTITY = Identity(INSTALL_CODE, Factors("soc-1", "emmc-1", "02:00:00:00:00:01"))
_LICENSES = tuple(
    License(f"{number:08}-0000-4000-8000-000000000000", LicenseType.CAPACITY, 2_000, note=f"Plant {number}")
    for number in range(10)
)
_Work = Callable[[], Awaitable[object]]


def measure(*, is_short: bool) -> list[Row]:
    """The rows of (i)."""
    place = BUILD / "bench"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        return asyncio.run(_measure(Path(directory), turns=40 if is_short else 600))


async def _measure(directory: Path, *, turns: int) -> list[Row]:
    noted = await _note(directory / "noted")
    ours: dict[str, list[float]] = {key: [] for key in _WHAT}
    limit: dict[str, list[float]] = {key: [] for key in _WHAT}
    bare = Bare(directory / "bare")
    async with Smartserver(LedgerWriter(new_ledger(directory / "ours"))) as smartserver:
        gc.freeze()  # as the daemon does at its start
        for key in [*_WHAT] * turns:
            both = [(ours, smartserver.work(key)), (limit, bare.work(noted[key], is_signing=key != ""))]
            random.shuffle(both)
            for times, work in both:
                start = time.perf_counter()
                await work()
                times[key].append(time.perf_counter() - start)
        gc.unfreeze()
    bare.close()
    return [_row(key, ours[key], limit[key], noted[key]) for key in sorted(_WHAT)]


def _row(key: str, ours: list[float], limit: list[float], noted: Noted) -> Row:
    writes = [each.data for each in noted.steps if each.data is not None]
    signature = "signature" if key else "verification"
    limit_what = (
        f"a bare {signature}, {len(writes)} writes of {sum(map(len, writes)):,} bytes together, "
        f"{len(noted.steps) - len(writes)} syncs"
    )
    figures = Figures.of(ours, scale=_MS), Figures.of(limit, scale=_MS)
    return Row(f"i.{key}".rstrip("."), _WHAT[key], "ms", *figures, limit_what, _AIM)


# -- ours --------------------------------------------------------------------------------------------------------------


class Smartserver:
    """The daemon's core on a ledger, with the issuer's key at hand."""

    def __init__(self, ledger: LedgerWriter, clocks: Clocks | None = None) -> None:
        self._ledger = ledger
        clocks, trusted, anchoring = clocks or SystemClocks(), Trusted(make_trust()), Anchoring(None)
        keeper = Keeper(
            ledger,
            clocks,
            identity=_IDENTITY,
            check_documents=trusted.check,
            new_seed=lambda: SigningKey.generate().seed,
            floor_s=NOW,
            anchoring=anchoring,
        )
        self._broker = _QuietBroker()
        self._controller = Controller(
            broker=self._broker,
            keeper=keeper,
            clocks=clocks,
            announcer=Nobody(),
            notifier=Nobody(),
            policy=Policy(),
            install_code=INSTALL_CODE,
            version="0",
            trusted=trusted,
            anchor=anchoring.kind,
        )
        self._licensing = Licensing(self._controller, keeper, clocks, trusted, anchoring, identity=_IDENTITY)
        self._seq = 0
        self._request = b""

    async def __aenter__(self) -> Smartserver:  # noqa: PYI034 - typing.Self is younger than Python 3.10
        await self._controller.open()
        self._running = asyncio.create_task(self._controller.run())
        await self.hear([])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait([self._running])
        await self._ledger.close()

    def work(self, key: str) -> _Work:
        """What is to be measured next; the grant answers the last request, so that no chain grows."""
        match key:
            case "request":
                return self._ask
            case "return":
                return lambda: self._licensing.make_return(Return(_LICENSES[0].id, 1, is_another=True))
            case _:
                grant = self._answer()
                return lambda: self._licensing.install(grant)

    @property
    def provisioned(self) -> int:
        """Devices that run and are counted."""
        return self._controller.totals().provisioned

    async def hear(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Device events, each in a batch of its own; over when the daemon waits for more."""
        await self._broker.deliver(messages)

    async def _ask(self) -> bytes:
        self._request = await self._licensing.request(Asked(is_fresh=True))
        return self._request

    def _answer(self) -> bytes:
        contact, mark = open_contact(self._request)
        self._seq += 1
        grant = replace(GRANT, seq=self._seq, licenses=_LICENSES, device_key=contact.device_key)
        return sealed(replace(grant, issued_at=contact.made_at, factors=contact.factors, contact=mark))


class _QuietBroker(RecordingBroker):
    """Connected, with the id of a segment; says the daemon's markers back, and what is delivered, one at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._events: asyncio.Queue[BrokerEvent] = asyncio.Queue()
        self._is_idle = asyncio.Event()
        self._events.put_nowait(Connected())
        self._events.put_nowait(Received(iap.SID_TOPIC, f'"{INSTALL_CODE}"'.encode(), is_retained=True))

    async def take(self, limit: int = 1_000, timeout_s: float | None = None) -> list[BrokerEvent]:
        if self._events.empty():
            self._is_idle.set()
        with contextlib.suppress(asyncio.TimeoutError):
            return [await asyncio.wait_for(self._events.get(), timeout_s)][:limit]
        return []

    async def deliver(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Until all is taken, and what came of it is done."""
        for topic, payload in messages:
            self._events.put_nowait(Received(topic, payload, is_retained=False))
        self._is_idle.clear()
        await self._is_idle.wait()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        if topic == iap.MARKER_TOPIC:
            self._events.put_nowait(Received(topic, payload, is_retained=False))
        return super().publish(topic, payload, qos=qos, retain=retain)


# -- the limit ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What was done to a file of the ledger: `data` written at `offset`; None: a sync."""

    file: int
    offset: int = 0
    data: bytes | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A document, and what was done to the ledger for it."""

    document: bytes
    steps: list[Step]


async def _note(directory: Path) -> dict[str, Noted]:
    """What each work does to the ledger, in the second round: what is said once is said then."""
    steps: list[Step] = []
    noted: dict[str, Noted] = {}
    async with Smartserver(_NotingWriter(new_ledger(directory), steps)) as smartserver:
        for key in [*_WHAT] * 2:
            work = smartserver.work(key)
            steps.clear()
            made = await work()
            document = made if isinstance(made, bytes) else sealed(replace(GRANT, licenses=_LICENSES))
            noted[key] = Noted(document, [*steps])
    return noted


class _NotingWriter(LedgerWriter):
    """The real one; notes what its log does to the files."""

    def __init__(self, path: Path, steps: list[Step]) -> None:
        super().__init__(path)
        self._steps = steps

    def _open(self) -> Recovered:
        self._close()
        self._place = Place(self._path)
        self._ledger = Ledger([_NotingArea(area, file, self._steps) for file, area in enumerate(self._place.areas())])
        return self._ledger.recovered


@dataclass
class _NotingArea:
    """An area between a log and its file."""

    area: FileArea
    file: int
    steps: list[Step]
    size_bytes: int = field(init=False)
    device: object = field(init=False)

    def __post_init__(self) -> None:
        self.size_bytes, self.device = self.area.size_bytes, self.area.device

    @property
    def unreadable(self) -> list[int]:
        return self.area.unreadable

    def read(self) -> memoryview:
        return self.area.read()

    def write(self, offset: int, data: bytes) -> None:
        self.steps.append(Step(self.file, offset, data))
        self.area.write(offset, data)

    def sync(self) -> None:
        self.steps.append(Step(self.file))
        self.area.sync()


class Bare:
    """No daemon at all: `cryptography`, and two files as the ledger makes them."""

    def __init__(self, directory: Path) -> None:
        new_ledger(directory)
        self._fds = [os.open(directory / name, os.O_RDWR | os.O_CLOEXEC) for name in FILES]
        self._private = Ed25519PrivateKey.from_private_bytes(GRANT_KEY.seed)
        self._public = GRANT_KEY.public.raw

    def work(self, noted: Noted, *, is_signing: bool) -> _Work:
        """Sign or verify, then write and sync."""
        envelope = parse_envelope(noted.document)
        message = pae(envelope.payload_type, envelope.payload)
        signature = self._private.sign(message)

        async def done() -> None:
            if is_signing:
                self._private.sign(message)
            else:
                Ed25519PublicKey.from_public_bytes(self._public).verify(signature, message)
            for step in noted.steps:
                if step.data is None:
                    os.fdatasync(self._fds[step.file])
                else:
                    os.pwrite(self._fds[step.file], step.data, step.offset)

        return done

    def close(self) -> None:
        """Give the files back."""
        for fd in self._fds:
            os.close(fd)


def new_ledger(directory: Path) -> Path:
    """A ledger of nobody yet, in two files of a new directory."""
    directory.mkdir()
    create(directory, encode_snapshot(LedgerState(install_code="", mark_s=NOW)))
    return directory
