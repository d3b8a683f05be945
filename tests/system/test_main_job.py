"""`make run` is the first thing a newcomer sees: it must hold, and its verdict must be able to fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs("mosquitto", "dbus-daemon"), pytest.mark.timeout(120)]
SCRIPT = Path(__file__).parent / "main_job.py"


def run(*, changed: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script in which something is changed."""
    source = SCRIPT.read_text()
    for was, now in changed.items():
        assert was in source
        source = source.replace(was, now)
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run(
        [sys.executable, "-c", source], check=False, capture_output=True, text=True, env=environment, timeout=100
    )


def test_the_main_job_ends_with_a_checked_verdict() -> None:
    done = run(changed={})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("OK: 4 of 6 devices licensed, 2 refused, the same after kill -9")


def test_the_verdict_fails_when_the_state_is_lost() -> None:
    forget = "box.kill()\n    import shutil; shutil.rmtree(box.state); box.state.mkdir()\n    box.start()"
    done = run(changed={"box.kill()\n    box.start()": forget})
    assert done.returncode == 1
    assert "FAILED: the count is the same after the kill" in done.stdout
