"""A vendor for tests: keys, a root, and grants, all real and signed; the same at every run."""

from __future__ import annotations

from dataclasses import replace

from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root, Trust, load_trust, seal_root
from smartserver_licensed.domain.licenses import Grant, License, LicenseType
from smartserver_licensed.domain.timekeeping import from_iso

INSTALL_CODE = "17qei61"
CUSTOMER_ID = "0b9e5a0c-51a9-4ac9-9c36-6d1c3a2c6a11"
NOW = from_iso("2026-11-24T03:22:42Z")

ROOT_KEY = SigningKey(b"\x01" * 32)
GRANT_KEY = SigningKey(b"\x02" * 32)
SECOND_GRANT_KEY = SigningKey(b"\x03" * 32)
STRANGER = SigningKey(b"\x04" * 32)
DEVICE_KEY = SigningKey(b"\x05" * 32).public.raw

CAPACITY = License("cap-1", LicenseType.CAPACITY, 1000, note="Plant 3, 2. OG – Süd")
TRIAL = License("trial-1", LicenseType.TRIAL, 5, from_iso("2026-12-24T03:22:42Z"), 7)

GRANT = Grant(
    seq=1,
    issued_at=NOW,
    customer_id=CUSTOMER_ID,
    install_code=INSTALL_CODE,
    device_key=None,
    licenses=(CAPACITY, TRIAL),
    root_version=1,
)


def make_root(*, threshold: int = 1, allow_unactivated: bool = True, version: int = 1) -> Root:
    """A root with one root key and two grant keys."""
    return Root(
        version=version,
        issued_at=NOW,
        keys={key.public.key_id: key.public for key in (ROOT_KEY, GRANT_KEY, SECOND_GRANT_KEY)},
        roles={
            ROOT_TYPE: Role((ROOT_KEY.public.key_id,), 1),
            GRANT_TYPE: Role((GRANT_KEY.public.key_id, SECOND_GRANT_KEY.public.key_id), threshold),
        },
        allow_unactivated=allow_unactivated,
        emergency_max_devices=100,
    )


def make_trust(root: Root | None = None) -> Trust:
    """What a SmartServer trusts that was shipped with this root, or with `make_root()`."""
    return load_trust(seal_root(root or make_root(), [ROOT_KEY]))


def root_key(version: int) -> SigningKey:
    """The key that signs root `version` of `rotated_roots`."""
    return SigningKey(bytes([100 + version]) * 31 + b"\x01")


def grant_key(version: int) -> SigningKey:
    """The key that signs grants under root `version` of `rotated_roots`, and under no other."""
    return SigningKey(bytes([100 + version]) * 31 + b"\x02")


def rotated_root(version: int) -> Root:
    """Root `version` of an authority that changes all keys with each root."""
    keys = (root_key(version), grant_key(version))
    ids = [each.public.key_id for each in keys]
    return replace(
        make_root(version=version),
        keys={each.public.key_id: each.public for each in keys},
        roles={ROOT_TYPE: Role((ids[0],), 1), GRANT_TYPE: Role((ids[1],), 1)},
    )


def rotated_roots(count: int) -> list[bytes]:
    """The envelopes of roots 1 to `count`, each signed by its own key and by that of the root before."""
    return [
        seal_root(rotated_root(version), [root_key(each) for each in (version - 1, version) if each])
        for version in range(1, count + 1)
    ]


def sealed(grant: Grant, *keys: SigningKey) -> bytes:
    """The envelope of a grant, signed by the grant key where no other is named."""
    return seal(GRANT_TYPE, encode_grant(grant), keys or [GRANT_KEY])


def grant_of(*licenses: License, seq: int = 1) -> Grant:
    """A grant with these licenses."""
    return replace(GRANT, licenses=licenses, seq=seq)
