"""Who asks: administration is allowed to root and to the daemon's own user, as the bus knows the caller.

What this module does not do: it does not say which calls are administration (`methods`).
"""

from __future__ import annotations

import asyncio
import os

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from smartserver_licensed.domain.errors import NotPermittedError

_TIMEOUT_S = 5.0


async def require_administrator(bus: MessageBus, message: Message) -> None:
    """Raise NotPermittedError for all but root and the daemon's own user. Polkit will be asked here."""
    question = Message(
        destination="org.freedesktop.DBus",
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="GetConnectionUnixUser",
        signature="s",
        body=[message.sender],
    )
    try:
        answer = await asyncio.wait_for(bus.call(question), _TIMEOUT_S)
    except Exception as error:
        raise NotPermittedError(f"cannot {message.member}: the bus does not say who asks: {error!r}") from error
    if answer.message_type is not MessageType.METHOD_RETURN:
        raise NotPermittedError(f"cannot {message.member}: the bus does not say who asks: {answer.error_name}")
    if answer.body[0] not in {0, os.geteuid()}:
        raise NotPermittedError(f"cannot {message.member}: user {answer.body[0]} asks, only root may")
