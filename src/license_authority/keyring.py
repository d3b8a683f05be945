"""The keys of an authority and the chain of roots that names them.

    DIR/keys/{root,grant}-ID.pem    private keys (`key_files`); those of the root role may lie elsewhere (a stick)
    DIR/roots/1.json, 2.json, …     the chain: each root as it was signed
    DIR/authority.db                the register (`register`), unless a database elsewhere is it

Rules:
- keys first, the root that names them last: whatever a power cut leaves is an authority, and the same command again
  goes on with the keys that it has made;
- a demonstration has keys without a password, and its root allows grants without a device key (LICENSING §4,
  Activation); a real authority has a password, and its root never does;
- a grant is signed by exactly as many keys as the root demands, in its order.

What this module does not do: it makes no later root (`rotating`), and remembers nothing that was issued.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from smartserver_licensed.documents.envelope import Signer, attach_roots
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, Trust, load_root, load_trust, seal_root
from smartserver_licensed.domain.errors import DocumentError

from .durable import make_directory, replace_file
from .errors import (
    AuthorityBusyError,
    AuthorityMissingError,
    AuthorityOccupiedError,
    FileAccessError,
    PasswordNeededError,
)
from .key_files import check_password, find_keys, key_files, read_key, write_key

EMERGENCY_MAX_DEVICES = 1_000
ROLES = {"root": ROOT_TYPE, "grant": GRANT_TYPE}

_KEYS = "keys"
_ROOTS = "roots"
_REGISTER = "authority.db"  # with its journals `authority.db-…`; whoever makes it looks whether it is empty


@dataclass(frozen=True, slots=True)
class Keyring:
    """What signs grants, and the chain that says so; `root_envelope` is the newest root with all earlier ones in it."""

    trust: Trust
    grant_signers: tuple[Signer, ...]

    @property
    def root(self) -> Root:
        """The newest root."""
        return self.trust.current

    @property
    def root_envelope(self) -> bytes:
        """What a SmartServer is to trust, in one file."""
        return trust_document(self.trust)


def trust_document(trust: Trust) -> bytes:
    """The newest root's envelope with all earlier ones in it."""
    return attach_roots(trust.envelopes[-1], trust.envelopes[:-1])


def make_authority(
    directory: Path,
    *,
    now: int,
    root_keys: int = 1,
    root_threshold: int = 1,
    grant_keys: int = 1,
    grant_threshold: int = 1,
    password: bytes | None = None,
    is_demonstration: bool = False,
    emergency_max_devices: int = EMERGENCY_MAX_DEVICES,
    root_key_directories: Sequence[Path] = (),
    make_register: Callable[[], None] = lambda: None,
) -> Keyring:
    """Make keys and root 1 in a directory that is new or empty. `now` in seconds since 1970 UTC.

    The keys of the root role are dealt to `root_key_directories`, which must be there. A directory without a root is
    no authority: `make_register` is called before it is written. Raises AuthorityOccupiedError, PasswordNeededError,
    FileAccessError, RootError (thresholds), and what `make_register` does.
    """
    password = _checked_password(password, is_demonstration=is_demonstration)
    with locked(directory, is_new=True):
        prepare(directory)
        root_homes = list(root_key_directories) or [directory / _KEYS]
        keys = {
            "root": new_keys("root", root_keys, root_homes, known=(), password=password),
            "grant": new_keys("grant", grant_keys, [directory / _KEYS], known=(), password=password),
        }
        thresholds = {"root": root_threshold, "grant": grant_threshold}
        root = Root(
            version=1,
            issued_at=now,
            keys={key.public.key_id: key.public for each in keys.values() for key in each.all},
            roles={
                ROLES[role]: Role(tuple(key.public.key_id for key in each.all), thresholds[role])
                for role, each in keys.items()
            },
            allow_unactivated=is_demonstration,
            emergency_max_devices=emergency_max_devices,
        )
        envelope = seal_root(root, keys["root"].all[:root_threshold])
        for each in keys.values():
            each.write(password)
        make_register()
        write_root(directory, root, envelope)
    return load_keyring(directory, password)


def load_keyring(directory: Path, password: bytes | None = None) -> Keyring:
    """The keyring of an authority; a password is not used for a demonstration's.

    Raises AuthorityMissingError, PasswordNeededError, PasswordWrongError.
    """
    trust = load_authority_trust(directory)
    root = trust.current
    role = root.roles.get(GRANT_TYPE)
    if role is None:
        raise AuthorityMissingError(f"cannot use the authority in {directory}: its root has no role for grants")
    paths = find_keys([directory / _KEYS], "grant", role.key_ids)
    if len(paths) < role.threshold:
        raise AuthorityMissingError(
            f"cannot use the authority in {directory}: {len(paths)} of its root's grant keys are in {_KEYS}/, "
            f"{role.threshold} needed"
        )
    password = password_of(root, password)
    signers = tuple(named_key(path, root, GRANT_TYPE, password) for path in paths[: role.threshold])
    return Keyring(trust, signers)


