"""The partition that is the ledger: made on real disks beside what is there, taken up again, refused where need be."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.box import BIN, Box

pytestmark = pytest.mark.needs("root", "losetup", "sfdisk", "partx", "lsblk", "mkfs.ext4", "/dev/loop-control")
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "packaging/partition"
MIB = 1 << 20
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"
FRESH = "label: gpt\n"
TWO_OTHERS = "label: gpt\nsize=8MiB, name=boot\nsize=20MiB, name=root\n"


def call(*command: str, given: str = "") -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, input=given, env={**os.environ, "PATH": SBIN}
    ).stdout


@dataclass
class LoopDisk:
    """An image on a loop device."""

    image: Path
    node: Path

    def content(self) -> bytes:
        return self.image.read_bytes()

    def entries(self) -> list[dict[str, Any]]:
        partitions = json.loads(call("sfdisk", "--json", str(self.node)))["partitiontable"].get("partitions", [])
        assert isinstance(partitions, list)
        return partitions

    def partition(self, number: int) -> Path:
        """Its node; a kernel that reads no GPT is told of it."""
        node = Path(f"{self.node}p{number}")
        if not node.exists():
            call("partx", "--add", "--nr", str(number), str(self.node))
        return node


@contextlib.contextmanager
def disk(directory: Path, table: str = "", *, size_mib: int = 64, sector_bytes: int = 512) -> Iterator[LoopDisk]:
    image = directory / "disk.img"
    with image.open("wb") as file:
        file.truncate(size_mib * MIB)
    node = call("losetup", "--find", "--show", "--partscan", f"--sector-size={sector_bytes}", str(image)).strip()
    try:
        if table:
            call("sfdisk", "--quiet", node, given=table)
        yield LoopDisk(image, Path(node))
    finally:
        subprocess.run(["partx", "--delete", node], check=False, capture_output=True)
        call("losetup", "--detach", node)


def partition(
    path: Path, *, first_in_path: Path = BIN, under: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    command = [*under, sys.executable, str(PROGRAM), str(path)]
    env = {**os.environ, "PATH": f"{first_in_path}:{BIN}:{SBIN}"}
    return subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=60)


def made(path: Path) -> Path:
    """The node that the program says the ledger is on."""
    done = partition(path)
    assert (done.returncode, done.stderr) == (0, "")
    return Path(done.stdout.splitlines()[-1].partition(": ")[0])


def test_a_partition_is_made_as_far_back_as_it_goes_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    with disk(tmp_path, FRESH) as empty:
        done = partition(empty.node)
        node = empty.partition(1)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{empty.node}: the partition ss-license was made, number 1\n{node}: a new ledger\n"
        (entry,) = empty.entries()
        assert (entry["name"], entry["start"] * 512, entry["size"] * 512) == ("ss-license", 47 * MIB, 16 * MIB)
        assert entry["type"] == "8DA63339-0007-60C0-C436-083AC8230908"  # "Linux reserved"
        assert empty.content()[47 * MIB :].startswith(b"SSLG")
        before = empty.content()
        done = partition(empty.node)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            f"{empty.node}: the partition ss-license is there already, number 1",
            f"{node}: a ledger is there already; nothing was changed",
        ]
        assert empty.content() == before


def test_partitions_that_are_mounted_meanwhile_keep_every_byte(tmp_path: Path) -> None:
    with disk(tmp_path, TWO_OTHERS) as used, contextlib.ExitStack() as later:
        root = used.partition(2)
        call("mkfs.ext4", "-q", str(root))
        used.partition(1).write_bytes(os.urandom(8 * MIB))
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        call("mount", str(root), str(mountpoint))
        later.callback(call, "umount", str(mountpoint))
        (mountpoint / "file").write_bytes(b"kept" * MIB)
        os.sync()
        before, others = used.content(), used.entries()
        assert made(used.node).name.endswith("p3")
        assert used.entries()[:2] == others
        assert used.content()[MIB : 29 * MIB] == before[MIB : 29 * MIB]
        assert (mountpoint / "file").read_bytes() == b"kept" * MIB


def test_the_room_between_two_partitions_is_enough(tmp_path: Path) -> None:
    with disk(tmp_path, "label: gpt\nstart=1MiB, size=8MiB\nstart=30MiB, size=33MiB\n") as full_at_the_end:
        made(full_at_the_end.node)
        assert [entry["start"] * 512 // MIB for entry in full_at_the_end.entries()] == [1, 30, 14]


def test_a_disk_of_large_sectors_is_counted_in_them(tmp_path: Path) -> None:
    with disk(tmp_path, TWO_OTHERS, sector_bytes=4096) as large:
        node = made(large.node)
        assert [entry["start"] * 4096 // MIB for entry in large.entries()] == [1, 9, 47]
        assert large.content()[47 * MIB :].startswith(b"SSLG")
        assert made(large.node) == node


def test_a_partition_that_somebody_else_made_is_taken_by_its_name(tmp_path: Path) -> None:
    with disk(tmp_path, "label: gpt\nstart=3MiB, size=9MiB, name=ss-license\n") as prepared:
        before = prepared.entries()
        assert made(prepared.node) == prepared.partition(1)
        assert prepared.entries() == before
        assert prepared.content()[3 * MIB :].startswith(b"SSLG")


# -- interrupted ------------------------------------------------------------------------------------------


def test_killed_before_the_ledger_is_made_it_goes_on_there(tmp_path: Path) -> None:
    killer = tmp_path / "smartserver-licensed"
    killer.write_text("#!/bin/sh\nkill -9 $PPID\n")
    killer.chmod(0o755)
    with disk(tmp_path, TWO_OTHERS) as interrupted:
        assert partition(interrupted.node, first_in_path=tmp_path).returncode == -9
        assert len(interrupted.entries()) == 3
        assert not any(interrupted.content()[47 * MIB : 63 * MIB])
        assert made(interrupted.node) == interrupted.partition(3)
        assert len(interrupted.entries()) == 3


@pytest.mark.needs("strace")
def test_killed_at_any_write_of_the_table_the_others_stay_and_it_goes_on(tmp_path: Path) -> None:
    """A GPT is written as a copy and then the original: one of them is whole at any moment."""
    deaths = 0
    for write in range(1, 20):
        with disk(tmp_path, TWO_OTHERS) as torn:
            others = torn.entries()
            done = partition(
                torn.node,
                under=("strace", "-f", "-qq", "-o", "/dev/null", "-P", str(torn.node), "-e", "trace=write",
                       "-e", f"inject=write:signal=KILL:when={write}"),
            )  # fmt: skip
            if done.returncode == 0:
                break
            deaths += 1
            assert made(torn.node) == torn.partition(3)
            assert torn.entries()[:2] == others
            assert [entry["name"] for entry in torn.entries()] == ["boot", "root", "ss-license"]
    assert deaths >= 5


# -- after a re-image -------------------------------------------------------------------------------------


def test_a_disk_that_was_written_anew_gets_it_back_with_what_is_in_it(tmp_path: Path) -> None:
    """The image of the software is smaller than the disk and knows nothing of the partition."""
    software = tmp_path / "software"
    software.mkdir()
    with disk(software, TWO_OTHERS, size_mib=40) as image:
        contents = image.content()
    with Box() as box, disk(tmp_path, TWO_OTHERS) as flash:
        box.stop()
        node = made(flash.node)
        box.config.write_text(box.config.read_text().replace(str(box.state), str(node)))
        box.start()
        box.license(7)
        box.stop()
        call("partx", "--delete", str(flash.node))
        with flash.image.open("r+b") as file:
            file.write(contents)
        assert len(flash.entries()) == 2
        done = partition(flash.node)
        assert done.stdout.splitlines()[-1] == f"{node}: a ledger is there already; nothing was changed"
        box.start()
        assert (box.status()["storage"], box.status()["capacity"]) == ("ok", 7)
        box.stop()


def test_a_ledger_in_use_is_left_to_its_daemon(tmp_path: Path) -> None:
    with Box() as box, disk(tmp_path, FRESH) as flash:
        box.stop()
        box.config.write_text(box.config.read_text().replace(str(box.state), str(made(flash.node))))
        box.start()
        done = partition(flash.node)
        assert done.returncode == 1
        assert done.stderr.endswith("another process holds it [storage-busy]\n")
        assert box.status()["storage"] == "ok"
        box.stop()


# -- refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("", "it has no GPT (no partition table)"),
        ("label: dos\nsize=8MiB\n", "it has no GPT (dos)"),
        ("label: gpt\nsize=50MiB\n", "it needs 16 MiB, the largest room is 12 MiB"),
        ("label: gpt\nsize=9MiB, name=ss-license\nsize=9MiB, name=ss-license\n", "both are named ss-license"),
    ],
)
def test_a_disk_without_a_gpt_without_room_or_with_two_of_them_stays_as_it_is(
    table: str, said: str, tmp_path: Path
) -> None:
    with disk(tmp_path, table) as unsuited:
        before = unsuited.content()
        done = partition(unsuited.node)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr
        assert unsuited.content() == before


def test_a_disk_that_is_a_file_system_stays_as_it_is(tmp_path: Path) -> None:
    with disk(tmp_path) as formatted:
        call("mkfs.ext4", "-q", str(formatted.node))
        before = formatted.content()
        assert "it has no GPT" in partition(formatted.node).stderr
        assert formatted.content() == before


def test_a_disk_that_is_mounted_as_a_whole_is_in_use(tmp_path: Path) -> None:
    """As a hybrid image is, which is a file system and has a table."""
    with disk(tmp_path) as hybrid, contextlib.ExitStack() as later:
        call("mkfs.ext4", "-q", str(hybrid.node))
        mountpoint = tmp_path / "mnt"
        mountpoint.mkdir()
        call("mount", "-o", "ro", str(hybrid.node), str(mountpoint))
        later.callback(call, "umount", str(mountpoint))
        call("sfdisk", "--quiet", "--force", "--no-reread", "--no-tell-kernel", str(hybrid.node), given=FRESH)
        done = partition(hybrid.node)
        assert done.returncode == 1
        assert f"the whole disk is in use ({mountpoint})" in done.stderr
        assert hybrid.entries() == []


def test_a_disk_that_another_partitioning_tool_has_locked_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    with disk(tmp_path, FRESH) as locked, locked.node.open("rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        done = partition(locked.node)
        assert done.returncode == 1
        assert "another program has locked it" in done.stderr
        assert locked.entries() == []


@pytest.mark.parametrize("kind", ["one byte at the end", "a file system"])
def test_old_bytes_in_the_room_are_not_overwritten_but_named(kind: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_bytes(bytes(16 * MIB - 1) + b"!")
    if kind == "a file system":
        call("mkfs.ext4", "-q", str(old))
    with disk(tmp_path, FRESH) as used:
        with used.image.open("r+b") as file:
            file.seek(47 * MIB)
            file.write(old.read_bytes())
        done = partition(used.node)
        node = used.partition(1)
        assert done.returncode == 1
        assert "[storage-occupied]" in done.stderr
        assert f"dd if=/dev/zero of={node} bs=1M" in done.stderr
        assert used.content()[47 * MIB : 63 * MIB] == old.read_bytes()
        node.write_bytes(bytes(16 * MIB))
        assert made(used.node) == node


def test_a_damaged_ledger_is_never_overwritten(tmp_path: Path) -> None:
    with disk(tmp_path, FRESH) as damaged:
        node = made(damaged.node)
        with node.open("r+b") as file:
            for log in (0, 4 * MIB):
                file.seek(log + 100)
                file.write(b"!!!!")
        before = damaged.content()
        done = partition(damaged.node)
        assert done.returncode == 1
        assert "[storage-corrupt]" in done.stderr
        assert "dd if" not in done.stderr
        assert damaged.content() == before


def test_a_partition_or_an_image_file_is_taken_as_it_is(tmp_path: Path) -> None:
    with disk(tmp_path, "label: gpt\nsize=16MiB, name=mine\nsize=16MiB\n") as prepared:
        before = prepared.entries()
        assert made(prepared.partition(1)) == prepared.partition(1)
        call("mkfs.ext4", "-q", str(prepared.partition(2)))
        done = partition(prepared.partition(2))
        assert (done.returncode, "[storage-occupied]" in done.stderr) == (1, True)
        assert prepared.entries() == before
    image = tmp_path / "image"
    image.write_bytes(bytes(16 * MIB))
    assert made(image) == image
    assert made(image) == image
    image.write_bytes(bytes(16 * MIB - 1) + b"!")
    assert partition(image).returncode == 1
    assert image.read_bytes() == bytes(16 * MIB - 1) + b"!"


def test_a_path_or_a_tool_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert partition(tmp_path / "none").stderr == f"partition: cannot use {tmp_path}/none: No such file or directory\n"
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert (done.returncode, done.stderr) == (1, "partition: cannot find partx: install the package util-linux\n")


# -- a /dev of its own: as udev would make it, seen by nobody else -------------------------------------------

_OWN_DEV = """
mkdir {directory}/dev && mount -t tmpfs tmpfs {directory}/dev && cp -a /dev/null {nodes} {directory}/dev
mount --move {directory}/dev /dev && rmdir {directory}/dev
"""
_UDEV = """
mount -t tmpfs tmpfs /run && mkdir -p /run/udev/rules.d && cp {rules} /run/udev/rules.d/
cp /etc/group {directory}/group && echo "smartserver-licensed:x:987:" >> {directory}/group
mount --bind {directory}/group /etc/group
udevadm test --action=add /sys/class/block/{node.name} > {log} 2>&1
stat -c '%g %a' {node}; readlink -f /dev/disk/by-partlabel/ss-license || true
"""
_LINKED = """
mkdir -p /dev/disk/by-partlabel && ln -s {linked} /dev/disk/by-partlabel/ss-license
exec "$@"
"""


def in_own_dev(directory: Path, nodes: list[Path], script: str) -> tuple[str, ...]:
    """A shell that runs the script where /dev holds only these nodes."""
    dev = _OWN_DEV.format(directory=directory, nodes=" ".join(map(str, nodes)))
    return ("unshare", "--mount", "--propagation", "private", "sh", "-ec", dev + script, "sh")


@pytest.mark.needs("udevadm", "unshare", "/usr/lib/udev/rules.d/60-persistent-storage.rules")
def test_udev_gives_the_partition_to_the_daemons_group_and_makes_the_link_of_the_configuration(tmp_path: Path) -> None:
    with disk(tmp_path, TWO_OTHERS) as flash:
        ours, root = made(flash.node), flash.partition(2)
        found = {}
        for node in (ours, root):
            rules, log = ROOT / "systemd/60-smartserver-license.rules", tmp_path / f"{node.name}.log"
            script = _UDEV.format(rules=rules, directory=tmp_path, node=node, log=log)
            found[node] = call(*in_own_dev(tmp_path, [flash.node, node], script)).split()
        assert found[ours] == ["987", "660", str(ours)], (tmp_path / f"{ours.name}.log").read_text()
        assert found[root][:1] != ["987"]


@pytest.mark.needs("unshare")
def test_a_second_disk_gets_none_since_two_would_contend_for_the_link(tmp_path: Path) -> None:
    second_directory = tmp_path / "second"
    second_directory.mkdir()
    with disk(tmp_path, FRESH) as first, disk(second_directory, FRESH) as second:
        nodes = [first.node, made(first.node), second.node]
        linked = in_own_dev(tmp_path, nodes, _LINKED.format(linked=nodes[1]))
        done = partition(second.node, under=linked)
        assert done.returncode == 1
        assert done.stderr == f"partition: cannot make ss-license on {second.node}: there is one already, {nodes[1]}\n"
        assert second.entries() == []
        assert partition(first.node, under=linked).returncode == 0
