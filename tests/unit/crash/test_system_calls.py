"""F4 without a daemon: which faults are chosen, and that the judge finds each kind of wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crash.bed import IMAGE_BYTES, Announcement, Condition, unit_of
from crash.system_calls import Fault, _Run, choose
from crash.table import Scale
from smartserver_licensed.domain.ledger_state import GrantInstalled, LedgerState, Seat, SeatKind
from smartserver_licensed.domain.licenses import License, LicenseType
from smartserver_licensed.formats.ledger import encode_snapshot
from smartserver_licensed.store.log import create
from support.documents import INSTALL_CODE, NOW, grant_of, sealed

COUNTS = {"openat": 5, "close": 2, "pwrite64": 16}
FAULT = Fault("fdatasync", "EIO", 3, is_lasting=False)


def test_the_long_form_has_every_call_with_every_error_at_every_n_once_and_for_ever() -> None:
    faults = choose(COUNTS, Scale(is_short=False))
    assert len(faults) == len(set(faults)) == 2 * (4 * 5 + 1 * 2 + 5 * 16)
    assert {str(each) for each in faults} >= {"openat:error=EROFS:when=5+", "pwrite64:error=short:when=16"}


def test_the_short_form_has_a_tenth_of_every_kind_spread_over_errors_and_n() -> None:
    faults = choose(COUNTS, Scale(is_short=True))
    of_writes = [each for each in faults if each.call == "pwrite64"]
    assert {each.call for each in faults} == set(COUNTS)
    assert len(of_writes) == 16
    assert len({each.nth for each in of_writes}) > 5
    assert len({each.error for each in of_writes}) == 5


@dataclass
class SilentBed:
    """A bed on which nothing happens any more."""

    trace: Path
    left: bytes
    announced: list[Announcement] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)
    is_troubled: bool = False
    has_ended: bool = False

    @property
    def box(self) -> SilentBed:
        return self

    def image(self) -> bytes:
        return self.left

    def wait(self, condition: Callable[[], bool], limit_s: float) -> bool:
        return condition()


def image_with(tmp_path: Path, capacity: int, *handles: str) -> bytes:
    """The image of a ledger in which these devices have seats."""
    path = tmp_path / f"{capacity}{''.join(handles)}.img"
    path.write_bytes(bytes(IMAGE_BYTES))
    seats = {unit_of(each): Seat(SeatKind.RESERVED, has_run=False, number=n) for n, each in enumerate(handles)}
    grant = grant_of(License("cap-1", LicenseType.CAPACITY, capacity))
    installed = GrantInstalled(grant, sealed(grant), NOW)
    create(path, encode_snapshot(LedgerState(install_code=INSTALL_CODE, mark_s=NOW, seats=seats, installed=installed)))
    return path.read_bytes()


def judged(tmp_path: Path, image: bytes, *announced: tuple[str, bool]) -> list[tuple[str, str]]:
    bed = SilentBed(tmp_path / "trace", image, [Announcement(handle, said, 0.0, image) for handle, said in announced])
    run = _Run(bed, FAULT)  # type: ignore[arg-type]  # all that a run asks of it here
    run.judge()
    return run.outcome.problems


def test_what_is_as_it_should_be_is_no_problem(tmp_path: Path) -> None:
    image = image_with(tmp_path, 4, "running", "first")
    assert judged(tmp_path, image, ("running", True), ("first", True), ("second", False)) == []


def test_an_announcement_that_a_power_cut_would_undo_is_found(tmp_path: Path) -> None:
    image = image_with(tmp_path, 4, "running")
    assert ("lost", "when first heard true: first heard true and has no seat") in judged(
        tmp_path, image, ("first", True)
    )


def test_a_running_device_that_hears_false_is_found(tmp_path: Path) -> None:
    image = image_with(tmp_path, 4, "running")
    assert judged(tmp_path, image, ("running", False)) == [("lost", "the running device heard false")]


def test_a_ledger_that_is_lost_or_has_lost_its_license_is_found(tmp_path: Path) -> None:
    assert [kind for kind, _ in judged(tmp_path, bytes(IMAGE_BYTES))] == ["lost"]
    assert judged(tmp_path, image_with(tmp_path, 3, "running")) == [("lost", "after the kill: the capacity is 3")]


def test_more_seats_than_capacity_are_found(tmp_path: Path) -> None:
    image = image_with(tmp_path, 4, "running", "first", "second", "third")
    assert judged(tmp_path, image) == [("doubled", "after the kill: 4 seats of 4")]


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        ([], "the journal says nothing"),
        ([Condition("ok", 1.0, 1.0)], "the journal says nothing"),
        ([Condition("read-only", 1.0, None)], "the journal says read-only, D-Bus does not"),
    ],
)
def test_a_failed_call_that_is_not_reported_is_found(tmp_path: Path, conditions: list[Condition], problem: str) -> None:
    bed = SilentBed(tmp_path / "trace", b"", conditions=conditions)
    bed.trace.write_text("17 1795544859.615604 fdatasync(7)    = -1 EIO (Input/output error) (INJECTED)\n")
    run = _Run(bed, FAULT)  # type: ignore[arg-type]  # all that a run asks of it here
    run.expect_report()
    assert run.outcome.problems == [("silent", problem)]
    assert run.outcome.struck_at_s == 1795544859.615604


def test_when_it_was_reported_counts_from_the_failed_call(tmp_path: Path) -> None:
    bed = SilentBed(tmp_path / "trace", b"", conditions=[Condition("read-only", 100.5, 100.75)])
    bed.trace.write_text("17 100.250000 fdatasync(7)    = -1 EIO (Input/output error) (INJECTED)\n")
    run = _Run(bed, FAULT)  # type: ignore[arg-type]  # all that a run asks of it here
    run.expect_report()
    assert run.outcome.problems == []
    assert run.outcome.reported_s == 0.5
