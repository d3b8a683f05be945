"""`smartserver-licensed --init-state`: makes a ledger on zeros, and never touches anything else."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from smartserver_licensed.store.area import AREA_BYTES
from smartserver_licensed.store.record import FIRST_HEAD, FORMAT, MAGIC, SECRET_BYTES, Kind, frame
from support.box import BIN, Box

MIB = 1 << 20
SIZE = 16 * MIB
SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def init_state(path: Path, *under: str) -> subprocess.CompletedProcess[str]:
    command = [*under, str(BIN / "smartserver-licensed"), "--init-state", str(path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def image_of(directory: Path, content: bytes = bytes(SIZE)) -> Path:
    image = directory / "image"
    image.write_bytes(content)
    return image


def contents(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in ([path] if not path.is_dir() else sorted(path.iterdir()))}


@contextlib.contextmanager
def on_device(image: Path) -> Iterator[Path]:
    env = {**os.environ, "PATH": SBIN}
    found = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True, env=env
    )
    device = Path(found.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True, env=env)


def assert_made_once(path: Path) -> None:
    done = init_state(path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: a new ledger\n", "")
    before = contents(path)
    again = init_state(path)
    said = f"{path}: a ledger is there already; nothing was changed\n"
    assert (again.returncode, again.stdout, again.stderr) == (0, said, "")
    assert contents(path) == before


def assert_refused(path: Path, code: str) -> str:
    """What it says; nothing was touched."""
    before = contents(path)
    done = init_state(path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("smartserver-licensed: cannot ")
    assert done.stderr.endswith(f" [{code}]\n")
    assert contents(path) == before
    return done.stderr


# -- made -------------------------------------------------------------------------------------------------


def test_an_image_file_becomes_a_ledger_once(tmp_path: Path) -> None:
    assert_made_once(image_of(tmp_path))


def test_an_empty_directory_becomes_a_ledger_once_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    assert_made_once(tmp_path)
    modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    assert modes == {"ledger.a": 0o600, "ledger.b": 0o600}


@pytest.mark.needs("root", "losetup", "/dev/loop-control")
def test_a_device_becomes_a_ledger_once_also_by_a_link_to_it(tmp_path: Path) -> None:
    with on_device(image_of(tmp_path)) as device:
        link = tmp_path / "ss-license"
        link.symlink_to(device)
        assert_made_once(link)
        assert "nothing was changed" in init_state(device).stdout


def test_what_is_exactly_large_enough_is_taken(tmp_path: Path) -> None:
    assert_made_once(image_of(tmp_path, bytes(2 * AREA_BYTES)))


@pytest.mark.needs("strace")
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
def test_killed_at_any_step_it_is_taken_up_by_the_next_call(call: str, tmp_path: Path) -> None:
    deaths = 0
    for number in range(1, 30):
        image = image_of(tmp_path)
        inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        killed = init_state(image, "strace", "-f", "-qq", "-o", "/dev/null", *inject)
        if killed.returncode == 0:
            break
        deaths += 1
        done = init_state(image)
        assert (done.returncode, done.stderr) == (0, ""), f"{call} {number}"
        assert "nothing was changed" in init_state(image).stdout
    assert deaths > 1


# -- refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 4096, 2 * AREA_BYTES - 1])
def test_what_is_too_small_is_refused_with_the_size_that_is_needed(size: int, tmp_path: Path) -> None:
    assert f"less than {2 * AREA_BYTES} bytes" in assert_refused(image_of(tmp_path, bytes(size)), "storage-missing")


@pytest.mark.needs("root", "losetup", "/dev/loop-control")
def test_a_device_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with on_device(image_of(tmp_path, bytes(4 * MIB))) as device:
        assert_refused(device, "storage-missing")


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = init_state(tmp_path / "none")
    assert done.returncode == 1
    assert done.stderr.endswith("/none: No such file or directory [storage-missing]\n")


@pytest.mark.parametrize("offset", [0, 511, AREA_BYTES - 1, AREA_BYTES, 2 * AREA_BYTES, SIZE - 1])
def test_one_byte_of_something_else_is_enough_wherever_it_stands(offset: int, tmp_path: Path) -> None:
    content = bytearray(SIZE)
    content[offset] = 1
    assert_refused(image_of(tmp_path, bytes(content)), "storage-occupied")


@pytest.mark.needs("root", "losetup", "mkfs.ext4", "/dev/loop-control")
def test_a_file_system_is_never_overwritten(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, env={**os.environ, "PATH": SBIN})
    with on_device(image) as device:
        assert_refused(device, "storage-occupied")


def _another_file(directory: Path) -> None:
    (directory / "notes").write_text("mine")


def _a_file_of_its_name(directory: Path) -> None:
    (directory / "ledger.a").write_bytes(bytes(100) + b"!")


@pytest.mark.parametrize("fill", [_another_file, _a_file_of_its_name])
def test_a_directory_that_holds_something_else_is_refused(fill: Callable[[Path], None], tmp_path: Path) -> None:
    fill(tmp_path)
    assert_refused(tmp_path, "storage-occupied")


def test_a_damaged_ledger_is_never_overwritten(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    init_state(image)
    with image.open("r+b") as file:
        for log in (0, AREA_BYTES):
            file.seek(log + 100)
            file.write(b"!!!!")
    assert_refused(image, "storage-corrupt")


def test_a_ledger_with_one_damaged_log_is_one_and_is_left_for_the_daemon_to_repair(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    init_state(image)
    with image.open("r+b") as file:
        file.seek(100)
        file.write(b"!!!!")
    before = contents(image)
    done = init_state(image)
    assert (done.returncode, "nothing was changed" in done.stdout) == (0, True)
    assert contents(image) == before


def test_the_ledger_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    secret = bytes(range(SECRET_BYTES))
    record = bytearray(frame(Kind.SNAPSHOT, 5, FIRST_HEAD, secret + b"of tomorrow", secret=secret))
    record[len(MAGIC)] = FORMAT + 1
    log = bytes(record).ljust(AREA_BYTES, b"\0")
    said = assert_refused(image_of(tmp_path, (log + log).ljust(SIZE, b"\0")), "storage-newer")
    assert f"format {FORMAT + 1}" in said


@pytest.mark.needs("mosquitto", "dbus-daemon")
def test_a_ledger_that_a_daemon_uses_is_left_to_it() -> None:
    with Box(capacity=3) as box:
        done = init_state(box.state)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith(": another process holds it [storage-busy]\n")
        assert (box.status()["storage"], box.status()["capacity"]) == ("ok", 3)


@pytest.mark.needs("root", "losetup", "blockdev", "/dev/loop-control")
def test_a_device_that_is_read_only_is_refused(tmp_path: Path) -> None:
    with on_device(image_of(tmp_path)) as device:
        subprocess.run(["blockdev", "--setro", str(device)], check=True, env={**os.environ, "PATH": SBIN})
        done = init_state(device)
        assert done.returncode == 1
        assert done.stderr.startswith(f"smartserver-licensed: cannot write {device}: ")
        assert not any(device.read_bytes())
