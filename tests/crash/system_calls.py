"""F4: every system call that the real daemon makes on its ledger fails, the n-th time or from then on.

Rules:
- which calls there are and how often is found by looking at a run without a fault, so no call is forgotten;
- a run: the daemon starts, three devices come for two seats, a license for the third is installed; somewhere in it the
  fault strikes; then it goes, and everybody must have got what is due without a restart;
- `lost`: an announcement that a power cut at that instant would have undone, a running device that hears `false`, a
  daemon that ends or does not come back; `doubled`: more seats than capacity; `silent`: a failed call that was not
  reported in the journal and on D-Bus;
- a call that is interrupted for ever hangs: that is not reported (nobody returns), and the watchdog's (F14).

What this module does not do: it knows nothing of the ledger's inside.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smartserver_licensed.domain.errors import StorageError

from .bed import CAPACITY, MORE, RUNNING, Bed, on_free_beds, state_of, unit_of
from .table import Row, Scale

NEW = ("first", "second", "third")
_ERRORS = ("EIO", "ENOSPC", "EROFS", "EINTR")
_BEDS = 4  # most of a run is waiting for the daemon's first pause
_LIMIT_S = 10.0  # ten times what is promised
_RECOVERY_LIMIT_S = 60.0
_LASTING_S = 1.5  # long enough for the daemon to try again, and to fail again
_SHORT_SHARE = 10
_LEAST = 2
_FAULTY = Path(__file__).with_name("faulty.py")
_CALL = re.compile(r"^\d+ +\d+\.\d+ (\w+)\(", re.MULTILINE)
_STRUCK = re.compile(r"^\d+ +(\d+\.\d+) .*\(INJECTED\)", re.MULTILINE)
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class Fault:
    """The n-th call on the device fails: once, or from then on."""

    call: str
    error: str
    nth: int
    is_lasting: bool

    def __str__(self) -> str:
        return f"{self.call}:error={self.error}:when={self.when}"

    @property
    def when(self) -> str:
        """As strace says it."""
        return f"{self.nth}{'+' * self.is_lasting}"

    @property
    def is_survived(self) -> bool:
        """Whether the daemon may go on as if nothing had been: the call is done again, or its failure means nothing."""
        is_read_again = self.call.startswith("pread") and not self.is_lasting
        return is_read_again or self.error in {"EINTR", "short", "nosync"} or self.call == "close"

    @property
    def is_real(self) -> bool:
        """Whether the call is done for real, in part or with an error behind it: strace cannot do that."""
        return self.error in {"short", "nosync"} or self.call == "close"

    @property
    def stops(self) -> bool:
        """Whether there is nothing to wait for until it goes."""
        return self.is_hang or not self.is_survived

    @property
    def is_hang(self) -> bool:
        """Whether the call never returns."""
        return self.error == "EINTR" and self.is_lasting


@dataclass(slots=True)
class Outcome:
    """What came of a run. `problems`: what kind (`Row.fail`) and a sentence."""

    struck_at_s: float | None = None
    reported_s: float | None = None
    recovered_s: float | None = None
    seconds: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)


def run(scale: Scale, directory: Path) -> list[Row]:
    """One row for each kind of call."""
    with Bed(directory, "calls") as bed:
        counts = count_calls(bed)
        faults = choose(counts, scale)
    rows = {call: Row("F4", f"{call}, at every n, once and for ever") for call in counts}
    for fault, outcome in zip(faults, on_free_beds(_BEDS, directory, "calls", try_fault, faults), strict=True):
        _enter(rows[fault.call], fault, outcome)
    for call, row in rows.items():
        row.figures["calls in a run"] = counts[call]
    return list(rows.values())


def count_calls(bed: Bed) -> dict[str, int]:
    """How often a run makes each kind of call on the device."""
    healthy = _Run(bed, None)
    with _begun(bed, *_strace(bed)) as let_go:
        healthy.play()
        healthy.recover()
        let_go()
    healthy.judge()
    assert not healthy.outcome.problems, f"without a fault: {healthy.outcome.problems}"
    return dict(collections.Counter(_CALL.findall(bed.trace.read_text())))


def choose(counts: dict[str, int], scale: Scale) -> list[Fault]:
    """All faults, or for the short form a tenth of each kind, spread evenly."""
    chosen = []
    for call, count in counts.items():
        errors = ("EIO",) if call == "close" else (*_ERRORS, "short") if call == "pwrite64" else _ERRORS
        every = [
            Fault(call, error, nth, lasting) for error in errors for lasting in (False, True) for nth in _to(count)
        ]
        number = scale.pick(max(_LEAST, math.ceil(len(every) / _SHORT_SHARE)), len(every))
        chosen += [every[index * len(every) // number] for index in range(number)]
    return chosen


def _to(count: int) -> range:
    return range(1, count + 1)


def _enter(row: Row, fault: Fault, outcome: Outcome) -> None:
    row.seconds += outcome.seconds
    if outcome.struck_at_s is None and not outcome.problems:
        row.figures["never reached"] = int(row.figures.get("never reached", 0)) + 1
        return
    row.states += 1
    for kind, sentence in outcome.problems:
        row.fail(kind, f"{fault}: {sentence}")
    for name, seen in (
        ("reported after at most, s", outcome.reported_s),
        ("back after at most, s", outcome.recovered_s),
    ):
        if seen is not None:
            row.figures[name] = max(round(seen, 2), float(row.figures.get(name, 0)))


# -- one run ----------------------------------------------------------------------------------------------------------


def try_fault(bed: Bed, fault: Fault) -> Outcome:
    """One run with a fault in it, and what is wrong with what was said."""
    attempt, start = _Run(bed, fault), time.monotonic()
    bed.flag.touch()
    with _begun(bed, *_under(bed, fault)) as let_go:
        try:
            attempt.play()
            attempt.expect_report()
            if fault.is_lasting:
                attempt.outlast()
            let_go()
            attempt.recover()
        except _StuckError as stuck:
            attempt.problem("lost", str(stuck))
    attempt.judge()
    attempt.outcome.seconds = time.monotonic() - start
    return attempt.outcome


@contextlib.contextmanager
def _begun(bed: Bed, *under: str) -> Iterator[Callable[[], None]]:
    """A daemon that runs, with what ends its faults; killed at the end."""
    _adopt_orphans()
    bed.trace.unlink(missing_ok=True)
    bed.begin(*under)
    tracer = _Tracer(bed.box.pid) if under[0] == "strace" else None

    def let_go() -> None:
        bed.flag.unlink(missing_ok=True)
        if tracer is not None:
            tracer.end()

    try:
        yield let_go
    finally:
        bed.end()
        let_go()


def _under(bed: Bed, fault: Fault) -> list[str]:
    """The program above the daemon; strace stands beside it (-D), so that it can go while the daemon stays."""
    if fault.is_real:
        call = "close" if fault.call == "close" else fault.error
        return [sys.executable, str(_FAULTY), str(bed.device), str(bed.trace), str(bed.flag), call, fault.when]
    return [*_strace(bed), "-e", f"trace={fault.call}", "-e", f"inject={fault}"]


def _strace(bed: Bed) -> list[str]:
    return ["strace", "-D", "-f", "-I", "2", "-qq", "-ttt", "-o", str(bed.trace), "-P", str(bed.device)]


class _StuckError(Exception):
    """Something that must come did not."""


class _Run:
    """What is done and looked at in one run."""

    def __init__(self, bed: Bed, fault: Fault | None) -> None:
        self._bed = bed
        self._fault = fault
        self._has_installed = False
        self._acknowledged: bytes | None = None
        self.outcome = Outcome()

    def problem(self, kind: str, sentence: str) -> None:
        """Note something wrong."""
        self.outcome.problems.append((kind, sentence))

    def play(self) -> None:
        """Devices come one after the other, then a license; nobody waits for what the fault keeps away."""
        for handle in NEW:
            self._bed.show(handle, "unlicensed")
            self._wait(functools.partial(self._is_answered_or_stopped, handle), handle)
        if not (self._fault_hangs() and self._is_stopped()):
            self._install()

    def _fault_hangs(self) -> bool:
        return self._fault is not None and self._fault.is_hang

    def _install(self) -> bool:
        """Install the license; when the daemon says that it is done, it must be durable."""
        self._has_installed = self._bed.install()
        if self._has_installed:
            self._acknowledged = self._bed.image()
        return self._has_installed

    def _has_seat(self, handle: str) -> bool:
        return self._bed.answer(handle) is True

    def _is_answered_or_stopped(self, handle: str) -> bool:
        return self._bed.answer(handle) is not None or self._is_stopped()

    def _is_stopped(self) -> bool:
        """Whether the fault has struck, so that there is nothing to wait for before it goes."""
        return self._has_struck() and self._fault is not None and self._fault.stops

    def _has_struck(self) -> bool:
        if self.outcome.struck_at_s is None and self._bed.trace.exists():
            found = _STRUCK.search(self._bed.trace.read_text())
            self.outcome.struck_at_s = float(found[1]) if found else None
        return self.outcome.struck_at_s is not None

    def expect_report(self) -> None:
        """A call that failed is said in the journal and on D-Bus."""
        if not self._has_struck() or self._fault is None or self._fault.is_survived:
            return
        self._bed.wait(lambda: self._bed.is_troubled or self._bed.box.has_ended, _LIMIT_S)
        said = [each for each in self._bed.conditions if each.value != "ok"]
        if not said:
            self.problem("silent", "the journal says nothing")
        elif said[0].on_bus_at_s is None:
            self.problem("silent", f"the journal says {said[0].value}, D-Bus does not")
        else:
            self.outcome.reported_s = said[0].on_bus_at_s - (self.outcome.struck_at_s or 0)

    def outlast(self) -> None:
        """The fault stays for a while: the daemon too."""
        self._bed.wait(lambda: self._bed.box.has_ended, _LASTING_S)
        if self._is_stopped() and not self._fault_hangs() and not self._bed.is_troubled:
            self.problem("silent", "the fault is there, but the ledger is said to be ok")

    def recover(self) -> None:
        """Without the fault everything that is due comes by itself."""
        start = time.monotonic()
        self._wait(lambda: self._bed.is_usable, "the ledger's recovery", _RECOVERY_LIMIT_S)
        self.outcome.recovered_s = time.monotonic() - start
        self._wait(lambda: self._has_capacity() or self._install(), "the license")
        for handle in NEW:
            self._wait(functools.partial(self._has_seat, handle), f"the seat of {handle}")

    def _has_capacity(self) -> bool:
        return self._has_installed or self._bed.on_bus("TotalCapacity") == str(CAPACITY + MORE)

    def _wait(self, condition: Callable[[], bool], what: str, limit_s: float = _LIMIT_S) -> None:
        is_met = self._bed.wait(lambda: condition() or self._bed.box.has_ended, limit_s)
        if self._bed.box.has_ended:
            raise _StuckError(f"the daemon ended: ...{self._bed.box.log[-300:]}")
        if not is_met:
            raise _StuckError(f"no sign of: {what}")

    def judge(self) -> None:
        """Everything announced must be in what a power cut would have left at that instant, and in what is left now."""
        told: set[str] = set()
        for each in self._bed.announced:
            if each.is_licensed:
                told.add(each.handle)
                self._compare(each.image, told, f"when {each.handle} heard true")
            elif each.handle == RUNNING:
                self.problem("lost", "the running device heard false")
        if self._acknowledged is not None:
            self._compare(self._acknowledged, told & {RUNNING}, "when the license was acknowledged", CAPACITY + MORE)
        self._compare(self._bed.image(), told, "after the kill", CAPACITY + MORE * self._has_installed)

    def _compare(self, image: bytes, told: set[str], when: str, least_capacity: int = CAPACITY) -> None:
        try:
            state = state_of(image)
        except StorageError as error:
            self.problem("lost", f"{when}: {error}")
            return
        capacity = sum(each.granted_total for each in state.installed.grant.licenses) if state.installed else 0
        for handle in sorted(told):
            if unit_of(handle) not in state.seats:
                self.problem("lost", f"{when}: {handle} heard true and has no seat")
        if capacity < least_capacity:
            self.problem("lost", f"{when}: the capacity is {capacity}")
        if 1 + len(state.seats) > capacity:
            self.problem("doubled", f"{when}: {len(state.seats)} seats of {capacity}")


class _Tracer:
    """strace beside a daemon that was started under it; it is our child, for we adopt orphans."""

    def __init__(self, pid: int) -> None:
        end = time.monotonic() + _LIMIT_S
        while not (found := re.search(r"TracerPid:\s+([1-9]\d*)", Path(f"/proc/{pid}/status").read_text())):
            assert time.monotonic() < end, "strace does not trace"
            time.sleep(0.005)
        self._pid = int(found[1])

    def end(self) -> None:
        """Let it go, if it has not ended with the daemon; the daemon stays."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _adopt_orphans() -> None:
    """strace -D is nobody's child: without this one its remains would stay where PID 1 does not care."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
