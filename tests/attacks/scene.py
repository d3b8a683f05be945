"""The scene of the attacks: a vendor, its SmartServer, and what both must look like after an attack.

Rules:
- a refusal counts only if nothing has changed: the ledger's bytes on the disk, the status, licenses, devices and
  returns that the daemon shows, and the whole register of the authority;
- the code must be the same on D-Bus, in licensectl and in the journal, at the authority over HTTPS and in its command.

What this module does not do: it attacks nothing.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from attacks.attack import GotThroughError
from attacks.server import SmartServer
from attacks.vendor import Vendor
from smartserver_licensed.documents.envelope import attach_roots, decode_base64, parse_envelope, seal
from smartserver_licensed.documents.payloads import GRANT_TYPE, encode_grant, parse_grant
from smartserver_licensed.domain.licenses import Grant
from support.box import BIN, INSTALL_CODE
from support.bus import on_bus

DEVICES = 1_000
_T = TypeVar("_T")
_JOURNAL = re.compile(r"A license was refused \[.*?CODE=([a-z-]+)")


class Scene:
    """A vendor and the SmartServer that most attacks are for; a context manager. `program`: in place of the daemon,
    `authority_program` in place of the authority's command."""

    def __init__(self, directory: Path, *, program: Sequence[str] = (), authority_program: Sequence[str] = ()) -> None:
        self.directory = directory
        self._program, self._authority_program = program, authority_program
        self._exit = contextlib.ExitStack()
        self._made: dict[str, Any] = {}
        self._pending = b""

    def __enter__(self) -> Scene:  # noqa: PYI034 - typing.Self is Python 3.11's
        with contextlib.ExitStack() as exit_:
            self.vendor = exit_.enter_context(Vendor(self.directory, program=self._authority_program))
            self.license_id = self.vendor.order(DEVICES, "--install-code", INSTALL_CODE)
            self.server = exit_.enter_context(SmartServer(self.vendor, program=self._program, is_on_site=True))
            self.older = self.activate(self.server)
            self.newest = self.activate(self.server)
            self._exit = exit_.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def once(self, name: str, make: Callable[[], contextlib.AbstractContextManager[_T]]) -> _T:
        """What several attacks of a theme share; made when it is needed first."""
        if name not in self._made:
            self._made[name] = self._exit.enter_context(make())
        made: _T = self._made[name]
        return made

    def add(self, server: SmartServer) -> SmartServer:
        """Start one more, until the end of the scene."""
        return self._exit.enter_context(server)

    # -- what is right -------------------------------------------------------------------------------------------------

    def activate(self, server: SmartServer, *more: str, is_new_key: bool = False) -> bytes:
        """A new request, answered and installed; the grant."""
        request = server.request(customer_id="", is_new_key=is_new_key)
        grant = self.vendor.document("activate", "-", *more, stdin=request)
        server.install(grant)
        return grant

    def grant(self) -> bytes:
        """A genuine grant that is not installed yet."""
        installed = self.server.steal().installed
        if not self._pending or (installed and self._seq(self._pending) <= installed.grant.seq):
            self._pending = self.vendor.document("regrant", self.server.install_code)
        return self._pending

    @staticmethod
    def _seq(document: bytes) -> int:
        return parse_grant(parse_envelope(document).payload).seq

    def accepted(self, document: bytes) -> str:
        """A control: the daemon accepts it. Raises GotThroughError where it does not."""
        code = self.server.refusal(lambda client: client.install(document))
        if code:
            raise GotThroughError(f"the control is refused: {code}")
        self._pending = b""
        return "accepted"

    def value(self) -> Grant:
        """What the genuine grant says."""
        return parse_grant(self.payload())

    def payload(self) -> bytes:
        """The genuine grant's payload."""
        return parse_envelope(self.grant()).payload

    @staticmethod
    def payload_of(document: bytes) -> bytes:
        """What an envelope holds."""
        return parse_envelope(document).payload

    @staticmethod
    def decoded(text: str) -> bytes:
        """The bytes of base64."""
        return decode_base64(text, "text")

    def payload_with(self, **changes: Any) -> bytes:  # noqa: ANN401 - Grant's
        """The genuine grant's payload with other values."""
        return encode_grant(replace(self.value(), **changes))

    def signed(self, payload: bytes | Grant, payload_type: str = GRANT_TYPE) -> bytes:
        """The envelope of a payload, signed by as many of the vendor's keys as it takes, with the roots beside it."""
        data = encode_grant(payload) if isinstance(payload, Grant) else payload
        return attach_roots(seal(payload_type, data, self.vendor.grant_keys[:2]), parse_envelope(self.grant()).roots)

    def courier(self, server: SmartServer, *more: str, url: str = "", ca_file: Path | None = None) -> tuple[int, str]:
        """Run license-courier once: its exit code, and the code of what it says was refused, by whomever."""
        token = self.directory / "token"
        if not token.exists():
            token.write_text(f"{self.vendor.token}\n")
        done = subprocess.run(
            [str(BIN / "license-courier"), "--once", "--url", url or self.vendor.url, "--token-file", str(token),
             "--ca-file", str(ca_file or self.vendor.certificate), *more],
            check=False, capture_output=True, text=True, timeout=60, env=on_bus(server.bus.address),
        )  # fmt: skip
        said = re.findall(r"\[([a-z-]+)\]", done.stderr)
        return done.returncode, said[0] if said else ""

    # -- what must not happen ----------------------------------------------------------------------------------------

    def daemon_refuses(self, document: bytes, code: str, *, server: SmartServer | None = None) -> str:
        """The code. Raises GotThroughError unless it is refused with this code everywhere, and nothing has changed."""
        return self.daemon_refuses_all([document], code, server=server)

    def daemon_refuses_all(self, documents: Sequence[bytes], code: str, *, server: SmartServer | None = None) -> str:
        """The same for each of them on D-Bus; licensectl, which costs most, is asked about the first."""
        target = server or self.server
        before = target.shown()
        for number, document in enumerate(documents):
            told = len(target.log)
            on_bus = target.refusal(lambda client, document=document: client.install(document))  # type: ignore[misc]
            in_ctl = code if number else target.code_of_ctl("install", "-", stdin=document)
            in_journal = set(_JOURNAL.findall(target.log[told:]))
            if (on_bus, in_ctl, in_journal) != (code, code, {code}):
                raise GotThroughError(
                    f"{code} expected for document {number}; on D-Bus {on_bus or 'accepted'}, licensectl "
                    f"{in_ctl or 'accepted'}, journal {', '.join(sorted(in_journal)) or 'silent'}"
                )
        if target.shown() != before:
            raise GotThroughError(f"refused as {code}, and something has changed")
        return code

    def authority_refuses(self, document: bytes, code: str, *command: str, leaves_evidence: bool = False) -> str:
        """As `daemon_refuses`, for the authority: over HTTPS, and with `command` by its command as well.

        `leaves_evidence`: the register notes who came, but sells nothing.
        """
        before = self.vendor.show("balance") if leaves_evidence else self.vendor.books()
        _, _, said = self.vendor.post(document)
        offline = (
            self.vendor.process(*command, stdin=document, with_password=command[0] == "activate") if command else code
        )
        if (said, offline) != (code, code):
            raise GotThroughError(
                f"{code} expected; over HTTPS {said or 'accepted'}, by command {offline or 'accepted'}"
            )
        if (self.vendor.show("balance") if leaves_evidence else self.vendor.books()) != before:
            raise GotThroughError(f"refused as {code}, and the register has changed")
        return code

    @staticmethod
    def same(code: str, expected: str) -> str:
        """The code. Raises GotThroughError where it is another one."""
        if code != expected:
            raise GotThroughError(f"{expected} expected, {code or 'accepted'}")
        return code
