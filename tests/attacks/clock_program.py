"""The daemon with clocks that a file says: `clock_program.py CLOCKS …`. Nothing else of it is replaced.

The file: {"ahead_s": seconds that the wall clock is ahead, "wall_s": or what it shows, "ran_s": how much longer than it
did the SmartServer has run, "is_synchronised": what the kernel says}.

What this module does not do: it decides nothing about time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from smartserver_licensed.adapters.clock import SystemClocks
from smartserver_licensed.daemon import main
from smartserver_licensed.domain.trusted_time import Reading

_CLOCKS = Path(sys.argv.pop(1))
_real = SystemClocks.reading


def _reading(clocks: SystemClocks) -> Reading:
    said, real = json.loads(_CLOCKS.read_text()), _real(clocks)
    wall_s = said.get("wall_s", real.wall_s + said.get("ahead_s", 0))
    return Reading(wall_s, real.boottime_s + said.get("ran_s", 0), said["is_synchronised"])


SystemClocks.reading = _reading  # type: ignore[method-assign,assignment]
sys.exit(main())
