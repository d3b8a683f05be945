"""The limits that the daemon is measured against, each as bare as it can be; run as a process of its own.

- `echo PORT SID`: paho alone, without a thread: answers each `sts` by a `lic` of the usual size;
- `get ADDRESS`: dbus-fast alone: an interface with one property;
- `Disk`: the same bytes, twice, as the ledger writes them, here in the measuring process.

What this module does not do: it decides nothing, keeps nothing, checks nothing.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

SLOT_BYTES = 4096  # the smallest record of the ledger: one event of one device
AREA_BYTES = 4 << 20
LIC = b'{"licensed":true,"reason":"","capacity":4000,"used":1000,"mru":"2026-11-24 03:22:42.746 UTC"}'


class Disk:
    """Two files as the ledger's: preallocated, buffered writes, `fdatasync`; a slot further each time."""

    def __init__(self, directory: Path) -> None:
        self._fds = []
        for name in ("bare.a", "bare.b"):
            fd = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.posix_fallocate(fd, 0, AREA_BYTES)
            os.fsync(fd)
            self._fds.append(fd)
        self._record = os.urandom(SLOT_BYTES)
        self._end = SLOT_BYTES

    def commit(self) -> float:
        """Write and sync once in both; the seconds it took."""
        if self._end >= AREA_BYTES:
            self._end = SLOT_BYTES
        start = time.perf_counter()
        for fd in self._fds:
            os.pwrite(fd, self._record, self._end)
        for fd in self._fds:
            os.fdatasync(fd)
        self._end += SLOT_BYTES
        return time.perf_counter() - start

    def close(self) -> None:
        """Give the files back."""
        for fd in self._fds:
            os.close(fd)


def echo(port: int, sid: str) -> None:
    """Answer for ever."""
    import paho.mqtt.client as paho  # noqa: PLC0415 - each reference imports what it is about, no more
    from paho.mqtt.enums import CallbackAPIVersion  # noqa: PLC0415

    client = paho.Client(CallbackAPIVersion.VERSION2, clean_session=True)
    client.max_inflight_messages_set(64)

    def on_message(_client: object, _data: object, message: paho.MQTTMessage) -> None:
        client.publish(message.topic[:-3] + "lic", LIC, qos=1, retain=True)

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", port)
    client.subscribe(f"glp/0/{sid}/fb/dev/+/+/sts", qos=1)
    client.loop_forever()


async def get(address: str) -> None:
    """Serve one property for ever."""
    from dbus_fast.aio import MessageBus  # noqa: PLC0415
    from dbus_fast.constants import PropertyAccess  # noqa: PLC0415
    from dbus_fast.service import ServiceInterface, dbus_property  # noqa: PLC0415

    class Empty(ServiceInterface):
        """One property that is always 7."""

        @dbus_property(access=PropertyAccess.READ)
        def UsedCapacity(self) -> "u":  # type: ignore[name-defined] # noqa: F821, N802, UP037 - D-Bus's own type
            return 7

    bus = await MessageBus(bus_address=address).connect()
    bus.export("/bare", Empty("bare.Empty"))
    await bus.request_name("bare.Empty")
    print("ready", flush=True)
    await asyncio.get_running_loop().create_future()


def main(arguments: list[str]) -> None:
    """Run one reference."""
    match arguments:
        case ["echo", port, sid]:
            echo(int(port), sid)
        case ["get", address]:
            asyncio.run(get(address))


if __name__ == "__main__":
    main(sys.argv[1:])
