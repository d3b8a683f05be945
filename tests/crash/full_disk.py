"""F5: the daemon's root file system is full to the last block, then read-only; commits go on.

Rules:
- the daemon sees a root of its own: an overlay whose upper layer is a small ext4 without a free block or inode; only
  the ledger's device and the socket of D-Bus lie elsewhere;
- that it is full (later: read-only) is shown while the daemon runs, by writing through its eyes (/proc/PID/root);
- devices come and are deleted, one after the other, each answer awaited: a commit each, counted in the ledger itself.

What this module does not do: it fills no file system of the machine.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

from smartserver_licensed.domain import messages
from support.box import INSTALL_CODE
from support.broker import Client

from .bed import Bed, ledger_of
from .table import Row, Scale

_DISK_BYTES = 4 << 20
_NEW = ("", "tmp", "var", "var/tmp", "root", "etc", "dev/shm")
_OLD = ("etc/passwd", "dev/shm/0")  # one that would have to be copied to be changed, one on the small disk itself
_HANDLE = "passing"
_LIC = f"glp/0/{INSTALL_CODE}/fb/dev/modbus/{_HANDLE}/lic"
_START_LIMIT_S = 20.0
_ANSWER_LIMIT_S = 10.0
# $1 the small disk's image, $2 an empty directory, $3 the box's directory, $4 and $5 what the program needs, $6... it
_FULL_ROOT = """
set -e
disk=$2/disk root=$2/root box=$3
mount -o loop "$1" $disk
mkdir $disk/upper $disk/work
mount -t overlay overlay -o lowerdir=/,upperdir=$disk/upper,workdir=$disk/work $root
mkdir -p $root$box
cp $box/config.toml $box/root.json $box/environment $root$box/
touch $root$box/bus
mount --bind $box/bus $root$box/bus
for each in /proc /dev "$4" "$5"; do mkdir -p $root$each; mount --rbind $each $root$each; done
mount --bind $disk $root/dev/shm
for each in "$4" "$5"; do mount -o remount,ro,bind $root$each; done
shift 5
number=0
while (: > $disk/$number) 2>/dev/null; do number=$((number + 1)); done
for size in 64k 1k 1; do dd if=/dev/zero bs=$size status=none >> $disk/0 2>/dev/null || sync; done
exec chroot $root "$@"
"""


def run(scale: Scale, directory: Path) -> list[Row]:
    """Half of the commits on a full root, half on a read-only one."""
    half = scale.pick(500, 5_000)
    rows = [Row("F5", "root file system full"), Row("F5", "root file system read-only")]
    with Bed(directory, "full") as bed:
        bed.begin(*_on_full_root(bed, directory))
        try:
            if not bed.wait(lambda: bed.on_bus("StorageState") == "ok", _START_LIMIT_S):
                rows[0].fail("lost", f"it does not start: ...{bed.box.log[-300:]}")
                return rows
            for row, expected in zip(rows, (errno.ENOSPC, errno.EROFS), strict=True):
                if expected == errno.EROFS:
                    _make_read_only(bed.box.pid)
                _commit(bed, row, half, expected)
        finally:
            bed.end()
    return rows


def _on_full_root(bed: Bed, directory: Path) -> list[str]:
    """What a program is put under so that its root is full; the mounts go with it."""
    disk, places = directory / "full.ext4", directory / "full"
    disk.write_bytes(bytes(_DISK_BYTES))
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-N", "64", str(disk)], check=True)
    for name in ("disk", "root"):
        (places / name).mkdir(parents=True, exist_ok=True)
    needed = [str(Path(__file__).parents[2]), sys.base_prefix]
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-c", _FULL_ROOT, "sh"),
        *(str(disk), str(places), str(bed.box.directory), *needed),
    ]


def _make_read_only(pid: int) -> None:
    inside = ["nsenter", f"--target={pid}", "--mount", "--root", "--wd"]
    for place in ("/", "/dev/shm"):
        subprocess.run([*inside, "mount", "-o", "remount,ro", place], check=True)


def _commit(bed: Bed, row: Row, number: int, expected: int) -> None:
    """So many devices come and go, while nothing can be written but the ledger."""
    start, before = time.monotonic(), ledger_of(bed.image()).seq
    _check_cannot_write(bed.box.pid, expected)
    with Client(bed.box.broker.port) as client:
        client.subscribe(_LIC)
        try:
            for each in range(number):
                _come_or_go(bed, client, is_coming=each % 2 == 0)
        except TimeoutError as error:
            row.fail("lost", f"after {each} answers: {error}")
    _check_cannot_write(bed.box.pid, expected)
    row.states = ledger_of(bed.image()).seq - before
    if row.states < number:
        row.fail("lost", f"{row.states} commits in the ledger, {number} answers")
    if messages.STORAGE_CONDITION_CHANGED.sentence in bed.box.log:
        row.fail("lost", f"the ledger's condition changed: ...{bed.box.log[-300:]}")
    row.seconds = time.monotonic() - start


def _come_or_go(bed: Bed, client: Client, *, is_coming: bool) -> None:
    """A device appears and is admitted, or is deleted: a commit, after which it is answered."""
    bed.show(_HANDLE, "unlicensed" if is_coming else "deleted")
    client.wait_for(lambda message: message.json()["licensed"] is is_coming, _ANSWER_LIMIT_S)
    client.clear()


def _check_cannot_write(pid: int, expected: int) -> None:
    """Through the daemon's eyes, wherever it could write: no new file, no change of an old one."""
    root = Path(f"/proc/{pid}/root")
    assert root.stat().st_dev != Path("/").stat().st_dev, "the daemon has the machine's own root"
    for path in [*(root / place / "probe" for place in _NEW), *(root / old for old in _OLD)]:
        number = _why_not_written(path)
        assert number == expected, f"{path}: {os.strerror(number)}: the root is not as it should be"


def _why_not_written(path: Path) -> int:
    """The number of the error; 0 where a byte could be written."""
    try:
        with path.open("ab", buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        return error.errno or 0
    return 0
