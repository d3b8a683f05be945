"""The real daemon's run on a recorded disk: what it wrote, flushed and announced, in one order.

Rules:
- real parts only: the daemon and mosquitto as processes, a ledger made by `--init-state`, licenses by `licensectl`;
- a mark is what a client of the broker heard (`lic`, `fb/lic`, `ev/lic`), noted by the client's own thread as it
  arrives, each answer of `licensectl install`, and each request or return that left: about a millisecond after it was
  said. Each flush is held up by ten (`recorded_disk`): what is announced before its flush is complete is noted before
  it. What is announced in the last millisecond of a flush is not seen as too early; nothing else is forgiven;
- a log of 4 MiB is filled by fewer commits than a thousand: by bursts of devices with names about as long as they may
  be, so that one commit fills some slots. That is more to tear as well;
- what was written before the first event is on the disk: a recording begins with an image.

What this module does not do: it cuts and judges nothing (`power_cut`).
"""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from crash.announced import left
from crash.mounted import mounted
from crash.recorded_disk import Event, Failed, Flush, Mark, RecordedDisk, Write, read_log, write_log
from smartserver_licensed.store.area import AREA_BYTES
from support.box import BIN, INSTALL_CODE, Box, wait_until
from support.broker import Client
from support.loop import loop

DEVICE_BYTES, DIRECTORY_BYTES = 2 * AREA_BYTES, 20 << 20  # as small as they can be: each state is copied
GROUPS = tuple(  # with names about as long as they may be: one commit fills some slots; and one device alone
    [f"{name}{number}-".ljust(240, "x") for number in range(size)] for name, size in (("a", 110), ("b", 110), ("c", 1))
)
_FB, _RQ = f"glp/0/{INSTALL_CODE}/fb/dev/modbus", f"glp/0/{INSTALL_CODE}/rq/dev/modbus"
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class Recording:
    """What was on the disk at first, and all that happened to it."""

    image: bytes
    events: tuple[Event, ...]
    is_directory: bool = False  # the logs are two files in an ext4

    def save(self, path: Path) -> None:
        """Keep it, so that a sweep can be done again."""
        path.write_bytes(
            bytes([self.is_directory]) + _LENGTH.pack(len(self.image)) + self.image + write_log(self.events)
        )

    @property
    def figures(self) -> dict[str, float | int | str]:
        """How much happened."""
        kinds = {kind.__name__: sum(isinstance(each, kind) for each in self.events) for kind in (Write, Flush, Mark)}
        failed = sum(isinstance(each, Failed) for each in self.events)
        return {
            "writes": kinds["Write"],
            "flushes": kinds["Flush"],
            "marks": kinds["Mark"],
            "failed writes": failed,
            "MiB written": round(sum(len(each.data) for each in self.events if isinstance(each, Write)) / (1 << 20), 1),
        }


def load(path: Path) -> Recording:
    """A recording that was saved."""
    data = path.read_bytes()
    (length,) = _LENGTH.unpack_from(data, 1)
    begin = 1 + _LENGTH.size
    return Recording(data[begin : begin + length], tuple(read_log(data[begin + length :])), bool(data[0]))


class Herald(Client):
    """A client that notes on the disk what it hears, as it hears it; what is retained was said earlier."""

    def __init__(self, port: int, disk: RecordedDisk) -> None:
        self._disk = disk
        super().__init__(port)
        self.subscribe(
            f"glp/0/{INSTALL_CODE}/fb/dev/+/+/lic",
            f"glp/0/{INSTALL_CODE}/fb/lic",
            f"glp/0/{INSTALL_CODE}/ev/lic",
            qos=0,
        )

    def _on_message(self, client: paho.Client, data: object, message: paho.MQTTMessage) -> None:
        if not message.retain:
            self._disk.mark(f"{message.topic} {message.payload.decode()}")
        super()._on_message(client, data, message)


