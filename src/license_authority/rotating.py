"""Root N+1: keys retired, keys added, thresholds and the emergency cap changed.

Rules (LICENSING §4):
- it is signed by the threshold of root N and by its own;
- everything is checked before the first file is written; new keys come first, the root last (`keyring`);
- the same command again: where nothing would change, or where the root asked for by its version is the newest one,
  nothing happens;
- files of retired keys stay where they are: they are the operator's to destroy.

What this module does not do: it tells no SmartServer. The next grant of each carries the roots that it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from smartserver_licensed.documents.keys import PublicKey, SigningKey
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, Trust, seal_root

from .errors import RotationError
from .key_files import find_keys
from .keyring import (
    ROLES,
    Keyring,
    NewKeys,
    keys_directory,
    load_authority_trust,
    load_keyring,
    locked,
    named_key,
    new_keys,
    password_of,
    write_root,
)

_MIN_ID = 8


def rotate(
    directory: Path,
    *,
    now: int,
    retire: Sequence[str] = (),
    root_keys: int | None = None,
    root_threshold: int | None = None,
    grant_keys: int | None = None,
    grant_threshold: int | None = None,
    emergency_max_devices: int | None = None,
    password: bytes | None = None,
    root_key_directories: Sequence[Path] = (),
    version: int | None = None,
) -> Keyring:
    """Make the next root; what is None stays as it is. `retire`: key ids (at least 8 digits), or `root`, `grant`.

    Retired keys are replaced, so that each role has as many as before or as asked for. `version`: the root to make;
    if it is the newest one already, nothing happens. Root keys are looked for in all `root_key_directories`.
    Raises RotationError, RootError, AuthorityMissingError, AuthorityBusyError, PasswordWrongError, FileAccessError.
    """
    with locked(directory):
        trust = load_authority_trust(directory)
        old = trust.current
        if not _is_wanted(version, old):
            return load_keyring(directory, password)
        password = password_of(old, password)
        homes = {
            "root": list(root_key_directories) or [keys_directory(directory)],
            "grant": [keys_directory(directory)],
        }
        gone = _retired(trust, retire)
        counts = {"root": root_keys, "grant": grant_keys}
        added = {role: _added(role, counts[role], trust, gone, homes[role], password) for role in ROLES}
        new = replace(
            old,
            version=old.version + 1,
            issued_at=now,
            keys=_keys(old, gone, added),
            roles={
                ROOT_TYPE: _role("root", old, gone, added, root_threshold),
                ROLES["grant"]: _role("grant", old, gone, added, grant_threshold),
            },
            emergency_max_devices=(
                old.emergency_max_devices if emergency_max_devices is None else emergency_max_devices
            ),
        )
        if replace(new, version=old.version, issued_at=old.issued_at) != old:
            envelope = seal_root(new, _signers(old, new, homes["root"], added["root"], password))
            for each in added.values():
                each.write(password)
            write_root(directory, new, envelope)
        return load_keyring(directory, password)


def _is_wanted(version: int | None, old: Root) -> bool:
    if version is not None and version not in {old.version, old.version + 1}:
        raise RotationError(f"cannot make root version {version}: the newest one is {old.version}, none may be skipped")
    return version != old.version


def _retired(trust: Trust, names: Sequence[str]) -> frozenset[str]:
    """Ids of keys that shall go. One that an earlier root named, and this one does not, is gone already."""
    ever = {key_id for root in trust.roots for key_id in root.keys}
    gone: set[str] = set()
    for name in names:
        if name in ROLES:
            gone.update(trust.current.roles[ROLES[name]].key_ids)
            continue
        found = [key_id for key_id in ever if len(name) >= _MIN_ID and key_id.startswith(name.lower())]
        if len(found) != 1:
            raise RotationError(f"cannot retire {name[:80]!r}: it is neither root nor grant nor the id of one key")
        gone.add(found[0])
    return frozenset(gone)


def _kept(role: str, old: Root, gone: frozenset[str]) -> list[str]:
    return [each for each in old.roles[ROLES[role]].key_ids if each not in gone]


def _added(
    role: str, count: int | None, trust: Trust, gone: frozenset[str], homes: Sequence[Path], password: bytes | None
) -> NewKeys:
    old = trust.current
    kept = _kept(role, old, gone)
    wanted = len(old.roles[ROLES[role]].key_ids) if count is None else count
    if wanted < len(kept):
        raise RotationError(f"cannot go on with {wanted} {role} keys: {len(kept)} stay; say which to retire")
    known = [key_id for root in trust.roots for key_id in root.keys]
    return new_keys(role, wanted - len(kept), homes, known=known, password=password)


def _keys(old: Root, gone: frozenset[str], added: Mapping[str, NewKeys]) -> dict[str, PublicKey]:
    kept = {key_id: key for key_id, key in old.keys.items() if key_id not in gone}
    return {**kept, **{key.public.key_id: key.public for each in added.values() for key in each.all}}


def _role(role: str, old: Root, gone: frozenset[str], added: Mapping[str, NewKeys], threshold: int | None) -> Role:
    ids = (*_kept(role, old, gone), *(key.public.key_id for key in added[role].all))
    return Role(ids, old.roles[ROLES[role]].threshold if threshold is None else threshold)


def _signers(old: Root, new: Root, homes: Sequence[Path], added: NewKeys, password: bytes | None) -> list[SigningKey]:
    """As few keys as both thresholds need; those that count for both come first."""
    old_ids, new_ids = old.roles[ROOT_TYPE].key_ids, new.roles[ROOT_TYPE].key_ids
    there = [named_key(path, old, ROOT_TYPE, password) for path in find_keys(homes, "root", old_ids)]
    there.sort(key=lambda key: key.public.key_id not in new_ids)  # stable
    mine = [*(key for key in there if key.public.key_id in new_ids), *added.all]
    for root, keys in ((old, there), (new, mine)):
        if len(keys) < root.threshold_for(ROOT_TYPE):
            raise RotationError(
                f"cannot sign root version {new.version}: version {root.version} demands "
                f"{root.threshold_for(ROOT_TYPE)} root keys, {len(keys)} are at hand (--root-key-dir says where)"
            )
    signers = [*there[: old.threshold_for(ROOT_TYPE)], *mine[: new.threshold_for(ROOT_TYPE)]]
    return list({key.public.key_id: key for key in signers}.values())
