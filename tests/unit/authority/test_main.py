from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from license_authority.keyring import load_authority_trust
from license_authority.main import main
from smartserver_licensed.documents.acceptance import accept_grant
from smartserver_licensed.documents.armor import wrap
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import load_root, load_trust
from smartserver_licensed.domain.licenses import Grant, LicenseType
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE

OTHER_CUSTOMER = "11111111-51a9-4ac9-9c36-6d1c3a2c6a11"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    directory = tmp_path / "authority"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["init", str(directory)]) == 0
    return directory


def issue_line(
    authority: Path, out: Path | str, *more: str, type_: str = "capacity", devices: str = "100", **changed: str
) -> list[str]:
    line = ["issue", "--dir", str(authority), "--type", type_, "--devices", devices]
    line += ["--customer-id", changed.get("customer", CUSTOMER_ID), "--install-code", changed.get("code", INSTALL_CODE)]
    return [*line, "--out", str(out), *more]


def accepted(authority: Path, out: Path, *, last_seq: int = 0, code: str = INSTALL_CODE) -> Grant:
    trust = load_authority_trust(authority)
    return accept_grant(out.read_bytes(), trust=trust, install_code=code, last_seq=last_seq, device_key=None).grant


def shown(authority: Path, topic: str, *more: str) -> list[dict[str, Any]]:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["show", topic, "--dir", str(authority), "--json", *more]) == 0
    rows: list[dict[str, Any]] = json.loads(said.getvalue())
    return rows


def test_init_makes_keys_that_only_the_owner_reads(authority: Path) -> None:
    assert stat.S_IMODE(authority.stat().st_mode) == 0o700
    files = [each for each in authority.rglob("*") if each.is_file()]
    names = sorted(re.sub("-[0-9a-f]{16}", "-ID", str(each.relative_to(authority))) for each in files)
    assert names == ["authority.db", "keys/grant-ID.pem", "keys/root-ID.pem", "roots/1.json"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_init_takes_an_empty_directory_and_closes_it(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir(mode=0o755)
    assert main(["init", str(directory)]) == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_init_refuses_a_directory_that_has_an_authority_and_changes_nothing(
    authority: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each: each.read_bytes() for each in authority.rglob("*") if each.is_file()}
    assert main(["init", str(authority)]) == 1
    assert re.fullmatch(
        r"license-authority: cannot make an authority in .*: .* \[authority-occupied\]\n", capsys.readouterr().err
    )
    assert {each: each.read_bytes() for each in authority.rglob("*") if each.is_file()} == before


def test_trust_writes_a_root_that_allows_unactivated_grants(authority: Path, tmp_path: Path) -> None:
    assert main(["trust", "--dir", str(authority), "--out", str(tmp_path / "root")]) == 0
    root = load_root((tmp_path / "root").read_bytes())
    assert (root.version, root.allow_unactivated, root.threshold_for(GRANT_TYPE)) == (1, True, 1)


def test_two_authorities_do_not_trust_each_other(authority: Path, tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "second")]) == 0
    assert main(issue_line(authority, tmp_path / "grant")) == 0
    assert main(["inspect", str(tmp_path / "grant"), "--dir", str(authority)]) == 0
    assert main(["inspect", str(tmp_path / "grant"), "--dir", str(tmp_path / "second")]) == 1


def test_two_issues_add_up_and_seq_rises(authority: Path, tmp_path: Path) -> None:
    out = tmp_path / "grant"
    assert main(issue_line(authority, out, "--note", "Süd")) == 0
    first = accepted(authority, out)
    assert main(issue_line(authority, out, devices="200")) == 0
    second = accepted(authority, out, last_seq=first.seq)
    assert main(issue_line(authority, out, type_="trial", devices="5")) == 0
    third = accepted(authority, out, last_seq=second.seq)
    assert [each.granted_total for each in third.licenses] == [100, 200, 5]
    assert third.licenses[:2] == second.licenses
    assert second.licenses[0] == first.licenses[0]
    assert first.licenses[0].note == "Süd"
    assert third.seq == 3


def test_each_smartserver_has_its_own_grant(authority: Path, tmp_path: Path) -> None:
    assert main(issue_line(authority, tmp_path / "a")) == 0
    assert main(issue_line(authority, tmp_path / "b", code="17bbbbb", customer=OTHER_CUSTOMER)) == 0
    assert accepted(authority, tmp_path / "b", code="17bbbbb").seq == 1
    assert len(accepted(authority, tmp_path / "b", code="17bbbbb").licenses) == 1


