"""When a running daemon looks at its device again, and that F6 finds a condition which is not reached or not left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crash.bed import Bed
from crash.conditions import Site
from crash.table import Row

pytestmark = [
    pytest.mark.needs(
        "mosquitto", "dbus-daemon", "busctl", "unshare", "losetup", "root", "/dev/loop-control", "/dev/fuse"
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(tmp_path_factory.mktemp("conditions"), "conditions") as bed:
        yield bed


def test_a_running_daemon_holds_its_device_and_looks_again_only_when_a_write_fails(bed: Bed, tmp_path: Path) -> None:
    row = Row("F6", "a link that leads nowhere")
    with Site(bed, tmp_path / "site", row) as site:
        site.lead_to(None)
        time.sleep(1.5)
        site.expect_admitted(site.ask())
        site.expect_no_change()
        with site.failing():
            site.expect("missing", "read-only")
    assert row.failures == []


def test_a_condition_that_is_not_reached_or_not_left_is_found(bed: Bed, tmp_path: Path) -> None:
    row = Row("F6", "nothing happens")
    with Site(bed, tmp_path / "site", row, patience_s=2.0) as site:
        site.expect("corrupt", "ok")
        for _ in range(3):
            asked = site.ask()
        site.expect_admitted(asked)
        site.expect_refused("new1")
    assert row.failures == [
        "silent: not within 2 s: corrupt in the journal",
        "lost: new3 never got its seat",
        "doubled: new1 heard True without a ledger",
    ]
