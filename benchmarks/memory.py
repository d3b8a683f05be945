"""(d) memory: after the start, with 1,000 devices, after 1,000,000 events.

Rules: resident memory as the kernel counts it, of the daemon alone; events are changed `sts` of devices chosen anew,
never more at a time than the broker's queue to the daemon holds.

What this module does not do: hostile input is not here (`tests/system`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from benchmarks import process, start
from benchmarks.smartserver import Field, Measured
from benchmarks.table import Aim, Figures, Row

_LIMIT_MB = 40
_AT_ONCE = 800
_AIM = Aim(f"<= {_LIMIT_MB} MB", at_most=_LIMIT_MB, is_value=True)


class Memory:
    """Looks at one daemon as it grows."""

    def __init__(self, box: Measured, field: Field, handles: Sequence[str]) -> None:
        self._box = box
        self._field = field
        self._handles = handles
        self._taken: dict[str, Figures] = {}
        self._pss: dict[str, float] = {}
        self._bare = Figures.of(start.import_only_rss_mb(box.directory) for _ in range(3))

    def look(self, when: str) -> None:
        """Take some samples now."""
        samples = []
        for _ in range(10):
            samples.append(process.rss_mb(self._box.pid))
            time.sleep(0.05)
        self._keep(when, samples)

    def run(self, *, is_short: bool) -> None:
        """Let the events pass, and take samples of the last half of them."""
        rounds = (50_000 if is_short else 1_000_000) // _AT_ONCE
        samples = []
        for number in range(rounds):
            some = random.sample(self._handles, _AT_ONCE // 2)
            for state in ("unprovisioned", "provisioned"):
                self._field.say_all(some, state)
            self._field.fence()
            if number >= rounds // 2:
                samples.append(process.rss_mb(self._box.pid))
        self._keep("events", samples)

    def rows(self, *, is_short: bool) -> list[Row]:
        """The rows of (d)."""
        events = "50,000" if is_short else "1,000,000"
        flat = Aim("<= 1.1x", at_most=1.1)
        with_devices, after = self._taken["devices"], self._taken["events"]
        return [
            self._row("d.start", "memory after the start", "start"),
            self._row("d.devices", "  with 1,000 devices", "devices"),
            self._row("d", f"  after {events} events", "events"),
            Row("d.flat", "  is it flat?", "MB", after, with_devices, "with 1,000 devices, before the events", flat),
        ]

    def _keep(self, when: str, samples: Sequence[float]) -> None:
        self._taken[when] = Figures.of(samples)
        self._pss[when] = process.pss_mb(self._box.pid)

    def _row(self, key: str, what: str, when: str) -> Row:
        note = f"its share of what processes share (PSS): {self._pss[when]:.1f} MB"
        limit_what = "a Python that only imports the same libraries"
        return Row(key, what, "MB", self._taken[when], self._bare, limit_what, _AIM, note=note)
