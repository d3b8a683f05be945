"""F4 on the real daemon: a handful of the faults of `make crash`, and what it must find when the daemon is broken."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from crash.bed import Bed
from crash.system_calls import Fault, try_fault

pytestmark = [
    pytest.mark.needs("mosquitto", "dbus-daemon", "busctl", "strace", "losetup", "root", "/dev/loop-control"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(tmp_path_factory.mktemp("calls"), "calls") as bed:
        yield bed


@pytest.mark.parametrize(
    "fault",
    [
        Fault("fdatasync", "EIO", 3, is_lasting=False),
        Fault("pwrite64", "ENOSPC", 6, is_lasting=True),
        Fault("openat", "EROFS", 2, is_lasting=True),
        Fault("pwrite64", "short", 3, is_lasting=True),
        Fault("fdatasync", "EINTR", 4, is_lasting=True),
    ],
    ids=str,
)
def test_whatever_fails_nothing_is_announced_that_is_not_durable_and_everybody_gets_what_is_due(
    bed: Bed, fault: Fault
) -> None:
    outcome = try_fault(bed, fault)
    assert outcome.struck_at_s is not None
    assert outcome.problems == []


def test_a_daemon_that_announces_what_it_has_not_synced_is_found(bed: Bed) -> None:
    outcome = try_fault(bed, Fault("fdatasync", "nosync", 1, is_lasting=True))
    assert ("lost", "when first heard true: first heard true and has no seat") in outcome.problems
