"""Ed25519 keys: public ones that are refused when weak, private ones of the issuer.

Rules (LICENSING §4):
- a public key of small order, in a non-canonical encoding, off the curve or of the wrong size is refused when it is
  loaded: the library accepts such keys, and under one of small order anybody can sign;
- a key's id is the hex SHA-256 of its 32 raw bytes.

What this module does not do: it keeps no key anywhere and decides nothing about trust (`trust`).
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smartserver_licensed.domain.errors import KeyRejectedError

KEY_BYTES = 32

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
# The y coordinates of the eight points of small order: 0 and the last two stand for two points each.
_SMALL_ORDER_Y = frozenset(
    {
        0,
        1,
        _P - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)


def key_id(public: bytes) -> str:
    """The id of a public key: hex SHA-256 of its raw bytes."""
    return hashlib.sha256(public).hexdigest()


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that is not weak; constructing it with a weak one raises KeyRejectedError."""

    raw: bytes

    def __post_init__(self) -> None:
        why = _weakness(self.raw)
        if why:
            raise KeyRejectedError(f"cannot use the public key {self.raw[:KEY_BYTES].hex()}: {why}")

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of the raw key."""
        return key_id(self.raw)

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether the signature of any length and content is this key's over exactly this message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. Its seed is in no repr, so in no log and no traceback."""

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != KEY_BYTES:
            raise KeyRejectedError(f"cannot use the private key: {len(self.seed)} bytes, not {KEY_BYTES}")

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the system's random source."""
        return cls(
            Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
            )
        )

    @property
    def public(self) -> PublicKey:
        """The public half."""
        public = Ed25519PrivateKey.from_private_bytes(self.seed).public_key()
        return PublicKey(public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw))

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same message always gets the same one."""
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


@functools.lru_cache(maxsize=256)  # it costs more than a verification, and the same few keys are loaded again and again
def _weakness(raw: bytes) -> str | None:
    if len(raw) != KEY_BYTES:
        return f"{len(raw)} bytes, not {KEY_BYTES}"
    encoded = int.from_bytes(raw, "little")
    y = encoded & ((1 << 255) - 1)
    if y % _P in _SMALL_ORDER_Y:
        return "it is of small order"
    if y >= _P:
        return "its encoding is not canonical"
    # x = 0 with the sign bit set, the other non-canonical encoding, occurs only with y = ±1, refused above.
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return None if pow(x_squared, (_P - 1) // 2, _P) == 1 else "it is not on the curve"
