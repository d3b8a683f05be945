"""The ledger for an asyncio program: one thread does all the I/O, the loop never blocks.

Rules:
- calls are done one after the other in the order in which they were made;
- `close` waits for the one under way, with a limit: a disk that hangs keeps nobody waiting, nor the end of the process;
- not `run_in_executor`: a commit that comes alone would pay 0.1 ms for futures that nobody else needs (measured).

What this module does not do: it decides nothing about pauses and retries (`controller.keeper`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from smartserver_licensed.domain.errors import LedgerMissingError, StorageError

from .store.area import Place
from .store.log import Ledger
from .store.recovery import Recovered

_T = TypeVar("_T")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class LedgerWriter:
    """A ledger at a path: a block device, an image file or a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        threading.Thread(target=_work, args=(self._jobs,), name="ledger", daemon=True).start()
        self._place: Place | None = None
        self._ledger: Ledger | None = None

    @property
    def figures(self) -> Ledger | None:
        """The open ledger, to read its figures from; only the thread calls it."""
        return self._ledger

    async def open(self) -> Recovered:
        """Open and recover; what was open is closed first. Raises a StorageError."""
        return await self._do(self._open)

    async def settle(self, snapshot: bytes, *, is_changed: bool = False) -> None:
        """Bring both logs to the recovered state; `is_changed`: there is more in it than the replay says."""
        await self._do(lambda: self._opened().settle(snapshot, is_changed=is_changed))

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable; `snapshot` is called in the thread, while the state does not change."""
        await self._do(lambda: self._opened().append(body, snapshot))

    async def rewrite(self, snapshot: bytes) -> None:
        """Rewrite both logs."""
        await self._do(lambda: self._opened().rewrite(snapshot))

    async def release(self) -> None:
        """Let the path go: others may open it, and it may be another device at the next `open`."""
        await self._do(self._close)

    async def close(self, *, limit_s: float = 10.0) -> None:
        """Close the ledger and end the thread; what still hangs after `limit_s` is left to the end of the process."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.release(), limit_s)
        self._jobs.put(None)

    async def _do(self, work: Callable[[], _T]) -> _T:
        done: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put((work, done))
        return await done

    def _open(self) -> Recovered:
        self._close()
        self._place = Place(self._path)
        self._ledger = Ledger(self._place.areas())
        return self._ledger.recovered

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise LedgerMissingError("cannot use the ledger: it is not open")
        return self._ledger

    def _close(self) -> None:
        if self._place is not None:
            self._place.close()
        self._ledger = self._place = None


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    """The thread: one job after the other, until there is None."""
    while (job := jobs.get()) is not None:
        work, done = job
        result: Any = None
        error: Exception | None = None
        try:
            result = work()
        except OSError as raised:  # what no part of the store has foreseen is a fault of the storage all the same
            error = StorageError(f"cannot use the ledger: {raised}")
        except Exception as raised:  # noqa: BLE001 - it is raised again where the job was asked for
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile: nobody waits
            done.get_loop().call_soon_threadsafe(_tell, done, result, error)
        del job, work, done, result, error  # nothing is kept alive while there is nothing to do


def _tell(done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
    if done.done():  # cancelled
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
