"""Shared by all tests: the `needs` marker. A missing tool skips loudly on a laptop and fails when CI is set."""

from __future__ import annotations

import os
import shutil

import pytest

_SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"


def missing(tool: str) -> str | None:
    """Why `tool` cannot be used here, or None. A path names a device; everything else is a program."""
    if tool == "root":
        return None if os.geteuid() == 0 else "root is needed"
    if tool.startswith("/"):
        return None if os.path.exists(tool) else f"{tool} does not exist"
    return None if shutil.which(tool, path=_SEARCH) else f"{tool} is not installed (make setup)"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for tool in mark.args:
            why = missing(tool)
            if why and os.environ.get("CI"):
                pytest.fail(why, pytrace=False)
            if why:
                pytest.skip(why)
