"""Tokens of couriers: who may bring documents to `serve`.

Rules:
- a token has 256 random bits, is shown once, and only its SHA-256 is kept: there is nothing to guess and nothing to
  steal from the register;
- a token is revoked, never deleted; its name is not given twice, since the log names tokens;
- a token bound to a customer carries what `serve` lets it.

What this module does not do: it decides nothing about licenses: a document speaks for itself, by its signature.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from smartserver_licensed.domain.licenses import check_name
from smartserver_licensed.domain.timekeeping import Timestamp

from .errors import CustomerUnknownError, TokenError
from .register import Register
from .tables import Base, Customer, RowId

_PREFIX = "lat_"  # so that scanners for secrets can know it
_RANDOM_BYTES = 32


class ApiToken(Base):
    """A token; `customer_id` is "" where it is bound to none."""

    __tablename__ = "api_tokens"

    id: Mapped[RowId]
    name: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    customer_id: Mapped[str]
    made_at: Mapped[int]
    revoked_at: Mapped[int | None] = mapped_column(default=None)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its secret."""

    name: str
    customer_id: str
    made_at: Timestamp
    revoked_at: Timestamp | None


def add_token(register: Register, name: str, *, customer_id: str = "", now: Timestamp) -> str:
    """A new token; what is returned is kept nowhere. Raises TokenError, CustomerUnknownError, ArgumentError."""
    check_name("a token's name", name)
    token = f"{_PREFIX}{secrets.token_urlsafe(_RANDOM_BYTES)}"
    with register.transaction() as session:
        if _named(session, name) is not None:
            raise TokenError(f"cannot add the token {name!r}: there is or was one of that name")
        if customer_id and session.get(Customer, customer_id) is None:
            raise CustomerUnknownError(f"cannot add the token {name!r}: there is no customer {customer_id}")
        session.add(ApiToken(name=name, sha256=_digest(token), customer_id=customer_id, made_at=now))
    return token


def revoke_token(register: Register, name: str, *, now: Timestamp) -> None:
    """From now on it opens nothing; one that is revoked stays so, since when it was. Raises TokenError."""
    with register.transaction() as session:
        token = _named(session, name)
        if token is None:
            raise TokenError(f"cannot revoke the token {name[:80]!r}: there is none of that name")
        token.revoked_at = token.revoked_at or now


def list_tokens(register: Register) -> tuple[TokenRow, ...]:
    """All tokens, oldest first."""
    with register.transaction() as session:
        return tuple(_row(each) for each in session.execute(select(ApiToken).order_by(ApiToken.id)).scalars())


def find_token(register: Register, token: str) -> TokenRow:
    """Whose token this is. Raises TokenError for one that is not known or revoked, with the same words."""
    digest = _digest(token)
    with register.transaction() as session:
        found = session.execute(select(ApiToken).where(ApiToken.sha256 == digest)).scalar_one_or_none()
        if found is None or not hmac.compare_digest(found.sha256, digest) or found.revoked_at is not None:
            raise TokenError("cannot accept the token: it is not known, or revoked")
        return _row(found)


def _named(session: Session, name: str) -> ApiToken | None:
    return session.execute(select(ApiToken).where(ApiToken.name == name)).scalar_one_or_none()


def _row(token: ApiToken) -> TokenRow:
    return TokenRow(token.name, token.customer_id, token.made_at, token.revoked_at)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
