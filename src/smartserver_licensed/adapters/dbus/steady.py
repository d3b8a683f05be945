"""A connection to D-Bus by dbus-fast that survives a bus that is slow to read.

Rules: messages go out one at a time and in order, and only when the socket takes them; at most 1,000 wait, then the
connection is given up.

What this module does not do: it connects to nothing by itself and answers nobody (`service`).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import select
from collections import deque

from dbus_fast import BusType, Message
from dbus_fast.aio import MessageBus

_GIVE_UP_AT = 1_000


class SteadyBus(MessageBus):
    """A system or other bus, at `bus_address`.

    dbus-fast (5.0 to 5.2) writes without asking whether the socket takes more and gives the connection up at EAGAIN,
    with some 200 KB on their way. So messages go out one at a time, and only when poll(2) says that there is room: the
    kernel then takes at least a part of the next one, and dbus-fast waits properly for the rest.
    """

    def __init__(self, *, bus_type: BusType, bus_address: str | None) -> None:
        super().__init__(bus_address=bus_address, bus_type=bus_type)
        self._unsent: deque[tuple[Message, asyncio.Future[None]]] = deque()
        self._is_sending = False
        self._watched_fd: int | None = None

    @property
    def unsent(self) -> int:
        """How many messages wait."""
        return len(self._unsent)

    async def lost(self) -> None:
        """Return when the connection has ended, however it did."""
        with contextlib.suppress(Exception):
            await self.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def tell(self, message: Message) -> None:
        """Send and forget; `lost` tells of the connection's end."""
        if self.connected:
            self.send(message).add_done_callback(_forget)

    def send(self, msg: Message) -> asyncio.Future[None]:  # type: ignore[override]  # as the asyncio bus does
        """As in dbus-fast; all its own messages come this way too."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._unsent.append((msg, future))
        if len(self._unsent) > _GIVE_UP_AT:
            self.disconnect()
        self._pump()
        return future

    def _pump(self) -> None:
        while self._unsent and not self._is_sending and not self._disconnected:
            if not self._has_room():
                return
            message, future = self._unsent.popleft()
            try:
                sent = super().send(message)
            except OSError:  # the socket was closed under dbus-fast while it wrote; `lost` tells
                future.cancel()
                return
            self._is_sending = True
            if sent.done():
                self._sent(future, sent)
            else:
                sent.add_done_callback(functools.partial(self._sent_later, future))

    def _sent_later(self, future: asyncio.Future[None], sent: asyncio.Future[None]) -> None:
        self._sent(future, sent)
        self._pump()

    def _sent(self, future: asyncio.Future[None], sent: asyncio.Future[None]) -> None:
        self._is_sending = False
        error = None if sent.cancelled() else sent.exception()
        if not future.done():
            future.set_exception(error) if error else future.set_result(None)

    def _has_room(self) -> bool:
        """Whether the socket takes more; else see to it that `_pump` is called when it does."""
        if self._watched_fd is not None or self._sock is None:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if poll.poll(0):
            return True
        self._watched_fd = os.dup(self._sock.fileno())  # a descriptor of our own: dbus-fast watches its own one
        self._loop.add_writer(self._watched_fd, self._room_again)
        return False

    def _room_again(self) -> None:
        self._stop_watching()
        self._pump()

    def _stop_watching(self) -> None:
        if self._watched_fd is not None:
            self._loop.remove_writer(self._watched_fd)
            os.close(self._watched_fd)
            self._watched_fd = None

    def _finalize(self, err: Exception | None = None) -> None:
        self._stop_watching()
        super()._finalize(err)
        for _, future in self._unsent:
            future.cancel()
        self._unsent.clear()


def _forget(sent: asyncio.Future[None]) -> None:
    if not sent.cancelled():
        sent.exception()
