from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.vendor import Vendor


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Vendor]:
    """After each test nothing may have been sold twice."""
    directory = tmp_path / "vendor"
    directory.mkdir()
    vendor = Vendor(directory)
    yield vendor
    vendor.close()
