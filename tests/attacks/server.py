"""A SmartServer that is attacked: a box with what a thief, an administrator and the suite do to it.

Rules: it is asked on D-Bus as licensectl asks, in this process; `steal` reads its disk with the store's own code.

What this module does not do: it attacks nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from attacks.vendor import Vendor
from smartserver_licensed.cli.client import Client as DbusClient
from smartserver_licensed.cli.client import RefusedError
from smartserver_licensed.domain.ledger_state import LedgerState
from smartserver_licensed.domain.overcapacity import Grace
from smartserver_licensed.formats.ledger import decode_events, decode_snapshot
from smartserver_licensed.store.log import Ledger
from support.box import INSTALL_CODE, Box, wait_until
from support.broker import Client
from support.disk import Disk

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Shown:
    """Whatever of a SmartServer an attack could change."""

    ledger: str
    status: dict[str, Any]
    licenses: list[dict[str, Any]]
    devices: dict[str, dict[str, Any]]
    returns: list[dict[str, Any]]


class SmartServer(Box):
    """A box that was shipped with the vendor's first root; `state`: the directory of a ledger to begin with, copied."""

    def __init__(
        self,
        vendor: Vendor,
        install_code: str = INSTALL_CODE,
        *,
        state: Path | None = None,
        board: str = "board-1",
        program: Sequence[str] = (),
        is_on_site: bool = False,
    ) -> None:
        """`board`: the serial numbers of its hardware; `is_on_site`: with a SID, so that devices are admitted."""
        super().__init__(sid=install_code if is_on_site else None, program=program)
        self.vendor, self.install_code, self._board = vendor, install_code, board
        if state is not None:
            shutil.copytree(state, self.state, dirs_exist_ok=True)

    def __enter__(self) -> SmartServer:  # noqa: PYI034 - typing.Self is Python 3.11's
        super().__enter__()
        return self

    def _bring_up(self) -> None:
        self.broker.start()
        self.bus.start()
        shutil.copy(self.vendor.first_root, self.directory / "root.json")
        self._write_config()
        self.start()
        if self._sid is not None:
            with Client(self.broker.port) as client:
                client.publish("glp/0/././sid", json.dumps(self._sid), retain=True)
            wait_until(lambda: self.status()["state"] != "starting", timeout_s=20, what="a first snapshot")

    def _write_config(self) -> None:
        super()._write_config()
        (self.directory / "environment").write_text(f"APOLLO_INSTALL_CODE={self.install_code}\nAPOLLO_VERSION=3.5\n")
        for name, text in (
            ("soc", self._board),
            ("cid", hashlib.md5(self._board.encode()).hexdigest()),
            ("type", "MMC"),
        ):
            (self.directory / name).write_text(f"{text}\n")
        factors = f'soc_serial = "{self.directory}/soc"\nemmc_cid = "{self.directory}/cid"\nmac_interface = ""\n'
        self.config.write_text(self.config.read_text().replace("[identity]\n", f"[identity]\n{factors}"))

    @contextlib.contextmanager
    def _on_bus(self) -> Iterator[DbusClient]:
        before = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = self.bus.address
        try:
            with DbusClient() as client:
                yield client
        finally:
            if before is None:
                del os.environ["DBUS_SYSTEM_BUS_ADDRESS"]
            else:
                os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = before

    def ask(self, question: Callable[[DbusClient], _T]) -> _T:
        """Ask over D-Bus, as root does. Raises RefusedError."""
        with self._on_bus() as client:
            return question(client)

    def refusal(self, question: Callable[[DbusClient], object]) -> str:
        """The code with which a call on D-Bus is refused, "" where it is not."""
        try:
            self.ask(question)
        except RefusedError as error:
            return error.code
        return ""

    def code_of_ctl(self, *arguments: str, stdin: bytes = b"") -> str:
        """The code with which licensectl refuses, "" where it does not."""
        done = self.ctl(*arguments, "--json", stdin=stdin, check=False)
        return str(json.loads(done.stdout)["error"]["code"]) if done.returncode else ""

    def install(self, document: bytes) -> None:
        """Install a document that has to be accepted."""
        self.ask(lambda client: client.install(document))

    def request(self, *, customer_id: str = "", is_new_key: bool = False, is_fresh: bool = True) -> bytes:
        """A request, by default a new one."""
        return self.ask(lambda client: client.create_request(customer_id, (), is_new_key=is_new_key, is_fresh=is_fresh))

    def give_back(self, license_id: str, devices: int) -> bytes:
        """Return devices of a license; the proof."""
        return self.ask(
            lambda client: client.create_return(
                license_id, devices, over_capacity=False, revoke_excess=False, another=True
            )
        )

    def shown(self) -> Shown:
        """What it shows and what is on its disk."""
        with self._on_bus() as client:
            status = client.properties()
            devices = {row["name"]: row for row in client.devices(waiting_only=False)}
            return Shown(self.ledger_digest(), status, client.licenses(), devices, client.returns())

    def ledger_digest(self) -> str:
        """Of what is on the disk."""
        files = sorted(self.state.glob("ledger.*"))
        return hashlib.sha256(b"".join(each.read_bytes() for each in files)).hexdigest()

    def capacity(self) -> int:
        """The capacity that it shows."""
        return int(self.ask(lambda client: client.properties())["TotalCapacity"])

    def steal(self) -> LedgerState:
        """What root reads from the disk, the device key included."""
        disks = [Disk(bytearray((self.state / f"ledger.{each}").read_bytes())) for each in ("a", "b")]
        recovered = Ledger(disks).recovered
        state = decode_snapshot(recovered.snapshot)
        for body in recovered.events:
            for event in decode_events(body):
                state.apply(event)
        return state

    def kept(self) -> LedgerState:
        """What the ledger remembers, without how far time has come."""
        return replace(self.steal(), mark_s=0, written_bytes=0, grace=Grace())

    def copy_of_disk(self) -> Path:
        """An image of its ledger, as a backup or a thief makes it."""
        image = Path(tempfile.mkdtemp(prefix="image-", dir=self.directory))
        return Path(shutil.copytree(self.state, image, dirs_exist_ok=True))

    def put_back(self, image: Path) -> None:
        """Start again from an old image."""
        self.kill()
        shutil.copytree(image, self.state, dirs_exist_ok=True)
        self.start()