def load_authority_trust(directory: Path) -> Trust:
    """The chain of roots of an authority, checked from the first to the last; no key is read.

    Raises AuthorityMissingError.
    """
    try:
        envelopes = [path.read_bytes() for path in root_files(directory)]
        if not envelopes:
            raise AuthorityMissingError(
                f"cannot use the authority in {directory}: there is none (`license-authority init` makes one)"
            )
        return load_trust(envelopes[0]).extended(envelopes[1:])
    except (OSError, DocumentError) as error:
        raise AuthorityMissingError(f"cannot use the authority in {directory}: {error}") from error


def root_files(directory: Path) -> list[Path]:
    """The files of the chain, oldest first. Raises OSError."""
    files = (directory / _ROOTS).glob("[0-9]*.json")
    return sorted(files, key=lambda path: int(path.stem) if path.stem.isdecimal() else 0)


def write_root(directory: Path, root: Root, envelope: bytes) -> None:
    """Make a root the newest one. It is read back first: what nobody could load must not be there. Raises OSError."""
    load_root(envelope)
    replace_file(directory / _ROOTS / f"{root.version}.json", envelope)


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Keys for a root that is to come, each with the directory where its file is or will be."""

    role: str
    found: tuple[SigningKey, ...]
    made: tuple[tuple[SigningKey, Path], ...]

    @property
    def all(self) -> tuple[SigningKey, ...]:
        """All of them, those first that a cut attempt has left."""
        return (*self.found, *(key for key, _ in self.made))

    def write(self, password: bytes | None) -> None:
        """Put those into files that are in none yet. Raises OSError."""
        for key, home in self.made:
            write_key(home, self.role, key, password)


def new_keys(role: str, count: int, homes: Sequence[Path], *, known: Sequence[str], password: bytes | None) -> NewKeys:
    """So many keys that no root names yet (`known`: ids that one does), for these directories in turn.

    Files that a cut attempt has left come first. Raises PasswordWrongError, AuthorityMissingError.
    """
    named = set(find_keys(homes, role, known))
    left = [path for home in homes for path in key_files(home, role) if path not in named]
    found = tuple(read_key(path, password) for path in left[:count])
    made = tuple((SigningKey.generate(), homes[index % len(homes)]) for index in range(len(found), count))
    return NewKeys(role, found, made)


def named_key(path: Path, root: Root, payload_type: str, password: bytes | None) -> SigningKey:
    """The key of a file, if it is the one that the root names for this type. Raises as `read_key`."""
    key = read_key(path, password)
    if key.public.key_id not in root.keys_for(payload_type):
        raise AuthorityMissingError(f"cannot use the key {path}: it is not the root's")
    return key


def password_of(root: Root, password: bytes | None) -> bytes | None:
    """The password for the keys of an authority: a demonstration has none. Raises PasswordNeededError."""
    if root.allow_unactivated:
        return None
    if password is None:
        raise PasswordNeededError("cannot open the keys of the authority: they need the password (--password-file)")
    return password


def keys_directory(directory: Path) -> Path:
    """Where keys are that do not lie elsewhere."""
    return directory / _KEYS


@contextmanager
def locked(directory: Path, *, is_new: bool = False) -> Iterator[None]:
    """Alone in the directory, made where `is_new`. Raises AuthorityBusyError, and FileAccessError for any OSError."""
    try:
        if is_new:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _lock(descriptor, directory)
            yield
        finally:
            os.close(descriptor)  # which unlocks
    except OSError as error:
        raise FileAccessError(f"cannot write the authority in {directory}: {error}") from error


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise AuthorityBusyError(f"cannot write the authority in {directory}: another command does") from error


def prepare(directory: Path) -> None:
    """Close a directory and make its parts. Raises AuthorityOccupiedError, OSError.

    What a cut attempt has left is taken over: keys that no root names are nobody's.
    """
    foreign = [each for each in directory.iterdir() if each.name.split("-")[0] not in {_KEYS, _ROOTS, _REGISTER}]
    if foreign or root_files(directory):
        raise AuthorityOccupiedError(
            f"cannot make an authority in {directory}: it is not empty, and keys are never overwritten"
        )
    directory.chmod(0o700)  # the mode of mkdir is cut by the umask and says nothing of a directory that was there
    make_directory(directory / _KEYS)
    make_directory(directory / _ROOTS)


def _checked_password(password: bytes | None, *, is_demonstration: bool) -> bytes | None:
    if is_demonstration:
        return None
    if password is None:
        raise PasswordNeededError("cannot make an authority: keys that are no demonstration's need a password")
    check_password(password)
    return password


class LiveKeyring:
    """The keyring of an authority that is rotated while a process uses it."""

    def __init__(self, directory: Path, password: bytes | None) -> None:
        """Raises as `load_keyring`."""
        self._directory, self._password = directory, password
        self._keyring = load_keyring(directory, password)

    def current(self) -> Keyring:
        """The keyring under the newest root; it is loaded again when there is a newer one. Raises as `load_keyring`."""
        next_root = self._directory / _ROOTS / f"{self._keyring.root.version + 1}.json"
        if next_root.exists():
            self._keyring = load_keyring(self._directory, self._password)
        return self._keyring
