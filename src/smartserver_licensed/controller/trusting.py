"""Which roots are trusted: those of the package, and those that the ledger has seen since.

Rules (LICENSING §4 "Trust"):
- the root of the package is root-owned; what the ledger has learned beyond it is verified from there at each start;
- the stored grant is verified at each start under the root that it was accepted with: a key retired since then gives a
  notice, never zero capacity;
- what does not verify was not written by this daemon: `corrupt`.

What this module does not do: it keeps nothing (`keeper`) and reads no file.
"""

from __future__ import annotations

from smartserver_licensed.documents.acceptance import verify_stored
from smartserver_licensed.documents.trust import Trust, joined
from smartserver_licensed.domain.errors import DocumentError, LedgerCorruptError
from smartserver_licensed.domain.ledger_state import LedgerState


class Trusted:
    """The chain of roots; `shipped` is the package's."""

    def __init__(self, shipped: Trust) -> None:
        self._shipped = shipped
        self.trust = shipped

    def check(self, state: LedgerState) -> None:
        """Take over the roots of a ledger and verify its grant. Raises LedgerCorruptError; nothing has changed then."""
        installed = state.installed
        try:
            trust = joined(self._shipped, state.roots)
            if installed is not None:
                verify_stored(installed.envelope, installed.grant.root_version, trust)
        except DocumentError as error:
            raise LedgerCorruptError(f"cannot use the documents in the ledger: {error}") from error
        self.trust = trust
