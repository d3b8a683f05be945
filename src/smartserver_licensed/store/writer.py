"""The ledger for an asyncio program: one thread does all the I/O, the loop never blocks.

Rules: calls are done one after the other in the order in which they were made; `close` waits for the one under way,
with a limit: a disk that hangs keeps nobody waiting.

What this module does not do: it decides nothing about pauses and retries (`controller.keeper`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from smartserver_licensed.domain.errors import LedgerMissingError, StorageError

from .area import Place
from .log import Ledger, Recovered, create

_T = TypeVar("_T")


class LedgerWriter:
    """A ledger at a path: a block device, an image file or a directory."""

    def __init__(self, path: Path, *, create_with: bytes | None = None) -> None:
        """`create_with`: the first snapshot of an empty *directory*, which becomes a ledger by itself (development)."""
        self._path = path
        self._create_with = create_with
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._place: Place | None = None
        self._ledger: Ledger | None = None

    async def open(self) -> Recovered:
        """Open and recover; what was open is closed first. Raises a StorageError."""
        return await self._do(self._open)

    async def settle(self, snapshot: bytes) -> None:
        """Bring both logs to the recovered state."""
        await self._do(lambda: self._opened().settle(snapshot))

    async def append(self, body: bytes, snapshot: Callable[[], bytes]) -> None:
        """Make one event durable; `snapshot` is called in the thread, while the state does not change."""
        await self._do(lambda: self._opened().append(body, snapshot))

    async def rewrite(self, snapshot: bytes) -> None:
        """Rewrite both logs."""
        await self._do(lambda: self._opened().rewrite(snapshot))

    async def close(self, *, limit_s: float = 10.0) -> None:
        """Close the ledger and end the thread; what still hangs after `limit_s` is left to the end of the process."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._do(self._close), limit_s)
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _do(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> Recovered:
        try:
            return self._recover()
        except LedgerMissingError:
            if self._create_with is None or not self._path.is_dir():
                raise  # never made on a block device or image: there it is `missing`
        create(self._path, self._create_with)
        return self._recover()

    def _recover(self) -> Recovered:
        self._close()
        self._place = Place(self._path)
        try:
            areas = self._place.areas()
            try:
                self._ledger = Ledger(areas)
            except StorageError:
                for area in areas:
                    area.close()
                raise
        except StorageError:
            self._close()
            raise
        return self._ledger.recovered

    def _opened(self) -> Ledger:
        if self._ledger is None:
            raise LedgerMissingError("cannot use the ledger: it is not open")
        return self._ledger

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        if self._place is not None:
            self._place.close()
        self._ledger = self._place = None
