"""Negative controls: the ledger with one rule left out. The harness of `make crash` finds each and says at which state.

Rules: the daemon's own code runs, with one function replaced; what is found is found again at the state that it names;
with nothing replaced nothing is found (`test_power_cut`, `test_damage`, `test_swaps`, and the first test here).

"Only one log synced" shows in a directory only: on a device one sync makes both logs durable.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from crash import damage, swaps
from crash.interrupted import record_failures
from crash.power_cut import sweep
from crash.recording import Recording, record
from smartserver_licensed.domain.errors import LedgerCorruptError
from smartserver_licensed.store import recovery
from smartserver_licensed.store.record import Record

pytestmark = [
    pytest.mark.needs(
        "mosquitto", "dbus-daemon", "losetup", "root", "/dev/fuse", "/dev/loop-control", "mkfs.ext4", "strace"
    ),
    pytest.mark.timeout(300),
]
SEED = 1
ONE_SYNC_REMOVED = """
def unsynced(ledger, *arguments):
    devices, ledger._devices = ledger._devices, ()
    append(ledger, *arguments)
    ledger._devices = devices
append, Ledger.append = Ledger.append, unsynced
"""
ONE_LOG_SYNCED = """
def half_synced(ledger, *arguments):
    devices, ledger._devices = ledger._devices, ledger._devices[:1]
    append(ledger, *arguments)
    ledger._devices = devices
append, Ledger.append = Ledger.append, half_synced
"""
TWIN_NOT_SYNCED = """
def unsynced(area, record, *, is_repair=False):
    area.write(0, record)
log._write_snapshot = unsynced
"""
CHANGED_BEFORE_THE_SYNC = """
async def at_once(writer, body, snapshot):
    state = snapshot()
    writer.later = asyncio.ensure_future(append(writer, body, lambda: state))
append, LedgerWriter.append = LedgerWriter.append, at_once
"""
PROOF_BEFORE_ITS_EVENT = """
from smartserver_licensed.controller import licensing
from smartserver_licensed.formats.ledger import decode_snapshot, encode_snapshot
async def signed_first(self, wanted):
    state = decode_snapshot(encode_snapshot(self._keeper.state))
    events = licensing.return_events(state, wanted, await self._facts(), nonce="5" * 32)
    state.apply(events[0])
    async def later():
        await asyncio.sleep(3)
        await self._controller.commit_license(lambda _: events)
    self.later = asyncio.ensure_future(later())
    return licensing.sealed(state, events[0])
licensing.Licensing.make_return = signed_first
"""
THROUGH_THE_PAGE_CACHE = """
FileArea._open_past_the_cache = lambda area: os.open(area._path, os.O_RDONLY)
"""


def with_one_rule_left_out(patch: str) -> Sequence[str]:
    """The daemon's program."""
    imports = """
import asyncio, os, sys
from smartserver_licensed.daemon import main
from smartserver_licensed.ledger_writer import LedgerWriter
from smartserver_licensed.store import log
from smartserver_licensed.store.area import FileArea
from smartserver_licensed.store.log import Ledger
"""
    return [sys.executable, "-c", f"{imports}{patch}\nsys.exit(main())"]


def assert_found(recording: Recording, states: int) -> None:
    row = sweep(recording, states, SEED)
    assert row.lost + row.doubled > 0
    assert "event " in row.failures[0]
    assert sweep(recording, states, SEED).failures == row.failures, "the state that is named is the same at every run"


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The same with nothing left out."""
    return record(tmp_path_factory.mktemp("right"), rounds=1)


@pytest.mark.parametrize(
    ("patch", "states"), [(ONE_SYNC_REMOVED, 60), (TWIN_NOT_SYNCED, 700), (CHANGED_BEFORE_THE_SYNC, 200)]
)
def test_a_sync_that_is_missing_or_not_waited_for_is_found(patch: str, states: int, tmp_path: Path) -> None:
    assert_found(record(tmp_path, rounds=1, program=with_one_rule_left_out(patch)), states)


def test_a_proof_that_leaves_before_its_return_is_durable_is_found(tmp_path: Path) -> None:
    recording = record(tmp_path, rounds=1, program=with_one_rule_left_out(PROOF_BEFORE_ITS_EVENT))
    assert_found(recording, 40)
    assert "return 2 left, but" in sweep(recording, 40, SEED).failures[0]


def test_a_commit_that_syncs_one_of_two_files_is_found(tmp_path: Path) -> None:
    program = with_one_rule_left_out(ONE_LOG_SYNCED)
    assert_found(record(tmp_path, rounds=1, is_directory=True, program=program), 300)


def test_a_recovery_through_the_page_cache_is_found(tmp_path: Path) -> None:
    assert_found(record_failures(tmp_path, [1, 2], program=with_one_rule_left_out(THROUGH_THE_PAGE_CACHE)), 400)


def followed(
    start: Record, logs: Sequence[recovery._Log], *, checks_the_end: bool
) -> tuple[tuple[bytes, ...], int, bytes]:
    """The rules of `recovery._follow` without `prev` and two histories, and without what lies behind the end."""
    known: dict[int, Record] = {}
    for each in (*logs[0].run, *logs[1].run, *logs[0].rest, *logs[1].rest):
        known.setdefault(each.seq, each)
    seq, head, events = start.seq, start.prev, []
    while (record := known.get(seq + 1)) is not None:
        events.append(record.body)
        seq, head = record.seq, record.head
    if checks_the_end and max(known, default=0) > seq:
        raise LedgerCorruptError("injected")
    return tuple(events), seq, head


def test_a_recovery_that_does_not_look_at_prev_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_follow", lambda start, logs: followed(start, logs, checks_the_end=True))
    row = swaps.swap(range(1, 4), tmp_path)
    assert row.doubled > 0
    assert "seed 1, a now, b diverged" in row.failures[0]


def test_damage_in_the_middle_taken_for_a_torn_tail_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_follow", lambda start, logs: followed(start, logs, checks_the_end=False))
    rows = damage.rot(SEED, 600)
    assert sum(row.silent + row.lost for row in rows) > 0
    assert all(row.failures for row in rows if not row.is_good)


def test_a_torn_tail_taken_for_damage_is_found(right: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweep(right, 150, SEED, processes=1).failures == []
    judge = recovery._judge

    def stern(log: recovery._Log, seq: int, head: bytes) -> tuple[bool, str]:
        is_damage, text = judge(log, seq, head)
        if text.endswith("is discarded"):
            raise LedgerCorruptError("injected")
        return is_damage, text

    monkeypatch.setattr(recovery, "_judge", stern)
    row = sweep(right, 150, SEED, processes=1)
    assert row.lost > 0
    assert "event " in row.failures[0]
