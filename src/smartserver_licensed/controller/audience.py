"""Whoever hears what is announced on D-Bus: nobody before the bus is there, then the bus.

Rules: the state is loaded before the bus is asked for its name, so announcing must be possible without one; nothing is
lost by that, since who sees the name come reads everything.

What this module does not do: it keeps nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from smartserver_licensed.domain.status import Status
from smartserver_licensed.formats.bus import Plain

from .ports import Announcer


class Audience:
    """Passes on to `listener`, once there is one."""

    def __init__(self) -> None:
        self.listener: Announcer | None = None

    def publish(self, status: Status) -> None:
        """Emit property changes."""
        if self.listener is not None:
            self.listener.publish(status)

    def rejected(self, device: str, reason: str, details: Mapping[str, Plain]) -> None:
        """Emit AdmissionRejected."""
        if self.listener is not None:
            self.listener.rejected(device, reason, details)

    def license_changed(self, summary: Mapping[str, Plain]) -> None:
        """Emit LicenseChanged."""
        if self.listener is not None:
            self.listener.license_changed(summary)

    def noticed(self, kind: str, details: Mapping[str, Plain]) -> None:
        """Emit Notice."""
        if self.listener is not None:
            self.listener.noticed(kind, details)

    def tampered(self, topic: str, details: Mapping[str, Plain]) -> None:
        """Emit TamperDetected."""
        if self.listener is not None:
            self.listener.tampered(topic, details)