class Run:
    """A daemon on a recorded disk, and a bus on which it is heard. A context manager."""

    def __init__(
        self,
        directory: Path,
        *,
        is_directory: bool = False,
        program: Sequence[str] = (),
    ) -> None:
        """`program` is started in place of the installed daemon."""
        self._directory = directory
        self._is_directory = is_directory
        self._program = program
        self._license_id = ""
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Run:  # noqa: PYI034 - typing.Self is Python 3.11's
        with contextlib.ExitStack() as exit_:
            image = _directory_image(self._directory) if self._is_directory else _device_image(self._directory)
            self.disk = exit_.enter_context(RecordedDisk(self._directory, image))
            self.path = self.disk.device
            if self._is_directory:
                self.path = exit_.enter_context(mounted(self.disk.device, self._directory / "state"))
                _begin_journal(self.path)
            events = self.disk.log()
            self._begin, self._image = len(events), _after(image, events)
            self.box = Box(program=self._program, absence_grace_s=1)
            self.box.state = self.path
            exit_.enter_context(self.box)
            exit_.callback(self._forget_ended)
            self.herald = exit_.enter_context(Herald(self.box.broker.port, self.disk))
            self._exit = exit_.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def recording(self) -> Recording:
        """All so far; the events before the daemon's start are in the image."""
        events = tuple(
            Flush(each.began - self._begin) if isinstance(each, Flush) else each
            for each in self.disk.log()[self._begin :]
        )
        return Recording(self._image, events, self._is_directory)

    @property
    def has_ended(self) -> bool:
        """Whether the daemon has gone."""
        return self.box._daemon is None or self.box._daemon.poll() is not None

    def _forget_ended(self) -> None:
        """A daemon that has gone by itself is nothing that the box could kill."""
        if self.has_ended:
            self.box._daemon = None

    # -- what happens on the bus ---------------------------------------------------------------------------------------

    def install(self, devices: int) -> None:
        """Ask for a license for so many devices more; a mark for the answer, if it is yes."""
        done = self.box.ctl("install", "--json", str(self.box.issue(devices)), check=False)
        if done.returncode == 0:
            self.disk.mark(f"installed {json.loads(done.stdout)['seq']}")

    def ask_issuer(self) -> None:
        """Have a new request made; a mark for its bytes, where they left."""
        self._mark_left("request", "--fresh")

    def give_back(self, devices: int) -> None:
        """Return devices of the first license; a mark for the proof, where it left."""
        if not self._license_id:
            self._license_id = json.loads(self.box.ctl("licenses", "--json").stdout)[0]["license_id"]
        self._mark_left("return", self._license_id, "--devices", str(devices), "--over-capacity", "--another")

    def _mark_left(self, *arguments: str) -> None:
        done = self.box.ctl(*arguments, "-o", "-", check=False)
        if done.returncode == 0:
            self.disk.mark(left(done.stdout))

    def show(self, handles: Sequence[str], state: str) -> None:
        """These devices are in that state now."""
        self._say_all((f"{_FB}/{handle}/sts", {"state": state}, True) for handle in handles)

    def request(self, handles: Sequence[str], action: str) -> None:
        """Ask their engine for an action."""
        self._say_all((f"{_RQ}/{handle}/do", {"action": action}, False) for handle in handles)

    def _say_all(self, messages: Iterator[tuple[str, dict[str, Any], bool]]) -> None:
        """As a burst, so that one commit holds much; returns when the broker has it."""
        for topic, payload, is_retained in messages:
            self.herald.publish(topic, payload, retain=is_retained, wait=False)
        self.herald.publish("glp/0/./=test/end", "", qos=1)

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], what: str) -> None:
        """Look at the status until it is so."""
        wait_until(lambda: condition(self.box.status()), timeout_s=150, what=what)  # pauses grow to 60 s


def record(
    directory: Path,
    *,
    rounds: int,
    is_directory: bool = False,
    program: Sequence[str] = (),
) -> Recording:
    """An import with fewer seats than devices, requests, deletions, a second license, a request to the issuer, returns;
    then so many rounds of devices that go and come: 200 of them fill a log."""
    with Run(directory, is_directory=is_directory, program=program) as run:
        live(run)
        for number in range(rounds):
            go_or_come(run, number)
        run.wait_for(lambda status: status["storage"] == "ok", "the end")
        time.sleep(0.5)  # what is under way arrives
        return run.recording()


def live(run: Run) -> None:
    """What `record` promises but for the rounds."""
    small = [f"d{number}" for number in range(200)]
    run.install(151)
    for group in (small, *GROUPS):
        run.show(group, "unlicensed")
    run.wait_for(lambda status: status["waiting"] == len(small) + sum(map(len, GROUPS)) - 150, "an answer to everybody")
    run.request(small[-20:], "provision")  # each takes a seat from one that does not run
    run.show(small[:60], "provisioned")
    run.wait_for(lambda status: status["used"] > 30, "devices run")
    run.show(small[:20], "deleted")  # their seats move
    run.install(300)
    run.wait_for(lambda status: status["waiting"] == 0, "a seat for everybody")
    run.ask_issuer()
    for devices in (3, 2):
        run.give_back(devices)


def go_or_come(run: Run, number: int) -> None:
    """A group of devices is deleted, or created again; then each has heard of it, so that an announcement that comes
    late is not taken for one of the next time."""
    group = GROUPS[number % len(GROUPS)]
    run.herald.clear()
    run.show(group, "unlicensed" if number // len(GROUPS) % 2 else "deleted")
    topics = {f"{_FB}/{handle}/lic" for handle in group}
    run.herald.wait_until(lambda messages: topics <= {each.topic for each in messages}, timeout_s=60)


# -- images ------------------------------------------------------------------------------------------------------------


def _device_image(directory: Path) -> bytes:
    image = directory / "first.img"
    with image.open("wb") as file:
        file.truncate(DEVICE_BYTES)
    _init_state(directory, image)
    return image.read_bytes()


def _directory_image(directory: Path) -> bytes:
    image = directory / "first.img"
    with image.open("wb") as file:
        file.truncate(DIRECTORY_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", str(image)], check=True)
    with loop(image) as device, mounted(device, directory / "first") as path:
        (path / "lost+found").rmdir()
        _init_state(directory, path)
    return image.read_bytes()


def _begin_journal(path: Path) -> None:
    """The first change after a mount writes the super block; torn, it would end every ext4 (not what is tried here)."""
    (path / "first").touch()
    subprocess.run(["sync", "-f", str(path)], check=True)
    (path / "first").unlink()
    subprocess.run(["sync", "-f", str(path)], check=True)


def _init_state(directory: Path, path: Path) -> None:
    environment, config = directory / "environment", directory / "init.toml"
    environment.write_text(f"APOLLO_INSTALL_CODE={INSTALL_CODE}\n")
    config.write_text(f'[identity]\nenvironment_file = "{environment}"\n')
    program = str(BIN / "smartserver-licensed")
    subprocess.run([program, "--config", str(config), "--init-state", str(path)], check=True, capture_output=True)


def _after(image: bytes, events: Sequence[Event]) -> bytes:
    content = bytearray(image)
    for event in events:
        if isinstance(event, Write):
            content[event.offset : event.offset + len(event.data)] = event.data
    return bytes(content)
