"""Whatever the power leaves of the real daemon's disk, all it has announced is there; in a form short enough for here.

The same with more states, and full logs, is `make crash`.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from crash.interrupted import record_failures, record_kills
from crash.power_cut import sweep, sweep_recoveries
from crash.recorded_disk import Failed, Flush, Mark, RecordedDisk, Write
from crash.recording import Recording, record
from support.box import wait_until

pytestmark = [
    pytest.mark.needs("mosquitto", "dbus-daemon", "losetup", "root", "/dev/fuse", "/dev/loop-control", "strace"),
    pytest.mark.timeout(300),
]
PAGE = 4096


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return record(tmp_path_factory.mktemp("device"), rounds=6)


def test_no_cut_of_a_run_on_a_block_device_loses_what_was_announced(recording: Recording) -> None:
    row = sweep(recording, 300, seed=1)
    assert row.failures == []
    assert row.is_good
    assert row.states == 300
    assert int(row.figures["commits"]) >= 10
    assert int(row.figures["announcements"]) > 500
    assert int(row.figures["rewrites of a log"]) >= 4, "two licenses, both logs each"


def test_no_cut_of_a_recovery_does_either(recording: Recording) -> None:
    row = sweep_recoveries(recording, 8, seed=2)
    assert row.failures == []
    assert row.states > 50


def test_a_daemon_that_does_not_wait_for_its_sync_is_found(tmp_path: Path) -> None:
    """The sweep can fail: the same daemon, whose commits are not synced."""
    program = """
import sys
from smartserver_licensed.daemon import main
from smartserver_licensed.store.log import Ledger
append = Ledger.append
def unsynced(ledger, *arguments):
    devices, ledger._devices = ledger._devices, ()
    append(ledger, *arguments)
    ledger._devices = devices
Ledger.append = unsynced
sys.exit(main())
"""
    row = sweep(record(tmp_path, rounds=0, program=[sys.executable, "-c", program]), 20, seed=1)
    assert row.lost > 0
    assert "event " in row.failures[0]


def test_no_cut_of_a_run_on_two_files_in_an_ext4_does_either(tmp_path: Path) -> None:
    row = sweep(record(tmp_path, rounds=0, is_directory=True), 40, seed=3)
    assert row.failures == []
    assert row.states == 40


def test_what_was_announced_after_a_kill_before_a_sync_is_there(tmp_path: Path) -> None:
    row = sweep(record_kills(tmp_path, [3]), 100, seed=4)
    assert row.failures == []
    assert row.is_good


def test_what_was_announced_after_a_failed_sync_is_there(tmp_path: Path) -> None:
    recording = record_failures(tmp_path, [1])
    assert sum(isinstance(event, Failed) for event in recording.events) >= 2
    row = sweep(recording, 100, seed=5)
    assert row.failures == []
    assert row.is_good


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_the_disk_notes_writes_flushes_and_marks_in_their_order(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path, bytes(1 << 20), flush_delay_ms=0) as disk:
        file = os.open(disk.device, os.O_RDWR)
        os.pwrite(file, b"x" * PAGE, PAGE)
        os.fdatasync(file)
        disk.mark("one")
        os.close(file)
        events = [event for event in disk.log() if not isinstance(event, Flush) or event.began]
    assert events == [Write(PAGE, b"x" * PAGE), Flush(disk.log().index(events[0]) + 1), Mark("one")]


def test_a_mark_during_a_flush_stands_before_it(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path, bytes(1 << 20), flush_delay_ms=1_000) as disk:
        file = os.open(disk.device, os.O_RDWR)
        os.pwrite(file, b"x" * PAGE, 0)
        syncing = threading.Thread(target=os.fdatasync, args=(file,))
        syncing.start()
        wait_until(lambda: any(isinstance(event, Write) for event in disk.log()), timeout_s=20, what="the write")
        disk.mark("too early")
        syncing.join()
        os.close(file)
        kinds = [type(event) for event in disk.log() if event != Flush(0)]
    assert kinds == [Write, Mark, Flush]


def test_a_failed_write_is_in_the_page_cache_and_not_on_the_disk(tmp_path: Path) -> None:
    with RecordedDisk(tmp_path, bytes(1 << 20), flush_delay_ms=0) as disk:
        file = os.open(disk.device, os.O_RDWR)
        disk.fail_writes(1)
        os.pwrite(file, b"x" * PAGE, 0)
        with pytest.raises(OSError, match="Input/output error"):
            os.fdatasync(file)
        os.fdatasync(file)  # the trap: the retry says all is well
        assert os.pread(file, 1, 0) == b"x"
        os.close(file)
        assert disk.failures == 1
        assert not any(isinstance(event, Write) for event in disk.log())
