"""Who may hear `licensed:false` (LICENSING §3): the whole table, row by row."""

from __future__ import annotations

import itertools

import pytest

from smartserver_licensed.domain.ledger_state import Cause, Seat, SeatKind
from smartserver_licensed.domain.withholding import Reason, answer, may_lose_seat

RESERVED = Seat(SeatKind.RESERVED, has_run=False, number=1)
RUNNING = Seat(SeatKind.PROVISIONED, has_run=True, number=1)
FLAGS = ("was_licensed_at_start", "is_deleted", "is_internal", "is_absent", "is_held", "has_asked")


def every_situation() -> list[dict[str, bool]]:
    return [dict(zip(FLAGS, values, strict=True)) for values in itertools.product([False, True], repeat=len(FLAGS))]


def ask(seat: Seat | None = None, /, *, usable: bool = True, **flags: bool) -> tuple[bool | None, Reason | None]:
    given = dict.fromkeys(FLAGS, False) | flags
    said = answer(is_ledger_usable=usable, seat=seat, **given)
    return said.licensed, said.reason


@pytest.mark.parametrize("seat", [None, RESERVED, RUNNING])
def test_without_a_usable_ledger_nobody_ever_hears_false(seat: Seat | None) -> None:
    for flags in every_situation():
        assert ask(seat, usable=False, **flags)[0] is not False


def test_without_a_usable_ledger_true_is_said_again_only_to_what_was_licensed_at_the_start() -> None:
    for flags in every_situation():
        expected = True if flags["was_licensed_at_start"] and not flags["is_deleted"] else None
        assert ask(None, usable=False, **flags)[0] is expected


@pytest.mark.parametrize("seat", [RESERVED, RUNNING])
def test_nobody_with_a_seat_hears_false_but_a_deleted_device(seat: Seat) -> None:
    for flags in every_situation():
        licensed, _ = ask(seat, **flags)
        assert (licensed is False) == flags["is_deleted"]


def test_a_unit_that_is_absent_or_held_hears_nothing() -> None:
    assert ask(is_absent=True, has_asked=True) == (None, None)
    assert ask(is_held=True, has_asked=True) == (None, None)


def test_internal_devices_always_hear_true() -> None:
    assert ask(is_internal=True, is_held=True, is_absent=True) == (True, None)


def test_a_unit_without_a_seat_hears_why() -> None:
    assert ask() == (False, Reason.NOT_ASKED)
    assert ask(has_asked=True) == (False, Reason.CAPACITY_EXCEEDED)
    assert ask(is_deleted=True) == (False, Reason.DELETED)


LOSSES = [
    (RUNNING, Cause.RELEASED, {}, True),
    (RUNNING, Cause.REVOKED, {}, True),
    (RUNNING, Cause.TAKEN, {}, False),
    (RUNNING, Cause.SHRUNK, {}, False),
    (RUNNING, Cause.EVICTED, {}, False),
    (RUNNING, Cause.EVICTED, {"is_absent": True}, True),
    (RUNNING, Cause.GRACE_ENDED, {}, False),
    (RUNNING, Cause.GRACE_ENDED, {"has_grace_ended": True}, True),
    (RESERVED, Cause.TAKEN, {}, True),
    (RESERVED, Cause.SHRUNK, {}, True),
]


@pytest.mark.parametrize(("seat", "cause", "flags", "allowed"), LOSSES)
def test_why_a_seat_may_be_lost(seat: Seat, cause: Cause, flags: dict[str, bool], *, allowed: bool) -> None:
    given = {"is_absent": False, "has_grace_ended": False} | flags
    assert may_lose_seat(seat, cause, **given) is allowed
