from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartserver_licensed.domain.errors import ArgumentError
from smartserver_licensed.domain.timekeeping import LATEST, from_iso, mru_text, to_iso, to_iso_date


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_795_490_562, "2026-11-24T03:22:42Z"),
        (2**31 - 1, "2038-01-19T03:14:07Z"),
        (2**31, "2038-01-19T03:14:08Z"),
        (2**32, "2106-02-07T06:28:16Z"),
        (LATEST, "9999-12-31T23:59:59Z"),
    ],
)
def test_instants_have_one_text_also_beyond_2038(seconds: int, text: str) -> None:
    assert to_iso(seconds) == text
    assert from_iso(text) == seconds
    assert to_iso_date(seconds) == text[:10]


@given(st.integers(0, LATEST))
def test_every_instant_comes_back(seconds: int) -> None:
    assert from_iso(to_iso(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24",
        "2026-11-24T03:22:42",
        "2026-11-24 03:22:42Z",
        "2026-11-24T03:22:42+00:00",
        "2026-11-24T03:22:42.000Z",
        "2026-11-24t03:22:42z",
        "2026-11-24T03:22:42Z\n",
        "2026-11-24T03:22:60Z",
        "2026-11-24T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "٢٠٢٦-11-24T03:22:42Z",
    ],
)
def test_any_other_form_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="cannot read the time"):
        from_iso(text)


@pytest.mark.parametrize("seconds", [-1, LATEST + 1, 10**30])
def test_an_instant_without_a_text_is_refused(seconds: int) -> None:
    for write in (to_iso, to_iso_date, lambda each: mru_text(each * 1000)):
        with pytest.raises(ArgumentError, match="cannot write the time"):
            write(seconds)


def test_mru_has_padded_milliseconds() -> None:
    assert mru_text(1_795_490_562_746) == "2026-11-24 03:22:42.746 UTC"
    assert mru_text(1_795_490_562_007) == "2026-11-24 03:22:42.007 UTC"
    assert mru_text(2**31 * 1000) == "2038-01-19 03:14:08.000 UTC"
