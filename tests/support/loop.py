"""Loop devices for tests: a block device of the kernel's over a file, given back whatever happens.

Rules: needs root and `losetup`; a device is detached at the end also when it is still open somewhere (the kernel does
it with the last close).

What this module does not do: it knows nothing of what is on the device.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def loop(image: Path) -> Iterator[Path]:
    """A block device over an image file."""
    made = subprocess.run(["losetup", "-f", "--show", str(image)], check=True, capture_output=True, text=True)
    device = made.stdout.strip()
    try:
        set_read_only(Path(device), is_read_only=False)  # the mark outlives whoever had the device before
        yield Path(device)
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def set_read_only(device: Path, *, is_read_only: bool) -> None:
    """Let the kernel refuse every write to a block device, or take that back."""
    subprocess.run(["blockdev", "--setro" if is_read_only else "--setrw", str(device)], check=True)
