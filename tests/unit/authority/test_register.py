from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest
from sqlalchemy import select, text

from license_authority.errors import (
    AuthorityError,
    ContactForkedError,
    FileAccessError,
    RegisterBusyError,
    RegisterCorruptError,
    RegisterMissingError,
    RegisterNewerError,
    RegisterOccupiedError,
)
from license_authority.register import Register, register_url
from license_authority.tables import Customer
from smartserver_licensed.domain.errors import ArgumentError
from support.documents import NOW


def names(register: Register) -> list[str]:
    with register.transaction() as session:
        return list(session.execute(select(Customer.name).order_by(Customer.id)).scalars())


def add(register: Register, id_: str, error: Exception | None = None) -> None:
    with register.transaction() as session:
        session.add(Customer(id=id_, name=f"name {id_}", made_at=NOW))
        session.flush()
        if error is not None:
            raise error


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = register_url(tmp_path)
    register = Register.create(url)
    add(register, "1")
    register.close()
    return url


def test_what_is_remembered_is_there_for_the_next_one(url: str) -> None:
    assert names(Register.open(url)) == ["name 1"]


def test_one_file_is_left_and_only_the_owner_reads(url: str, tmp_path: Path) -> None:
    assert [each.name for each in tmp_path.iterdir()] == ["authority.db"]
    assert stat.S_IMODE((tmp_path / "authority.db").stat().st_mode) == 0o600


def test_an_operation_that_fails_leaves_nothing_but_a_fork_that_was_found(url: str) -> None:
    register = Register.open(url)
    for error in (AuthorityError("no"), ContactForkedError("known"), RuntimeError("no")):
        with pytest.raises(type(error)):
            add(register, "2", error)
    assert names(register) == ["name 1"]
    with pytest.raises(ContactForkedError):
        add(register, "3", ContactForkedError("new", is_new=True))
    assert names(register) == ["name 1", "name 3"]


def test_sqlite_is_told_to_be_durable_and_to_hold_references(url: str) -> None:
    with Register.open(url).transaction() as session:
        assert session.execute(text("PRAGMA synchronous")).scalar() == 3  # EXTRA
        assert session.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_second_one_waits_for_the_first_and_not_for_ever(url: str) -> None:
    first, second = Register.open(url), Register.open(url, wait_s=0.1)
    with first.transaction(), pytest.raises(RegisterBusyError, match="for too long"), second.transaction():
        pass
    add(second, "2")
    assert names(first) == ["name 1", "name 2"]


def test_what_was_read_is_still_so_when_it_is_written(url: str) -> None:
    register = Register.open(url)

    def rename() -> None:
        for _ in range(50):
            with register.transaction() as session:
                customer = session.get_one(Customer, "1")
                customer.name = str(int(customer.name.removeprefix("name ")) + 1)

    threads = [threading.Thread(target=rename) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert names(register) == ["201"]


def test_a_register_is_made_once(url: str) -> None:
    with pytest.raises(RegisterOccupiedError, match="there is one"):
        Register.create(url)
    assert names(Register.open(url)) == ["name 1"]


def test_a_missing_register_is_not_made_in_passing(tmp_path: Path) -> None:
    with pytest.raises(RegisterMissingError, match="there is none"):
        Register.open(register_url(tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "authority.db").touch()
    with pytest.raises(RegisterMissingError):
        Register.open(register_url(tmp_path))


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match=r"missing/authority\.db"):
        Register.create(register_url(tmp_path / "missing"))
    (tmp_path / "authority.db").mkdir()
    with pytest.raises(FileAccessError):
        Register.open(register_url(tmp_path))


@pytest.mark.parametrize("url", ["", "nothing", "sqlite://", "sqlite:///:memory:", "nosuch://x/y", "oracle://x/y"])
def test_a_url_that_remembers_nothing_is_refused(url: str) -> None:
    for work in (Register.create, Register.open):
        with pytest.raises(ArgumentError, match="cannot use the register"):
            work(url)


def test_a_newer_register_is_refused_and_left_as_it_is(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "authority.db")
    connection.execute("UPDATE register SET schema_version = 2")
    connection.commit()
    connection.close()
    before = (tmp_path / "authority.db").read_bytes()
    with pytest.raises(RegisterNewerError, match="version 2, this program knows 1"):
        Register.open(url)
    assert (tmp_path / "authority.db").read_bytes() == before


def test_a_register_that_does_not_say_its_version_is_refused(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "authority.db")
    connection.execute("DELETE FROM register")
    connection.commit()
    connection.close()
    with pytest.raises(RegisterCorruptError):
        Register.open(url)


@pytest.mark.parametrize("content", [b"\xff" * 5_000, b"{}", b"SQLite format 3\0" + bytes(4_080)])
def test_what_is_no_database_is_refused_and_left_as_it_is(url: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "authority.db"
    path.write_bytes(content)
    with pytest.raises(RegisterCorruptError, match=r"authority\.db"):
        Register.open(url)
    assert path.read_bytes() == content


def test_a_register_that_is_cut_is_refused(url: str, tmp_path: Path) -> None:
    path = tmp_path / "authority.db"
    whole = path.read_bytes()
    for length in range(4_096, len(whole), 4_096):
        path.write_bytes(whole[:length])
        with pytest.raises(RegisterCorruptError):
            Register.open(url)


def test_a_page_of_noise_is_found_when_the_register_is_opened(url: str, tmp_path: Path) -> None:
    path = tmp_path / "authority.db"
    whole = path.read_bytes()
    for page in range(1, len(whole) // 4_096):
        at = page * 4_096
        path.write_bytes(whole[:at] + b"\x5a" * 4_096 + whole[at + 4_096 :])
        with pytest.raises(RegisterCorruptError):
            Register.open(url)


def test_a_table_that_a_newer_program_adds_is_made(url: str, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "authority.db")
    connection.execute("DROP TABLE audit")
    connection.commit()
    connection.close()
    with Register.open(url).transaction() as session:
        assert session.execute(text("SELECT count(*) FROM audit")).scalar() == 0
