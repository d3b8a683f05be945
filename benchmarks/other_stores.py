"""What one would take instead of our ledger: SQLite and LMDB, each in two ways.

Rules: each is set as its own manual says for commits that are durable when the call returns; nothing else is turned.
Rows: a commit is one new row with the ledger's own body. Table: the row of each device that changed is updated in
place.

What this module does not do: it measures nothing but the seconds of a commit.
"""

from __future__ import annotations

import sqlite3
import struct
import time
from collections.abc import Sequence
from pathlib import Path

import lmdb

from benchmarks.stores import Commit, every_seat
from smartserver_licensed.domain.ledger_state import SeatGiven

_LMDB_BYTES = 8 << 20


class _Sqlite:
    """The standard library's, with a write-ahead log that is synced at each commit."""

    def __init__(self, directory: Path) -> None:
        self._database = sqlite3.connect(directory / "state.db", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE commits (seq INTEGER PRIMARY KEY, body BLOB)",
            "CREATE TABLE seats (unit TEXT PRIMARY KEY, kind TEXT, has_run INTEGER, number INTEGER)",
        ):
            self._database.execute(statement)
        self._do("INSERT INTO seats VALUES (?, ?, ?, ?)", [_row(event) for event in every_seat()])

    def _do(self, statement: str, rows: Sequence[tuple[object, ...]]) -> float:
        start = time.perf_counter()
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(statement, rows)
        self._database.execute("COMMIT")
        return time.perf_counter() - start

    def close(self) -> None:
        """Give it back."""
        self._database.close()


class SqliteRows(_Sqlite):
    """Nothing is ever changed: a new row a commit."""

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""
        return self._do("INSERT INTO commits (body) VALUES (?)", [(commit.body,)])


class SqliteTable(_Sqlite):
    """One row a device, updated in place."""

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""
        return self._do("REPLACE INTO seats VALUES (?, ?, ?, ?)", [_row(event) for event in commit.events])


class _Lmdb:
    """A B+ tree that is copied on write, synced at each commit."""

    def __init__(self, directory: Path) -> None:
        self._database = lmdb.open(str(directory / "state.mdb"), subdir=False, map_size=_LMDB_BYTES)
        self._number = 0
        self._do([_pair(event) for event in every_seat()])

    def _do(self, pairs: Sequence[tuple[bytes, bytes]]) -> float:
        start = time.perf_counter()
        with self._database.begin(write=True) as transaction:
            for key, value in pairs:
                transaction.put(key, value)
        return time.perf_counter() - start

    def close(self) -> None:
        """Give it back."""
        self._database.close()


class LmdbRows(_Lmdb):
    """Nothing is ever changed: a new pair a commit."""

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""
        self._number += 1
        return self._do([(struct.pack(">BQ", 0xFF, self._number), commit.body)])  # behind all devices: always the last


class LmdbTable(_Lmdb):
    """One pair a device, replaced."""

    def commit(self, commit: Commit) -> float:
        """Make it durable; the seconds it took."""
        return self._do([_pair(event) for event in commit.events])


def _row(event: SeatGiven) -> tuple[str, str, bool, int]:
    return event.unit, event.seat.kind.value, event.seat.has_run, event.seat.number


def _pair(event: SeatGiven) -> tuple[bytes, bytes]:
    return event.unit.encode(), repr(_row(event)[1:]).encode()
