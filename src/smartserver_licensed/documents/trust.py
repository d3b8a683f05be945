"""The root documents: which keys may sign which kind of document, how many of them must, and the chain of roots.

Rules (LICENSING §4; the idea is TUF's):
- a root names keys by their id, which must be the key's own; per payload type the key ids and a threshold;
- it is signed by the threshold of its own root role. That makes it consistent, not trusted: it is trusted because
  of where it came from (shipped in the package, root-owned and read-only);
- a key for one payload type is none for another;
- the next root is trusted when the thresholds of both its predecessor's root role and its own have signed it. None is
  skipped, none goes backwards, and a version has one payload for ever;
- a package may bring a root that is no successor of what the ledger keeps: what is shipped is root-owned. Roots before
  such a gap are kept to verify what was accepted under them, and for nothing else.

What this module does not do: it reads and keeps no file.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smartserver_licensed.domain.errors import DocumentError, PayloadError, RootError, SignatureError
from smartserver_licensed.domain.licenses import MAX_DEVICES
from smartserver_licensed.domain.timekeeping import Timestamp, to_iso

from . import strict_json
from .envelope import (
    Envelope,
    Signer,
    check_signatures,
    check_type,
    encode_base64,
    parse_envelope,
    seal,
    without_roots,
)
from .fields import Fields, parse_payload
from .keys import PublicKey
from .strict_json import JsonValue

ROOT_TYPE = "application/vnd.smartserver.root+json"

_KEY_TYPE = "ed25519"
_KNOWN = frozenset({"version", "issued_at", "keys", "roles", "allow_unactivated", "emergency_max_devices", "critical"})


@dataclass(frozen=True, slots=True)
class Role:
    """Who may sign one kind of document, and how many of them must."""

    key_ids: tuple[str, ...]
    threshold: int


@dataclass(frozen=True, slots=True)
class Root:
    """What is trusted. Constructing an inconsistent one raises RootError."""

    version: int
    issued_at: Timestamp
    keys: Mapping[str, PublicKey]
    roles: Mapping[str, Role]
    allow_unactivated: bool
    emergency_max_devices: int

    def __post_init__(self) -> None:
        if not 1 <= self.version < 2**31:
            raise RootError(f"cannot trust the root: version {self.version}, the first is 1")
        if not 0 <= self.emergency_max_devices <= MAX_DEVICES:
            raise RootError(f"cannot trust the root: {self.emergency_max_devices} emergency devices")
        for name, key in self.keys.items():
            if key.key_id != name:
                raise RootError(f"cannot trust the root: key {name[:80]!r} has the id {key.key_id}")
        if ROOT_TYPE not in self.roles:
            raise RootError(f"cannot trust the root: it has no role {ROOT_TYPE!r}")
        for payload_type, role in self.roles.items():
            self._check_role(payload_type, role)

    def _check_role(self, payload_type: str, role: Role) -> None:
        where = f"cannot trust the root: role {payload_type[:80]!r}"
        unknown = [each for each in role.key_ids if each not in self.keys]
        if unknown:
            raise RootError(f"{where} names the unknown key {unknown[0][:80]!r}")
        if len(set(role.key_ids)) != len(role.key_ids):
            raise RootError(f"{where} names a key twice")
        if not 1 <= role.threshold <= len(role.key_ids):
            raise RootError(f"{where} has the threshold {role.threshold} of {len(role.key_ids)} keys")

    def keys_for(self, payload_type: str) -> dict[str, PublicKey]:
        """The keys by id that may sign this kind; none where the root has no such role."""
        role = self.roles.get(payload_type)
        return {each: self.keys[each] for each in role.key_ids} if role else {}

    def threshold_for(self, payload_type: str) -> int:
        """How many different keys must have signed; at least 1, which nobody reaches where there is no such role."""
        role = self.roles.get(payload_type)
        return role.threshold if role else 1

    def check(self, envelope: Envelope) -> None:
        """Raise SignatureError unless it is signed as this root demands of its payload type."""
        kind = envelope.payload_type
        check_signatures(envelope, keys=self.keys_for(kind), threshold=self.threshold_for(kind))


@dataclass(frozen=True, slots=True)
class Trust:
    """The chain of trusted roots, oldest first, each with its envelope (without others in it)."""

    roots: tuple[Root, ...]
    envelopes: tuple[bytes, ...]

    @property
    def current(self) -> Root:
        """The newest root: it says who may sign now."""
        return self.roots[-1]

    def under(self, version: int) -> Root | None:
        """The root of this version, None where it is not known."""
        return next((each for each in self.roots if each.version == version), None)

    def extended(self, envelopes: Sequence[bytes]) -> Trust:
        """The chain with the roots of these envelopes, oldest first; those that are known already may be among them.

        One older than all that is known is passed over: nothing can be said of it, and nothing would follow. Raises
        DocumentError, RootError for one that is skipped, not signed by its predecessor, or different from the known.
        """
        trust = self
        for data in envelopes:
            trust = trust._with(data)
        return trust

    def signs_still(self, payload_type: str, data: bytes) -> bool:
        """Whether the current root would accept the signatures of a document that was accepted once."""
        try:
            envelope = parse_envelope(data)
            check_type(envelope, payload_type)
            self.current.check(envelope)
        except DocumentError:
            return False
        return True

    def _with(self, data: bytes) -> Trust:
        envelope = parse_envelope(data)
        root = root_of(envelope)
        known = {each.version: data for each, data in zip(self.roots, self.envelopes, strict=True)}
        if root.version in known:
            _check_same(root.version, known[root.version], envelope)
            return self
        if root.version < self.current.version:
            return self
        if root.version != self.current.version + 1:
            raise RootError(
                f"cannot trust the root: version {root.version} follows {self.current.version}, none may be skipped"
            )
        _check_successor(self.current, envelope)
        return Trust((*self.roots, root), (*self.envelopes, without_roots(data)))


def load_root(data: bytes) -> Root:
    """The root of an envelope, consistent in itself and signed by its own root role.

    Its keys stand in the payload: this is the one document that is parsed before it is verified. Raises DocumentError.
    """
    return root_of(parse_envelope(data))


def root_of(envelope: Envelope) -> Root:
    """As `load_root`, of an envelope that is parsed already."""
    check_type(envelope, ROOT_TYPE)
    root = _parse_root(envelope.payload)
    try:
        root.check(envelope)
    except SignatureError as error:
        raise RootError(f"cannot trust the root: not signed by its own root role: {error}") from error
    return root


def load_trust(data: bytes) -> Trust:
    """The chain of a file that is trusted because of where it lies: the newest root, with earlier ones in `roots`.

    Raises DocumentError.
    """
    envelope = parse_envelope(data)
    newest = root_of(envelope)
    first = envelope.roots[0] if envelope.roots else data
    trust = Trust((load_root(first),), (without_roots(first),)).extended([*envelope.roots, data])
    if trust.current.version != newest.version:
        raise RootError(f"cannot trust the root: version {newest.version}, and a newer one among its earlier ones")
    return trust


def joined(shipped: Trust, stored: Sequence[bytes]) -> Trust:
    """The chain of a SmartServer at its start: what the package ships and the envelopes that the ledger keeps.

    The newer end is current. Raises DocumentError; RootError where they differ about a version, or where the ledger
    keeps a newer root that is no successor of a shipped one.
    """
    chain = {root.version: (root, data) for root, data in zip(shipped.roots, shipped.envelopes, strict=True)}
    for data in stored:
        envelope = parse_envelope(data)
        root = root_of(envelope)
        if root.version in chain:
            _check_same(root.version, chain[root.version][1], envelope)
        else:
            chain[root.version] = (root, without_roots(data))
    versions = sorted(chain)
    for before, version in itertools.pairwise(versions):
        root, data = chain[version]
        if version == before + 1:
            _check_successor(chain[before][0], parse_envelope(data))
        elif version > shipped.current.version:
            raise RootError(f"cannot trust the root: the ledger has version {version} after {before}, shipped or kept")
    return Trust(tuple(chain[each][0] for each in versions), tuple(chain[each][1] for each in versions))


def seal_root(root: Root, signers: Sequence[Signer]) -> bytes:
    """The envelope of a root."""
    keys: dict[str, JsonValue] = {
        name: {"keytype": _KEY_TYPE, "public": encode_base64(key.raw)} for name, key in root.keys.items()
    }
    roles: dict[str, JsonValue] = {
        payload_type: {"keyids": list(role.key_ids), "threshold": role.threshold}
        for payload_type, role in root.roles.items()
    }
    payload: dict[str, JsonValue] = {
        "version": root.version,
        "issued_at": to_iso(root.issued_at),
        "keys": keys,
        "roles": roles,
        "allow_unactivated": root.allow_unactivated,
        "emergency_max_devices": root.emergency_max_devices,
        "critical": [],
    }
    return seal(ROOT_TYPE, strict_json.dump(payload), signers)


def _check_same(version: int, known: bytes, found: Envelope) -> None:
    if parse_envelope(known).payload != found.payload:
        raise RootError(f"cannot trust the root: version {version} is known with another content")


def _check_successor(before: Root, envelope: Envelope) -> None:
    try:
        before.check(envelope)
    except SignatureError as error:
        raise RootError(f"cannot trust the root: not signed by version {before.version} before it: {error}") from error


def _parse_root(payload: bytes) -> Root:
    fields = parse_payload(payload, _KNOWN)
    return Root(
        version=fields.integer("version"),
        issued_at=fields.time("issued_at"),
        keys={name: _parse_key(each) for name, each in fields.members("keys").items()},
        roles={
            name: Role(each.texts("keyids"), each.integer("threshold"))
            for name, each in fields.members("roles").items()
        },
        allow_unactivated=fields.boolean("allow_unactivated"),
        emergency_max_devices=fields.integer("emergency_max_devices"),
    )


def _parse_key(fields: Fields) -> PublicKey:
    if fields.text("keytype") != _KEY_TYPE:
        raise PayloadError(f"cannot read the payload: {fields.where('keytype')} is not {_KEY_TYPE!r}")
    return PublicKey(fields.binary("public"))
