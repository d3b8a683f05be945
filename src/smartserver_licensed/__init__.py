"""On-device licensing daemon of the SmartServer IoT; docs/architecture.md shows the one way through.

Layers, top to bottom (imports point down, `make check` holds it): `daemon`, `cli` → `controller` →
`adapters`, `store` → `formats` → `documents` → `domain`. The last three are pure: no I/O, no clock.
"""

VERSION = "0.1.0"
BUILD_TIME_S = 1_795_478_400  # 2026-11-24; no time before this one is believed (LICENSING §5)
