"""Pauses grow from 1 to 60 s, begin anew after a quiet time, and are forgotten by themselves."""

from __future__ import annotations

import itertools

from smartserver_licensed.controller.pauses import Pauses


def test_whoever_comes_again_meets_growing_pauses() -> None:
    pauses: Pauses[str] = Pauses()
    times = [number / 10 for number in range(4_000) if pauses.begin("a", number / 10)]
    lengths = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert lengths[:6] == [1, 2, 4, 8, 16, 32]
    assert set(lengths[6:]) == {60}


def test_whoever_was_quiet_for_twice_its_pause_begins_anew() -> None:
    pauses: Pauses[str] = Pauses()
    for now_s in (0.0, 1.0, 3.0):
        assert pauses.begin("a", now_s)
    assert not pauses.begin("a", 6.9)
    assert pauses.begin("a", 11.1)
    assert pauses.begin("a", 12.1)


def test_an_end_is_told_once_and_not_if_the_pause_was_forgotten_or_renewed() -> None:
    pauses: Pauses[str] = Pauses()
    for key in ("a", "b", "c"):
        pauses.begin(key, 0.0)
    pauses.forget("b")
    pauses.wait("c", 5.0, 0.5)
    assert pauses.next_end_at() == 1.0
    assert pauses.ended(1.0) == ["a"]
    assert pauses.ended(1.0) == []
    assert pauses.ended(5.5) == ["c"]


def test_one_is_not_anothers_pause() -> None:
    pauses: Pauses[str] = Pauses()
    assert pauses.begin("a", 0.0)
    assert pauses.begin("b", 0.0)
    pauses.forget_all(lambda key: key == "a")
    assert pauses.is_over("a", 0.1)
    assert not pauses.is_over("b", 0.1)


def test_a_million_that_came_once_are_not_remembered() -> None:
    pauses: Pauses[int] = Pauses()
    for key in range(10_000):
        pauses.begin(key, key / 100)
        pauses.ended(key / 100)
    assert len(pauses._running) < 1_000
    assert len(pauses._ends) + len(pauses._lapses) < 1_000
