"""One SmartServer and one vendor over the years: the installed programs as processes, and the paper between them.

Rules:
- each look at the SmartServer is followed by a power cut (SIGKILL): afterwards everything is the same;
- field + on the way + authority = sold, for each license, at each look; on the way is what the SmartServer has given
  back and the vendor has not credited yet;
- time passes with the daemon running or with the power off, in turn.

What this module does not do: it tells no story (`tests/system/test_lifetime.py`).
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartserver_licensed.domain.timekeeping import from_iso
from support.box import Box

SIMULATED = str(Path(__file__).with_name("simulated.py"))
PASSWORD = "correct horse battery"

_STARTED = "The licensing daemon has started"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the story."""

    date: str
    what: str
    capacity: int
    sold: int
    field: int
    authority: int
    maintenance: str
    notices: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What an administrator sees."""

    capacity: int
    used: int
    state: str
    maintenance: str
    licenses: tuple[tuple[str, int, int], ...]  # id, usable, used up
    notices: tuple[str, ...]  # each as kind and threshold


class Life(Box):
    """A box whose world has a clock of its own, and a vendor with a password."""

    def __init__(self, install_code: str, release: str) -> None:
        super().__init__()
        self.install_code, self.release = install_code, release
        self.clock = self.directory / "clock"
        self.rows: list[Row] = []
        self.licenses: dict[str, str] = {}  # ids, by what the story calls them
        self.cuts = 0
        self._date, self._what = "", ""
        self._is_off = False
        self._starts = 0
        self._on_the_way: dict[str, int] = {}
        self._program = (sys.executable, SIMULATED, str(self.clock), "daemon")
        (self.directory / "password").write_text(PASSWORD + "\n")

    # -- the world ---------------------------------------------------------------------------------------------------

    def on(self, date: str, what: str) -> None:
        """It is this day, ten in the morning UTC; time passes with the power on or off, in turn."""
        self._date, self._what = date, what
        if self._daemon is None:
            self._set_clock()
            return
        self._is_off = not self._is_off
        if self._is_off:
            self.kill()
            self._set_clock()
            self.start()
        else:
            self._set_clock()
            time.sleep(1.1)  # the daemon looks at its clock once a second

    def _set_clock(self) -> None:
        ahead_s = from_iso(f"{self._date}T10:00:00Z") - time.time()
        with self.clock.open("r+b" if self.clock.exists() else "wb") as file:
            file.write(struct.pack("<d", ahead_s))

    def power_cut(self) -> None:
        """SIGKILL, and a new start."""
        self.cuts += 1
        self.kill()
        self.start()

    def start(self, *under: str) -> None:
        """Start the daemon; returns when it has dealt with its first snapshot, but for the first time."""
        self._starts = self.log.count(_STARTED)
        super().start(*under)

    def _answers(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.poll() is None, f"the daemon ended: {self.log[-2_000:]}"
        if self.log.count(_STARTED) == self._starts:  # each question takes a process: not before it can be answered
            return False
        done = self.ctl("status", "--json", check=False)
        return done.returncode == 0 and (not self._starts or json.loads(done.stdout)["state"] != "starting")

    # -- the vendor --------------------------------------------------------------------------------------------------

    def authority(self, *arguments: str) -> None:
        """Run license-authority."""
        self.vendor(*arguments)

    def vendor(self, *arguments: str, is_refused: str = "") -> str:
        """What license-authority says; `is_refused`: the code with which it has to refuse."""
        done = self._vendor_process(*arguments)
        said, complaint = done.communicate(timeout=60)
        if is_refused:
            assert f"[{is_refused}]" in complaint, (arguments, said, complaint)
        else:
            assert done.returncode == 0, (arguments, complaint)
        return said.strip()

    def _vendor_process(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            "LICENSE_AUTHORITY_DIR": str(self.directory / "authority"),
            "LICENSE_AUTHORITY_PASSWORD_FILE": str(self.directory / "password"),
        }
        command = [sys.executable, SIMULATED, str(self.clock), "authority", *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sells(self, kind: str, devices: int, *more: str, is_refused: str = "") -> str:
        """An order; the id of the license."""
        return self.vendor(
            "order", "--type", kind, "--devices", str(devices), "--customer-id", self.customer, *more,
            is_refused=is_refused,
        )  # fmt: skip

    @property
    def customer(self) -> str:
        """The one customer; made at its first use."""
        if not hasattr(self, "_customer"):
            self._customer = self.vendor("customer", "add", "ACME")
        return self._customer

    # -- papers ------------------------------------------------------------------------------------------------------

    def paper(self, name: str) -> Path:
        """A file that is carried between the two."""
        return self.directory / f"{len(self.rows)}-{name}"

    def exchange(self, *wanted: str, confirm: bool = False) -> None:
        """Offline activation: a request, its answer, and the power goes in between, once on each side."""
        request, answer, again = (self.paper(name) for name in ("request", "grant", "grant-again"))
        self.ctl("request", "-o", str(request), *wanted)
        self.power_cut()
        self.ctl("request", "-o", str(self.paper("request-again")), *wanted)
        assert self.paper("request-again").read_bytes() == request.read_bytes(), "a pending request is the same again"
        self.vendor("activate", str(request), *["--confirm"] * confirm, "-o", str(answer))
        if len(self.rows) % 3 == 0:  # the answer got lost on its way
            self.vendor("activate", str(request), "-o", str(again))
            assert again.read_bytes() == answer.read_bytes(), "the same request gets the same answer"
        self.ctl("install", str(answer))

    def gives_back(self, license_id: str, devices: int) -> Path:
        """A return; the power goes before the file is anywhere, and it is exported again."""
        lost, proof = self.paper("return-lost"), self.paper("return")
        self.ctl("return", license_id, "--devices", str(devices), "-o", str(lost))
        self._on_the_way[license_id] = devices
        self.power_cut()
        number = max(int(row["number"]) for row in json.loads(self.ctl("returns", "--json").stdout))
        self.ctl("returns", str(number), "-o", str(proof))
        assert proof.read_bytes() == lost.read_bytes(), "exporting again gives identical bytes"
        return proof

    def credits(self, proof: Path) -> int:
        """The vendor credits a return; the devices."""
        credit: dict[str, Any] = json.loads(self.vendor("return", str(proof), "--json"))
        self._on_the_way.pop(credit["license_id"], None)
        return int(credit["devices_credited"])

    def checks_update(self, version: str, code: str) -> None:
        """An installer asks whether a feature release may be installed, and is told why, or why not."""
        done = self.ctl("check-update", version, "--kind", "feature", "--json", check=False)
        verdict = json.loads(done.stdout)
        assert verdict["code"] == code, verdict
        assert done.returncode == (0 if verdict["allowed"] else 1)

    # -- looking -----------------------------------------------------------------------------------------------------

    def look(self) -> Seen:
        """What licensectl shows."""
        status = self.status()
        notices = json.loads(self.ctl("notices", "--json").stdout)
        return Seen(
            capacity=status["capacity"],
            used=status["used"],
            state=status["state"],
            maintenance=status["maintenance"]["status"],
            licenses=tuple((row["license_id"], row["usable"], row["consumed"]) for row in status["licenses"]),
            notices=tuple(f"{row['kind']} {row['threshold']}" for row in notices),
        )

    def expects(
        self,
        *,
        capacity: int,
        maintenance: str = "",
        notices: Sequence[str] = (),
        state: str = "licensed",
        consumed: int = 0,
    ) -> Seen:
        """Look, do the sums, cut the power and look again. `maintenance`: how its status begins."""
        seen = self.look()
        assert (seen.capacity, seen.state) == (capacity, state), seen
        assert seen.maintenance.startswith(maintenance or "None"), seen
        assert sorted(seen.notices) == sorted(notices), seen
        assert sum(used for _, _, used in seen.licenses) == consumed, seen
        showing = self._vendor_process("show", "balance", "--json")
        self.power_cut()
        assert self.look() == seen, "after a power cut everything is the same"
        said, complaint = showing.communicate(timeout=60)
        assert showing.returncode == 0, complaint
        self._add_up(seen, json.loads(said))
        return seen

    def _add_up(self, seen: Seen, balance: Sequence[Mapping[str, Any]]) -> None:
        in_field = {license_id: usable - used for license_id, usable, used in seen.licenses}
        used_up = {license_id: used for license_id, _, used in seen.licenses}
        for row in balance:
            license_id, used = row["license_id"], max(row["consumed"], used_up.get(row["license_id"], 0))
            on_the_way = self._on_the_way.get(license_id, 0)
            total = in_field.get(license_id, 0) + on_the_way + row["at_authority"] + used
            assert total == row["sold"], (row, seen, on_the_way)
        sold, kept = (sum(row[key] for row in balance) for key in ("sold", "at_authority"))
        self.rows.append(
            Row(
                self._date,
                self._what,
                seen.capacity,
                sold,
                sum(in_field.values()),
                kept,
                seen.maintenance,
                ", ".join(seen.notices),
            )
        )

    # -- the box -----------------------------------------------------------------------------------------------------

    def installs_release(self, release: str) -> None:
        """Another release of the SmartServer's software is on its disk from now on."""
        self.release = release
        self._write_config()

    def takes_hardware(self, install_code: str, state: Path) -> None:
        """The power goes, and another SmartServer stands in its place, with this partition."""
        self.kill()
        self.install_code, self.state = install_code, state
        state.mkdir(exist_ok=True)
        self._write_config()
        self.start()

    def _write_config(self) -> None:
        super()._write_config()
        (self.directory / "environment").write_text(
            f"APOLLO_INSTALL_CODE={self.install_code}\nAPOLLO_VERSION={self.release}\n"
        )

    def table(self) -> str:
        """The story, a line a day."""
        lines = [f"{'date':<11}{'sold':>6}{'field':>7}{'authority':>11}{'capacity':>10}  what happens"]
        for row in self.rows:
            lines.append(f"{row.date:<11}{row.sold:>6}{row.field:>7}{row.authority:>11}{row.capacity:>10}  {row.what}")
            lines.append(f"{'':<47}maintenance: {row.maintenance}; notices: {row.notices or 'none'}")
        return "\n".join([*lines, f"{self.cuts} power cuts"]) + "\n"
