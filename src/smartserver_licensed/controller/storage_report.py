"""What is to be said of the ledger on its device: where, how full, how worn, and what anchors it.

Rules: bytes are those that the ledger writes; the life is what the pages of both logs take, at 3,000 program cycles,
as if the flash had no other pages to move them to (industrial eMMC is specified for 3,000 and more); the rate is that
since the daemon's start, not known in its first hour and a lower bound in its first day.

What this module does not do: it reads no disk.
"""

from __future__ import annotations

from smartserver_licensed.formats.bus import Plain

from .anchoring import Anchoring
from .keeper import Keeper
from .ports import Clocks, Ledger

PROGRAM_CYCLES = 3_000
_DAY_S = 86_400.0
_RATE_AFTER_S = 3_600.0


class StorageReport:
    """Made once at the start: the rate counts from there."""

    def __init__(self, keeper: Keeper, ledger: Ledger, anchoring: Anchoring, clocks: Clocks, *, path: str) -> None:
        self._keeper = keeper
        self._ledger = ledger
        self._anchoring = anchoring
        self._clocks = clocks
        self._path = path
        self._began_at = clocks.monotonic()

    def describe(self) -> dict[str, Plain]:
        """The keys are those of D-Bus (docs/dbus.md); what is not known is 0 or empty."""
        keeper, figures = self._keeper, self._ledger.figures
        log_bytes = figures.size_bytes if figures else 0
        state = keeper.shown
        return {
            "condition": keeper.storage.value,
            "reason": keeper.storage_reason,
            "repair": state.repair if state else "",
            "path": self._path,
            "sequence": figures.seq if figures else 0,
            "log_bytes": log_bytes,
            "fill_bytes": figures.fill_bytes if figures else 0,
            "written_bytes": keeper.written_bytes,
            "written_per_day": self._per_day(),
            "life_bytes": 2 * log_bytes * PROGRAM_CYCLES,
            "anchor": self._anchoring.kind,
            "anchor_count": (state.anchored or 0) if state else 0,
        }

    def _per_day(self) -> int:
        passed_s = self._clocks.monotonic() - self._began_at
        if passed_s < _RATE_AFTER_S:
            return 0
        return int(max(0, self._keeper.written_since_start) / max(passed_s, _DAY_S) * _DAY_S)