@pytest.mark.parametrize(("more", "days"), [((), 30), (("--days", "14"), 14)])
def test_a_trial_runs_for_its_days(authority: Path, tmp_path: Path, more: tuple[str, ...], days: int) -> None:
    assert main(issue_line(authority, tmp_path / "grant", *more, type_="trial", devices="5")) == 0
    grant = accepted(authority, tmp_path / "grant")
    (trial,) = grant.licenses
    assert (trial.type, trial.granted_total, trial.grace_days) == (LicenseType.TRIAL, 5, 7)
    assert trial.expires_at == grant.issued_at + days * 86_400
    assert abs(grant.issued_at - time.time()) < 60


def test_a_refused_issue_writes_nothing_and_uses_no_seq(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grant"
    assert main(issue_line(authority, out, type_="trial")) == 0
    before = out.read_bytes()
    assert main(issue_line(authority, out, type_="trial")) == 1
    assert "[trial-used]" in capsys.readouterr().err
    assert main(issue_line(authority, out, customer=OTHER_CUSTOMER)) == 1
    assert f"belongs to the customer {CUSTOMER_ID}" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(issue_line(authority, out)) == 0
    assert accepted(authority, out).seq == 2


def test_an_out_file_that_cannot_be_opened_uses_up_no_trial(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(issue_line(authority, tmp_path / "missing" / "grant", type_="trial")) == 1
    assert re.fullmatch(r"license-authority: cannot write .*: .* \[file-unusable\]\n", capsys.readouterr().err)
    assert main(issue_line(authority, tmp_path / "grant", type_="trial")) == 0
    assert accepted(authority, tmp_path / "grant").seq == 1


def test_the_customer_id_is_compared_in_one_form(authority: Path, tmp_path: Path) -> None:
    assert main(issue_line(authority, tmp_path / "grant", customer=CUSTOMER_ID.upper())) == 0
    assert main(issue_line(authority, tmp_path / "grant", customer=f"{{{CUSTOMER_ID}}}")) == 0
    assert accepted(authority, tmp_path / "grant").customer_id == CUSTOMER_ID


def test_a_dash_is_stdout(authority: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(issue_line(authority, "-")) == 0
    (tmp_path / "grant").write_bytes(capfdbinary.readouterr().out)
    assert accepted(authority, tmp_path / "grant").seq == 1
    assert main(["trust", "--dir", str(authority), "--out", "-"]) == 0
    assert load_trust(capfdbinary.readouterr().out) == load_authority_trust(authority)


def test_inspect_shows_a_grant_to_people_and_programs(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "grant"
    main(issue_line(authority, out, devices="1000"))
    assert main(["inspect", str(out), "--dir", str(authority)]) == 0
    assert capsys.readouterr().out.startswith(
        f"grant 1 for SmartServer {INSTALL_CODE}: 1000-device capacity\nverified: yes\n"
    )
    assert main(["inspect", str(out), "--dir", str(authority), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["verified"], found["seq"]) == ("grant", True, 1)
    assert main(["inspect", str(out)]) == 0
    assert "verified: no: cannot verify the grant: no root" in capsys.readouterr().out


def test_inspect_refuses_what_is_no_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise").write_bytes(b"noise")
    assert main(["inspect", str(tmp_path / "noise")]) == 1
    assert "[armor-malformed]" in capsys.readouterr().err
    (tmp_path / "big").write_bytes(b"{" + bytes(10_000_000))
    assert main(["inspect", str(tmp_path / "big")]) == 1
    assert "[document-too-large]" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert "[file-unusable]" in capsys.readouterr().err


def test_without_an_authority_nothing_is_issued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(issue_line(tmp_path, tmp_path / "grant")) == 1
    assert "[authority-missing]" in capsys.readouterr().err
    assert not (tmp_path / "grant").exists()


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["make"],
        ["init"],
        ["trust", "--dir", "x"],
        issue_line(Path("x"), "-", "--days", "3"),
        issue_line(Path("x"), "-", type_="maintenance"),
        issue_line(Path("x"), "-", devices="0"),
        issue_line(Path("x"), "-", devices="-1"),
        issue_line(Path("x"), "-", devices="1000001"),
        issue_line(Path("x"), "-", devices="9" * 10_000),
        issue_line(Path("x"), "-", devices="five"),
        issue_line(Path("x"), "-", "--days", "0", type_="trial"),
        issue_line(Path("x"), "-", customer="ACME"),
    ],
)
def test_a_wrong_command_line_exits_with_2(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 2
    assert re.search(
        r"license-authority: cannot read the command line: .* \[argument-invalid\]\n$", capsys.readouterr().err
    )


def test_help_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["issue", "--help"]) == 0
    assert "--install-code" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "note"), [("", ""), (" x", ""), ("a\x1b[2J", ""), ("x", "two\nlines"), ("x", "\udcff")]
)
def test_texts_that_could_harm_a_terminal_are_refused(
    authority: Path, code: str, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(issue_line(authority, "-", "--note", note, code=code)) == 1
    assert "[argument-invalid]" in capsys.readouterr().err


def test_a_damaged_register_issues_nothing(authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (authority / "authority.db").write_bytes(b"SQLite format 3\0" + bytes(4_096))
    assert main(issue_line(authority, tmp_path / "grant")) == 1
    assert "[register-corrupt]" in capsys.readouterr().err
    assert not (tmp_path / "grant").exists()


def fill(pipe: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4_096))


def run(line: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "license_authority.main", *line], stderr=subprocess.PIPE)


def test_issues_at_the_same_time_lose_nothing(authority: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"grant-{n}" for n in range(6)]
    running = [run(issue_line(authority, out)) for out in outs]
    assert [each.communicate()[1] for each in running] == [b""] * 6
    assert [each.returncode for each in running] == [0] * 6
    grants = sorted((accepted(authority, out) for out in outs), key=lambda grant: grant.seq)
    assert [grant.seq for grant in grants] == [1, 2, 3, 4, 5, 6]
    assert [len(grant.licenses) for grant in grants] == [1, 2, 3, 4, 5, 6]


def test_a_kill_between_remembering_and_writing_costs_a_number_and_nothing_else(
    authority: Path, tmp_path: Path
) -> None:
    """The out file is a pipe that is full: the process stands exactly between the two until it is killed."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    try:
        fill(writer)
        process = run(issue_line(authority, pipe))
        deadline = time.monotonic() + 20
        while not shown(authority, "licenses"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finally:
        os.close(writer)
        os.close(reader)
    assert main(issue_line(authority, tmp_path / "grant", devices="7")) == 0
    grant = accepted(authority, tmp_path / "grant")
    assert grant.seq == 2
    assert [each.granted_total for each in grant.licenses] == [100, 7]


# -- a real authority -----------------------------------------------------------------------------------------------


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("correct horse battery staple\n")
    return path


@pytest.fixture
def real(tmp_path: Path, password_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real authority with a customer; the environment names it."""
    directory = tmp_path / "real"
    monkeypatch.setenv("LICENSE_AUTHORITY_DIR", str(directory))
    monkeypatch.setenv("LICENSE_AUTHORITY_PASSWORD_FILE", str(password_file))
    said("init", "--root-keys", "3", "--root-threshold", "2")
    said("customer", "add", "ACME Facilities", "--id", CUSTOMER_ID)
    return directory


def said(*line: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(line) == 0
    return out.getvalue().strip()


def order(*more: str, type_: str = "capacity", devices: str = "1000") -> str:
    return said("order", "--customer-id", CUSTOMER_ID, "--type", type_, "--devices", devices, *more)


def handed_over(tmp_path: Path, document: bytes, name: str = "document") -> str:
    (tmp_path / name).write_bytes(document)
    return str(tmp_path / name)


@pytest.fixture
def device(real: Path) -> Device:
    return Device(trust=load_authority_trust(real))


def activate(tmp_path: Path, device: Device, *more: str) -> Grant:
    line = ["activate", handed_over(tmp_path, device.request()), "-o", str(tmp_path / "grant"), *more]
    assert main(line) == 0
    return device.install((tmp_path / "grant").read_bytes())


def test_init_says_which_authority_it_made(tmp_path: Path, password_file: Path) -> None:
    assert said("init", str(tmp_path / "demo")).startswith("demonstration authority in ")
    made = said("init", str(tmp_path / "real"), "--password-file", str(password_file), "--grant-keys", "2")
    assert re.match(r"authority in .*\nroot version 1, .* at most 1000 devices\nroot keys, 1 of 1 sign:", made)
    assert not load_authority_trust(tmp_path / "real").current.allow_unactivated
    said("init", str(tmp_path / "forced"), "--demo", "--password-file", str(password_file))
    assert load_authority_trust(tmp_path / "forced").current.allow_unactivated


def test_a_real_authority_issues_nothing_without_activation(
    real: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(issue_line(real, tmp_path / "grant")) == 1
    assert "[unactivated-refused]" in capsys.readouterr().err
    assert not (tmp_path / "grant").exists()
    assert shown(real, "licenses") == []


def test_a_wrong_password_stops_whatever_signs_and_nothing_else(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("wrong horse battery staple\n")
    request = handed_over(tmp_path, device.request())
    assert main(["activate", request, "-o", str(tmp_path / "grant")]) == 1
    assert re.search(r"cannot open the key .*: wrong password.* \[password-wrong\]\n$", capsys.readouterr().err)
    order()
    assert len(shown(real, "licenses")) == 1


@pytest.mark.parametrize("content", ["", "\nsecond line\n", "short\n"])
def test_a_password_file_without_a_good_password_makes_no_authority(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text(content)
    assert main(["init", str(tmp_path / "a"), "--password-file", str(tmp_path / "password")]) == 1
    assert "[password-needed]" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_an_order_is_activated_in_one_exchange_and_the_same_request_gets_the_same_answer(
    real: Path, tmp_path: Path, device: Device
) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    request = handed_over(tmp_path, device.request(), "request")
    for out in ("first", "second"):
        assert main(["activate", request, "-o", str(tmp_path / out)]) == 0
    first = (tmp_path / "first").read_bytes()
    assert (tmp_path / "second").read_bytes() == first
    device.install(first)
    assert device.usable(license_id) == 1_000
    (row,) = shown(real, "balance")
    assert (row["sold"], row["at_authority"], row["in_field"]) == (1_000, 0, 1_000)


def test_requests_come_and_grants_go_armored_too(tmp_path: Path, device: Device) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    mail = f"Hello,\n\n> {wrap(device.request())}\n".replace("\n", "\r\n> ").encode()
    request, out = handed_over(tmp_path, mail), tmp_path / "grant"
    assert main(["activate", request, "-o", str(out), "--armor"]) == 0
    armored = out.read_text()
    assert armored.startswith("-----BEGIN SMARTSERVER LICENSE DOCUMENT-----\n")
    assert said("inspect", str(out)).startswith(f"grant 1 for SmartServer {INSTALL_CODE}: 1000-device capacity\nveri")
    assert main(["activate", request, "-o", str(out)]) == 0
    assert wrap(out.read_bytes()) == armored
    device.install(out.read_bytes())
    assert device.usable(license_id) == 1_000


def test_the_operator_adds_a_part_of_a_license_to_a_request(real: Path, tmp_path: Path, device: Device) -> None:
    license_id = order()
    activate(tmp_path, device, "--license", f"{license_id}=300")
    assert device.usable(license_id) == 300
    assert shown(real, "licenses")[0]["at_authority"] == 700


def test_a_new_device_key_needs_confirmation(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    renewed = Device(trust=device.trust)
    renewed.renew_key()
    request, out = handed_over(tmp_path, renewed.request()), tmp_path / "new"
    assert main(["activate", request, "-o", str(out)]) == 1
    assert "[confirmation-needed]" in capsys.readouterr().err
    assert not out.exists()
    assert main(["activate", request, "-o", str(out), "--confirm"]) == 0
    renewed.install(out.read_bytes())
    assert renewed.usable(license_id) == 1_000


def test_a_return_given_twice_credits_once(real: Path, tmp_path: Path, device: Device) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    proof = handed_over(tmp_path, device.give_back(license_id, 300))
    assert said("return", proof) == f"license {license_id}: 300 devices credited, 300 at the authority"
    assert "0 devices credited, 300 at the authority (this return is known" in said("return", proof)
    assert json.loads(said("return", proof, "--json"))["at_authority"] == 300
    assert shown(real, "balance")[0]["in_field"] == 700


def test_a_transfer_goes_to_the_smartserver_that_it_names(real: Path, tmp_path: Path, device: Device) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    proof = handed_over(tmp_path, device.give_back(license_id, 400))
    for _ in range(2):
        assert "reserved for 17other, whose next request gets it; 400 at" in said("transfer", proof, "--to", "17other")
    assert [row["reserved"] for row in shown(real, "licenses")] == [400]
    other = Device(install_code="17other", trust=device.trust)
    other.renew_key()
    activate(tmp_path, other)
    assert (device.usable(license_id), other.usable(license_id)) == (600, 400)


def test_a_dead_smartserver_is_replaced_by_one_that_calls_later_or_has_called(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    assert main(["rma", "--from", INSTALL_CODE, "--to", "17new", "-o", str(tmp_path / "none")]) == 0
    printed = capsys.readouterr().out
    assert f"license {license_id}: 1000 devices moved to 17new\n" in printed
    assert "the next request of 17new gets what it had" in printed
    assert not (tmp_path / "none").exists()
    new = Device(install_code="17new", trust=device.trust)
    new.renew_key()
    activate(tmp_path, new)
    assert new.usable(license_id) == 1_000
    assert main(["activate", handed_over(tmp_path, device.request()), "-o", str(tmp_path / "old")]) == 1
    assert "[smartserver-retired]" in capsys.readouterr().err
    third = Device(install_code="17third", trust=device.trust)
    third.renew_key()
    order("--install-code", "17third", devices="5")
    activate(tmp_path, third)
    said("rma", "--from", "17new", "--to", "17third", "-o", str(tmp_path / "grant"))
    third.install((tmp_path / "grant").read_bytes())
    assert third.usable(license_id) == 1_000


def test_an_install_code_is_released_once_nothing_of_it_is_in_use(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    assert main(["release", INSTALL_CODE]) == 1
    assert f"1000 devices of {license_id} [install-code-taken]" in capsys.readouterr().err
    said("return", handed_over(tmp_path, device.give_back(license_id, 1_000)))
    assert said("release", INSTALL_CODE) == f"{INSTALL_CODE} is free for any customer"
    assert shown(real, "audit")[-1]["act"] == "release"


def test_emergency_capacity_is_given_without_an_order(
    tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    said("emergency", INSTALL_CODE, "--devices", "50", "--days", "14", "-o", str(tmp_path / "grant"))
    grant = device.install((tmp_path / "grant").read_bytes())
    (emergency,) = [each for each in grant.licenses if each.type is LicenseType.EMERGENCY]
    assert (emergency.granted_total, emergency.expires_at) == (50, grant.issued_at + 14 * 86_400)
    assert main(["emergency", INSTALL_CODE, "--devices", "50", "--days", "15", "-o", str(tmp_path / "grant")]) == 1
    assert "emergency" in capsys.readouterr().err


def test_after_a_rotation_a_regrant_carries_the_new_root(real: Path, tmp_path: Path, device: Device) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    rotated = said("rotate", "--retire", "grant", "--emergency-devices", "20")
    assert "root version 2, emergency capacity at most 20 devices" in rotated
    assert "retired; their files can be destroyed:" in rotated
    for out, more in (("new", ()), ("again", ("--last",))):
        said("regrant", INSTALL_CODE, "-o", str(tmp_path / out), *more)
    assert (tmp_path / "new").read_bytes() == (tmp_path / "again").read_bytes()
    device.install((tmp_path / "new").read_bytes())
    assert device.trust == load_authority_trust(real)
    assert device.usable(license_id) == 1_000
    said("trust", "-o", str(tmp_path / "roots"))
    assert load_trust((tmp_path / "roots").read_bytes()) == device.trust


def test_a_fork_is_refused_and_shown(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    clone = device.copy()
    activate(tmp_path, device)
    assert main(["activate", handed_over(tmp_path, clone.request()), "-o", str(tmp_path / "none")]) == 1
    assert "[contact-forked]" in capsys.readouterr().err
    (fork,) = shown(real, "forks")
    assert (fork["install_code"], fork["code"]) == (INSTALL_CODE, "contact-forked")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fork["found_at"])
    assert re.search(rf"{INSTALL_CODE} +contact-forked", said("show", "forks"))
    assert re.search(rf"{INSTALL_CODE} +forked", said("show", "smartservers"))
    device.renew_key()
    activate(tmp_path, device, "--confirm")
    assert re.search(rf"{INSTALL_CODE} +enrolled", said("show", "smartservers"))
    assert len(shown(real, "forks")) == 1


@pytest.mark.parametrize("topic", ["balance", "customers", "orders", "licenses", "smartservers", "audit"])
def test_show_has_rows_for_people_and_for_programs(real: Path, tmp_path: Path, device: Device, topic: str) -> None:
    order("--install-code", INSTALL_CODE, "--note", "Süd")
    activate(tmp_path, device)
    lines = said("show", topic).splitlines()
    rows = shown(real, topic)
    assert rows
    assert len(lines) == 1 + len(rows)
    assert lines[0] == lines[0].upper()


def test_a_lost_register_is_not_made_anew_in_passing(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    (real / "authority.db").unlink()
    assert main(["activate", handed_over(tmp_path, device.request()), "-o", str(tmp_path / "grant")]) == 1
    assert "[register-missing]" in capsys.readouterr().err
    assert main(["init", str(real)]) == 1
    assert "[authority-occupied]" in capsys.readouterr().err
    assert not (real / "authority.db").exists()


def test_the_register_can_be_elsewhere(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    said("init", str(tmp_path / "a"), "--database", url)
    assert not (tmp_path / "a" / "authority.db").exists()
    customer = said("customer", "add", "ACME", "--dir", str(tmp_path / "a"), "--database", url)
    assert customer in said("customer", "list", "--dir", str(tmp_path / "a"), "--database", url)


def test_an_init_that_was_cut_before_its_root_takes_its_empty_register_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "a"
    said("init", str(directory))
    (directory / "roots" / "1.json").unlink()
    said("init", str(directory))
    said("customer", "add", "ACME", "--dir", str(directory))
    (directory / "roots" / "1.json").unlink()
    assert main(["init", str(directory)]) == 1
    assert "[register-occupied]" in capsys.readouterr().err
    assert not (directory / "roots" / "1.json").exists()


def test_without_the_extra_a_command_says_what_to_install_and_trust_goes_on(authority: Path, tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['sqlalchemy'] = None\nfrom license_authority.main import main\n"
        f"assert main(['trust', '--dir', {str(authority)!r}, '-o', {str(tmp_path / 'root')!r}]) == 0\n"
        f"sys.exit(main(['show', '--dir', {str(authority)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(
        r"license-authority: cannot run show: sqlalchemy.* is not installed \(pip install .*\) \[authority-failed\]\n",
        done.stderr,
    )


def test_trust_and_inspect_load_no_database_and_show_no_web(authority: Path, tmp_path: Path) -> None:
    for command, unwanted in (
        (["trust", "--dir", str(authority), "-o", str(tmp_path / "root")], ("sqlalchemy", "fastapi", "uvicorn")),
        (["show", "--dir", str(authority)], ("fastapi", "uvicorn")),
    ):
        program = (
            "import sys\nfrom license_authority.main import main\n"
            f"assert main({command!r}) == 0\nprint([each for each in {unwanted!r} if each in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize("line", [["show", "everything"], ["activate", "x"], ["rma", "--from", "a"], ["token"]])
def test_a_wrong_command_line_of_these_exits_with_2_too(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--dir", "x"]) == 2
    assert "[argument-invalid]" in capsys.readouterr().err


def test_without_a_directory_nothing_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["show"], ["init"], ["serve"], ["customer", "list"]):
        assert main(line) == 2
        assert "--dir is missing (or LICENSE_AUTHORITY_DIR)" in capsys.readouterr().err


def test_a_token_is_added_listed_and_revoked(real: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = said("token", "add", "plant 3", "--customer-id", CUSTOMER_ID)
    assert re.fullmatch(r"lat_[\w-]{43}", token)
    assert re.search(rf"plant 3 +\S+Z +- +{CUSTOMER_ID}$", said("token", "list"))
    assert main(["token", "add", "plant 3"]) == 1
    assert main(["token", "revoke", "plant 4"]) == 1
    assert capsys.readouterr().err.count("[token-invalid]") == 2
    assert main(["token", "add", "x", "--customer-id", OTHER_CUSTOMER]) == 1
    assert "[customer-unknown]" in capsys.readouterr().err
    said("token", "revoke", "plant 3")
    (row,) = json.loads(said("token", "list", "--json"))
    assert row["name"] == "plant 3"
    assert row["revoked_at"] is not None
    assert token not in json.dumps(row)


def test_a_board_under_a_new_install_code_needs_confirmation_and_keeps_what_it_has(
    real: Path, tmp_path: Path, device: Device, capsys: pytest.CaptureFixture[str]
) -> None:
    license_id = order("--install-code", INSTALL_CODE)
    activate(tmp_path, device)
    device.install_code = "17board"
    request, out = handed_over(tmp_path, device.request()), tmp_path / "new"
    assert main(["activate", request, "-o", str(out)]) == 1
    assert "[confirmation-needed]" in capsys.readouterr().err
    assert main(["activate", request, "-o", str(out), "--confirm"]) == 0
    device.install(out.read_bytes())
    assert device.usable(license_id) == 1_000
    assert [row["install_code"] for row in shown(real, "smartservers")] == ["17board"]
