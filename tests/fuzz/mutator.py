"""Inputs made of good ones: bytes and JSON values changed at random, the same for the same random source.

Rules: what comes out is mostly nearly right, since garbage is refused by the first check; at most `LARGEST` bytes.

What this module does not do: it knows no document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

LARGEST = 300_000  # more than a block of text may have, which is more than a document may have
_ROUNDS = (1, 1, 1, 2, 3, 6)
_TOKENS = (
    *(each.encode() for each in '{}[],:"\\-0\n\r\x00> =\N{NO-BREAK SPACE}\N{RIGHT-TO-LEFT OVERRIDE}'),
    *(b"null", b"true", b"NaN", b"1e400", b"0.1", b"-0", b"9" * 19, b"9" * 400),
    *(b"\\u0000", b"\\ud800", b"\\udc00\\ud800"),
    *(b'"critical":["x"],', b'"seq":1,', b'"roots":[],', b'"payload":"",', b"[[[[[[[[[", b'{"a":{"a":{"a":'),
    *(b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n> ", b"\r\n\r\n"),
)
_DEEP: Any = 0
for _ in range(12):
    _DEEP = [_DEEP]
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 64, 65, 128, 129, 1_000_000, 1_000_001, 2**31, 2**53, 2**53 + 1, 2**63, 10**30),
    *(0.5, -1, "", " ", "a", "a\n", "\x1b[2J", "\N{RIGHT-TO-LEFT OVERRIDE}", "x" * 201, "0" * 32, "0" * 64),
    *("AA==", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "4.0", "upgrade", "capacity", "1970-01-01T00:00:00Z"),
    *(
        "9999-12-31T23:59:59Z",
        "2026-02-30T00:00:00Z",
        [],
        {},
        [0],
        [[]],
        [{}],
        ["x"],
        {"": {}},
        _DEEP,
        ["0" * 64] * 129,
    ),
)


def mutate(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    """Another input, made of this one and of parts of the seeds."""
    for _ in range(random.choice(_ROUNDS)):
        changed = _change_json(data, seeds, random) if random.random() < 0.5 else None
        data = changed if changed is not None else random.choice(_CHANGES)(data, seeds, random)
    return data[:LARGEST]


def _change_json(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    place = _place(value, random)
    if place is None:
        return None
    within, key = place
    new = random.choice(_VALUES)
    if random.random() < 0.2:
        new = _part(random.choice(seeds), random)
    match random.randrange(6):
        case 0:
            del within[key]
        case 1 if isinstance(within, list):
            within.insert(key, within[key])
        case 1:
            within[str(random.choice(_VALUES))[:20]] = new
        case 2 if isinstance(within[key], int):
            within[key] += random.choice((1, -1, 2**31, 2**53))
        case 3 if isinstance(within[key], str):
            within[key] = random.choice(("", " ")) + within[key] + random.choice(("", " ", "\n", "=", "x" * 200))
        case _:
            within[key] = new
    text = json.dumps(value, ensure_ascii=random.random() < 0.5)
    return text.encode(errors="surrogatepass")


def _place(value: Any, random: Random) -> tuple[Any, Any] | None:  # noqa: ANN401 - JSON
    """Somewhere within it: a container and a key or index."""
    place = None
    while isinstance(value, (dict, list)) and value:
        key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        place, value = (value, key), value[key]
        if random.random() < 0.3:
            break
    return place


def _part(data: bytes, random: Random) -> Any:  # noqa: ANN401 - JSON
    try:
        place = _place(json.loads(data), random)
    except ValueError:
        return data.decode(errors="replace")
    return place[0][place[1]] if place else None


def _slice(data: bytes, random: Random) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((0, 1, 1, 2, 4, 16, 64, 1_000)))


def _flip(data: bytes, _seeds: Sequence[bytes], random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _insert(data: bytes, _seeds: Sequence[bytes], random: Random) -> bytes:
    start, end = _slice(data, random)
    token: bytes = random.choice(_TOKENS)
    return data[:start] + token + data[random.choice((start, end)) :]


def _cut(data: bytes, _seeds: Sequence[bytes], random: Random) -> bytes:
    start, end = _slice(data, random)
    return data[:start] + data[end:]


def _double(data: bytes, _seeds: Sequence[bytes], random: Random) -> bytes:
    start, end = _slice(data, random)
    times = random.choice((1, 1, 2, 8, 2_000)) if random.random() < 0.02 else 1
    return data[:end] + data[start:end] * times + data[end:]


def _splice(data: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    other = random.choice(seeds)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _end(data: bytes, _seeds: Sequence[bytes], random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


_CHANGES: tuple[Callable[[bytes, Sequence[bytes], Random], bytes], ...] = (_flip, _insert, _cut, _double, _splice, _end)
