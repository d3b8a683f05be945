"""The judge of F9 finds nothing wrong with the store, and finds one that guesses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from crash import swaps
from smartserver_licensed import ledger_writer
from smartserver_licensed.domain.errors import LedgerCorruptError
from smartserver_licensed.store.area import FileArea
from smartserver_licensed.store.log import Ledger


def test_swapped_logs_give_the_newest_state_or_are_refused(tmp_path: Path) -> None:
    row = swaps.swap(range(1), tmp_path)
    assert row.failures == []
    assert {"ok", "degraded", "corrupt", "foreign", "missing"} == set(row.figures)


class Guessing(Ledger):
    """Goes on with log a where the two do not agree."""

    def __init__(self, areas: Sequence[FileArea]) -> None:
        try:
            super().__init__(areas)
        except LedgerCorruptError:
            areas[1].write(0, bytes(areas[0].read()))
            super().__init__(areas)


def test_a_store_that_guesses_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_writer, "Ledger", Guessing)
    assert not swaps.swap(range(1), tmp_path).is_good
