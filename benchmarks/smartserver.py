"""The SmartServer that is measured: tests' `Box` on a real file system, and an engine's side of the wire.

Rules: the state lies under `build/` (not in a tmpfs); the daemon runs as installed, at its default log level; what
else runs at the same time sits on the same broker.

What this module does not do: it measures nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.wire import Wire, wait_any
from support.box import INSTALL_CODE, Box

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
ECHO_SID = "17qecho"
NAIVE_SID, NEW_NAIVE_SID = "17qnaiv", "17qnew0"
IN_FLIGHT = 64
# As the recorded engine says it (tests/recordings/idl_create.jsonl).
_STS = (
    '{"state":"%s","unid":"001","health":"%s","cat":"i/o","type":"9B0001050004ED00","interface":"static",'
    '"usage":"controller","product":"example_xif","manufacturer":"Dialog","mru":"2026-11-24 03:51:11.445 UTC"}'
)


def sts(state: str, health: str = "normal") -> bytes:
    """The payload of an `sts`."""
    return (_STS % (state, health)).encode()


def sts_topic(handle: str, sid: str = INSTALL_CODE) -> str:
    """Where an engine says it."""
    return f"glp/0/{sid}/fb/dev/example/{handle}/sts"


def lic_topic(handle: str, sid: str = INSTALL_CODE) -> str:
    """Where it hears the answer."""
    return f"glp/0/{sid}/fb/dev/example/{handle}/lic"


class Measured(Box):
    """A box whose daemon writes no debug lines, with both sides of the measuring wire."""

    def _write_config(self) -> None:
        super()._write_config()
        self.config.write_text(self.config.read_text().replace('level = "debug"', 'level = "info"'))

    @property
    def seq(self) -> int:
        """The number of the last record in the ledger: how many commits there were."""
        return max(_seqs((self.state / "ledger.a").read_bytes()), default=0)


def _seqs(log: bytes) -> Iterator[int]:
    for offset in range(0, len(log), 4096):
        if log[offset : offset + 4] == b"SSLG":
            yield int.from_bytes(log[offset + 6 : offset + 14], "little")


@contextlib.contextmanager
def measured(*, capacity: int, max_devices: int = 4_000) -> Iterator[Measured]:
    """A running SmartServer with a license, everything of it below `build/`."""
    place = BUILD / "bench"
    place.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(place)
    box = Measured(capacity=capacity, max_devices=max_devices)
    with box:
        yield box


class Field:
    """The devices' side: one connection says `sts`, another one hears `lic`."""

    def __init__(self, port: int, sid: str = INSTALL_CODE) -> None:
        self.sid = sid
        self.says, self.hears = Wire(port), Wire(port)
        self.hears.subscribe(f"glp/0/{sid}/fb/dev/+/+/lic")
        self.hears.drain()

    def close(self) -> None:
        """Disconnect both."""
        for wire in (self.says, self.hears):
            wire.__exit__()

    def say(self, handle: str, state: str, health: str = "normal") -> None:
        """One `sts`; waits until the broker has it."""
        self.says.publish(sts_topic(handle, self.sid), sts(state, health))
        self.says.wait_acknowledged()

    def ask(self, handle: str, state: str = "unlicensed", *, answer_of: str = "") -> float:
        """Say one `sts` and wait for the `lic`, its own or another device's; the seconds between."""
        self.hears.drain()
        start = time.perf_counter()
        self.says.publish(sts_topic(handle, self.sid), sts(state))
        seconds = self.hears.wait_heard(lic_topic(answer_of or handle, self.sid)).at_s - start
        self.says.wait_acknowledged()
        return seconds

    def say_all(self, handles: Sequence[str], state: str, health: str = "normal") -> None:
        """One `sts` each, at most 64 in flight; waits until the broker has them."""
        payload = sts(state, health)
        for handle in handles:
            self.says.wait_acknowledged(IN_FLIGHT - 1)
            self.says.publish(sts_topic(handle, self.sid), payload)
        self.says.wait_acknowledged()

    def bring(self, handles: Sequence[str]) -> None:
        """Devices come, are licensed and run; a thousand at a time, as the broker's queues hold no more."""
        for start in range(0, len(handles), 800):
            some = handles[start : start + 800]
            assert len(self.ask_all(some)) == len(some), "not every device was answered"
            for state in ("unprovisioned", "provisioned"):
                self.say_all(some, state)
                self.fence()

    def fence(self) -> None:
        """Wait until the daemon has taken in everything said before: it answers a device that comes and goes."""
        self.ask("fence")
        self.ask("fence", "deleted")

    def ask_all(
        self, handles: Sequence[str], state: str = "unlicensed", *, timeout_s: float = 60.0
    ) -> dict[str, float]:
        """One `sts` each, at most 64 in flight, until each was answered; seconds from the first `sts` to each first
        answer. Whoever was not answered in time is missing.
        """
        self.hears.drain()
        answered: dict[str, float] = {}
        expected = set(handles)
        payload, rest = sts(state), iter(handles)
        following = next(rest, None)
        start = time.perf_counter()
        last = start
        while len(answered) < len(handles) and time.perf_counter() - last < timeout_s:
            while following is not None and self.says.in_flight < IN_FLIGHT:
                self.says.publish(sts_topic(following, self.sid), payload)
                following = next(rest, None)
            with contextlib.suppress(TimeoutError):
                wait_any(self.says, self.hears, timeout_s=min(timeout_s, 1.0))
            while self.hears.heard:
                message = self.hears.heard.popleft()
                handle = message.topic.split("/")[6]
                if handle in expected:
                    last = message.at_s
                    answered.setdefault(handle, message.at_s - start)
        self.says.wait_acknowledged()
        return answered


@contextlib.contextmanager
def beside(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of this folder as a process of its own, from its "ready" to its end."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=os.environ)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", f"{command} did not start"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
