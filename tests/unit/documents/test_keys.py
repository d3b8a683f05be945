from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from smartserver_licensed.documents.keys import PublicKey, SigningKey, key_id
from smartserver_licensed.domain.errors import KeyRejectedError

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
SQRT_MINUS_1 = pow(2, (P - 1) // 4, P)
SIGN = 1 << 255
WYCHEPROOF: list[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "vectors/ed25519_test.json").read_text())
CLASSIC = WYCHEPROOF[:151]

# RFC 8032, 7.1, TEST 1 to 3: secret, public, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
]


def root_of(square: int) -> int | None:
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square % P:
        x = x * SQRT_MINUS_1 % P
    return x if x * x % P == square % P else None


def x_of(y: int) -> int | None:
    return root_of((y * y - 1) * pow(D * y * y + 1, -1, P) % P)


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def small_order_points() -> set[tuple[int, int]]:
    """Computed from the curve's equation, not from a list: all multiples of a point of order 8.

    Order 8 means that the double is of order 4, so y = 0 there: y² + x² = 0 in the addition formula, x² = −y².
    On the curve −x² + y² = 1 + d·x²·y² this gives 2y² = 1 − d·y⁴.
    """
    root = root_of((1 + D) % P)
    assert root is not None
    for sign in (1, -1):
        y = root_of((-1 + sign * root) * pow(D, -1, P) % P)
        x = x_of(y) if y is not None else None
        if x is not None and y is not None:
            points, point = set(), (0, 1)
            for _ in range(8):
                points.add(point)
                point = add(point, (x, y))
            return points
    raise AssertionError("no point of order 8")


def encode(y: int, is_odd: int) -> bytes:
    return (y | is_odd << 255).to_bytes(32, "little")


def test_all_eight_points_of_small_order_are_refused() -> None:
    points = small_order_points()
    assert len(points) == 8
    for x, y in points:
        with pytest.raises(KeyRejectedError, match="small order"):
            PublicKey(encode(y, x & 1))


def test_their_non_canonical_encodings_are_refused() -> None:
    encodings = {encode(y, x & 1) for x, y in small_order_points()}
    others = {encode(y, sign) for y in (0, 1, P - 1, P, P + 1) for sign in (0, 1)} - encodings
    assert len(others) == 6  # the sign bit with x = 0, twice, and y ≥ p, four times
    for raw in others:
        with pytest.raises(KeyRejectedError):
            PublicKey(raw)


def test_every_encoding_with_y_beyond_p_is_refused() -> None:
    for y in range(P, 2**255):
        for sign in (0, 1):
            with pytest.raises(KeyRejectedError):
                PublicKey(encode(y, sign))


def test_a_signature_that_holds_under_a_weak_key_for_any_message_has_no_key_to_be_checked_with() -> None:
    # A = identity, R = identity, S = 0: the library says yes to every message.
    with pytest.raises(KeyRejectedError):
        PublicKey(encode(1, 0))


def test_a_point_that_is_not_on_the_curve_is_refused() -> None:
    off = [y for y in range(2, 40) if x_of(y) is None]
    assert off
    for y in off:
        with pytest.raises(KeyRejectedError, match="curve"):
            PublicKey(encode(y, 0))
    for y in (y for y in range(2, 40) if x_of(y) is not None):
        assert PublicKey(encode(y, 0)).raw == encode(y, 0)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_the_wrong_size_is_refused(size: int) -> None:
    with pytest.raises(KeyRejectedError, match=f"{size} bytes"):
        PublicKey(b"\x05" * size)
    with pytest.raises(KeyRejectedError, match=f"{size} bytes"):
        SigningKey(b"\x05" * size)


def test_generated_keys_are_never_refused() -> None:
    for _ in range(50):
        key = SigningKey.generate()
        assert SigningKey(key.seed).public == key.public
        assert key.public.verify(key.sign(b"m"), b"m")


@pytest.mark.parametrize(("seed", "public", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032_agree(seed: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert PublicKey(bytes.fromhex(public)).verify(bytes.fromhex(signature), bytes.fromhex(message))


def holds(vector: dict[str, Any]) -> bool:
    public, signature, message = (bytes.fromhex(vector[name]) for name in ("pk", "sig", "msg"))
    return PublicKey(public).verify(signature, message)


def test_the_vectors_of_wycheproof_are_all_there() -> None:
    assert [vector["tcId"] for vector in CLASSIC] == list(range(1, 152))
    assert [sum(vector["result"] == each for vector in CLASSIC) for each in ("valid", "invalid")] == [88, 63]


@pytest.mark.parametrize("vector", CLASSIC, ids=lambda vector: str(vector["tcId"]))
def test_151_of_151_wycheproof_vectors_agree(vector: dict[str, Any]) -> None:
    assert holds(vector) is (vector["result"] == "valid")


def test_newer_wycheproof_vectors_agree_where_libraries_may_not_differ() -> None:
    decided = [vector for vector in WYCHEPROOF[151:] if vector["result"] != "acceptable"]
    assert len(decided) == 30
    for vector in decided:
        assert holds(vector) is (vector["result"] == "valid"), vector


def test_all_small_order_keys_of_wycheproof_are_refused() -> None:
    weak = [vector for vector in WYCHEPROOF if vector["flags"] == ["SmallOrderPublicKey"]]
    assert len(weak) == 8
    for vector in weak:
        with pytest.raises(KeyRejectedError, match="small order"):
            holds(vector)


def test_a_wrong_signature_of_any_length_is_an_answer_and_no_error() -> None:
    key = SigningKey.generate()
    good = key.sign(b"m")
    for signature in (b"", good[:-1], good + b"\0", bytes(64), b"\xff" * 64):
        assert not key.public.verify(signature, b"m")
    assert not key.public.verify(good, b"n")


def test_a_key_id_is_the_hash_of_the_raw_key() -> None:
    public = SigningKey(b"\x07" * 32).public
    assert public.key_id == key_id(public.raw) == hashlib.sha256(public.raw).hexdigest()


def test_a_seed_is_in_no_repr() -> None:
    key = SigningKey(b"A" * 32)
    assert "AAAA" not in repr(key)
    assert key.seed.hex() not in repr(key)
