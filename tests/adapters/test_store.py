"""The ledger on real places: a directory on this file system, an image file, a loop device; killed for real."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartserver_licensed.domain.errors import (
    LedgerBusyError,
    LedgerMissingError,
    LedgerOccupiedError,
    WriteFailedError,
)
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import AREA_BYTES, Place
from smartserver_licensed.store.log import Ledger, create
from support.loop import loop, set_read_only

IMAGE_BYTES = 16 << 20


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.img"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    return path


def holds_nothing(path: Path) -> bool:
    return not any(path.read_bytes())


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.fixture
def loop_device(image: Path) -> Iterator[Path]:
    with loop(image) as device:
        yield device


@pytest.fixture
def read_only_ledger(image: Path) -> Iterator[Path]:
    create(image, b"first")
    with loop(image) as device:
        set_read_only(device, is_read_only=True)
        yield device


async def events_of(path: Path) -> tuple[bytes, ...]:
    writer = LedgerWriter(path)
    try:
        return (await writer.open()).events
    finally:
        await writer.close()


async def write_and_read(path: Path) -> None:
    assert create(path, b"first") is True
    writer = LedgerWriter(path)
    recovered = await writer.open()
    assert (recovered.snapshot, recovered.events) == (b"first", ())
    await writer.settle(b"first")
    await writer.append(b"one", lambda: b"first")
    await writer.append(b"two", lambda: b"first")
    await writer.close()
    assert await events_of(path) == (b"one", b"two")
    assert create(path, b"again") is False, "a ledger that is there is left alone"
    assert await events_of(path) == (b"one", b"two")


async def test_in_a_directory(tmp_path: Path) -> None:
    await write_and_read(tmp_path)


async def test_in_an_image_file(image: Path) -> None:
    await write_and_read(image)


@pytest.mark.needs("losetup", "root", "/dev/loop-control")
async def test_on_a_block_device(loop_device: Path) -> None:
    await write_and_read(loop_device)


async def test_nothing_becomes_a_ledger_by_being_opened(state: Path, image: Path) -> None:
    for path in (state, image, state / "nothing"):
        missing = LedgerWriter(path)
        with pytest.raises(LedgerMissingError):
            await missing.open()
        await missing.close()
    assert await asyncio.to_thread(lambda: holds_nothing(image) and not list(state.iterdir()))


def test_what_holds_something_else_is_refused_and_left_as_it_is(tmp_path: Path, image: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(LedgerOccupiedError, match=r"letter\.txt"):
        create(tmp_path / "other", b"first")
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["letter.txt"]
    for offset in (100, AREA_BYTES + 5, IMAGE_BYTES - 1):
        with image.open("r+b") as file:
            file.seek(offset)
            file.write(b"!")
        before = image.read_bytes()
        with pytest.raises(LedgerOccupiedError):
            create(image, b"first")
        assert image.read_bytes() == before
        image.write_bytes(bytes(IMAGE_BYTES))


def test_a_path_that_is_too_small_says_so(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(bytes(4096))
    with pytest.raises(LedgerMissingError, match="less than"):
        create(tmp_path / "small", b"first")


async def test_a_second_process_is_told_that_the_ledger_is_held(tmp_path: Path) -> None:
    create(tmp_path, b"first")
    first, second = LedgerWriter(tmp_path), LedgerWriter(tmp_path)
    await first.open()
    with pytest.raises(LedgerBusyError, match=str(tmp_path)):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


_CHILD = """
import sys
from pathlib import Path
from smartserver_licensed.store.area import Place
from smartserver_licensed.store.log import Ledger
ledger = Ledger(Place(Path(sys.argv[1])).areas())
state = ledger.recovered.snapshot + b"".join(ledger.recovered.events)
ledger.settle(state)
while True:
    number = b"%d," % (state.count(b","))
    ledger.append(number, lambda: state)
    state += number
    sys.stdout.write(number.decode()[:-1] + "\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.6])
def test_a_process_killed_with_9_has_lost_nothing_it_acknowledged(tmp_path: Path, after_s: float) -> None:
    create(tmp_path, b"")
    acknowledged = -1
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(after_s)
        child.kill()
        lines = [first, *child.communicate()[0].split()]
        acknowledged = int(lines[-1]) if lines else acknowledged
        place = Place(tmp_path)
        areas = place.areas()
        ledger = Ledger(areas)
        numbers = (ledger.recovered.snapshot + b"".join(ledger.recovered.events)).split(b",")[:-1]
        assert numbers == [b"%d" % number for number in range(len(numbers))]
        assert len(numbers) - 1 >= acknowledged
        place.close()
    assert acknowledged > 0


@pytest.mark.needs("losetup", "root", "/dev/loop-control")
async def test_a_read_only_device_is_a_storage_error(read_only_ledger: Path) -> None:
    writer = LedgerWriter(read_only_ledger)
    await writer.open()
    await writer.settle(b"first")
    with pytest.raises(WriteFailedError):
        await writer.append(b"one", lambda: b"first")
    await writer.close()


async def test_a_full_log_of_4000_seats_is_recovered_within_the_promise(tmp_path: Path) -> None:
    create(tmp_path, b"s" * 200_000)
    writer = LedgerWriter(tmp_path)
    await writer.open()
    await writer.settle(b"s" * 200_000)
    for number in range(900):
        await writer.append(b"%d" % number, lambda: b"s" * 200_000)
    await writer.close()
    start = time.monotonic()
    assert len(await events_of(tmp_path)) == 900
    assert time.monotonic() - start < 10, "promised: 1 s"


def test_the_writer_serves_one_call_after_the_other(tmp_path: Path) -> None:
    async def many() -> tuple[bytes, ...]:
        create(tmp_path, b"")
        writer = LedgerWriter(tmp_path)
        await writer.open()
        await writer.settle(b"")
        await asyncio.gather(*(writer.append(b"%d" % number, bytes) for number in range(50)))
        await writer.close()
        return await events_of(tmp_path)

    assert asyncio.run(many()) == tuple(b"%d" % number for number in range(50))
