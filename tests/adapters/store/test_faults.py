"""The ledger on real files and devices when system calls fail, and when its making is cut short."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smartserver_licensed.domain.errors import (
    LedgerCorruptError,
    LedgerMissingError,
    LedgerNewerError,
    LedgerOccupiedError,
    StorageError,
)
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store.area import AREA_BYTES, FILES, FileArea, Place
from smartserver_licensed.store.log import Ledger, _snapshot_record, _write_snapshot, create
from smartserver_licensed.store.record import FIRST_HEAD
from smartserver_licensed.store.recovery import Recovered
from support.disk import Disk, after_power_cut
from support.loop import loop

SLOT_BYTES = 4096


def recovered(path: Path) -> Recovered:
    """What the ledger at a path holds."""
    place = Place(path)
    try:
        return Ledger(place.areas()).recovered
    finally:
        place.close()


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir()}


# -- system calls ------------------------------------------------------------------------------------------------------

_CHILD = """
import sys
from pathlib import Path
from smartserver_licensed.domain.errors import StorageError
from smartserver_licensed.store.area import Place
from smartserver_licensed.store.log import Ledger, create
path = Path(sys.argv[1])
try:
    create(path, b"first")
    place = Place(path)
    ledger = Ledger(place.areas())
    ledger.settle(ledger.recovered.snapshot + b"".join(ledger.recovered.events))
    for number in b"123":
        ledger.append(bytes([number]), lambda: b"unused")
        print("done", chr(number), flush=True)
except StorageError as error:
    print("failed", error.code, flush=True)
