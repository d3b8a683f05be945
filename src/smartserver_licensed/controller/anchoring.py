"""Holds the ledger against its anchor: a counter of license events, where the SmartServer has one.

Rules (STATE.md "Anchor"; the comparison is `domain.anchoring`'s):
- a license event is first durable in both logs, then both are rewritten, then it is counted;
- a ledger is bound to a counter before the counter is told that it is in use: no cut in between looks like an old copy;
- a counter that cannot be asked is `anchor-lost` until it can; it is asked again with the keeper's pauses;
- a ledger that was bound, where no anchor is configured, is `anchor-lost` too, until a new grant ends the binding.

What this module does not do: it writes nothing to the ledger (`keeper`) and speaks to no TPM (`adapters.tpm`).
"""

from __future__ import annotations

from dataclasses import dataclass

from smartserver_licensed.domain.anchoring import Verdict, judge
from smartserver_licensed.domain.errors import AnchorError
from smartserver_licensed.domain.status import Storage

from .ports import Anchor

_REASONS = {
    Verdict.ROLLED_BACK: "the ledger is older than the anchor says: an old copy was put back, or it was made anew",
    Verdict.LOST: "the anchor does not know this ledger: it was cleared or exchanged",
}


@dataclass(frozen=True, slots=True)
class Checked:
    """What comes of it; `bind_to`: the ledger is to be bound to a counter that shows this, then `bound` is called."""

    storage: Storage = Storage.OK
    reason: str = ""
    bind_to: int | None = None
    may_be_old: bool = False  # the ledger may be an old copy: what runs may have been admitted since


class Anchoring:
    """`anchor` is None where none is configured."""

    def __init__(self, anchor: Anchor | None) -> None:
        self._anchor = anchor

    @property
    def kind(self) -> str:
        """The word for people: "tpm" or "none"."""
        return "none" if self._anchor is None else self._anchor.kind

    async def check(self, expected: int | None) -> Checked:
        """Compare; count what a power cut has left uncounted."""
        if self._anchor is None:
            if expected is None:
                return Checked()
            why = "the ledger is bound to an anchor, and none is configured"
            return Checked(Storage.ANCHOR_LOST, why, may_be_old=True)
        try:
            verdict = judge(expected, await self._anchor.read())
            match verdict:
                case Verdict.BEGIN:
                    return Checked(bind_to=await self._anchor.count())
                case Verdict.COUNT:
                    await self.count()
                case Verdict.BIND:
                    await self._anchor.use()
        except AnchorError as error:
            return Checked(Storage.ANCHOR_LOST, str(error))
        bad = {Verdict.ROLLED_BACK: Storage.ROLLED_BACK, Verdict.LOST: Storage.ANCHOR_LOST}.get(verdict, Storage.OK)
        return Checked(bad, _REASONS.get(verdict, ""), may_be_old=bad is not Storage.OK)

    async def missed(self, expected: int | None) -> int:
        """How many license events were counted that an old copy does not know; 0 where that is not known."""
        if self._anchor is None or expected is None:
            return 0
        shown = (await self._anchor.read()).count
        return max(0, shown - expected) if shown is not None else 0

    async def next_count(self, expected: int | None) -> int | None:
        """What it will show once the next license event is counted; None without one. Raises AnchorError."""
        if self._anchor is None:
            return None
        shown = (await self._anchor.read()).count
        if shown is None or expected == shown + 1:  # the last one is not counted yet
            shown = await self._anchor.count()
        return shown + 1

    async def count(self) -> None:
        """A license event is durable: count it, and say that the counter is in use. Raises AnchorError."""
        if self._anchor is not None:
            await self._anchor.count()
            await self._anchor.use()

    async def bound(self) -> None:
        """The ledger is durably bound. Raises AnchorError."""
        if self._anchor is not None:
            await self._anchor.use()
