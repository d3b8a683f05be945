"""What anybody on the bus can cause does not fill the journal, and what is left out is counted."""

from __future__ import annotations

import logging

import pytest

from smartserver_licensed.controller.rationing import PER_MINUTE, Ration
from smartserver_licensed.domain.messages import ENTRIES_LEFT_OUT, SEAT_REFUSED, TAMPERED


def entries(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    return [record.fields for record in caplog.records]  # type: ignore[attr-defined]


def test_ten_thousand_in_a_minute_leave_twenty_entries_and_one_that_counts_the_rest(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    ration = Ration(SEAT_REFUSED)
    told = sum(ration.tell(number / 200, DEVICE=number) for number in range(10_000))
    assert told == PER_MINUTE
    assert ration.due_at == 60.0
    ration.on_time(60.0)
    *first, last = entries(caplog)
    assert [each["DEVICE"] for each in first] == [str(number) for number in range(PER_MINUTE)]
    assert last == {"MESSAGE_ID": ENTRIES_LEFT_OUT.id, "WHICH": "seat-refused", "COUNT": str(10_000 - PER_MINUTE)}


def test_the_next_minute_has_its_own_ration_and_a_quiet_one_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ration = Ration(TAMPERED)
    assert ration.tell(0.0)
    assert ration.due_at is None
    assert all(ration.tell(70.0) for _ in range(PER_MINUTE))
    assert not ration.tell(70.0)
    assert ration.tell(131.0)
    assert sum(each["MESSAGE_ID"] == ENTRIES_LEFT_OUT.id for each in entries(caplog)) == 1
