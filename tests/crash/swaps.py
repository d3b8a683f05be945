"""F9: the logs of two SmartServers, and of several times and histories of one, swapped in all subsets.

Rules:
- the real `Keeper` opens the real `LedgerWriter` on two real files; who refuses has written nothing;
- two times of one history: the newest state, whichever log it stands in;
- logs of two SmartServers are refused; those of two histories of one are, or the newer one counts; never a mixture;
- the complete pair of another SmartServer is `foreign`, and an empty pair `missing`.

What this module does not do: it spoils no bytes (`damage`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.status import Storage
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import AREA_BYTES, FILES
from support.ports import SetClocks, keeper_of

from .damage import count
from .images import Image, Life, grown
from .table import Row, Scale

ME, OTHER = "17qtest", "17other"
logging.getLogger("smartserver_licensed").addHandler(logging.NullHandler())  # what it tells is no output of a sweep


@dataclass(frozen=True, slots=True)
class Log:
    """One log to put into a place; `image` is what it was taken from, None for an empty one."""

    name: str
    content: bytes
    image: Image | None
    owner: str = ME


def logs_of(seed: int) -> list[Log]:
    """Those of ME at three times and of a second history from one of them; another SmartServer's; an empty one."""
    chance = random.Random(seed)
    life = grown(ME, seed=seed, commits=chance.randint(20, 60))
    times = [life.image()]
    for _ in range(2):
        life.live(chance.randint(1, 45))
        if chance.random() < 0.3:
            life.license()
        times.append(life.image())
    other_way = Life(ME, seed=seed + 1)
    parting = chance.choice(times[:2]) if chance.random() < 0.7 else times[2]
    other_way.back_to(parting)
    other_way.live(chance.choice([times[2].seq - parting.seq, chance.randint(1, 60)]) or 1)  # as long as `now`, or not
    other = grown(OTHER, seed=seed, commits=chance.randint(20, 60)).image()
    held = dict(zip(("much earlier", "earlier", "now"), times, strict=True)) | {"diverged": other_way.image()}
    logs = [Log(name, image.logs[0], image) for name, image in held.items()]
    return [*logs, Log("the other's", other.logs[0], other, OTHER), Log("empty", b"", None)]


def put(directory: Path, *contents: bytes) -> None:
    """Two files as the daemon has them."""
    for name, content in zip(FILES, contents, strict=True):
        with (directory / name).open("wb") as file:
            file.write(content)
            file.truncate(AREA_BYTES)


async def opened(directory: Path) -> tuple[Storage, bytes]:
    """What a daemon's start makes of the files: the condition, and the state where it has one."""
    ledger = LedgerWriter(directory)
    keeper = keeper_of(ledger, SetClocks(), install_code=ME)
    try:
        await keeper.open()
        return keeper.storage, _said(keeper.state) if keeper.state is not None else b""
    finally:
        await ledger.close()


def _said(state: LedgerState) -> bytes:
    """What a state says, but for what a start itself changes in it."""
    return encode_snapshot(replace(state, repair="", mark_s=0, written_bytes=0, device_seed=b""))


def _judge(row: Row, directory: Path, where: str, a: Log, b: Log) -> None:
    put(directory, a.content, b.content)
    before = [(directory / name).read_bytes() for name in FILES]
    storage, state = asyncio.run(opened(directory))
    row.states += 1
    count(row, storage.value)
    images = sorted((each.image for each in (a, b) if each.image is not None), key=lambda image: image.seq)
    present = [_said(decode_snapshot(image.state)) for image in images]
    is_torn = len(images) == 2 and images[0].seq == images[1].seq and images[0].state != images[1].state
    if not storage.is_writable:
        if storage not in _may_be(a, b):
            row.fail("lost", f"{where}: {storage.value}")
        if [(directory / name).read_bytes() for name in FILES] != before:
            row.fail("lost", f"{where}: {storage.value}, and yet something was written")
    elif is_torn or {a.owner, b.owner} & {OTHER}:
        row.fail("silent", f"{where}: {storage.value}, which of the two it is nobody can know")
    elif state != present[-1]:
        row.fail("lost" if state == present[0] else "doubled", f"{where}: {storage.value}, not the newest state")
    elif (again := asyncio.run(opened(directory)))[1] != state:
        row.fail("lost", f"{where}: {storage.value}, but after a restart {again[0].value} and another state")


def _may_be(a: Log, b: Log) -> set[Storage]:
    """How a pair may be refused."""
    present = [each for each in (a, b) if each.image is not None]
    if not present:
        return {Storage.MISSING}
    if all(each.owner == OTHER for each in present):
        return {Storage.FOREIGN}
    is_mixed = any(each.owner == OTHER or each.name == "diverged" for each in present) and a.name != b.name
    return {Storage.CORRUPT} if is_mixed and len(present) == 2 else set()


def swap(seeds: range, directory: Path) -> Row:
    """Every ordered pair of logs, for each of so many lives."""
    begun = time.monotonic()
    row = Row("F9", "logs of two SmartServers and of several times swapped")
    for seed in seeds:
        for a, b in itertools.product(logs_of(seed), repeat=2):
            _judge(row, directory, f"seed {seed}, a {a.name}, b {b.name}", a, b)
    row.seconds = time.monotonic() - begun
    return row


def run(scale: Scale, directory: Path) -> list[Row]:
    """F9."""
    return [swap(range(scale.pick(3, 50)), directory)]
