"""Strict JSON: bytes in, plain values out, one error for everything that is wrong.

Rules (LICENSING §4):
- UTF-8 only, without a byte order mark and without lone surrogates; no duplicate keys; no NaN or Infinity;
- depth, size and integers (63 bits and a sign) are bounded before they can cost anything; floats only where they are
  allowed, and finite;
- whatever the bytes, `parse` returns a value or raises StrictJsonError.

It also reads every MQTT payload, thousands a second: the decoders are made once, and what needs a second look at the
value (surrogates, depth) is looked for in the bytes first.

What this module does not do: it knows no document and no field.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from smartserver_licensed.domain.errors import StrictJsonError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

_INTEGER_LIMIT = 1 << 63
_INTEGER_DIGITS = 20  # a sign and 19 digits; more are refused unread, since int() is quadratic in the digits
_MAY_BE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise StrictJsonError("cannot read JSON: an object has a key twice")
    return value


def _integer(text: str) -> int:
    if len(text) <= _INTEGER_DIGITS:
        value = int(text)
        if -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            return value
    raise StrictJsonError(f"cannot read JSON: an integer of {len(text)} characters, the limit is 63 bits")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError("cannot read JSON: a number too large for a float")
    return value


def _no_float(text: str) -> float:
    raise StrictJsonError(f"cannot read JSON: {text[:20]} is no integer")


def _constant(text: str) -> float:
    raise StrictJsonError(f"cannot read JSON: {text} is no JSON")


# json.loads with hooks would build a decoder a call, which costs more than a small message.
_DECODE = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_no_float, parse_constant=_constant
).decode
_DECODE_WITH_FLOATS = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant
).decode
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def parse(data: bytes, *, max_bytes: int, max_depth: int, allow_floats: bool = False) -> JsonValue:
    """The value of one JSON text. `max_depth` counts arrays and objects within each other; a bare number has 0.

    Raises StrictJsonError, and nothing else.
    """
    if len(data) > max_bytes:
        raise StrictJsonError(f"cannot read JSON: {len(data)} bytes, the limit is {max_bytes}")
    try:
        # A byte order mark stays in the text and is no JSON; json.loads alone would look for one.
        value: JsonValue = (_DECODE_WITH_FLOATS if allow_floats else _DECODE)(data.decode())
        if _MAY_BE_SURROGATE.search(data):
            _ENCODE(value).encode()
    except RecursionError as error:
        raise StrictJsonError(f"cannot read JSON: deeper than {max_depth}") from error
    except ValueError as error:  # not UTF-8, not JSON, a lone surrogate
        raise StrictJsonError(f"cannot read JSON: {_why(error)}") from error
    if data.count(b"{") + data.count(b"[") > max_depth:
        _check_depth(value, max_depth)
    return value


def dump(value: JsonValue) -> bytes:
    """Compact JSON in UTF-8, keys in the order of insertion. Raises StrictJsonError for what `parse` would refuse."""
    try:
        return _ENCODE(value).encode()
    except (ValueError, TypeError, RecursionError) as error:  # NaN, a lone surrogate, a foreign type
        raise StrictJsonError(f"cannot write JSON: {_why(error)}") from error


def _check_depth(value: JsonValue, max_depth: int) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level = [value]
    for _ in range(max_depth):
        level = [child for each in level for child in _children(each)]
    if any(isinstance(each, (dict, list)) for each in level):
        raise StrictJsonError(f"cannot read JSON: deeper than {max_depth}")


def _children(value: JsonValue) -> Iterable[JsonValue]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _why(error: Exception) -> str:
    """The reason without the bytes: a UnicodeError would bring all of them."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos}"
    return error.reason if isinstance(error, UnicodeError) else str(error)  # type: ignore[attr-defined]
