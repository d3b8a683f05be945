"""Private keys in files: PKCS#8 PEM, encrypted under a password; those of a demonstration are not.

Rules:
- a file's name says role and key id (`grant-0123456789abcdef.pem`), so that it is found without opening it;
- mode 0600, never overwritten, there whole or not at all;
- the form derives its key weakly (PBKDF2, 2,048 rounds): a password has at least 16 bytes, and should be a random one
  from a file. Any tool that knows PKCS#8 can change it (`openssl pkcs8 -topk8`).

What this module does not do: it says nothing about trust (`keyring`). A key in hardware (PKCS#11) needs another source
of `Signer`s beside this one and nothing else: nobody but this module sees a private key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from smartserver_licensed.documents.keys import SigningKey

from .durable import replace_file
from .errors import AuthorityMissingError, PasswordNeededError, PasswordWrongError

MIN_PASSWORD_BYTES = 16

_SHORT_ID = 16
_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


def check_password(password: bytes) -> None:
    """Raise PasswordNeededError for a password that is too short to protect a key."""
    if len(password) < MIN_PASSWORD_BYTES:
        raise PasswordNeededError(
            f"cannot protect keys with a password of {len(password)} bytes: {MIN_PASSWORD_BYTES} are the least"
        )


def write_key(directory: Path, role: str, key: SigningKey, password: bytes | None) -> Path:
    """Put a key into a file of its own; without a password in plain. Raises OSError."""
    path = directory / f"{role}-{key.public.key_id[:_SHORT_ID]}.pem"
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    replace_file(
        path,
        Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden
        ),
    )
    return path


def find_keys(directories: Iterable[Path], role: str, key_ids: Sequence[str]) -> list[Path]:
    """The files of these keys that are there, in the order of the ids."""
    there = {path.name: path for directory in directories for path in key_files(directory, role)}
    names = [f"{role}-{key_id[:_SHORT_ID]}.pem" for key_id in key_ids]
    return [there[name] for name in names if name in there]


def key_files(directory: Path, role: str) -> list[Path]:
    """The key files of a role in a directory, by name."""
    return sorted(directory.glob(f"{role}-*.pem"))


def read_key(path: Path, password: bytes | None) -> SigningKey:
    """The key of a file; a `password` is needed if and only if it is encrypted.

    Raises PasswordNeededError, PasswordWrongError, AuthorityMissingError (unreadable, or no Ed25519 key, or in plain
    where a password protects all others).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AuthorityMissingError(f"cannot read the key {path}: {error.strerror}") from error
    is_encrypted = data.lstrip().startswith(_ENCRYPTED)
    if is_encrypted and not password:
        raise PasswordNeededError(f"cannot open the key {path}: it needs the password (--password-file)")
    if password and not is_encrypted:
        raise AuthorityMissingError(f"cannot use the key {path}: no password protects it")
    try:
        key = serialization.load_pem_private_key(data, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if is_encrypted:
            raise PasswordWrongError(f"cannot open the key {path}: wrong password, or a damaged file") from error
        raise AuthorityMissingError(f"cannot read the key {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AuthorityMissingError(f"cannot use the key {path}: it is no Ed25519 key")
    return SigningKey(
        key.private_bytes(serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption())
    )
