"""The root document: which keys may sign which kind of document, and how many of them must.

Rules (LICENSING §4; the idea is TUF's):
- a root names keys by their id, which must be the key's own; per payload type the key ids and a threshold;
- it is signed by the threshold of its own root role. That makes it consistent, not trusted: it is trusted because
  of where it came from (shipped in the package, root-owned and read-only);
- a key for one payload type is none for another.

What this module does not do: it reads no file. A root has a version, but the chain from one to the next is not
built yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from smartserver_licensed.domain.errors import PayloadError, PayloadTypeError, RootError, SignatureError
from smartserver_licensed.domain.licenses import MAX_DEVICES
from smartserver_licensed.domain.timekeeping import Timestamp, to_iso

from . import strict_json
from .envelope import Envelope, check_signatures, encode_base64, parse_envelope, seal
from .fields import Fields, parse_payload
from .keys import PublicKey, SigningKey
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


def load_root(data: bytes) -> Root:
    """The root of an envelope, consistent in itself and signed by its own root role.

    Its keys stand in the payload: this is the one document that is parsed before it is verified. Raises DocumentError.
    """
    return root_of(parse_envelope(data))


def root_of(envelope: Envelope) -> Root:
    """As `load_root`, of an envelope that is parsed already."""
    if envelope.payload_type != ROOT_TYPE:
        raise PayloadTypeError(f"cannot trust the root: it is a {envelope.payload_type[:80]!r}")
    root = _parse_root(envelope.payload)
    try:
        check_signatures(envelope, keys=root.keys_for(ROOT_TYPE), threshold=root.threshold_for(ROOT_TYPE))
    except SignatureError as error:
        raise RootError(f"cannot trust the root: not signed by its own root role: {error}") from error
    return root


def seal_root(root: Root, signing_keys: Sequence[SigningKey]) -> bytes:
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
    return seal(ROOT_TYPE, strict_json.dump(payload), signing_keys)


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
