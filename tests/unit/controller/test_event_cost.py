"""Nothing about documents is done per device event: its calls are counted in the daemon's core, on a real ledger."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import FrameType

import pytest
from benchmarks.documents import Smartserver, new_ledger

import smartserver_licensed
from smartserver_licensed.ledger_writer import LedgerWriter
from support.documents import INSTALL_CODE
from support.ports import SetClocks

SOURCES = Path(smartserver_licensed.__file__).parent
ABOUT_DOCUMENTS = {
    *(str(path) for path in (SOURCES / "documents").glob("*.py") if path.name != "strict_json.py"),  # reads MQTT too
    *(str(SOURCES / "domain" / name) for name in ("entitlement.py", "licenses.py", "notices.py", "updates.py")),
}
DEVICES = [f"d{number}" for number in range(10)]


@contextlib.contextmanager
def counted() -> Iterator[Counter[str]]:
    """The calls of functions that are about documents."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, what: str, _: object) -> None:
        if what == "call" and frame.f_code.co_filename in ABOUT_DOCUMENTS:
            calls[frame.f_code.co_name] += 1

    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def said(state: str, devices: Sequence[str] = DEVICES) -> list[tuple[str, bytes]]:
    return [(f"glp/0/{INSTALL_CODE}/fb/dev/modbus/{each}/sts", b'{"state":"%b"}' % state.encode()) for each in devices]


@pytest.fixture
def clocks() -> SetClocks:
    return SetClocks()


@pytest.fixture
async def smartserver(tmp_path: Path, clocks: SetClocks) -> AsyncIterator[Smartserver]:
    """With ten devices that run, and nothing left to say."""
    async with Smartserver(LedgerWriter(new_ledger(tmp_path / "ledger")), clocks) as smartserver:
        for key in ("request", ""):
            await smartserver.work(key)()
        for state in ("unlicensed", "unprovisioned", "provisioned"):
            await smartserver.hear(said(state))
        clocks.now_s += 2
        await smartserver.hear(said("provisioned"))
        assert smartserver.provisioned == len(DEVICES)
        yield smartserver


async def test_ten_thousand_device_events_call_nothing_that_is_about_documents(smartserver: Smartserver) -> None:
    with counted() as calls:
        for _ in range(500):
            await smartserver.hear(said("unprovisioned") + said("provisioned"))
    assert calls == {}


async def test_devices_that_come_and_go_have_it_looked_at_once_a_second_however_many_they_are(
    smartserver: Smartserver, clocks: SetClocks
) -> None:
    seconds = 10
    with counted() as calls:
        for second in range(seconds):
            clocks.now_s += 1
            for number in range(10):
                for state in ("unlicensed", "provisioned", "deleted"):
                    await smartserver.hear(said(state, [f"new{second}-{number}"]))
    assert calls["look"] == seconds


async def test_what_is_about_documents_is_counted_where_one_is_installed(smartserver: Smartserver) -> None:
    with counted() as calls:
        for key in ("request", ""):
            await smartserver.work(key)()
    assert calls["accept_grant"] == calls["parse_grant"] == 1
    assert calls["verify"] >= 1