"""


def run_with_fault(path: Path, fault: str) -> list[str]:
    """The lines of a child that makes a ledger and appends 1, 2, 3, while strace makes a call on its files fail."""
    watched = [option for each in (path, *(path / name for name in FILES)) for option in ("-P", str(each))]
    trace = path.parent / "trace"
    done = subprocess.run(
        [*("strace", "-f", "-qq", "-o", trace), *watched, "-e", f"inject={fault}", sys.executable, "-c", _CHILD, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", "no foreign error gets out"
    assert "(INJECTED)" in trace.read_text(), f"{fault} never struck"
    return done.stdout.splitlines()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


@pytest.mark.needs("strace")
@pytest.mark.parametrize(
    "fault",
    [
        *(f"pwrite64:error=ENOSPC:when={nth}" for nth in (1, 2, 3, 4, 5, 6, 8, 11)),
        *(f"fdatasync:error=EIO:when={nth}" for nth in (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)),
        "fsync:error=EIO:when=1",
        *(f"openat:error=EROFS:when={nth}" for nth in range(1, 9)),
        "preadv,preadv2:error=EIO:when=1+",
        "flock:error=ENOLCK:when=1",
    ],
)
def test_whichever_call_fails_the_error_is_ours_and_nothing_acknowledged_is_lost(state: Path, fault: str) -> None:
    lines = run_with_fault(state, fault)
    acknowledged = "".join(line.split()[1] for line in lines if line.startswith("done"))
    assert lines[-1].startswith("failed storage-")
    assert lines[-1] != "failed storage-busy", "nobody else holds it"
    assert len(lines) == len(acknowledged) + 1
    create(state, b"first")
    kept = recovered(state)
    assert (kept.snapshot + b"".join(kept.events)).decode().startswith("first" + acknowledged)


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync"])
def test_an_interrupted_call_is_done_again(state: Path, call: str) -> None:
    assert run_with_fault(state, f"{call}:error=EINTR:when=1+2") == ["done 1", "done 2", "done 3"]
    assert b"".join(recovered(state).events) == b"123"


@pytest.mark.needs("strace")
def test_after_a_short_write_the_rest_is_written_where_it_belongs(tmp_path: Path) -> None:
    """strace says that 512 bytes were written (and writes none); what follows must begin at byte 512."""
    path = tmp_path / "area"
    path.write_bytes(bytes(4 * SLOT_BYTES))
    child = (
        "import sys; from pathlib import Path; from smartserver_licensed.store.area import FileArea\n"
        "FileArea(Path(sys.argv[1]), size_bytes=16384).write(4096, bytes(range(1, 129)) * 32)"
    )
    inject = ["-P", str(path), "-e", "inject=pwrite64:retval=512:when=1"]
    subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", child, str(path)], check=True, timeout=60
    )
    written = bytes(range(1, 129)) * 32
    assert path.read_bytes() == bytes(SLOT_BYTES + 512) + written[512:] + bytes(2 * SLOT_BYTES)


@pytest.mark.needs("strace")
@pytest.mark.parametrize("nth", ["1", "2", "1..200"])
def test_a_read_that_fails_is_done_again_page_by_page_and_what_stays_unreadable_is_repaired_from_the_twin(
    state: Path, nth: str
) -> None:
    lines = run_with_fault(state, f"preadv,preadv2:error=EIO:when={nth}")  # which of them, the C library decides
    assert lines == ["done 1", "done 2", "done 3"]
    assert b"".join(recovered(state).events) == b"123"


@pytest.mark.needs("losetup", "root", "/dev/loop-control")
def test_what_is_on_the_device_is_read_and_not_what_the_page_cache_says(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(2 * AREA_BYTES))
    with loop(image) as device, device.open("rb") as cached:
        cached.read(SLOT_BYTES)
        with image.open("r+b") as beneath:
            beneath.write(b"on the device")
        cached.seek(0)
        assert cached.read(2) == bytes(2), "the page cache of the device still has the old content"
        area = FileArea(device)
        assert bytes(area.read()[:13]) == b"on the device"
        area.close()


# -- making a ledger ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [300, 3_000, 9_000])
@pytest.mark.parametrize("mode", ["none", "all", "part"])
def test_a_ledger_whose_making_was_cut_is_there_or_is_made_again(state: Path, mode: str, size: int) -> None:
    chance = random.Random(f"{mode}{size}")
    disks = [Disk(bytearray(AREA_BYTES)) for _ in FILES]
    cuts: list[list[bytearray]] = []

    class Cutting(Disk):
        def write(self, offset: int, data: bytes) -> None:
            super().write(offset, data)
            cuts.append([after_power_cut(disk, chance, mode) for disk in disks])

    disks = [Cutting(disk.content) for disk in disks]
    first = _snapshot_record(0, FIRST_HEAD, bytes([7]) * size, bytes(range(32)))
    for disk in disks:
        _write_snapshot(disk, first)
    assert len(cuts) == 4
    for cut in cuts:
        for name, content in zip(FILES, cut, strict=True):
            (state / name).write_bytes(content)
        try:
            held = recovered(state).snapshot
        except LedgerMissingError:
            assert create(state, b"again") is True
            held = recovered(state).snapshot
        assert held in (b"again", bytes([7]) * size)
        assert create(state, b"never") is False


def test_a_ledger_that_cannot_be_read_is_no_place_for_a_new_one(state: Path) -> None:
    create(state, b"first")
    for place, byte, error in ((100, b"damaged!", LedgerCorruptError), (4, b"\x02", LedgerNewerError)):
        for name in FILES:
            with (state / name).open("r+b") as file:
                file.seek(place)
                file.write(byte)
        before = contents(state)
        with pytest.raises(error):
            create(state, b"second")
        assert contents(state) == before


@pytest.mark.parametrize(
    ("log", "offset"), [(0, 3 * SLOT_BYTES), (0, AREA_BYTES - 1), (1, 0), (1, 7), (1, AREA_BYTES - 1)]
)
def test_a_damaged_first_snapshot_with_anything_beside_it_is_never_made_anew(
    state: Path, log: int, offset: int
) -> None:
    """It looks like a creation that was cut, but something else was written: that is a ledger, damaged."""
    create(state, b"first")
    (state / FILES[1]).write_bytes(bytes(AREA_BYTES))
    for name, place in ((FILES[0], 100), (FILES[log], offset)):
        with (state / name).open("r+b") as file:
            file.seek(place)
            file.write(b"damaged!"[: AREA_BYTES - place])
    before = contents(state)
    with pytest.raises((LedgerCorruptError, LedgerOccupiedError)):
        create(state, b"second")
    assert contents(state) == before


def test_a_refused_place_is_untouched_and_no_file_is_left_open(state: Path) -> None:
    (state / FILES[1]).write_bytes(b"a letter")
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LedgerOccupiedError, match=FILES[1]):
        create(state, b"first")
    assert contents(state) == {FILES[1]: b"a letter"}
    assert len(os.listdir("/proc/self/fd")) == opened


# -- the writer --------------------------------------------------------------------------------------------------------


async def test_closing_does_not_wait_for_ever_for_what_hangs(state: Path) -> None:
    create(state, b"first")
    writer = LedgerWriter(state)
    await writer.open()
    await writer.settle(b"first")
    big = bytes(AREA_BYTES - 3 * SLOT_BYTES)
    await writer.append(big, lambda: b"first")
    released = threading.Event()

    def hanging() -> bytes:
        released.wait(30)
        return b"first"

    append = asyncio.create_task(writer.append(big, hanging))
    await asyncio.sleep(0.1)
    start = time.monotonic()
    await writer.close(limit_s=0.3)
    assert time.monotonic() - start < 3
    released.set()
    with contextlib.suppress(StorageError):
        await append
