from __future__ import annotations

from dataclasses import replace

import pytest

from smartserver_licensed.domain.binding import NO_FACTORS, Binding, Factors, Identity, judge, matching
from smartserver_licensed.domain.errors import ArgumentError

BOARD = Factors("soc-1", "emmc-1", "mac-1")
OTHER = Factors("soc-2", "emmc-2", "mac-2")


def test_factors_match_one_by_one_in_their_own_place() -> None:
    assert matching(BOARD, BOARD) == 3
    assert matching(BOARD, replace(BOARD, emmc="x")) == 2
    assert matching(Factors("a", "b", "c"), Factors("b", "c", "a")) == 0


def test_a_factor_that_cannot_be_read_matches_nothing() -> None:
    assert matching(BOARD, replace(BOARD, mac="")) == 2
    assert matching(replace(BOARD, mac=""), replace(BOARD, mac="")) == 2
    assert matching(NO_FACTORS, NO_FACTORS) == 0


@pytest.mark.parametrize(
    ("known", "code", "found", "binding"),
    [
        # Two of three factors and the install code: bound.
        (BOARD, "a", BOARD, Binding.BOUND),
        (BOARD, "a", replace(BOARD, soc="x"), Binding.BOUND),
        (BOARD, "a", replace(BOARD, mac=""), Binding.BOUND),
        # Either alone: what runs keeps running, and a request mends it.
        (BOARD, "a", Factors("soc-1", "x", "y"), Binding.REBIND_NEEDED),
        (BOARD, "a", OTHER, Binding.REBIND_NEEDED),
        (BOARD, "a", NO_FACTORS, Binding.REBIND_NEEDED),
        (BOARD, "b", BOARD, Binding.REBIND_NEEDED),
        (BOARD, "b", replace(BOARD, emmc="x"), Binding.REBIND_NEEDED),
        # Neither: another SmartServer.
        (BOARD, "b", OTHER, Binding.FOREIGN),
        (BOARD, "b", Factors("soc-1", "x", "y"), Binding.FOREIGN),
        (BOARD, "b", NO_FACTORS, Binding.FOREIGN),
        # The issuer was told of two factors, of one, of none.
        (Factors("soc-1", "emmc-1"), "a", BOARD, Binding.BOUND),
        (Factors("soc-1", "emmc-1"), "a", replace(BOARD, soc="x"), Binding.REBIND_NEEDED),
        (Factors("soc-1", "emmc-1"), "b", BOARD, Binding.REBIND_NEEDED),
        (Factors(mac="mac-1"), "a", BOARD, Binding.BOUND),
        (Factors(mac="mac-1"), "a", OTHER, Binding.REBIND_NEEDED),
        (Factors(mac="mac-1"), "b", BOARD, Binding.REBIND_NEEDED),
        (Factors(mac="mac-1"), "b", OTHER, Binding.FOREIGN),
        (NO_FACTORS, "a", BOARD, Binding.BOUND),
        (NO_FACTORS, "a", NO_FACTORS, Binding.BOUND),
        (NO_FACTORS, "b", BOARD, Binding.FOREIGN),
        (NO_FACTORS, "b", NO_FACTORS, Binding.FOREIGN),
    ],
)
def test_how_a_ledger_stands_to_a_board(known: Factors, code: str, found: Factors, binding: Binding) -> None:
    assert judge(Identity("a", known), Identity(code, found)) is binding


@pytest.mark.parametrize("text", ["a" * 129, "a\n", " a", "a ", "\x1b[2J"])
def test_a_factor_is_a_short_printable_text(text: str) -> None:
    for name in ("soc", "emmc", "mac"):
        with pytest.raises(ArgumentError, match="hardware factor") as caught:
            Factors(**{name: text})
        assert str(caught.value).isprintable()
