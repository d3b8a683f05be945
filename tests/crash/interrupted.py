"""Recordings for F3: the daemon is killed between a write and its sync, or a write fails; it goes on, and announces.

Rules:
- the kill is exact: strace ends the daemon at the entry of its n-th `fdatasync` of the ledger, which is not done then.
  What was written stays in the page cache of the device, which the disk keeps open: the next start finds it there;
- a write fails on the disk itself, alone or with all that come until the disk is healed: the sync says EIO, a second
  one says OK, and the page cache shows data that are not on the disk;
- each time the daemon must come back, by a start or by itself, and admit again; all of that is in the recording.

What this module does not do: it cuts and judges nothing (`power_cut` does, over the whole recording).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from crash.recording import Recording, Run
from support.box import wait_until

_MOST_TURNS = 20
CALLS_OF_A_TURN = 18  # about as many syncs are in a start, an install, a commit and a return


def record_kills(directory: Path, nths: Iterable[int], *, program: Sequence[str] = ()) -> Recording:
    """A run in which the daemon is killed at the n-th sync of a start and what follows it, for each of these n."""
    with Run(directory, program=program) as run:
        run.install(50)
        _admit(run, "first")
        for nth in nths:
            run.box.stop()
            _start_to_be_killed(run, nth)
            _ask_until(run, lambda: run.has_ended, f"killed-{nth}")
            run.box.start()
            _admit(run, f"after-{nth}")
        return run.recording()


def record_failures(directory: Path, nths: Iterable[int], *, program: Sequence[str] = ()) -> Recording:
    """A run in which the n-th write from some time on fails, for each of these n: alone, then with all that follow."""
    with Run(directory, program=program) as run:
        run.install(50)
        _admit(run, "first")
        for nth, is_lasting in itertools.product(nths, (False, True)):
            until = run.disk.failures + 1
            run.disk.fail_writes(nth, always=is_lasting)
            _ask_until(run, lambda until=until: run.disk.failures >= until, f"failed-{nth}-{is_lasting}")  # type: ignore[misc]
            run.disk.heal()
            _admit(run, f"after-{nth}-{is_lasting}")
        return run.recording()


def _start_to_be_killed(run: Run, nth: int) -> None:
    inject = ("-P", str(run.path), "-e", "trace=fdatasync", "-e", f"inject=fdatasync:signal=KILL:when={nth}")
    with contextlib.suppress(AssertionError):  # it may not live to answer
        run.box.start("strace", "-f", "-qq", "-o", "/dev/null", *inject)


def _ask_until(run: Run, has_struck: Callable[[], bool], name: str) -> None:
    """Ask for licenses, returns and devices until the fault has struck."""
    for number in range(_MOST_TURNS):
        if has_struck():
            return
        _ask(run, f"{name}-{number}")
        with contextlib.suppress(AssertionError):
            wait_until(has_struck, timeout_s=0.5, what="the fault")
    raise TimeoutError(f"the fault did not strike: {name}")


def _ask(run: Run, name: str) -> None:
    """A license and a device more, and a device of a license returned, as far as they come."""
    run.install(1)
    run.show([name], "unlicensed")
    run.give_back(1)


def _admit(run: Run, name: str) -> None:
    """A license and a device more, once there is a ledger again; returns when the device has heard its answer."""
    run.wait_for(lambda status: status["state"] not in {"starting", "storage-fault"}, "a ledger")
    _ask(run, name)
    run.herald.wait_for(lambda message: message.topic.endswith(f"/{name}/lic"), timeout_s=60)
