"""Logging into a real datagram socket in the journal's place, and the message catalog read by journalctl itself."""

from __future__ import annotations

import io
import logging
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from smartserver_licensed.adapters.journal import JournalHandler, LineFormatter, install, is_journal
from smartserver_licensed.domain.messages import CLOCK_SET_BACK, LICENSE_INSTALLED, MESSAGES, SEAT_REFUSED

CATALOG = Path(__file__).parents[2] / "systemd" / "smartserver-licensed.catalog"


class Journal:
    """Receives entries and reads them back by the native protocol."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(5)

    def entry(self) -> dict[str, str]:
        data = self._socket.recv(1 << 20)
        fields: dict[str, str] = {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                size = int.from_bytes(rest[:8], "little")
                value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
                assert rest[8 + size : 8 + size + 1] == b"\n"
            else:
                data = rest
            assert name.decode() not in fields
            fields[name.decode()] = value.decode()
        return fields

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


@pytest.fixture
def logger(journal: Journal) -> Iterator[logging.Logger]:
    handler = JournalHandler(str(journal.path))
    logger = logging.Logger("smartserver_licensed.test", logging.DEBUG)  # noqa: LOG001 - apart from the root's handlers
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_an_entry_has_the_sentence_the_message_id_and_the_fields(logger: logging.Logger, journal: Journal) -> None:
    logger.warning(
        SEAT_REFUSED.sentence, extra={"fields": {"MESSAGE_ID": SEAT_REFUSED.id, "DEVICE": "lon/d1", "USED": 5}}
    )
    entry = journal.entry()
    assert entry["MESSAGE"] == f"{SEAT_REFUSED.sentence} [DEVICE=lon/d1 USED=5]"
    assert entry["MESSAGE_ID"] == SEAT_REFUSED.id
    assert (entry["DEVICE"], entry["USED"], entry["PRIORITY"]) == ("lon/d1", "5", "4")
    assert entry["SYSLOG_IDENTIFIER"] == "smartserver-licensed"
    assert entry["CODE_FILE"] == __file__
    assert entry["CODE_FUNC"] == "test_an_entry_has_the_sentence_the_message_id_and_the_fields"
    assert int(entry["CODE_LINE"]) > 0


def test_the_priority_is_that_of_the_message_else_of_the_level(logger: logging.Logger, journal: Journal) -> None:
    logger.info(LICENSE_INSTALLED.sentence, extra={"fields": {"MESSAGE_ID": LICENSE_INSTALLED.id}})
    for level in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        logger.log(level, "a sentence")
    assert [journal.entry()["PRIORITY"] for _ in range(6)] == ["5", "2", "3", "4", "6", "7"]


def test_values_with_line_breaks_arrive_whole_and_forge_nothing(logger: logging.Logger, journal: Journal) -> None:
    logger.error("a sentence", extra={"fields": {"REASON": "one\nPRIORITY=0\ntwo", "DEVICE": "\x1b[31m\u2028\ud800"}})
    entry = journal.entry()
    assert entry["REASON"] == "one\nPRIORITY=0\ntwo"
    assert entry["PRIORITY"] == "3"
    assert entry["MESSAGE"] == r"a sentence [REASON=one\nPRIORITY=0\ntwo DEVICE=\x1b[31m\u2028\ud800]"


def test_field_names_that_the_journal_would_not_take_or_that_are_ours_are_left_out(
    logger: logging.Logger, journal: Journal
) -> None:
    fields = {"_UID": "0", "lower": "x", "A=B": "x", "": "x", "PRIORITY": "0", "CODE_FILE": "x", "GOOD_1": "y"}
    logger.info("a sentence", extra={"fields": fields})
    entry = journal.entry()
    assert not {"_UID", "lower", "A", ""} & entry.keys()
    assert (entry["PRIORITY"], entry["CODE_FILE"], entry["GOOD_1"]) == ("6", __file__, "y")


def test_large_values_are_cut(logger: logging.Logger, journal: Journal) -> None:
    logger.info("a sentence", extra={"fields": {f"VALUE_{number}": "x" * 100_000 for number in range(9)}})
    entry = journal.entry()
    assert len(entry["MESSAGE"]) == 16 * 1024
    assert sum(map(len, entry.values())) <= 64 * 1024


def test_a_traceback_has_a_field_of_its_own(logger: logging.Logger, journal: Journal) -> None:
    try:
        raise ValueError("why")  # noqa: TRY301 - a traceback is what is tested
    except ValueError:
        logger.exception("a sentence")
    entry = journal.entry()
    assert entry["MESSAGE"] == "a sentence [EXCEPTION=ValueError: why]"
    assert entry["EXCEPTION_TEXT"].startswith("Traceback (most recent call last):\n")


def test_a_journal_that_is_away_or_full_is_no_error_and_the_loss_is_told(
    logger: logging.Logger, journal: Journal
) -> None:
    for _ in range(2_000):  # more than a datagram socket queues; nobody reads meanwhile
        logger.info("a sentence")
    arrived = 0
    journal._socket.settimeout(0.1)
    try:
        while True:
            assert "LOST_ENTRIES" not in journal.entry()
            arrived += 1
    except TimeoutError:
        pass
    assert 0 < arrived < 2_000
    logger.info("a sentence")
    assert journal.entry()["LOST_ENTRIES"] == str(2_000 - arrived)
    logger.info("a sentence")
    assert "LOST_ENTRIES" not in journal.entry()


def test_elsewhere_lines_are_plain_text() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter())
    logger = logging.Logger("test")  # noqa: LOG001 - apart from the root's handlers
    logger.addHandler(handler)
    logger.warning(CLOCK_SET_BACK.sentence, extra={"fields": {"MESSAGE_ID": CLOCK_SET_BACK.id, "SECONDS": 3}})
    logger.info("a sentence\nin two lines")
    assert stream.getvalue() == "warning: The clock was set back [SECONDS=3]\ninfo: a sentence\\nin two lines\n"


def test_the_journal_is_used_when_stderr_is_connected_to_it(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    level = root.level
    with (tmp_path / "stderr").open("w") as stream:
        assert not is_journal(stream, {})
        assert not is_journal(stream, {"JOURNAL_STREAM": "nonsense"})
        assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        install("info", stream=stream, path=str(journal.path))
        logging.getLogger("x").info("to stderr")
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        handler = install("warning", stream=stream, path=str(journal.path))
        logging.getLogger("x").info("to nobody")
        logging.getLogger("x").warning("to the journal")
    root.removeHandler(handler)
    root.setLevel(level)
    handler.close()
    assert journal.entry()["MESSAGE"] == "to the journal"
    assert (tmp_path / "stderr").read_text() == "info: to stderr\n"


# -- the catalog -----------------------------------------------------------------------------------------------------


def test_every_message_has_an_id_and_a_name_of_its_own() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", each.id) for each in MESSAGES)
    assert all(each.priority in range(3, 7) for each in MESSAGES)
    assert len({each.id for each in MESSAGES}) == len({each.name for each in MESSAGES}) == len(MESSAGES)


def test_the_catalog_explains_every_message_and_no_other() -> None:
    text = CATALOG.read_text("utf-8")
    subjects = dict(re.findall(r"(?m)^-- ([0-9a-f]{32})\nSubject: (.+)$", text))
    assert subjects == {each.id: each.sentence for each in MESSAGES}


@pytest.mark.needs("journalctl")
def test_journalctl_reads_the_catalog(tmp_path: Path) -> None:
    directory = tmp_path / "usr/lib/systemd/catalog"
    directory.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    (directory / CATALOG.name).write_bytes(CATALOG.read_bytes())
    journalctl = ["journalctl", f"--root={tmp_path}"]
    subprocess.run([*journalctl, "--update-catalog"], check=True, timeout=30)
    shown = subprocess.run(
        [*journalctl, "--dump-catalog"], check=True, timeout=30, capture_output=True, text=True
    ).stdout
    for each in MESSAGES:
        assert f"-- {each.id}\nSubject: {each.sentence}\n" in shown
