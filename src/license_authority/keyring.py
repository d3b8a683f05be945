"""The keys of a demonstration authority and the root that names them.

Rules: keys are without a password, in files of mode 0600 in a directory of mode 0700; they are made once and never
overwritten. One key signs the root, another one grants. The root allows grants without a device key
(LICENSING §4, Activation): that is what makes it a demonstration; the shipped root never does.

What this module does not do: it remembers nothing that was issued (`register`). Passwords, hardware keys, and later
versions of the root are not built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, load_root, seal_root
from smartserver_licensed.domain.errors import DocumentError

from .durable import replace_file
from .errors import AuthorityMissingError, AuthorityOccupiedError, FileAccessError

EMERGENCY_MAX_DEVICES = 1_000

_ROOT_KEY = "root.key"
_GRANT_KEY = "grant.key"
_ROOT = "root.json"


@dataclass(frozen=True, slots=True)
class Keyring:
    """What signs grants, and the root that says so; `root_envelope` as it was made."""

    root: Root
    root_envelope: bytes
    grant_key: SigningKey


def make_authority(directory: Path, *, now: int) -> Keyring:
    """Make keys and root in a directory that is new or empty. `now` in seconds since 1970 UTC.

    The root is written last: a directory without it is no authority. Raises AuthorityOccupiedError, FileAccessError.
    """
    root_key, grant_key = SigningKey.generate(), SigningKey.generate()
    root = Root(
        version=1,
        issued_at=now,
        keys={key.public.key_id: key.public for key in (root_key, grant_key)},
        roles={
            ROOT_TYPE: Role((root_key.public.key_id,), 1),
            GRANT_TYPE: Role((grant_key.public.key_id,), 1),
        },
        allow_unactivated=True,
        emergency_max_devices=EMERGENCY_MAX_DEVICES,
    )
    envelope = seal_root(root, [root_key])
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise AuthorityOccupiedError(
                f"cannot make an authority in {directory}: it is not empty, and keys are never overwritten"
            )
        directory.chmod(0o700)  # the mode of mkdir is cut by the umask and says nothing of a directory that was there
        replace_file(directory / _ROOT_KEY, root_key.seed.hex().encode() + b"\n")
        replace_file(directory / _GRANT_KEY, grant_key.seed.hex().encode() + b"\n")
        replace_file(directory / _ROOT, envelope)
    except OSError as error:
        raise FileAccessError(f"cannot make an authority in {directory}: {error}") from error
    return Keyring(root, envelope, grant_key)


def load_keyring(directory: Path) -> Keyring:
    """The keyring of an authority. Raises AuthorityMissingError."""
    try:
        envelope = (directory / _ROOT).read_bytes()
        seed = bytes.fromhex((directory / _GRANT_KEY).read_text().strip())
        keyring = Keyring(load_root(envelope), envelope, SigningKey(seed))
    except (OSError, ValueError, DocumentError) as error:
        raise AuthorityMissingError(
            f"cannot use the authority in {directory}: {error} (`license-authority init` makes one)"
        ) from error
    if keyring.grant_key.public.key_id not in keyring.root.keys_for(GRANT_TYPE):
        raise AuthorityMissingError(f"cannot use the authority in {directory}: its grant key is not the root's")
    return keyring


def load_trusted_root(directory: Path) -> tuple[Root, bytes]:
    """The root of an authority and its envelope as it was made; no key is read. Raises AuthorityMissingError."""
    try:
        envelope = (directory / _ROOT).read_bytes()
        return load_root(envelope), envelope
    except (OSError, DocumentError) as error:
        raise AuthorityMissingError(f"cannot use the authority in {directory}: {error}") from error
