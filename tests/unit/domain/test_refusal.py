"""Refusals: what they say, and how often (WIRE.md)."""

from __future__ import annotations

import pytest

from smartserver_licensed.domain.counting import UnitId
from smartserver_licensed.domain.devices import Action, DeviceId
from smartserver_licensed.domain.refusal import REFUSAL_PAUSE_S, RefusalCode, RefusalLimit, SeatRequest, refuse
from smartserver_licensed.domain.status import Totals

REQUEST = SeatRequest(UnitId("modbus/5"), DeviceId("modbus", "5"), Action.PROVISION, 0.0)
SENTENCES = [
    (Totals(5, 4, 0, 1), True, "capacity-exceeded", "provision-device capacity exceeded: 5 of 5 in use"),
    (Totals(5, 0, 4, 1), True, "capacity-exceeded", "provision-device capacity exceeded: 1 of 5 in use, 4 reserved"),
    (Totals(0, 0, 0, 1), True, "capacity-exceeded", "provision-device capacity exceeded: no license is installed"),
    (Totals(2, 3, 0, 1), True, "over-capacity", "provision-device capacity exceeded: 4 of 2 in use, over capacity"),
    (Totals(0, 0, 0, 0), False, "storage-fault", "provision-license storage fault: no new devices are admitted"),
]


@pytest.mark.parametrize(("totals", "is_usable", "code", "sentence"), SENTENCES)
def test_a_refusal_has_a_code_and_a_sentence_in_the_vendors_form(
    totals: Totals, *, is_usable: bool, code: str, sentence: str
) -> None:
    refusal = refuse(REQUEST, totals=totals, is_storage_usable=is_usable)
    assert (refusal.code, refusal.sentence) == (RefusalCode(code), sentence)


def test_a_unit_is_refused_once_in_ten_seconds_and_others_are_not_held_up_by_it() -> None:
    limit = RefusalLimit()
    assert limit.allows(UnitId("a"), 0.0)
    assert not limit.allows(UnitId("a"), REFUSAL_PAUSE_S - 0.1)
    assert limit.allows(UnitId("b"), 1.0)
    assert limit.allows(UnitId("a"), REFUSAL_PAUSE_S)


def test_what_is_remembered_of_refusals_is_bounded() -> None:
    limit = RefusalLimit()
    for number in range(10_000):
        limit.allows(UnitId(str(number)), 0.0)
    assert len(limit._last) <= 4_096
    assert not limit.allows(UnitId("9999"), 1.0)
