"""The journal, as the controller writes it: a constant sentence with a MESSAGE_ID, and fields.

Rules (STYLE.md): raise or log, not both; never keys or whole documents; field values are short.

What this module does not do: it knows no socket; `adapters.journal` is a handler of Python's logging.
"""

from __future__ import annotations

import logging

from smartserver_licensed.domain.messages import Message

_LOGGER = logging.getLogger("smartserver_licensed")
_LEVELS = {3: logging.ERROR, 4: logging.WARNING, 5: logging.INFO, 6: logging.INFO, 7: logging.DEBUG}
_LONGEST = 500


def tell(message: Message, **fields: object) -> None:
    """Write one entry; fields are upper-case journal field names."""
    shown = {name: str(value)[:_LONGEST] for name, value in fields.items()}
    level = _LEVELS.get(message.priority, logging.ERROR)
    _LOGGER.log(level, message.sentence, extra={"fields": {"MESSAGE_ID": message.id, **shown}})
