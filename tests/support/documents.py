"""A vendor for tests: keys, a root, and grants, all real and signed; the same at every run."""

from __future__ import annotations

from dataclasses import replace

from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant
from smartserver_licensed.documents.trust import ROOT_TYPE, Role, Root
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


def sealed(grant: Grant, *keys: SigningKey) -> bytes:
    """The envelope of a grant, signed by the grant key where no other is named."""
    return seal(GRANT_TYPE, encode_grant(grant), keys or [GRANT_KEY])


def grant_of(*licenses: License, seq: int = 1) -> Grant:
    """A grant with these licenses."""
    return replace(GRANT, licenses=licenses, seq=seq)
