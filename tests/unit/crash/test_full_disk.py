"""F5 without a daemon: a place that can be written is found."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from crash.full_disk import _check_cannot_write, _why_not_written


def test_a_place_that_can_be_written_is_told_from_a_full_one(tmp_path: Path) -> None:
    assert _why_not_written(tmp_path / "probe") == 0
    assert _why_not_written(Path("/dev/full")) == errno.ENOSPC


def test_the_machines_own_root_is_not_taken_for_a_full_one() -> None:
    with pytest.raises(AssertionError, match="own root"):
        _check_cannot_write(os.getpid(), errno.ENOSPC)
