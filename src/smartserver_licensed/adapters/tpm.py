"""A counter in the TPM that nobody can set back, by tpm2-tools: the anchor of the ledger.

Rules:
- the counter is an NV index of type counter: the TPM itself sees to it that one which was removed and made again begins
  above all that it ever counted;
- that a ledger is bound to it is remembered by a second index beside it, which holds nothing;
- each call is programs of tpm2-tools, with a time limit for all of them, far below the watchdog's: license events are
  rare, and no library of ours runs in C;
- whatever goes wrong is an AnchorError that says what the tool said.

What this module does not do: it compares nothing (`domain.anchoring`) and knows no ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Coroutine
from typing import TypeVar

from smartserver_licensed.domain.anchoring import Reading
from smartserver_licensed.domain.errors import AnchorError

COUNTER = 0x01_50_4C_01  # in the range for owners' use (TCG registry of reserved handles: 0x01400000 to 0x017fffff)
IN_USE = 0x01_50_4C_02
_LIMIT_S = 5.0
_T = TypeVar("_T")
_ATTRIBUTES = "ownerread|ownerwrite|authread|authwrite"


class TpmCounter:
    """Implements `controller.ports.Anchor`. `tcti` as tpm2-tools take it: `device:/dev/tpmrm0`, `swtpm:path=…`."""

    kind = "tpm"

    def __init__(self, tcti: str) -> None:
        self._tcti = tcti

    async def read(self) -> Reading:
        """What it shows; `count` is None where it was never counted."""
        return await self._within_limit(self._read())

    async def count(self) -> int:
        """Count one; makes the counter where there is none."""
        return await self._within_limit(self._count())

    async def use(self) -> None:
        """Remember that a ledger is bound to it."""
        await self._within_limit(self._use())

    async def _within_limit(self, work: Coroutine[None, None, _T]) -> _T:
        try:
            return await asyncio.wait_for(work, _LIMIT_S)
        except asyncio.TimeoutError as error:
            raise AnchorError(f"cannot ask the TPM at {self._tcti!r}: no answer within {_LIMIT_S:.0f} s") from error

    async def _read(self) -> Reading:
        found = await self._indices()
        return Reading(await self._shown() if COUNTER in found else None, is_in_use=IN_USE in found)

    async def _count(self) -> int:
        if COUNTER not in await self._indices():
            await self._run("nvdefine", hex(COUNTER), "-C", "o", "-a", f"{_ATTRIBUTES}|nt=counter")
        await self._run("nvincrement", hex(COUNTER), "-C", hex(COUNTER))
        shown = await self._shown()
        if shown is None:
            raise AnchorError("cannot read the TPM's counter: it shows nothing after it was counted")
        return shown

    async def _use(self) -> None:
        if IN_USE not in await self._indices():
            await self._run("nvdefine", hex(IN_USE), "-C", "o", "-s", "8", "-a", _ATTRIBUTES)

    async def _indices(self) -> set[int]:
        listed = await self._run("getcap", "handles-nv-index")
        return {int(each, 16) for each in re.findall(r"0x[0-9A-Fa-f]+", listed.decode("ascii", "replace"))}

    async def _shown(self) -> int | None:
        public = await self._run("nvreadpublic", hex(COUNTER))
        if b"|written" not in public:
            return None
        return int.from_bytes(await self._run("nvread", hex(COUNTER), "-C", hex(COUNTER), "-s", "8"), "big")

    async def _run(self, tool: str, *arguments: str) -> bytes:
        doing = f"cannot ask the TPM at {self._tcti!r}: tpm2_{tool}"
        try:
            process = await asyncio.create_subprocess_exec(
                f"tpm2_{tool}",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | {"TPM2TOOLS_TCTI": self._tcti, "TSS2_LOG": "all+NONE"},
            )
        except OSError as error:
            raise AnchorError(f"{doing}: {error.strerror}; is tpm2-tools installed?") from error
        try:
            output, complaint = await process.communicate()
        finally:
            if process.returncode is None:  # too late, or the daemon stops; one that cannot be killed is not waited for
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode != 0:
            why = complaint.decode("utf-8", "replace").strip().splitlines()
            raise AnchorError(f"{doing}: {why[-1] if why else f'exit status {process.returncode}'}")
        return output
