from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from license_authority.errors import RegisterBusyError, RegisterCorruptError
from license_authority.register import open_register
from support.documents import GRANT


def test_what_is_remembered_is_there_for_the_next_one(tmp_path: Path) -> None:
    other = replace(GRANT, install_code="17bbbbb", seq=7)
    with open_register(tmp_path) as register:
        assert register.last_grant(GRANT.install_code) is None
        register.remember(GRANT)
        register.remember(other)
        register.remember(replace(GRANT, seq=2))
    with open_register(tmp_path) as register:
        assert register.last_grant(GRANT.install_code) == replace(GRANT, seq=2)
        assert register.last_grant("17bbbbb") == other
        assert register.last_grant("17ccccc") is None


def test_no_temporary_file_is_left_and_only_the_owner_reads(tmp_path: Path) -> None:
    with open_register(tmp_path) as register:
        register.remember(GRANT)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["register.json", "register.lock"]
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


def test_a_second_one_waits_for_the_first_and_not_for_ever(tmp_path: Path) -> None:
    with (
        open_register(tmp_path),
        pytest.raises(RegisterBusyError, match=r"0\.1 s"),
        open_register(tmp_path, wait_s=0.1),
    ):
        pass
    with open_register(tmp_path, wait_s=0):
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format":2,"last_grants":[]}',
        b'{"format":1,"last_grants":[{}]}',
        b'{"format":1,"last_',
        b"\xff",
    ],
)
def test_a_damaged_register_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "register.json").write_bytes(content)
    with pytest.raises(RegisterCorruptError, match="cannot read the register"), open_register(tmp_path):
        pass
    assert (tmp_path / "register.json").read_bytes() == content


def test_a_register_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    with open_register(tmp_path) as register:
        register.remember(GRANT)
    whole = (tmp_path / "register.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "register.json").write_bytes(whole[:length])
        with pytest.raises(RegisterCorruptError), open_register(tmp_path):
            pass


def test_an_install_code_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with open_register(tmp_path) as register:
        register.remember(GRANT)
    text = (tmp_path / "register.json").read_text()
    entry = text[text.index("[") + 1 : text.rindex("]")]
    (tmp_path / "register.json").write_text(text.replace(entry, f"{entry},{entry}"))
    with pytest.raises(RegisterCorruptError, match="twice"), open_register(tmp_path):
        pass
