from __future__ import annotations

import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartserver_licensed.documents.strict_json import JsonValue, dump, parse
from smartserver_licensed.domain.errors import StrictJsonError

LIMIT = 65_536


def read(data: bytes, *, max_depth: int = 8, allow_floats: bool = False, max_bytes: int = LIMIT) -> JsonValue:
    return parse(data, max_bytes=max_bytes, max_depth=max_depth, allow_floats=allow_floats)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a":[1,-2,true,false,null,"x"]}', {"a": [1, -2, True, False, None, "x"]}),
        (b" [ ] \n", []),
        (b'"\xc3\xbc\\u00fc\\ud83d\\ude00"', "üü😀"),
        (b'"\\\\ud800"', "\\ud800"),
        (str(2**63 - 1).encode(), 2**63 - 1),
        (str(-(2**63) + 1).encode(), -(2**63) + 1),
    ],
)
def test_strict_json_is_read(data: bytes, value: object) -> None:
    assert read(data) == value


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[1]x",
        b"[1,]",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udc00":1}',
        b'"\\uD83D x"',
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'[{"b":{"a":1,"a":2}}]',
        b"NaN",
        b"[Infinity]",
        b'{"a":-Infinity}',
        b"1.5",
        b"1e3",
        b"01",
        str(2**63).encode(),
        str(-(2**63)).encode(),
        b'"\n"',
        b"'a'",
        b"[1]//",
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes) -> None:
    with pytest.raises(StrictJsonError, match="cannot read JSON"):
        read(data)


def test_floats_are_read_where_they_are_allowed_and_finite() -> None:
    assert read(b"[1.5,-2e3,0.1]", allow_floats=True) == [1.5, -2000.0, 0.1]
    for data in (b"1e400", b"-1e999", b"NaN", b"Infinity"):
        with pytest.raises(StrictJsonError):
            read(data, allow_floats=True)


def test_depth_is_counted_in_containers() -> None:
    assert read(b"[[1]]", max_depth=2) == [[1]]
    assert read(b'{"a":"[[[["}', max_depth=1) == {"a": "[[[["}
    assert read(b"[[],[],[],{}]", max_depth=2) == [[], [], [], {}]
    assert read(b"1", max_depth=0) == 1
    for data, max_depth in ((b"[[]]", 1), (b'[{"a":{}}]', 2), (b"[]", 0), (b"[[1],[[2]]]", 2)):
        with pytest.raises(StrictJsonError, match="deeper"):
            read(data, max_depth=max_depth)


@pytest.mark.parametrize("bomb", [b"[" * 60_000, b"[" * 30_000 + b"]" * 30_000, b'{"a":' * 10_000])
def test_deep_nesting_is_refused_without_a_crash(bomb: bytes) -> None:
    with pytest.raises(StrictJsonError):
        read(bomb)
    with pytest.raises(StrictJsonError):
        read(bomb, max_depth=1_000_000)


def test_ten_megabytes_are_refused_unread() -> None:
    started = time.perf_counter()
    with pytest.raises(StrictJsonError, match="10000000 bytes, the limit is 65536"):
        read(b"[" * 10_000_000)
    assert time.perf_counter() - started < 0.1


@pytest.mark.parametrize("sign", [b"", b"-"])
def test_a_number_of_a_million_digits_costs_no_quadratic_time(sign: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(StrictJsonError, match="63 bits"):
        read(sign + b"9" * 1_000_000, max_bytes=2_000_000)
    with pytest.raises(StrictJsonError):
        read(b"[" + sign + b"0" * 1_000_000 + b"]", max_bytes=2_000_000)
    assert time.perf_counter() - started < 0.5


def test_a_message_does_not_carry_the_bytes() -> None:
    for data in (b"\xff" * 60_000, b'"' + b"x" * 60_000, b"[" + b"1" * 60_000 + b"]", b"1." + b"1" * 60_000):
        with pytest.raises(StrictJsonError) as caught:
            read(data)
        assert len(str(caught.value)) < 200


def test_dump_is_compact_in_order_and_not_escaped() -> None:
    assert dump({"b": [1, None, True], "a": "ü"}) == '{"b":[1,null,true],"a":"ü"}'.encode()


@pytest.mark.parametrize("value", [math.nan, [math.inf], "\ud800", {"a": object()}])
def test_dump_refuses_what_no_reader_takes(value: JsonValue) -> None:
    with pytest.raises(StrictJsonError, match="cannot write JSON"):
        dump(value)


json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=300)
def test_what_dump_writes_parse_reads(value: JsonValue) -> None:
    assert parse(dump(value), max_bytes=10**6, max_depth=100, allow_floats=True) == value


@given(st.binary() | st.text(alphabet='{}[]",:0123456789.eE+-\\uNaIdftrn').map(str.encode), st.booleans())
@settings(max_examples=2_000)
def test_random_bytes_give_a_value_that_json_agrees_with_or_the_one_error(data: bytes, allow_floats: bool) -> None:
    try:
        value = read(data, allow_floats=allow_floats)
    except StrictJsonError:
        return
    assert value == json.loads(data)


SAMPLES = [
    b'{"a":[1,-2.5e3,true,null,{"b":"x\\u00fc\\ud83d\\ude00"}],"\xc3\xbc":""}',
    b'{"state":"provisioned","mru":"2026-11-24 03:22:42.746 UTC","addr":{"did":"0000"},"n":9223372036854775807}',
    b"[[[[[[[[1]]]]]]]]",
    b'{"a":1,"b":1}',
]


@given(st.sampled_from(SAMPLES), st.data())
@settings(max_examples=2_000)
def test_mutated_json_gives_a_value_or_the_one_error(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data)))
    mutated = data[:at] + draw.draw(st.binary(max_size=3)) + data[at + draw.draw(st.integers(0, 2)) :]
    try:
        value = read(mutated, allow_floats=True)
    except StrictJsonError:
        return
    assert value == json.loads(mutated)
