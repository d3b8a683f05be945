"""Documents in and out: grants and roots are installed, requests and returns are made, updates are judged.

Rules (LICENSING §4, §6):
- a document is verified before anything changes, and durable before anybody hears of it;
- one document at a time: an anchor may take its time;
- a request can be made and a grant installed also where that is what mends the ledger's condition; a return and the use
  of an upgrade license need a ledger that is well.

What this module does not do: it checks no caller (`adapters.dbus`) and no signature (`documents`).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

from smartserver_licensed.documents.acceptance import accept_grant, accept_root
from smartserver_licensed.documents.armor import unwrap
from smartserver_licensed.documents.envelope import parse_envelope
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.trust import ROOT_TYPE, Trust
from smartserver_licensed.domain import messages
from smartserver_licensed.domain.binding import Identity
from smartserver_licensed.domain.errors import (
    ArgumentError,
    DocumentError,
    LicensedError,
    NotReadyError,
    UnknownContactError,
    WriteFailedError,
)
from smartserver_licensed.domain.ledger_state import (
    ContactMade,
    Event,
    GrantInstalled,
    LedgerState,
    ReleaseSeen,
    RootsTrusted,
    UpgradeConsumed,
)
from smartserver_licensed.domain.licenses import Grant
from smartserver_licensed.domain.updates import UpdateCode, UpdateKind, Verdict, Version, check, parse_version

from .anchoring import Anchoring
from .contacting import Asked, Facts, Outlook, Return, outlook, request_events, return_events, sealed
from .entitling import licenses_of
from .keeper import Keeper
from .loop import Controller
from .ports import Clocks
from .telling import tell
from .trusting import Trusted


class Licensing:
    """What administrators and the CMS do with documents."""

    def __init__(
        self,
        controller: Controller,
        keeper: Keeper,
        clocks: Clocks,
        trusted: Trusted,
        anchoring: Anchoring,
        *,
        identity: Identity,
    ) -> None:
        self._controller = controller
        self._keeper = keeper
        self._clocks = clocks
        self._trusted = trusted
        self._anchoring = anchoring
        self._identity = identity
        self._is_busy = False

    @property
    def trust(self) -> Trust:
        """The roots that are trusted now."""
        return self._trusted.trust

    # -- in ----------------------------------------------------------------------------------------------------------

    async def install(self, data: bytes) -> Grant | None:
        """Verify and install a grant or, alone, newer roots (None). Raises DocumentError or StorageError."""
        with self._one_at_a_time("install"):
            if self._keeper.shown is None or not self._keeper.takes_documents:
                raise self._not_ready("install")
            try:
                events, grant, trust = self._accepted(unwrap(data))
            except DocumentError as error:
                tell(messages.LICENSE_REFUSED, CODE=error.code, REASON=error)
                raise
            if events and not await self._controller.commit_license(lambda _: events, lambda: self._learn(trust)):
                raise WriteFailedError(f"cannot install: {self._keeper.storage_reason}")
        if grant is not None:
            self._tell_stray(grant)
        return grant

    def _accepted(self, data: bytes) -> tuple[list[Event], Grant | None, Trust]:
        state = self._keeper.shown
        if parse_envelope(data).payload_type == ROOT_TYPE:
            trust = accept_root(data, self.trust)
            return self._roots(trust), None, trust
        accepted = accept_grant(
            data,
            trust=self.trust,
            install_code=self._identity.install_code,
            last_seq=state.installed.grant.seq if state and state.installed else 0,
            device_key=SigningKey(state.device_seed).public.raw if state and state.device_seed else None,
        )
        installed = GrantInstalled(accepted.grant, data, self._clocks.reading().wall_s)
        return [*self._roots(accepted.trust), installed], accepted.grant, accepted.trust

    def _learn(self, trust: Trust) -> None:
        if trust.current.version != self.trust.current.version:
            self._trusted.trust = trust
            tell(messages.ROOTS_TRUSTED, VERSION=trust.current.version)

    def _roots(self, trust: Trust) -> list[Event]:
        state = self._keeper.shown
        return [RootsTrusted(trust.envelopes)] if state is not None and state.roots != trust.envelopes else []

    def _tell_stray(self, grant: Grant) -> None:
        """A grant that answers a document which this ledger has not made: it, or another one, is a copy."""
        state, mark = self._keeper.shown, grant.contact
        if state is not None and mark is not None and state.contacts.get(mark.number) != mark.sha256:
            tell(messages.CONTACT_UNKNOWN, NUMBER=mark.number, OWN=state.next_contact - 1, SEQ=grant.seq)

    # -- out ---------------------------------------------------------------------------------------------------------

    async def request(self, asked: Asked) -> bytes:
        """A request for the issuer, durable. Raises ContactError, NotReadyError or StorageError."""
        with self._one_at_a_time("make a request"):
            if not self._keeper.takes_documents:
                raise self._not_ready("make a request")
            facts, nonce = await self._facts(), secrets.token_hex(16)
            seed = SigningKey.generate().seed if asked.is_new_key else b""
            made: list[Event] = []

            def make(state: LedgerState) -> Sequence[Event]:
                made[:] = request_events(state, asked, facts, nonce=nonce, seed=seed)
                return made

            is_durable = await self._controller.commit_contact(make)
            state = self._keeper.shown
            if not is_durable or state is None or state.request is None:
                raise WriteFailedError(f"cannot make a request: {self._keeper.storage_reason}")
        if made:
            tell(messages.REQUEST_MADE, NUMBER=state.request.number, NEW_KEY=asked.is_new_key)
        return sealed(state, state.request)

    def preview(self, wanted: Return) -> Outlook:
        """What a return comes to; changes nothing. Raises ContactError or NotReadyError."""
        return outlook(self._require_state("look at a return"), wanted, self._keeper.now())

    async def make_return(self, wanted: Return) -> bytes:
        """The proof of a return, which is durable. Raises ContactError, NotReadyError or StorageError."""
        with self._one_at_a_time("return"):
            self._require_state("return")
            facts, nonce = await self._facts(), secrets.token_hex(16)
            made: list[Event] = []

            def make(state: LedgerState) -> Sequence[Event]:
                made[:] = return_events(state, wanted, facts, nonce=nonce)
                return made

            if not await self._controller.commit_license(make):
                raise WriteFailedError(f"cannot return: {self._keeper.storage_reason}")
        contact = next(each for each in made if isinstance(each, ContactMade))
        total = contact.returned[1] if contact.returned else 0
        tell(messages.LICENSE_RETURNED, LICENSE_ID=wanted.license_id, NUMBER=contact.number, RETURNED_TOTAL=total)
        return self.proof(contact.number)

    def proof(self, number: int) -> bytes:
        """A return that was made, again; the same bytes. Raises UnknownContactError or NotReadyError.

        Nothing is signed while the ledger or its anchor is not well: an old copy may not count as this one.
        """
        if self._is_busy:  # one that is durable, and not counted yet, is no return that may be proved
            raise NotReadyError(f"cannot export return {number}: a document is being installed or made")
        state = self._keeper.state
        if state is None:
            raise self._not_ready(f"export return {number}, whether or not it is made (`licensectl returns`)")
        made = state.returns.get(number)
        if made is None:
            known = ", ".join(map(str, state.returns)) or "none"
            raise UnknownContactError(f"cannot export return {number}: the ones that are kept are {known}")
        return sealed(state, made)

    # -- updates -----------------------------------------------------------------------------------------------------

    def check_update(self, version: Version, kind: UpdateKind, released: int | None) -> Verdict:
        """Whether a release may be installed; `released` in seconds since 1970 UTC, None: now. Raises NotReadyError."""
        state, now = self._keeper.shown, self._keeper.now()
        if state is None:
            raise self._not_ready("check an update")
        return self._verdict(state, version, kind, now if released is None else released)

    async def confirm_update(self, version: Version, kind: UpdateKind = UpdateKind.UPDATE) -> Verdict:
        """A version is installed: it is noted, and an upgrade license that allowed it is used up, once.

        Also what was installed past the gate is noted, and reported. Raises NotReadyError or StorageError.
        """
        with self._one_at_a_time("confirm an update"):
            before = self._require_state("confirm an update")
            verdict = self._verdict(before, version, kind, self._keeper.now())
            if verdict.code is UpdateCode.SAME_OR_OLDER:
                return verdict
            if verdict.license_id:
                consumed = UpgradeConsumed(verdict.license_id, str(version))
                is_durable = await self._controller.commit_license(lambda _: [consumed])
            else:
                is_durable = await self._controller.commit_contact(lambda _: [ReleaseSeen(str(version))])
            if not is_durable:
                raise WriteFailedError(f"cannot confirm the update: {self._keeper.storage_reason}")
        if verdict.license_id is not None:
            tell(messages.UPGRADE_CONSUMED, LICENSE_ID=verdict.license_id, RELEASE=version)
        elif not verdict.is_allowed:
            tell(messages.UPDATE_NOT_COVERED, RELEASE=version, CODE=verdict.code.value, REASON=verdict.sentence)
        return verdict

    async def see_release(self, text: str) -> None:
        """The version that is installed at the start; "" where nobody knows. What is no version is left alone."""
        try:
            version = parse_version(text)
        except ArgumentError:
            return
        state = self._keeper.state
        with contextlib.suppress(LicensedError):  # the next start sees it again: nothing is to stop for that
            if state is not None and not state.release:
                await self._controller.commit_contact(lambda _: [ReleaseSeen(str(version))])
            elif state is not None:
                await self.confirm_update(version)

    def _verdict(self, state: LedgerState, version: Version, kind: UpdateKind, released: int) -> Verdict:
        return check(
            version,
            kind,
            released,
            installed=parse_version(state.release) if state.release else None,
            licenses=licenses_of(state),
            returned=state.returned,
            consumed=state.consumed,
            now=self._keeper.now(),
        )

    # -- all ---------------------------------------------------------------------------------------------------------

    async def _facts(self) -> Facts:
        return Facts(
            self._identity,
            self._keeper.now(),
            await self._keeper.least_seq(),
            self.trust.current.version,
            self._anchoring.kind,
        )

    @contextlib.contextmanager
    def _one_at_a_time(self, what: str) -> Iterator[None]:
        if self._is_busy:
            raise NotReadyError(f"cannot {what}: another document is being installed or made")
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def _require_state(self, what: str) -> LedgerState:
        if self._keeper.state is None:
            raise self._not_ready(what)
        return self._keeper.state

    def _not_ready(self, what: str) -> LicensedError:
        return NotReadyError(f"cannot {what}: storage is {self._keeper.storage.value}: {self._keeper.storage_reason}")
