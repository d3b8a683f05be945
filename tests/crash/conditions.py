"""F6: each storage condition is entered and left for real, on loop devices, while the daemon runs.

Rules:
- the configured path is a link, as udev's are; that the daemon opens what it leads to anew takes a failed write: a
  device that asks, on a device that the kernel has made read-only;
- entered: the journal's entry (its own protocol, with the MESSAGE_ID), the D-Bus property, `licensectl status` as text
  and JSON, and what `licensectl doctor` says is to be done, all say the same;
- meanwhile the running device never hears `false` and a new one is not admitted; afterwards it is;
- `rolled-back` and `anchor-lost` need a TPM: `restores`.

What this module does not do: it lets no condition come from a patched daemon.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from smartserver_licensed import BUILD_TIME_S
from smartserver_licensed.domain import messages
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.store import record
from smartserver_licensed.store.area import AREA_BYTES
from smartserver_licensed.store.log import create
from support.box import BIN
from support.loop import loop, set_read_only

from .bed import CAPACITY, IMAGE_BYTES, MORE, RUNNING, USABLE, Bed, on_free_beds
from .table import Row, Scale
from .worn_disk import WornDisk

_LIMIT_S = 70.0  # the longest pause, and some
_UNHEARD_S = 0.5
_BEDS = 3
_TIMES = 10
_TODO = {
    "degraded": "licensectl acknowledge",
    "read-only": "journalctl -k",
    "missing": "--init-state",
    "foreign": "put the right card in",
    "corrupt": "keep it for the vendor",
    "newer": "install that version",
}
# $1 a directory with a socket that takes the journal's place for the program
_WITH_JOURNAL = """
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/journal
mount --bind "$1" /run/systemd/journal
shift
JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2) exec "$@"
"""


class Journal:
    """The journal's end of its socket: the fields of every entry."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.entries: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(directory / "socket"))

    def changes(self) -> list[dict[str, str]]:
        """The changes of the storage condition so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                lines = self._socket.recv(1 << 18).decode().splitlines()
                self.entries.append(dict(line.split("=", 1) for line in lines if "=" in line))
        return [each for each in self.entries if each.get("MESSAGE_ID") == messages.STORAGE_CONDITION_CHANGED.id]

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()


class Site:
    """A SmartServer whose ledger lies behind a link; what is wrong is noted in a row."""

    def __init__(self, bed: Bed, directory: Path, row: Row, *, patience_s: float = _LIMIT_S) -> None:
        directory.mkdir()
        self._patience_s = patience_s
        self.bed = bed
        self.directory = directory
        self.link = directory / "ss-license"
        self._row = row
        self._journal = Journal(directory / "journal")
        self._asked = 0

    def _under(self) -> list[str]:
        unshare = ("unshare", "--mount", "--propagation", "private")
        return [*unshare, "sh", "-c", _WITH_JOURNAL, "sh", str(self._journal.directory)]

    def __enter__(self) -> Site:  # noqa: PYI034 - typing.Self is Python 3.11's
        box = self.bed.box
        box.config.write_text(box.config.read_text().replace(str(box.state), str(self.link)))
        box.state = self.link
        self.lead_to(self.bed.device)
        self.bed.begin(*self._under())
        self._wait(lambda: self.bed.on_bus("StorageState") is not None, "the daemon")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._journal.close()

    def _end(self) -> None:
        if not self.bed.box.has_ended:
            self.bed.end()

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """The daemon ends before the device that it holds."""
        try:
            yield
        finally:
            self._end()

    def restart(self) -> None:
        """Kill the daemon and start it again."""
        self._end()
        self._journal.entries.clear()
        self.bed.box.start(*self._under())

    # -- what happens ------------------------------------------------------------------------------------------------

    def lead_to(self, device: Path | None) -> None:
        """The link leads to another device, or is gone."""
        if device is None:
            self.link.unlink()
            return
        fresh = self.directory / "fresh"
        fresh.symlink_to(device)
        fresh.rename(self.link)

    def ask(self) -> str:
        """A new device asks for a seat: its handle."""
        self._asked += 1
        handle = f"new{self._asked}"
        self.bed.show(handle, "unlicensed")
        return handle

    @contextlib.contextmanager
    def failing(self) -> Iterator[str]:
        """The kernel refuses every write to the device, and the daemon has met it; the device that asked."""
        set_read_only(self.bed.device, is_read_only=True)
        try:
            handle = self.ask()
            self._wait(lambda: self._is_now("read-only"), "read-only")
            yield handle
        finally:
            set_read_only(self.bed.device, is_read_only=False)

    # -- what is looked at -------------------------------------------------------------------------------------------

    def expect(self, condition: str, was: str) -> None:
        """The condition is entered from another one, and everybody says so."""
        if not self._wait(lambda: self._is_now(condition), f"{condition} in the journal"):
            return
        entry = self._journal.changes()[-1]
        self._check(entry["WAS"] == was, f"the journal says that {condition} came from {entry['WAS']}, not {was}")
        self._check(bool(entry["REASON"]) or condition == "ok", f"the journal has no reason for {condition}")
        self._check(
            entry["PRIORITY"] == str(messages.STORAGE_CONDITION_CHANGED.priority) and entry["MESSAGE"].endswith("]"),
            f"the entry is {entry}",
        )
        self._wait(lambda: self.bed.on_bus("StorageState") == condition, f"{condition} on D-Bus")
        self._check(self.bed.box.status()["storage"] == condition, f"status --json does not say {condition}")
        screen = self.bed.box.ctl("status").stdout.decode()
        self._check(f"\n  Storage       {condition}\n" in screen, f"status does not say {condition}")
        self._check(
            (f"Storage is {condition}: " in screen) == (condition != "ok"), f"status does not explain {condition}"
        )
        self._check_doctor(condition)
        self._row.states += 1

    def _check_doctor(self, condition: str) -> None:
        report = json.loads(
            self.bed.box.ctl("doctor", "--json", "--config", str(self.bed.box.config), check=False).stdout
        )
        found = next(each for each in report["checks"] if each["check"] == "ledger")
        level = "ok" if condition == "ok" else "warn" if condition in USABLE else "fail"
        self._check(found["level"] == level, f"doctor says {found['level']} of {condition}")
        self._check(_TODO.get(condition, "") in found["todo"], f"doctor's remedy for {condition} is {found['todo']!r}")

    def expect_refused(self, handle: str) -> None:
        """Nothing is admitted."""
        if self.bed.wait(lambda: self.bed.answer(handle) is not None, _UNHEARD_S):
            self._row.fail("doubled", f"{handle} heard {self.bed.answer(handle)} without a ledger")

    def expect_shown(self, capacity: int) -> None:
        """This capacity is what people see."""
        seen = self.bed.box.status()["capacity"]
        self._check(seen == capacity, f"status shows a capacity of {seen}, not {capacity}")

    def expect_unchanged(self, device: Path, before: bytes) -> None:
        """Nothing was written to a device."""
        if device.read_bytes() != before:
            self._row.fail("lost", f"{device} was written to")

    def expect_no_change(self) -> None:
        """Since the start nothing was to be said."""
        said = [each["STORAGE"] for each in self._journal.changes()]
        self._check(not said, f"the journal says {said}")

    def expect_admitted(self, handle: str) -> None:
        """A device has its seat; and the running one has heard no false all the while."""
        if not self.bed.wait(lambda: self.bed.answer(handle) is True, self._patience_s):
            self._row.fail("lost", f"{handle} never got its seat")
        if any(each.handle == RUNNING and not each.is_licensed for each in self.bed.announced):
            self._row.fail("lost", "the running device heard false")

    def _is_now(self, condition: str) -> bool:
        changes = self._journal.changes()
        return bool(changes) and changes[-1]["STORAGE"] == condition

    def _wait(self, condition: Callable[[], bool], what: str) -> bool:
        is_met = self.bed.wait(condition, self._patience_s)
        self._check(is_met, f"not within {self._patience_s:.0f} s: {what}")
        return is_met

    def _check(self, is_right: bool, sentence: str) -> None:
        if not is_right:
            self._row.fail("silent", sentence)


# -- the conditions ----------------------------------------------------------------------------------------------------


def read_only(site: Site) -> None:
    """read-only: the kernel refuses writes, and takes it back"""
    with site.failing() as asked:
        site.expect("read-only", "ok")
        site.expect_refused(asked)
    site.expect("ok", "read-only")
    site.expect_admitted(asked)


def write_errors(site: Site) -> None:
    """read-only: the disk answers EIO to every write, and then no more"""
    with WornDisk(site.directory, site.bed.image()) as disk, site.ending():
        with site.failing() as first:
            site.lead_to(disk.device)
            site.expect("ok", "read-only")
        site.expect_admitted(first)
        disk.fail_writes(1, always=True)
        asked = site.ask()
        site.expect("read-only", "ok")
        site.expect_refused(asked)
        disk.heal()
        site.expect("ok", "read-only")
        site.expect_admitted(asked)


def missing(site: Site) -> None:
    """missing: the device is gone, and comes back"""
    with site.failing() as asked:
        site.lead_to(None)
        site.expect("missing", "read-only")
        site.expect_refused(asked)
    site.lead_to(site.bed.device)
    site.expect("ok", "missing")
    site.expect_admitted(asked)


def missing_and_made_anew(site: Site) -> None:
    """missing: an empty device; --init-state on it while the daemon runs, and licensed anew"""
    with _device(site, bytes(IMAGE_BYTES)) as empty, site.ending():
        with site.failing() as asked:
            site.lead_to(empty)
            site.expect("missing", "read-only")
            site.expect_refused(asked)
        program = [str(BIN / "smartserver-licensed"), "--config", str(site.bed.box.config)]
        subprocess.run([*program, "--init-state", str(site.link)], check=True, capture_output=True)
        site.expect("ok", "missing")
        site.bed.install()
        site.expect_admitted(asked)


def foreign(site: Site) -> None:
    """foreign: the ledger of another SmartServer in its place, and the right one again"""
    with _device(site, bytes(IMAGE_BYTES)) as other:
        create(other, encode_snapshot(LedgerState(install_code="17other", mark_s=BUILD_TIME_S)))
        _replace(site, other, "foreign")


def corrupt(site: Site) -> None:
    """corrupt: the same record damaged in both logs, whole ones behind it; and the right one again"""
    site.bed.install()
    for _ in range(2):
        site.expect_admitted(site.ask())
    image = bytearray(site.bed.image())
    for log in (0, AREA_BYTES):
        first = record.claimed(memoryview(image)[log:], 0)
        assert first is not None
        image[log + first.size_bytes + record.OVERHEAD_BYTES] ^= 1
    with _device(site, bytes(image)) as damaged:
        _replace(site, damaged, "corrupt", shown=CAPACITY + MORE)


def newer(site: Site) -> None:
    """newer: both logs of a later major format; and the right one again"""
    image = bytearray(site.bed.image())
    for log in (0, AREA_BYTES):
        _raise_format(memoryview(image)[log:])
    with _device(site, bytes(image)) as other:
        _replace(site, other, "newer")


def damaged(site: Site) -> None:
    """degraded: a page of one log damaged, found by a running daemon; said until it is acknowledged"""
    site.bed.install()
    site.expect_admitted(site.ask())  # behind a damaged snapshot that no record follows, a cut is seen, no damage
    with site.failing() as asked:
        site.bed.spoil(100, bytes(100))
    _expect_repair(site, asked)


def unreadable(site: Site) -> None:
    """degraded: pages of one log that cannot be read until they are written; said until it is acknowledged"""
    with WornDisk(site.directory, site.bed.image()) as disk, site.ending():
        disk.wear_out([0, 1])
        with site.failing() as asked:
            site.lead_to(disk.device)
            _expect_repair(site, asked)


SCENARIOS = (
    read_only,
    write_errors,
    missing,
    missing_and_made_anew,
    foreign,
    corrupt,
    newer,
    damaged,
    unreadable,
)


def _replace(site: Site, other: Path, condition: str, *, shown: int = 0) -> None:
    """Another device in the ledger's place: nothing is written to it; then the right one again.

    `shown`: the capacity that people see meanwhile; what verifies is shown, nothing of another SmartServer is.
    """
    before = other.read_bytes()
    with site.failing() as asked:
        site.lead_to(other)
        site.expect(condition, "read-only")
        site.expect_refused(asked)
        site.expect_shown(shown)
        site.expect_unchanged(other, before)
    site.lead_to(site.bed.device)
    site.expect("ok", condition)
    site.expect_admitted(asked)


def _expect_repair(site: Site, asked: str) -> None:
    site.expect("degraded", "read-only")
    site.expect_admitted(asked)
    site.restart()
    site.expect("degraded", "missing")  # what it is before it was opened
    site.bed.box.ctl("acknowledge")
    site.expect("ok", "degraded")
    site.restart()
    site.expect_admitted(site.ask())
    site.expect_no_change()


@contextlib.contextmanager
def _device(site: Site, content: bytes) -> Iterator[Path]:
    image = site.directory / "other.img"
    image.write_bytes(content)
    with loop(image) as device:
        yield device


def _raise_format(log: memoryview) -> None:
    """The first snapshot of a log becomes one of the next format, whole by its own rules."""
    first = record.read(log, 0, secret=None)
    assert first is not None
    header = record._HEADER.pack(record.MAGIC, record.FORMAT + 1, first.kind, first.seq, len(first.body), first.prev)
    sealed = header + record._tag(first.body[: record.SECRET_BYTES], header, first.body)
    log[: len(sealed)] = sealed


# -- all of them ------------------------------------------------------------------------------------------------------


def run(scale: Scale, directory: Path) -> list[Row]:
    """Each once; for the long form again and again, for what depends on the moment."""
    rows = [Row("F6", title(each)) for each in SCENARIOS]

    def work(bed: Bed, number: int) -> None:
        place = number % len(SCENARIOS)
        try_one(SCENARIOS[place], bed, directory / f"site{number}", rows[place])

    on_free_beds(_BEDS, directory, "conditions", work, range(scale.pick(1, _TIMES) * len(SCENARIOS)))
    return rows


def title(scenario: Callable[[Site], None]) -> str:
    """What it is about."""
    return (scenario.__doc__ or "").strip()


def try_one(scenario: Callable[[Site], None], bed: Bed, directory: Path, row: Row) -> None:
    """One condition, entered and left."""
    start = time.monotonic()
    with Site(bed, directory, row) as site:
        scenario(site)
    row.seconds += time.monotonic() - start
