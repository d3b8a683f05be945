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

from license_authority.keyring import load_trusted_root
from license_authority.main import main
from smartserver_licensed.documents.acceptance import accept_grant
from smartserver_licensed.documents.payloads import GRANT_TYPE
from smartserver_licensed.documents.trust import load_root
from smartserver_licensed.domain.licenses import Grant, LicenseType
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
    root, _ = load_trusted_root(authority)
    return accept_grant(out.read_bytes(), root=root, install_code=code, last_seq=last_seq)


def test_init_makes_keys_that_only_the_owner_reads(authority: Path) -> None:
    assert stat.S_IMODE(authority.stat().st_mode) == 0o700
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in authority.iterdir()}
    assert modes == {"root.key": 0o600, "grant.key": 0o600, "root.json": 0o600}


def test_init_takes_an_empty_directory_and_closes_it(tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir(mode=0o755)
    assert main(["init", str(directory)]) == 0
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_init_refuses_a_directory_that_has_an_authority_and_changes_nothing(
    authority: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each.name: each.read_bytes() for each in authority.iterdir()}
    assert main(["init", str(authority)]) == 1
    assert re.fullmatch(
        r"license-authority: cannot make an authority in .*: .* \[authority-occupied\]\n", capsys.readouterr().err
    )
    assert {each.name: each.read_bytes() for each in authority.iterdir()} == before


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
    assert load_root(capfdbinary.readouterr().out) == load_trusted_root(authority)[0]


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
    assert "[envelope-malformed]" in capsys.readouterr().err
    (tmp_path / "big").write_bytes(bytes(10_000_000))
    assert main(["inspect", str(tmp_path / "big")]) == 1
    assert "[document-too-large]" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "none")]) == 1
    assert "[file-unusable]" in capsys.readouterr().err


def test_without_an_authority_nothing_is_issued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(issue_line(tmp_path, tmp_path / "grant")) == 1
    assert "[authority-missing]" in capsys.readouterr().err
    assert not (tmp_path / "grant").exists()


def test_a_grant_key_that_the_root_does_not_name_issues_nothing(
    authority: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (authority / "grant.key").write_text("07" * 32)
    assert main(issue_line(authority, tmp_path / "grant")) == 1
    assert "not the root's" in capsys.readouterr().err


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
    (authority / "register.json").write_bytes(b"{")
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
        while not (authority / "register.json").exists():
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
