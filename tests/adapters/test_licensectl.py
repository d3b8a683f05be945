"""licensectl as a process, against the D-Bus service on a private bus."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smartserver_licensed.adapters.dbus import DbusService
from smartserver_licensed.documents import armor
from smartserver_licensed.domain.errors import NotReadyError
from smartserver_licensed.formats.bus import Plain
from support.bus import LicenseAnswers, PrivateBus, on_bus

pytestmark = pytest.mark.needs("dbus-daemon")


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)


class Unverified(LicenseAnswers):
    """Answers of a daemon to which nothing verifies."""

    def verify_document(self, data: bytes) -> dict[str, Plain]:
        return {"kind": "grant", "verified": False, "code": "signature-invalid"}


class Whole(LicenseAnswers):
    """Answers of a daemon whose ledger was never repaired."""

    async def acknowledge_repair(self) -> str:
        return ""


class Vanishing(LicenseAnswers):
    """Answers of a daemon that makes a return and is gone before it could say so."""

    async def create_return(self, *args: Any, **kwargs: Any) -> bytes:  # noqa: ANN401 - as they come
        await super().create_return(*args, **kwargs)
        await asyncio.sleep(60)
        return b""


class Unready(LicenseAnswers):
    """Answers of a daemon without a ledger."""

    async def acknowledge_repair(self) -> str:
        raise NotReadyError("cannot acknowledge: storage is missing: there is none")


def left_in(directory: Path) -> list[str]:
    return [each.name for each in directory.iterdir()]


async def licensectl(bus: PrivateBus, *arguments: str, stdin: bytes = b"", prefix: tuple[str, ...] = ()) -> Done:
    process = await asyncio.create_subprocess_exec(
        *prefix,
        str(Path(sys.executable).parent / "licensectl"),
        *arguments,
        env=on_bus(bus.address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def test_status_shows_a_screen_and_the_same_as_json(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "status")
    assert (done.code, done.err) == (0, "")
    assert "37 of 200 in use" in done.out
    assert "Grüße aus Halle 4" in done.out
    status = (await licensectl(bus, "status", "--json")).json
    numbers = {key: status[key] for key in ("state", "capacity", "used", "reserved", "available", "waiting")}
    assert numbers == {"state": "licensed", "capacity": 200, "used": 37, "reserved": 2, "available": 163, "waiting": 3}
    assert status["maintenance"] == {"status": "Active", "expires": "2028-03-01"}
    assert status["broker_connected"] is True
    assert [each["license_id"] for each in status["licenses"]] == ["L-1"]
    assert {"storage", "clock", "install_code", "segment_id", "customer_id", "version"} <= status.keys()


async def test_licenses_are_a_table_and_a_list(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "licenses")
    assert done.code == 0
    assert done.out.splitlines()[0].split() == ["LICENSE", "DESCRIPTION", "STATUS", "ACTIVATED", "NOTE"]
    assert (await licensectl(bus, "licenses", "--json")).json[0]["activation_date"] == "2026-02-03T04:05:06Z"


async def test_all_devices_come_however_many_pages_they_are(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    answers.devices = 2_000
    done = await licensectl(bus, "devices", "--json")
    assert done.code == 0
    assert [row["name"] for row in done.json] == [f"lon/d{number:05}" for number in range(2_000)]
    waiting = (await licensectl(bus, "devices", "--waiting", "--json")).json
    assert len(waiting) == 200
    assert len((await licensectl(bus, "devices")).out.splitlines()) == 2_001


async def test_explain_says_why_and_an_unknown_device_is_a_no(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "explain", "lon/d00001")
    assert done.code == 0
    assert "A device counts when it is provisioned" in done.out
    assert (await licensectl(bus, "explain", "lon/d00001", "--json")).json["numbers"] == {"used": 37, "big": 2**40}
    unknown = await licensectl(bus, "explain", "bac/1", "--json")
    assert unknown.code == 1
    assert unknown.json["error"]["code"] == "device-unknown"
    assert unknown.err == "licensectl: cannot explain 'bac/1': no device of that name is known [device-unknown]\n"


async def test_a_plan_that_fits_is_a_yes_and_one_that_does_not_is_a_no(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "plan", "163")
    assert (done.code, done.out.splitlines()[0]) == (0, "163 more devices: all 163 can be provisioned.")
    done = await licensectl(bus, "plan", "200", "--json")
    assert (done.code, done.json["fits"], done.json["missing"]) == (1, 163, 37)


async def test_a_document_is_installed_from_a_file_and_from_stdin(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file = tmp_path / "grant"
    file.write_bytes(b"{file}")
    done = await licensectl(bus, "install", str(file))
    assert (done.code, done.out.splitlines()[0]) == (0, "Installed.")
    done = await licensectl(bus, "install", "-", "--json", stdin=b"{stdin}")
    assert (done.code, done.json["seq"]) == (0, 7)
    assert answers.installed == [b"{file}", b"{stdin}"]


async def test_a_refused_document_ends_with_4_and_an_unverified_one_with_1(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    refused = await licensectl(bus, "install", "-", "--json", stdin=b"no")
    assert (refused.code, refused.json["error"]["code"]) == (4, "envelope-malformed")
    assert refused.err.endswith(" [envelope-malformed]\n")
    assert refused.err.startswith("licensectl: cannot read the document: ")
    unverified = await licensectl(bus, "verify", "-", "--json", stdin=b"no")
    assert (unverified.code, unverified.json["error"]["code"]) == (1, "envelope-malformed")
    assert (await licensectl(bus, "verify", "-", stdin=b"{}")).code == 0
    assert answers.installed == []


async def test_a_document_that_can_be_read_but_does_not_verify_is_a_no(bus: PrivateBus) -> None:
    service = DbusService(address=bus.address)
    await service.start(Unverified())
    done = await licensectl(bus, "verify", "-", "--json", stdin=b"{}")
    await service.stop()
    assert (done.code, done.json["code"]) == (1, "signature-invalid")


async def test_a_document_that_is_too_large_is_refused_by_the_daemon(
    service: DbusService, bus: PrivateBus, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"{" * 10_000_000)
    done = await licensectl(bus, "install", str(file), "--json")
    assert (done.code, done.json["error"]["code"]) == (4, "document-too-large")


# -- requests and returns --------------------------------------------------------------------------------------------


async def test_a_request_is_written_to_a_file_and_says_what_to_do_with_it(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file = tmp_path / "request.json"
    file.write_text("an older one")
    done = await licensectl(bus, "request", "-o", str(file), "--license", "L-1", "--license", "L-2=30", "--fresh")
    assert (done.code, done.err) == (0, "")
    assert f"The request is in {file}." in done.out
    assert "licensectl install ANSWER" in done.out
    assert file.read_bytes() == b'{"request": 1}'
    done = await licensectl(bus, "request", "-o", str(file), "--customer-id", "C-1", "--new-key", "--json")
    assert done.json == {"file": str(file), "bytes": 14}
    assert answers.asked == [("", ("L-1", "L-2=30"), False, True), ("C-1", (), True, False)]
    assert left_in(tmp_path) == ["request.json"]


async def test_a_request_for_an_e_mail_is_a_block_that_holds_the_same(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    plain = await licensectl(bus, "request", "-o", "-")
    block = await licensectl(bus, "request", "-o", "-", "--armor")
    assert (plain.code, block.code, plain.out) == (0, 0, '{"request": 1}')
    assert armor.unwrap(block.out.encode()).decode() == plain.out
    await licensectl(bus, "install", "-", stdin=b"{")  # what reads a block is the daemon
    await licensectl(bus, "verify", "-", stdin=block.out.encode())
    assert answers.installed == [b"{"]


async def test_a_dry_run_of_a_return_shows_whom_it_touches_and_makes_none(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    done = await licensectl(bus, "return", "L-1", "--devices", "170", "--dry-run")
    assert done.code == 1
    assert "The capacity would be 30, now it is 200; 37 in use." in done.out
    assert "Beyond the capacity would run 7, the newest first:\n      lon/d00035\n      lon/d00034\n" in done.out
    assert "--over-capacity" in done.out
    assert "--revoke-excess" in done.out
    accepted = await licensectl(bus, "return", "L-1", "--devices", "170", "--dry-run", "--revoke-excess", "--json")
    assert (accepted.code, accepted.json["excess"], len(accepted.json["devices_affected"])) == (0, 7, 7)
    harmless = await licensectl(bus, "return", "L-1", "--devices", "100", "--dry-run")
    assert (harmless.code, "Nothing that runs would be touched." in harmless.out) == (0, True)
    everything = await licensectl(bus, "return", "L-1", "--dry-run")
    assert "and 16 more" in everything.out
    assert (answers.asked, answers.returns) == ([], [])


async def test_a_return_writes_one_file_and_it_can_be_had_again(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file, again = tmp_path / "proof.json", tmp_path / "again.json"
    done = await licensectl(bus, "return", "L-1", "--devices", "100", "--another", "-o", str(file))
    assert (done.code, done.err) == (0, "")
    assert "licensectl returns 1 -o FILE" in done.out
    assert answers.asked == [("L-1", 100, False, False, True)]
    done = await licensectl(bus, "returns", "1", "-o", str(again), "--json")
    assert (done.code, done.json) == (0, {"file": str(again), "bytes": 13, "number": 1})
    assert again.read_bytes() == file.read_bytes() == b'{"return": 1}'
    done = await licensectl(bus, "returns")
    assert done.out.splitlines()[0].split() == ["NUMBER", "LICENSE", "DEVICES", "MADE", "ACKNOWLEDGED"]
    assert done.out.splitlines()[1].split()[:3] == ["1", "L-1", "100"]
    assert (await licensectl(bus, "returns", "--json")).json == answers.returns


async def test_a_return_that_leaves_devices_over_lists_them_and_needs_a_word(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file = tmp_path / "proof.json"
    done = await licensectl(bus, "return", "L-1", "-o", str(file))
    assert (done.code, done.out) == (4, "")
    assert "lon/d00035" in done.err
    assert done.err.endswith("[return-leaves-excess]\n")
    assert left_in(tmp_path) == []
    assert (await licensectl(bus, "return", "L-1", "-o", str(file), "--over-capacity")).code == 0
    assert answers.asked == [("L-1", 0, True, False, False)]


async def test_a_proof_never_replaces_a_file_and_a_place_that_cannot_be_costs_no_return(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    file = tmp_path / "proof.json"
    file.write_text("of another return")
    for place in (str(file), str(tmp_path / "none/proof.json"), str(tmp_path), "/dev/full"):
        done = await licensectl(bus, "return", "L-1", "--devices", "5", "-o", place, "--json")
        assert (done.code, done.json["error"]["code"]) == (2, "argument-invalid")
    assert (await licensectl(bus, "returns", "1", "-o", str(file))).code == 2
    assert (answers.returns, file.read_text()) == ([], "of another return")


async def test_a_return_that_was_made_and_not_written_says_how_to_have_it_again(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    ctl = f"{Path(sys.executable).parent / 'licensectl'} return L-1 --devices 5 -o - > /dev/full"
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", ctl, env=on_bus(bus.address), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, len(answers.returns)) == (1, 1)
    assert b"No space left on device" in err
    assert b"licensectl returns 1 -o FILE [output-unwritable]\n" in err


async def test_a_full_disk_costs_no_return(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers, tmp_path: Path
) -> None:
    ctl = f"ulimit -f 1; {Path(sys.executable).parent / 'licensectl'} return L-1 --devices 5 -o {tmp_path}/proof.json"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"trap '' XFSZ; {ctl}", env=on_bus(bus.address), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, answers.returns, left_in(tmp_path)) == (2, [], [])
    assert b"File too large" in err


async def test_a_daemon_that_was_gone_after_a_return_leaves_a_hint(bus: PrivateBus, tmp_path: Path) -> None:
    service = DbusService(address=bus.address)
    await service.start(Vanishing())
    asking = asyncio.create_task(licensectl(bus, "return", "L-1", "--devices", "5", "-o", str(tmp_path / "proof.json")))
    for _ in range(200):
        await asyncio.sleep(0.05)
        if service._calls:
            break
    await service.stop()
    done = await asking
    assert (done.code, left_in(tmp_path)) == (3, [])
    assert "licensectl returns shows whether the return was made [daemon-unreachable]" in done.err


async def test_a_return_of_a_number_that_is_not_known_is_a_no(
    service: DbusService, bus: PrivateBus, tmp_path: Path
) -> None:
    done = await licensectl(bus, "returns", "9", "-o", str(tmp_path / "proof.json"), "--json")
    assert (done.code, done.json["error"]["code"]) == (1, "contact-unknown")
    assert left_in(tmp_path) == []
    assert (await licensectl(bus, "returns")).out == "Nothing was returned.\n"


# -- updates and notices ---------------------------------------------------------------------------------------------


async def test_an_installer_reads_from_the_exit_status_whether_an_update_is_allowed(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    done = await licensectl(bus, "check-update", "4.0", "--kind", "feature", "--released", "2026-10-01")
    assert (done.code, done.out) == (0, "Allowed: 4.0 may be installed.\n")
    done = await licensectl(bus, "check-update", "5.0", "--kind", "platform")
    assert (done.code, done.out) == (1, "Not allowed (platform-not-covered): No license names this platform.\n")
    done = await licensectl(bus, "check-update", "5.0", "--kind", "platform", "--json")
    assert (done.code, done.json["allowed"], done.json["installed"]) == (1, False, "3.5.1")
    assert answers.asked == [("4.0", "feature", "2026-10-01"), *[("5.0", "platform", "")] * 2]


async def test_an_update_is_confirmed(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "confirm-update", "4.0", "--kind", "feature", "--json")
    assert (done.json["installed"], done.json["license_id"]) == ("4.0", "U-1")
    done = await licensectl(bus, "confirm-update", "4.0")
    assert (done.code, done.out) == (0, "Noted: 4.0 is installed. Upgrade license U-1 is used up.\n")


async def test_notices_are_listed_and_their_days_set(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    done = await licensectl(bus, "notices")
    assert (done.code, done.out) == (0, "  ! Maintenance for 200 devices ends on 2028-03-01.\n")
    assert (await licensectl(bus, "notices", "--days", "60,7,0", "--json")).json == answers.list_notices()
    assert answers.notice_days == [60, 7, 0]


async def test_a_repair_is_acknowledged_and_named(service: DbusService, bus: PrivateBus) -> None:
    done = await licensectl(bus, "acknowledge")
    assert (done.code, done.out, done.err) == (0, "Acknowledged: log a had no whole snapshot.\n", "")
    said = (await licensectl(bus, "acknowledge", "--json")).json
    assert said == {"acknowledged": True, "repair": "log a had no whole snapshot"}


async def test_where_nothing_was_repaired_there_is_nothing_to_acknowledge(bus: PrivateBus) -> None:
    service = DbusService(address=bus.address)
    await service.start(Whole())
    done = await licensectl(bus, "acknowledge")
    assert (done.code, done.out) == (0, "There is nothing to acknowledge: the ledger was not repaired.\n")
    assert (await licensectl(bus, "acknowledge", "--json")).json == {"acknowledged": False, "repair": ""}
    await service.stop()


async def test_what_the_daemon_says_against_an_acknowledgment_is_passed_on(bus: PrivateBus) -> None:
    service = DbusService(address=bus.address)
    await service.start(Unready())
    done = await licensectl(bus, "acknowledge", "--json")
    await service.stop()
    assert (done.code, done.json["error"]["code"]) == (4, "not-ready")
    assert done.err == "licensectl: cannot acknowledge: storage is missing: there is none [not-ready]\n"


@pytest.mark.needs("root", "setpriv", "/usr/bin/python3")
async def test_another_user_may_neither_install_nor_acknowledge(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    as_nobody = ("setpriv", "--reuid=65534", "--clear-groups")
    probe = await asyncio.create_subprocess_exec(
        *as_nobody, sys.executable, "-c", "", stderr=asyncio.subprocess.DEVNULL
    )
    if await probe.wait():
        pytest.skip("another user cannot run this Python")  # it is in root's home: test_dbus asks by busctl instead
    for command in (("install", "-"), ("acknowledge",)):
        done = await licensectl(bus, *command, "--json", stdin=b"{}", prefix=as_nobody)
        assert (done.code, done.json["error"]["code"]) == (4, "not-permitted")
    assert answers.installed == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("licenses",),
        ("devices",),
        ("explain", "lon/1"),
        ("plan", "3"),
        ("install", "-"),
        ("verify", "-"),
        ("acknowledge",),
        ("request", "-o", "-"),
        ("return", "L-1", "-o", "-"),
        ("returns",),
        ("check-update", "4.0", "--kind", "update"),
        ("confirm-update", "4.0"),
        ("notices",),
    ],
)
async def test_without_the_daemon_every_command_ends_with_3(bus: PrivateBus, arguments: tuple[str, ...]) -> None:
    done = await licensectl(bus, *arguments, "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "daemon-unreachable")
    assert "it does not run (systemctl status smartserver-licensed)" in done.err


async def test_a_reader_that_has_enough_is_no_error(
    service: DbusService, bus: PrivateBus, answers: LicenseAnswers
) -> None:
    answers.devices = 5_000
    program = str(Path(sys.executable).parent / "licensectl")
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-o",
        "pipefail",
        "-c",
        f"{program} devices | head -n 1",
        env=on_bus(bus.address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert (process.returncode, out.split()[0], err) == (0, b"DEVICE", b"")


async def test_a_status_is_there_at_once(service: DbusService, bus: PrivateBus) -> None:
    """About 0.2 s on two x86 cores; the limit leaves room for a machine that does other work."""
    started = time.monotonic()
    assert (await licensectl(bus, "status")).code == 0
    assert time.monotonic() - started < 3
