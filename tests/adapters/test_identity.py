"""The factors of the hardware, from files as the kernel gives them and from the interfaces of this machine."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest

from smartserver_licensed.adapters.identity import permanent_mac, read_factors, read_release
from smartserver_licensed.domain.binding import NO_FACTORS, Factors

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
CID = "150100384e4244335200a1b2c3d4e500"


class Board:
    """The files of a board in a directory, laid out as in sysfs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.serial = directory / "serial-number"
        self.cids = f"{directory}/block/mmcblk*/device/cid"

    def card(self, number: int, kind: str, cid: str) -> None:
        device = self._directory / f"block/mmcblk{number}/device"
        device.mkdir(parents=True)
        (device / "type").write_text(f"{kind}\n")
        (device / "cid").write_text(f"{cid}\n")

    def factors(self) -> Factors:
        return read_factors(str(self.serial), self.cids, "")


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


def test_a_board_is_known_by_its_serial_and_its_emmc_and_not_by_the_card_in_its_slot(board: Board) -> None:
    board.serial.write_bytes(b"0a1b2c3d\0")
    board.card(0, "SD", "0" * 31 + "1")
    board.card(1, "MMC", CID)
    assert board.factors() == Factors(soc="0a1b2c3d", emmc=CID, mac="")


def test_the_first_emmc_counts_where_there_are_two(board: Board) -> None:
    board.card(2, "MMC", "f" * 32)
    board.card(0, "MMC", CID)
    assert board.factors().emmc == CID


def test_a_board_without_any_of_them_has_no_factors(board: Board) -> None:
    assert board.factors() == NO_FACTORS
    assert read_factors("", "", "") == NO_FACTORS
    assert read_factors("/nowhere", "/nowhere/*", "nowhere0") == NO_FACTORS
    assert read_factors("a\0b", "a\0*", "a\0b") == NO_FACTORS


def test_a_serial_is_read_from_a_line_of_the_form_of_cpuinfo(board: Board) -> None:
    board.serial.write_text("processor\t: 0\nHardware\t: Freescale i.MX6\nSerial\t\t: 00000000a1b2c3d4\n")
    assert board.factors().soc == "00000000a1b2c3d4"


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"0000000000000000\0", b"Serial\t: 0000000000000000\n", b"a\nb\n", b"x" * 10_000_000, b"\x1b[2J"],
)
def test_a_serial_that_was_never_set_or_cannot_be_one_is_unreadable(board: Board, content: bytes) -> None:
    board.serial.write_bytes(content)
    assert board.factors().soc == ""


def test_the_loopback_and_an_interface_that_is_not_there_have_no_permanent_mac() -> None:
    assert permanent_mac("lo") == ""
    assert permanent_mac("nowhere0") == ""
    assert permanent_mac("x" * 16) == ""
    assert permanent_mac("") == ""


def test_a_mac_that_the_kernel_made_up_is_no_permanent_one() -> None:
    """A tap interface has an address in sysfs, and its driver knows none."""
    try:
        tap = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no tap interface can be made here: {error}")
    try:
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"lictest0", IFF_TAP | IFF_NO_PI))
        assert any(bytes.fromhex(Path("/sys/class/net/lictest0/address").read_text().strip().replace(":", "")))
        assert permanent_mac("lictest0") == ""
    except PermissionError as error:
        pytest.skip(f"no tap interface can be made here: {error}")
    finally:
        os.close(tap)


@pytest.mark.needs("ip")
def test_the_permanent_mac_is_the_one_that_iproute_knows() -> None:
    shown = json.loads(subprocess.run(["ip", "-d", "-j", "link"], check=True, capture_output=True).stdout)
    known = {each["ifname"]: each.get("permaddr", each.get("address")) for each in shown}
    found = {name: mac for name in known if (mac := permanent_mac(name))}
    assert found == {name: known[name] for name in found}
    if not found:
        pytest.skip("no interface of this machine has a permanent MAC")


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("APOLLO_VERSION=4.0.12\n", "4.0.12"),
        ('APOLLO_INSTALL_CODE=IC\nexport APOLLO_VERSION="3.5 Update 2"  # of March\n', "3.5 Update 2"),
        ("APOLLO_VERSION=1\nAPOLLO_VERSION=2\n", "2"),
        ("VERSION=4.0\n", ""),
        ("APOLLO_VERSION='4.0\n", ""),
        ("APOLLO_VERSION=" + "4" * 129 + "\n", ""),
        ("APOLLO_VERSION='4\x1b'\n", ""),
    ],
)
def test_the_release_is_what_the_file_says_or_not_known(tmp_path: Path, text: str, release: str) -> None:
    file = tmp_path / "environment"
    file.write_text(text)
    assert read_release(file, "APOLLO_VERSION") == release


def test_a_release_that_nobody_says_is_not_known(tmp_path: Path) -> None:
    assert read_release(tmp_path / "none", "APOLLO_VERSION") == ""
    (tmp_path / "environment").write_text("=4.0\n")
    assert read_release(tmp_path / "environment", "") == ""
