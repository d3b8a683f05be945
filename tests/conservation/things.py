"""What there is: SmartServers where they stand, papers on their way, copied cards.

What this module does not do: nothing happens here (`field`).
"""

from __future__ import annotations

from dataclasses import dataclass

from smartserver_licensed.documents.keys import key_id
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.contacts import ContactKind

from .lines import Person
from .smartserver import Image, SmartServer


@dataclass
class Body:
    """One SmartServer as it stands there, and what it has signed, which only the test remembers."""

    name: str
    server: SmartServer
    owner: str
    person: Person

    @property
    def install_code(self) -> str:
        """Of its board."""
        return self.server.identity.install_code

    @property
    def has_grant(self) -> bool:
        """For the device key that it has."""
        installed, person = self.server.state.installed, self.person
        key = installed.grant.device_key if installed else None
        return key is not None and key_id(key) == person.key_id


@dataclass(frozen=True)
class Paper:
    """A request or return on its way; it can arrive at any time, again, or never."""

    data: bytes
    maker: Person
    number: int
    install_code: str
    owner: str
    kind: ContactKind


@dataclass(frozen=True)
class Snapshot:
    """A copy of a card, with what its maker had signed by then."""

    image: Image
    person: Person
    identity: Identity
    owner: str
