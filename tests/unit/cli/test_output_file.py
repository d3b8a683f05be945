"""The file that a document is written to, before it is asked for and after."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartserver_licensed.cli.output_file import OutputError, OutputFile
from smartserver_licensed.domain.errors import ArgumentError


def test_until_it_is_written_nothing_of_its_name_is_there(tmp_path: Path) -> None:
    place = tmp_path / "proof"
    with OutputFile(str(place), may_replace=False) as output:
        assert not place.exists()
        (reserved,) = tmp_path.iterdir()
        assert reserved.stat().st_blocks * 512 >= 96 * 1024  # so that a full disk is met before the return is made
        output.write(b"proof")
        assert place.read_bytes() == b"proof"
    assert list(tmp_path.iterdir()) == [place]


def test_without_a_document_nothing_is_left_and_what_was_there_stays(tmp_path: Path) -> None:
    place = tmp_path / "request"
    place.write_text("older")

    def fails() -> None:
        with OutputFile(str(place), may_replace=True):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("request", "older")]


def test_the_file_has_the_permissions_that_the_user_is_used_to(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with OutputFile(str(tmp_path / "request"), may_replace=True) as output:
            output.write(b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "request").stat().st_mode & 0o777 == 0o644


def test_an_empty_file_is_taken_and_one_with_content_only_where_it_may_be_replaced(tmp_path: Path) -> None:
    place = tmp_path / "proof"
    place.touch()
    with OutputFile(str(place), may_replace=False) as output:
        output.write(b"proof")
    with pytest.raises(ArgumentError, match="it is there already"), OutputFile(str(place), may_replace=False):
        pass
    with OutputFile(str(place), may_replace=True) as output:
        output.write(b"x")
    assert place.read_bytes() == b"x"


def test_a_link_is_followed_and_a_loop_of_links_refused(tmp_path: Path) -> None:
    target, link, loop = tmp_path / "target", tmp_path / "link", tmp_path / "loop"
    link.symlink_to(target)
    with OutputFile(str(link), may_replace=False) as output:
        output.write(b"proof")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"proof")
    loop.symlink_to(loop)
    with pytest.raises(ArgumentError, match="cannot write"), OutputFile(str(loop), may_replace=True):
        pass


def test_a_directory_that_went_away_in_between_is_an_error_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "stick" / "proof"
    place.parent.mkdir()
    with OutputFile(str(place), may_replace=False) as output:
        for each in place.parent.iterdir():
            each.unlink()
        place.parent.rmdir()
        with pytest.raises(OutputError, match=f"cannot write {place}: No such file or directory"):
            output.write(b"proof")
