"""What ought to be: which contacts the authority has heard of each device key, and who is a copy.

Rules (LICENSING §4 "The contact chain"); unlike the authority, this model knows all that a SmartServer ever signed:
- a device key has one line of contacts: those that were heard, or came before one that was heard. Whose own history
  leaves that line, or lacks the last contact heard, is a *stray*: a clone, or an image put back. It cannot know what
  its twin has returned since. A copy is no stray as long as neither it nor its twin has been heard since they parted:
  each has the licenses that the authority knows of, and the first one that is heard is the SmartServer from then on;
- whoever gets a new device key keeps this: a stray with a new key is none any more when it has installed a grant for
  that key, which brings the totals that it lacks;
- a stray is refused at its first contact: `contact-forked` or `totals-fallen`, and so is everybody with that key then;
  `key-retired` after a new key, `smartserver-retired` after an RMA.

What this module does not do: it asks neither the authority nor a SmartServer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FORKED = frozenset({"contact-forked", "totals-fallen"})
UNKNOWN = frozenset({"smartserver-unknown"})

History = Mapping[int, str]
"""All contacts that were signed with one key, by number: the SHA-256 of each."""


@dataclass(frozen=True, slots=True)
class Person:
    """Who somebody is by its keys: the one that it signs with, its history under it, and those of its earlier keys."""

    key_id: str
    history: History
    earlier: tuple[tuple[str, History], ...] = ()


@dataclass(slots=True)
class Server:
    """A SmartServer as the authority ought to know it."""

    install_code: str
    key_id: str = ""
    is_retired: bool = False


@dataclass(slots=True)
class Line:
    """What the authority ought to know of one device key."""

    server: Server
    was_stray: bool  # whoever was enrolled with it had lost the line of the key before
    heard: dict[int, str] = field(default_factory=dict)
    last: int = 0
    refused_with: frozenset[str] = frozenset()  # from now on, whatever it says


@dataclass(slots=True)
class Lines:
    """All SmartServers and all device keys."""

    servers: dict[str, Server] = field(default_factory=dict)
    keys: dict[str, Line] = field(default_factory=dict)

    def introduce(self, install_code: str) -> Server:
        """A SmartServer that the authority knows from now on."""
        return self.servers.setdefault(install_code, Server(install_code))

    def server_of(self, person: Person) -> Server | None:
        """Whose licenses it has."""
        for key_id in (person.key_id, *(each for each, _ in reversed(person.earlier))):
            if key_id in self.keys:
                return self.keys[key_id].server
        return None

    def is_stray(self, person: Person, *, has_grant: bool) -> bool:
        """Whether it is a copy that has parted; `has_grant`: it has one for the key that it has now."""
        line = self.keys.get(person.key_id)
        if line is not None:
            is_astray = bool(line.refused_with) or not _follows(person.history, line)
            return is_astray or (line.was_stray and not has_grant)
        for key_id, history in reversed(person.earlier):
            line = self.keys.get(key_id)
            if line is not None:
                return bool(line.refused_with) or not _follows(history, line) or line.was_stray
        return False  # it has never been heard, and so has no licenses

    def is_moved(self, person: Person, install_code: str) -> bool:
        """Whether it comes with a new key, and with licenses that it has as another SmartServer."""
        known_as = self.server_of(person)
        return person.key_id not in self.keys and known_as is not None and known_as.install_code != install_code

    def verdict(
        self, person: Person, number: int, install_code: str, *, is_confirmed: bool, says_whose: bool
    ) -> frozenset[str]:
        """With what its contact ought to be refused now; empty: it is heard, unless there is nothing to be had."""
        line = self.keys.get(person.key_id)
        if line is None:
            server = self.servers.get(install_code)
            if server is None:
                return frozenset() if says_whose else UNKNOWN
            needs_confirmation = server.is_retired or bool(server.key_id)
            return frozenset({"confirmation-needed"} if needs_confirmation and not is_confirmed else ())
        if line.refused_with:
            return line.refused_with
        if number <= line.last:
            return frozenset() if line.heard.get(number) == person.history[number] else FORKED
        if not _follows(person.history, line):
            return FORKED
        if line.server.install_code == install_code or is_confirmed:
            return frozenset()
        return frozenset({"confirmation-needed"})

    def hear(self, person: Person, number: int, install_code: str) -> None:
        """A contact was heard."""
        line = self.keys.get(person.key_id)
        if line is None:
            line = self._enroll(person, self.introduce(install_code))
        if number > line.last and line.server.install_code != install_code:
            del self.servers[line.server.install_code]
            line.server.install_code = install_code
            self.servers[install_code] = line.server
        line.heard |= {each: sha256 for each, sha256 in person.history.items() if each <= number}
        line.last = max(line.last, number)

    def find_fork(self, key_id: str, code: str) -> None:
        """Two copies were found; `code` is "" where nobody heard which it was."""
        line = self.keys[key_id]
        if line.refused_with in {frozenset(), FORKED}:
            line.refused_with = frozenset({code}) if code else FORKED

    def retire(self, install_code: str) -> None:
        """A SmartServer was replaced (RMA)."""
        server = self.servers[install_code]
        if server.key_id:
            self.keys[server.key_id].refused_with = frozenset({"smartserver-retired"})
        server.key_id, server.is_retired = "", True

    def _enroll(self, person: Person, server: Server) -> Line:
        was_stray = self.is_stray(person, has_grant=False)
        if server.key_id:
            self.keys[server.key_id].refused_with = frozenset({"key-retired"})
        server.key_id, server.is_retired = person.key_id, False
        line = self.keys[person.key_id] = Line(server, was_stray)
        return line


def _follows(history: History, line: Line) -> bool:
    """Whether a history is on the line, and not behind what was heard last."""
    if line.last and line.last not in history:
        return False
    return all(history[number] == sha256 for number, sha256 in line.heard.items() if number in history)
