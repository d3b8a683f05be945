"""A SmartServer in the hands of somebody who reads its device key: he signs whatever he likes, of any number.

Rules: to the authority it is a SmartServer like any other; what it says honestly is what a daemon would say.

What this module does not do: it has no daemon, so it proves nothing about one.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Any

from attacks.attack import GotThroughError
from attacks.scene import Scene
from smartserver_licensed.documents.envelope import parse_envelope, seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import CONTACT_TYPES, encode_contact, open_contact, parse_grant
from smartserver_licensed.domain.binding import NO_FACTORS
from smartserver_licensed.domain.contacts import Contact, ContactKind, LicenseTotals
from smartserver_licensed.domain.licenses import Grant


class Puppet:
    """Enrolled with so many devices of a license of its own."""

    def __init__(self, scene: Scene, install_code: str, devices: int = 100) -> None:
        self._vendor = scene.vendor
        self.key = SigningKey.generate()
        self.install_code = install_code
        self.license_id = scene.vendor.order(devices, "--install-code", install_code)
        self.last = Contact(
            kind=ContactKind.REQUEST, number=1, chain=(), nonce=secrets.token_hex(16), made_at=1_800_000_000,
            install_code=install_code, device_key=self.key.public.raw, factors=NO_FACTORS, grant_seq=0, root_version=1,
            anchor="none", totals=(),
        )  # fmt: skip
        self.send(self.last)

    def sealed(self, contact: Contact, key: SigningKey | None = None) -> bytes:
        """The document, signed by the device key where no other is named."""
        return seal(CONTACT_TYPES[contact.kind], encode_contact(contact), [key or self.key])

    def next(self, **changes: Any) -> Contact:  # noqa: ANN401 - Contact's
        """The next request, honest where nothing is changed."""
        _, mark = open_contact(self.last_sent)
        honest = {
            "number": self.last.number + 1, "chain": (mark.sha256,), "nonce": secrets.token_hex(16),
            "kind": ContactKind.REQUEST, "license_id": "", "devices": 0,
        }  # fmt: skip
        return replace(self.last, **{**honest, **changes})

    def returning(self, devices: int, **changes: Any) -> Contact:  # noqa: ANN401 - Contact's
        """The next contact, a return of devices of its license."""
        totals = tuple(
            replace(each, returned_total=each.returned_total + devices) if each.id == self.license_id else each
            for each in self.last.totals
        )
        made = {"kind": ContactKind.RETURN, "license_id": self.license_id, "devices": devices, "totals": totals}
        return self.next(**{**made, **changes})

    def send(self, contact: Contact) -> Grant:
        """Bring it to the authority, which has to take it; from then on it is the last one."""
        status, answer, code = self._vendor.post(self.sealed(contact))
        if code:
            raise GotThroughError(f"an honest contact is refused: {code} ({status}) {answer.decode()}")
        grant = parse_grant(parse_envelope(answer).payload)
        totals = tuple(LicenseTotals(each.id, each.granted_total, each.returned_total, 0) for each in grant.licenses)
        self.last_sent, self.last = self.sealed(contact), replace(contact, totals=totals, grant_seq=grant.seq)
        return grant

    def forks(self) -> list[dict[str, Any]]:
        """The evidence that the authority has against it."""
        out = self._vendor.command("show", "forks", "--install-code", self.install_code, "--json", with_password=False)
        found: list[dict[str, Any]] = json.loads(out)
        return found
