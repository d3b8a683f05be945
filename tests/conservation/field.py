"""The field and the authority together: who has what, which papers are on the way, and what must hold at any time.

Rules:
- field + authority ≤ sold, for each license; of a SmartServer with copies the one that is no stray counts (`lines`);
- a contact is refused exactly when `lines` says so, with its code; or, if it is heard, for want of licenses;
- the same request gets the same answer, byte for byte; a return is credited once;
- when all is told (`settle`), field + authority = sold: nothing is lost.
A broken rule is a `BrokenError` that says what was seen.

What this module does not do: it does not choose what happens (`rules`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from license_authority.authority import Authority
from license_authority.moving import Credit
from smartserver_licensed.controller.contacting import Asked
from smartserver_licensed.documents.payloads import open_contact
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.contacts import ContactKind
from smartserver_licensed.domain.errors import ContactError, LicensedError
from support.ports import SetClocks

from .lines import FORKED, Lines, Person
from .smartserver import BrokenError, SmartServer, board
from .things import Body, Paper, Snapshot
from .vendor import CUSTOMERS, Cut, Vendor

# A contact that is heard may get nothing all the same, or a return may not be transferable; then nothing has changed.
UNLUCKY = frozenset({"license-exhausted", "trial-used", "emergency-refused", "customer-mismatch", "install-code-taken"})
NOT_THERE = frozenset({"license-exhausted", "return-reserved", "argument-invalid", "smartserver-retired"})
MOVED = frozenset({"register-behind", "over-returned"})  # a ledger with a new key that was another SmartServer's

_T = TypeVar("_T")


@dataclass
class Field:
    """Everything; one sequence."""

    vendor: Vendor
    chance: random.Random  # for what a torn page holds; decides nothing else
    clocks: SetClocks = field(default_factory=SetClocks)
    lines: Lines = field(default_factory=Lines)
    bodies: list[Body] = field(default_factory=list)
    papers: list[Paper] = field(default_factory=list)
    signed: dict[str, bytes] = field(default_factory=dict)  # by the SHA-256 of what was signed
    grants: list[bytes] = field(default_factory=list)
    images: list[Snapshot] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    sold: dict[str, int] = field(default_factory=dict)
    at_authority: dict[str, int] = field(default_factory=dict)
    answers: dict[bytes, bytes] = field(default_factory=dict)
    credited: set[bytes] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    story: list[str] = field(default_factory=list)
    boards: int = 0
    is_honest: bool = True  # whether a sync makes anything durable; False for negative controls

    def __post_init__(self) -> None:
        self.vendor.begin()
        self.look_at_authority()
        for name, customer_id in CUSTOMERS.items():
            for number in (1, 2)[: 2 if not self.bodies else 1]:
                self.add_body(f"{name}{number}", customer_id)

    @property
    def now(self) -> int:
        """Seconds since 1970 UTC, everywhere the same."""
        return self.clocks.reading().wall_s

    def tell(self, text: str) -> None:
        """For whoever reads what led to a broken promise."""
        self.story.append(text)

    # -- bodies ------------------------------------------------------------------------------------------------------

    def add_body(
        self, install_code: str, owner: str, snapshot: Snapshot | None = None, identity: Identity | None = None
    ) -> Body | None:
        """One more SmartServer, new or with a copied card; None where it does not serve: the card is of another one."""
        self.boards += 1
        known_as = identity or Identity(install_code, board(self.boards))
        image = snapshot.image if snapshot else None
        server = SmartServer(
            known_as, self.clocks, self.vendor.keys.trust, self.chance, image=image, is_honest=self.is_honest
        )
        if not server.is_serving:
            return None
        person = snapshot.person if snapshot else Person(server.key_id, {})
        body = Body(f"{install_code}#{self.boards}", server, owner, person)
        self.bodies.append(body)
        self.follow(body)
        return body

    def wipe(self, body: Body) -> None:
        """Its partition is lost: the new ledger has nothing in common with the old one."""
        body.server.wipe()
        body.person = Person(body.server.key_id, {})

    def follow(self, body: Body) -> None:
        """Remember what a SmartServer has signed meanwhile, whether or not it got as far as to say so."""
        state = body.server.state
        person, key = body.person, body.server.key_id
        if key != person.key_id:
            earlier = (*person.earlier, (person.key_id, person.history))
            person = Person(key, {}, earlier)
        body.person = replace(person, history={**person.history, **state.contacts})

    def is_stray(self, body: Body) -> bool:
        """Whether it is a copy that does not count."""
        return self.lines.is_stray(body.person, has_grant=body.has_grant)

    def request(self, body: Body, asked: Asked, cut_at: int = 0) -> Paper | None:
        """A SmartServer makes a request; None where its power went, or where it is to be mended in another way first.

        A new key is not for a ledger that another board is known by: that one is renamed with its old key.
        """
        is_elsewhere = body.server.state.install_code != body.install_code
        try:
            data = body.server.request(asked, cut_at=cut_at)
        except ContactError:
            if not (asked.is_new_key and is_elsewhere):
                raise
            return None
        self.follow(body)
        return None if data is None else self.keep(body, data)

    def keep(self, body: Body, data: bytes) -> Paper:
        """A paper that a SmartServer has given out."""
        self.follow(body)
        contact, mark = open_contact(data)
        if body.person.history.get(mark.number) != mark.sha256:
            raise BrokenError(f"{body.name} gave contact {mark.number} away, which it does not remember")
        paper = Paper(data, body.person, mark.number, contact.install_code, body.owner, contact.kind)
        if mark.sha256 not in self.signed:
            self.papers.append(paper)
        if self.signed.setdefault(mark.sha256, data) != data:
            raise BrokenError(f"{body.name} gave contact {mark.number} away again, with other bytes")
        return paper

    # -- the authority -----------------------------------------------------------------------------------------------

    def do(self, work: Callable[[Authority], _T], cut: Cut = Cut.NONE) -> _T | None:
        """An act of the vendor's that is no contact; None where its power went. Raises LicensedError."""
        try:
            return self.vendor.do(work, cut)
        finally:
            self.look_at_authority()

    def look_at_authority(self) -> None:
        """Read the balance."""
        for license_id, owner, sold, out, consumed in self.vendor.balance():
            if not 0 <= consumed <= out <= sold:
                raise BrokenError(f"the authority's own sums are wrong: {license_id}: {out} of {sold}, {consumed} used")
            self.owners[license_id], self.sold[license_id], self.at_authority[license_id] = owner, sold, sold - out

    def note_introduced(self, install_code: str) -> None:
        """Remember that the authority knows a SmartServer, if it does: an order or a transfer may have named it."""
        if any(each.install_code == install_code for each in self.vendor.authority.smartservers()):
            self.lines.introduce(install_code)

    def deliver(
        self, paper: Paper, *, by_hand: bool = False, is_confirmed: bool = False, to: str = "", cut: Cut = Cut.NONE
    ) -> str:
        """A paper reaches the authority: posted, or handed to its operator; the code of the refusal, or "".

        `is_confirmed`: the operator says that what is unusual about it is right; `to`: the return is a transfer.
        """
        asked = open_contact(paper.data)[0]
        says_whose = bool(asked.customer_id or asked.wanted)
        expected = self.lines.verdict(
            paper.maker, paper.number, paper.install_code, is_confirmed=is_confirmed, says_whose=says_whose
        )
        code = ""
        said: tuple[bytes | None, Credit | None] | None = None
        try:
            said = self.do(
                lambda authority: self._act(authority, paper, by_hand=by_hand, is_confirmed=is_confirmed, to=to), cut
            )
        except LicensedError as error:
            code = error.code
        is_lost = cut is Cut.TRANSACTION
        if cut is Cut.NONE or code:
            self._check_code(paper, code, expected, NOT_THERE if to else UNLUCKY)
        if expected == FORKED and not is_lost:
            self.counts["forks"] += 1
            self.lines.find_fork(paper.maker.key_id, code)
        if code in expected:
            self.counts[code] += 1
        if not code and not is_lost and not expected:
            self.lines.hear(paper.maker, paper.number, paper.install_code)
        self._check_said(paper, *(said or (None, None)))
        return code

    def _act(
        self, authority: Authority, paper: Paper, *, by_hand: bool, is_confirmed: bool, to: str
    ) -> tuple[bytes | None, Credit | None]:
        if to:
            return None, authority.transfer(paper.data, to, now=self.now)
        if by_hand and paper.kind is ContactKind.RETURN:
            return None, authority.credit(paper.data, now=self.now)
        if by_hand or is_confirmed:
            return authority.activate(paper.data, now=self.now, confirm=is_confirmed), None
        answer = authority.contact(paper.data, now=self.now)
        return answer.document, answer.credit

    def _check_code(self, paper: Paper, code: str, expected: frozenset[str], unlucky: frozenset[str]) -> None:
        if expected and code not in expected:
            raise BrokenError(
                f"contact {paper.number} of {paper.install_code} was to be refused with {sorted(expected)}, "
                f"it was {code or 'heard'}"
            )
        if self.lines.is_moved(paper.maker, paper.install_code):
            unlucky |= MOVED
        if not expected and code and code not in unlucky:
            raise BrokenError(f"contact {paper.number} of {paper.install_code} was to be heard, it was refused: {code}")

    def _check_said(self, paper: Paper, grant: bytes | None, credit: Credit | None) -> None:
        if grant is not None:
            self.counts["grants"] += 1
            self.grants.append(grant)
            if self.answers.setdefault(paper.data, grant) != grant:
                raise BrokenError(f"contact {paper.number} of {paper.install_code} got two different answers")
        if credit is not None:
            self.counts["credits"] += credit.devices_credited > 0
            if credit.devices_credited and paper.data in self.credited:
                raise BrokenError(f"return {paper.number} of {paper.install_code} was credited twice")
            self.credited.add(paper.data)

    # -- what must hold ----------------------------------------------------------------------------------------------

    def holders(self) -> dict[str, list[Body]]:
        """The bodies that count, by the SmartServer that the authority knows them as."""
        found: dict[str, list[Body]] = {}
        for body in self.bodies:
            server = self.lines.server_of(body.person)
            if server is not None and not self.is_stray(body):
                found.setdefault(server.install_code, []).append(body)
        return found

    def in_field(self) -> Counter[str]:
        """Devices of each license that can be used, of copies that have not parted one."""
        total: Counter[str] = Counter()
        for bodies in self.holders().values():
            most: Counter[str] = Counter()
            for body in bodies:
                most |= Counter(body.server.usable())
            total += most
        return total

    def check(self) -> None:
        """No device is licensed twice. Raises BrokenError."""
        in_field = self.in_field()
        for license_id in {*in_field, *self.sold}:
            sold, kept = self.sold.get(license_id, 0), self.at_authority.get(license_id, 0)
            if in_field[license_id] + kept > sold:
                raise BrokenError(f"of {license_id} {sold} were sold; field {in_field[license_id]} + authority {kept}")

    def settle(self) -> None:
        """Everybody tells all; the operator mends what was lost or found. Then nothing is missing."""
        for body in [each for each in self.bodies if self.is_stray(each)]:  # found at their next contact, if not before
            paper = self.request(body, Asked(is_fresh=True))
            if paper is not None:
                self.deliver(paper)
            self.check()
        for server in list(self.lines.servers.values()):
            if not server.is_retired:
                self._settle_one(server.install_code)
                self.check()
        in_field = self.in_field()
        shown = {each.license_id: each.at_authority for each in self.vendor.authority.balance()}
        if shown != self.at_authority:
            raise BrokenError(f"the authority shows {shown}, its register says {self.at_authority}")
        for license_id, sold in self.sold.items():
            if in_field[license_id] + self.at_authority[license_id] != sold:
                raise BrokenError(
                    f"lost: of {license_id} {sold} were sold; field {in_field[license_id]} + "
                    f"authority {self.at_authority[license_id]}"
                )

    def _settle_one(self, install_code: str) -> None:
        here = [each for each in self.holders().get(install_code, []) if each.person.key_id in self.lines.keys]
        here += [each for each in self.bodies if each.install_code == install_code]
        if not here:
            self.do(lambda authority: authority.rma(install_code, f"{install_code}x", now=self.now))
            self.lines.introduce(f"{install_code}x")
            self.lines.retire(install_code)
            return
        body = here[0]
        paper = self.request(body, Asked(customer_id=body.owner, is_new_key=self.is_stray(body), is_fresh=True))
        code = "register-behind" if paper is None else self.deliver(paper, is_confirmed=True)
        if paper is None or code in MOVED:  # its ledger is another SmartServer's: a new one
            self.wipe(body)
            paper = self.request(body, Asked(customer_id=body.owner))
            assert paper is not None
            code = self.deliver(paper, is_confirmed=True)
        if code:
            raise BrokenError(f"{body.name} cannot be mended by a confirmed request: {code}")
        body.server.install(self.answers[paper.data])
