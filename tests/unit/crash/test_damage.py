"""The judge of F7 and F8 finds nothing wrong with the store, and finds every store that is wrong on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from crash import damage
from crash.images import PAGE_BYTES, Memory
from crash.table import Row
from smartserver_licensed.domain.errors import LedgerCorruptError
from smartserver_licensed.store import record
from smartserver_licensed.store.log import Ledger


def found() -> list[Row]:
    return [*damage.rot(1, 200), *damage.edit(3, 400)]


def test_damage_is_repaired_or_refused_and_never_another_state() -> None:
    rows = found()
    assert [each.failures for each in rows] == [[], [], [], []]
    assert all(each.states > 40 for each in rows)
    assert any("exception" in name for name in rows[1].figures), "the last record in both logs was tried as well"


class OneEyed(Ledger):
    """Reads one log only, and believes it."""

    def __init__(self, areas: Sequence[Memory]) -> None:
        super().__init__((areas[0], areas[0]))


class Silent(Ledger):
    """Repairs, and says nothing of it."""

    def __init__(self, areas: Sequence[Memory]) -> None:
        super().__init__(areas)
        self.recovered = replace(self.recovered, repairs=(), notes=())


class Forgetful(Ledger):
    """Takes a damaged record for a torn one wherever it stands: what follows is forgotten."""

    def __init__(self, areas: Sequence[Memory]) -> None:
        super().__init__(areas)
        if self.recovered.repairs:
            self.recovered = replace(self.recovered, events=self.recovered.events[:-1])


class Eager(Ledger):
    """Writes before it knows."""

    def __init__(self, areas: Sequence[Memory]) -> None:
        try:
            super().__init__(areas)
        except LedgerCorruptError:
            areas[0].write(0, bytes(PAGE_BYTES))
            raise


class Lazy(Ledger):
    """Repairs nothing."""

    def settle(self, snapshot: bytes, *, is_changed: bool = False) -> None:
        """Leave it as it is."""
        self._is_settled = True


@pytest.mark.parametrize("broken", [OneEyed, Silent, Forgetful, Eager, Lazy])
def test_a_store_that_does_wrong_is_found(broken: type[Ledger], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "Ledger", broken)
    rows = found()
    assert sum(each.lost + each.silent for each in rows) > 0
    assert all(each.failures for each in rows if not each.is_good), "it is said at which state"


def test_a_store_that_checks_no_seal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_tag", lambda _secret, _header, _body: bytes(32))
    assert sum(each.silent for each in damage.edit(3, 60)) > 0
