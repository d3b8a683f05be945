"""The log of what operators did.

What this module does not do: contacts, grants, credits and forks have tables of their own; this names acts only.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from smartserver_licensed.domain.timekeeping import Timestamp

from .tables import AuditEntry


def note_act(session: Session, now: Timestamp, act: str, detail: str) -> None:
    """Remember an act of the operator, as part of the operation itself."""
    session.add(AuditEntry(made_at=now, act=act, detail=detail))
