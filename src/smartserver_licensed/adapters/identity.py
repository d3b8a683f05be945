"""Who this SmartServer is: what the environment file of the platform says, and by what its board is known.

Rules:
- the file has lines `KEY=VALUE` as a shell takes them (quotes, `export`, comments), and the last one wins; lines that
  are not of that form are somebody else's and do not matter;
- a factor of the hardware that cannot be read is "", as is one that is all zeros: a board on which it was never set;
- the MAC is the permanent one, which the driver knows from the hardware: the address in sysfs is whatever was set;
- every read has a limit.

What this module does not do: it expands no variables, runs no shell and judges no factor (`domain.binding`).
"""

from __future__ import annotations

import array
import fcntl
import glob
import re
import shlex
import socket
import struct
from pathlib import Path

from smartserver_licensed.domain.binding import Factors
from smartserver_licensed.domain.errors import ArgumentError, ConfigError

INSTALL_CODE = "APOLLO_INSTALL_CODE"
DEVICE_TREE_SERIAL = "/sys/firmware/devicetree/base/serial-number"
_CPUINFO = "/proc/cpuinfo"
_MAX_FILE_BYTES = 256 * 1024
_MAX_CODE_LENGTH = 128
_MAX_CARDS = 64

# linux/sockios.h, linux/ethtool.h
_SIOCETHTOOL = 0x8946
_ETHTOOL_GPERMADDR = 0x20
_MAX_ADDRESS_BYTES = 32
_IFREQ_BYTES = 40  # of 64 bits; a 32-bit kernel reads the first 32
_MAX_INTERFACE_BYTES = 15


def read_install_code(path: str | Path) -> str:
    """The install code. Raises ConfigError: no file, no install code in it, or one that cannot be one."""
    try:
        code = _variable(_read(path).decode("utf-8", "replace"), INSTALL_CODE, source=str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the install code: {path}: {error.strerror}") from error
    if not code:
        raise ConfigError(f"cannot read the install code: {path} does not set {INSTALL_CODE}")
    if len(code) > _MAX_CODE_LENGTH or not code.isprintable():
        raise ConfigError(
            f"cannot read the install code: {INSTALL_CODE} in {path} is {code[:_MAX_CODE_LENGTH]!r}, "
            f"expected at most {_MAX_CODE_LENGTH} printable characters"
        )
    return code


def read_release(path: str | Path, key: str) -> str:
    """The version of the SmartServer's software that is installed; "" where it cannot be read. `key` "": not read."""
    try:
        release = _variable(_read(path).decode("utf-8", "replace"), key, source=str(path)) if key else ""
    except (OSError, ValueError, ConfigError):
        return ""
    return release if len(release) <= _MAX_CODE_LENGTH and release.isprintable() else ""


def read_factors(soc_serial: str, emmc_cid: str, interface: str) -> Factors:
    """What the board is known by; each "" where it cannot be read, or where its source is "".

    `soc_serial`: a file that holds the serial, or has a line `Serial: …` as /proc/cpuinfo, which is read where the
    device tree has none. `emmc_cid`: a pattern of files, of which the first beside a `type` of "MMC" counts (an SD card
    is no part of the board). `interface`: the one with the MAC.
    """
    soc = _soc_serial(soc_serial)
    if not soc and soc_serial == DEVICE_TREE_SERIAL:
        soc = _soc_serial(_CPUINFO)
    return Factors(soc, _emmc_cid(emmc_cid), permanent_mac(interface))


def permanent_mac(interface: str) -> str:
    """As in "00:d0:71:00:00:01"; "" where there is no such interface, or its driver knows none."""
    name = interface.encode("utf-8", "surrogateescape")
    if not 0 < len(name) <= _MAX_INTERFACE_BYTES or b"\0" in name:
        return ""
    # struct ethtool_perm_addr, where the kernel writes the address; struct ifreq points to it.
    answer = array.array("B", struct.pack("=II", _ETHTOOL_GPERMADDR, _MAX_ADDRESS_BYTES) + bytes(_MAX_ADDRESS_BYTES))
    request = struct.pack("16sP", name, answer.buffer_info()[0]).ljust(_IFREQ_BYTES, b"\0")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    except OSError:
        return ""
    _, size = struct.unpack_from("=II", answer)
    address = answer.tobytes()[8 : 8 + min(size, _MAX_ADDRESS_BYTES)]
    return address.hex(":") if any(address) else ""


def _soc_serial(path: str) -> str:
    text = _text(path)
    line = re.search(r"^Serial\s*:(.*)$", text, re.MULTILINE)
    return _factor(line[1] if line else text)


def _emmc_cid(pattern: str) -> str:
    for path in sorted(glob.glob(pattern))[:_MAX_CARDS]:
        if _text(path.rpartition("/")[0] + "/type").strip() == "MMC":
            return _factor(_text(path))
    return ""


def _factor(text: str) -> str:
    """The text as a factor; "" for what cannot be one."""
    value = text.strip("\0 \t\r\n")
    try:
        Factors(value)
    except ArgumentError:
        return ""
    return value if value.strip("0") else ""


def _text(path: str) -> str:
    try:
        return _read(path).decode("utf-8", "replace") if path else ""
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""


def _read(path: str | Path) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_MAX_FILE_BYTES)


def _variable(text: str, key: str, *, source: str) -> str:
    """The value of a variable; "" where it is not set. Raises ConfigError: it is not quoted right."""
    found = ""
    for number, line in enumerate(text.splitlines(), start=1):
        name, separator, value = line.strip().removeprefix("export ").lstrip().partition("=")
        if separator and name == key:
            found = _unquoted(value, key, where=f"{source}, line {number}")
    return found


def _unquoted(value: str, key: str, *, where: str) -> str:
    try:
        words = shlex.split(value, comments=True)
    except ValueError as error:
        raise ConfigError(f"cannot read {where}: {key} is not quoted right") from error
    return words[0] if words and not value[:1].isspace() else ""
