"""The authority's memory: one database, one operation at a time, durable before any document leaves.

Rules (LICENSING §4):
- one transaction an operation; it begins with the lock, so that what was read is still so when it is written;
- SQLite: BEGIN IMMEDIATE, and `synchronous=EXTRA`, which is FULL and also syncs the directory after the journal is
  removed: without that a power cut could undo a commit whose grant has left. Other databases: the one row of
  `register` is locked by each transaction, reads included; READ COMMITTED, so that whoever waited sees what the one
  before has written, where a snapshot taken before the wait would make it fail;
- a damaged, missing or newer register issues nothing: it would forget trials and give a seq twice;
- what the database's driver raises becomes an error of the authority here, once. A fork that was found is
  remembered although it is an error.

What this module does not do: it decides nothing; the tables are in `tables`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Engine, event, exc, inspect, make_url, select, text
from sqlalchemy.orm import Session

from smartserver_licensed.domain.errors import ArgumentError

from .durable import OWNER_ONLY
from .errors import (
    FileAccessError,
    ForkFoundError,
    RegisterBusyError,
    RegisterCorruptError,
    RegisterMissingError,
    RegisterNewerError,
    RegisterOccupiedError,
)
from .tables import SCHEMA_VERSION, Base, RegisterState

LOCK_WAIT_S = 10.0

_FILE = "authority.db"
_BUSY_STATES = frozenset({"40001", "40P01", "55P03"})  # SQLSTATE: serialization, deadlock, lock not available


def register_url(directory: Path) -> str:
    """Where the register of an authority is, unless somebody says otherwise."""
    return URL.create("sqlite", database=str(directory / _FILE)).render_as_string(hide_password=False)


class Register:
    """An open register. It may be shared between threads; each transaction has a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        weakref.finalize(self, engine.dispose)  # its connections do not outlive it, whoever forgets `close`

    @classmethod
    def create(cls, url: str, *, wait_s: float = LOCK_WAIT_S) -> Register:
        """Make an empty register.

        Raises RegisterOccupiedError where one is, ArgumentError for a URL that is none, FileAccessError.
        """
        place = _parsed(url)
        if place.get_backend_name() == "sqlite":
            try:  # with the mode of a secret; the journal takes over the mode of its database
                os.close(os.open(str(place.database), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY))
            except OSError as error:
                raise FileAccessError(f"cannot make the register {place.database}: {error.strerror}") from error
        register = cls(_engine(place, wait_s))
        with register._session() as session:
            if inspect(session.connection()).has_table(RegisterState.__tablename__):
                raise RegisterOccupiedError(f"cannot make a register in {place.database}: there is one")
            Base.metadata.create_all(session.connection())
            session.add(RegisterState(id=1, schema_version=SCHEMA_VERSION))
        return register

    @classmethod
    def open(cls, url: str, *, wait_s: float = LOCK_WAIT_S) -> Register:
        """An existing register; tables that a newer program adds are made.

        Raises RegisterMissingError, RegisterCorruptError, RegisterNewerError, RegisterBusyError after `wait_s`
        seconds, ArgumentError for a URL that is none, FileAccessError.
        """
        place = _parsed(url)
        missing = RegisterMissingError(
            f"cannot open the register {place.database}: there is none (`license-authority init` makes one)"
        )
        if place.get_backend_name() == "sqlite" and not Path(str(place.database)).exists():
            raise missing
        register = cls(_engine(place, wait_s))
        with register._session() as session:
            if not inspect(session.connection()).has_table(RegisterState.__tablename__):
                raise missing
            _check_whole(session, place)
            Base.metadata.create_all(session.connection())
        return register

    def close(self) -> None:
        """Give the connections back. No transaction may be running."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One operation: locked from its beginning, durable at its end, undone by any exception but a found fork.

        Raises RegisterBusyError, RegisterCorruptError, FileAccessError, and what the block raises.
        """
        with self._session() as session:
            session.execute(select(RegisterState).with_for_update())  # SQLite has locked at BEGIN and ignores this
            yield session

    @contextmanager
    def _session(self) -> Iterator[Session]:
        place = self._engine.url.database
        try:
            with Session(self._engine) as session:
                try:
                    yield session
                except ForkFoundError as found:
                    if found.is_new:
                        session.commit()
                    raise
                session.commit()
        except exc.SQLAlchemyError as error:
            raise _translated(error, place) from error


def _parsed(url: str) -> URL:
    try:
        place = make_url(url)
        place.get_dialect()
    except (exc.ArgumentError, ImportError) as error:
        raise ArgumentError(
            f"cannot use the register: its URL names no database that is known here: {error}"
        ) from error
    if place.get_backend_name() == "sqlite" and place.database in {None, "", ":memory:"}:
        raise ArgumentError("cannot use the register: a database in memory remembers nothing")
    return place


def _engine(place: URL, wait_s: float) -> Engine:
    try:
        if place.get_backend_name() != "sqlite":
            return sqlalchemy.create_engine(place, isolation_level="READ COMMITTED")
        engine = sqlalchemy.create_engine(place, connect_args={"timeout": wait_s})
    except ImportError as error:
        raise ArgumentError(f"cannot use the register: its driver is not installed: {error}") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    connection.isolation_level = None  # or the driver would begin by itself, and too late
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=EXTRA")


def _begin_sqlite(connection: sqlalchemy.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_whole(session: Session, place: URL) -> None:
    version = session.execute(select(RegisterState.schema_version)).scalar()
    if version is None:
        raise RegisterCorruptError(f"cannot open the register {place.database}: it does not say its version")
    if version > SCHEMA_VERSION:
        raise RegisterNewerError(
            f"cannot open the register {place.database}: it has version {version}, this program knows {SCHEMA_VERSION}"
        )
    if place.get_backend_name() == "sqlite":
        found = session.execute(text("PRAGMA quick_check(1)")).scalar()
        if found != "ok":
            raise RegisterCorruptError(f"cannot open the register {place.database}: {found}")


def _translated(error: exc.SQLAlchemyError, place: str | None) -> Exception:
    origin = getattr(error, "orig", None)
    why = str(origin if origin is not None else error)
    state = getattr(origin, "sqlstate", None)  # of the drivers of PostgreSQL
    if state in _BUSY_STATES or (isinstance(error, exc.OperationalError) and "locked" in why):
        return RegisterBusyError(f"cannot use the register {place}: another one has held it for too long: {why}")
    if isinstance(error, exc.OperationalError):
        return FileAccessError(f"cannot use the register {place}: {why}")
    return RegisterCorruptError(f"cannot use the register {place}: {why}")
