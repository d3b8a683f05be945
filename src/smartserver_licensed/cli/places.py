"""What lies around the daemon on this machine, as `licensectl doctor` sees it: files, the partition, the broker's port.

Rules:
- it only looks; a partition is opened for reading only, and only where no daemon could be asked;
- what this user may not look at is no fault: it is said, and who may.

What this module does not do: it asks no daemon; what one says is judged in `doctor`.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from smartserver_licensed import config
from smartserver_licensed.adapters.identity import read_factors, read_install_code
from smartserver_licensed.documents.trust import load_root
from smartserver_licensed.domain.errors import ConfigError, DocumentError
from smartserver_licensed.store.area import AREA_BYTES, FILES
from smartserver_licensed.store.record import MAGIC

from .findings import RESTART, Daemon, Finding, Level

_CONNECT_TIMEOUT_S = 3.0
_DAEMON_USER = "smartserver-licensed"
_USER_RW, _GROUP_RW, _OTHER_RW = 0o600, 0o060, 0o006


def configuration(path: Path, *, is_daemon_there: bool) -> tuple[config.Config | None, Finding]:
    """The daemon's configuration, as far as this file is it; None where it cannot be used."""
    try:
        return config.load(path), Finding("config", Level.OK, str(path))
    except ConfigError as error:
        if is_daemon_there and not os.path.exists(path):  # Path.exists raises where a directory is closed
            todo = "the daemon runs with another file; name it: licensectl doctor --config FILE"
            return None, Finding("config", Level.WARN, str(error), todo)
        todo = "mend it (smartserver-licensed --check-config), or name another: licensectl doctor --config FILE"
        return None, Finding("config", Level.FAIL, f"{error}; the daemon does not start with it", todo)


def why_unreachable(host: str, port: int) -> str:
    """Why no TCP connection can be made; empty where one can."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    except UnicodeError:
        return "this is no name of a host"
    return ""


def password(name: str) -> Iterator[Finding]:
    """The file with the broker's password, where one is configured."""
    if not name:
        return
    try:
        mode = Path(name).stat().st_mode
    except PermissionError:
        yield Finding("password", Level.WARN, f"{name} cannot be looked at by this user", "sudo licensectl doctor")
    except OSError as error:
        why = f"{name}: {error.strerror}; the daemon does not start without it"
        yield Finding("password", Level.FAIL, why, "mend password_file in [mqtt]")
    else:
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            todo = f"chown {_DAEMON_USER} {name}; chmod 400 {name}"
            yield Finding("password", Level.WARN, f"{name} can be read by everybody", todo)
        else:
            yield Finding("password", Level.OK, name)


def partition(path: Path, daemon: Daemon | None) -> Iterator[Finding]:
    """What the ledger lies on; without the daemon also whether it can be used and holds a ledger."""
    try:
        info = path.stat()
        is_open_to_all = any(each.stat().st_mode & stat.S_IWOTH for each in _files(path))
        holds_ledger = None if daemon else _holds_ledger(path)
    except FileNotFoundError:
        todo = "is the right card in, and path in [state] right? else make a new one: packaging/partition DISK"
        yield Finding("partition", Level.FAIL, f"{path} does not exist; nothing new is admitted", todo)
        return
    except OSError as error:
        why = f"{path} cannot be looked at: {error.strerror}"
        yield Finding("partition", Level.WARN, why, "sudo licensectl doctor")
        return
    is_closed = daemon is None and not _may_daemon_open(info)
    yield _partition(path, info.st_mode, is_open_to_all=is_open_to_all, is_closed=is_closed)
    if holds_ledger:
        yield Finding("ledger", Level.OK, f"{path} holds one; whether it is whole, the daemon finds at its start")
    elif holds_ledger is False:
        why = f"{path} holds no ledger; nothing new is admitted"
        yield Finding("ledger", Level.FAIL, why, f"smartserver-licensed --init-state {path}")


def _partition(path: Path, mode: int, *, is_open_to_all: bool, is_closed: bool) -> Finding:
    todo = "is 60-smartserver-license.rules installed? udevadm trigger"
    if is_open_to_all:
        return Finding("partition", Level.FAIL, f"{path} can be written by everybody", f"chmod o-rwx {path}; {todo}")
    if is_closed:
        return Finding("partition", Level.FAIL, f"{path} is closed to the user {_DAEMON_USER}", todo)
    if not stat.S_ISBLK(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a file"
        why = f"{path} is {what}: it survives neither re-imaging nor a factory reset"
        return Finding("partition", Level.WARN, why, "good for a trial; else a partition of its own (path in [state])")
    return Finding("partition", Level.OK, str(path))


def _files(path: Path) -> Iterable[Path]:
    return [path, *(each for name in FILES if (each := path / name).exists())] if path.is_dir() else [path]


def _holds_ledger(path: Path) -> bool | None:
    """Whether a ledger begins here; None for an empty directory, in which the daemon makes one by itself."""
    if path.is_dir():
        held = [path / name for name in FILES if (path / name).exists()]
        return any(_begins_with_magic(each, 0) for each in held) if held else None
    if not (path.is_file() or path.is_block_device()):
        return False
    return _begins_with_magic(path, 0) or _begins_with_magic(path, AREA_BYTES)


def _begins_with_magic(path: Path, offset: int) -> bool:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(len(MAGIC)) == MAGIC


def _may_daemon_open(info: os.stat_result) -> bool:
    """Whether the package's user may read and write; yes where there is no such user (no package: a trial)."""
    try:
        user = pwd.getpwnam(_DAEMON_USER)
    except KeyError:
        return True
    needed = _USER_RW if info.st_uid == user.pw_uid else _GROUP_RW if info.st_gid == user.pw_gid else _OTHER_RW
    return info.st_mode & needed == needed


def trust(path: Path) -> Finding:
    """Whether the root of trust is one."""
    todo = "install the package again, or mend root in [trust]"
    try:
        root = load_root(path.read_bytes())
    except OSError as error:
        return Finding("trust root", Level.FAIL, f"{path}: {error.strerror}; no license can be verified", todo)
    except DocumentError as error:
        return Finding("trust root", Level.FAIL, f"{path}: {error}; no license can be verified", todo)
    demonstration = ", of a demonstration: it allows licenses that name no device key" * root.allow_unactivated
    return Finding("trust root", Level.OK, f"{path}, version {root.version}{demonstration}")


def identity(settings: config.Identity, daemon: Daemon | None) -> Finding:
    """Whether the install code can be read, and is the one that the daemon runs with; by what the hardware is known."""
    path = Path(settings.environment_file)
    try:
        code = read_install_code(path)
    except ConfigError as error:
        todo = "the SmartServer's software writes the file; else mend environment_file in [identity]"
        return Finding("identity", Level.FAIL, f"{error}; the daemon does not start without it", todo)
    if daemon is not None and daemon.properties["InstallCode"] != code:
        why = f"install code {code} in {path}, but the daemon runs as {daemon.properties['InstallCode']}"
        return Finding("identity", Level.WARN, why, f"if the file is right: {RESTART}")
    factors = read_factors(settings.soc_serial, settings.emmc_cid, settings.mac_interface)
    known = ", ".join(name for name in ("soc", "emmc", "mac") if getattr(factors, name)) or "nothing that can be read"
    return Finding("identity", Level.OK, f"install code {code}, from {path}; the hardware is known by {known}")
