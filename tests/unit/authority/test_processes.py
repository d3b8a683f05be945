"""Real processes on one register: at the same time, and killed."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from license_authority.authority import Authority
from license_authority.errors import LicenseExhaustedError, TrialUsedError
from license_authority.orders import Purchase
from license_authority.register import Register, register_url
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.domain.contacts import Wanted
from smartserver_licensed.domain.licenses import LicenseType
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE, NOW
from support.vendor import Vendor, make_keys

TESTS = Path(__file__).parents[2]


def open_authority(directory: Path) -> Authority:
    return Authority(Register.open(register_url(directory), wait_s=60), make_keys())


def take_what_there_is(directory: Path, code: str, license_id: str) -> None:
    """Seven devices again and again until there are no more; says how many it has."""
    authority, device, trust = open_authority(directory), Device(code, SigningKey.generate()), make_keys().trust
    with suppress(LicenseExhaustedError):
        while True:
            device.install(authority.activate(device.request(Wanted(license_id, 7)), now=NOW), trust)
    sys.stdout.write(f"{device.usable(license_id)}\n")


def answer_one(directory: Path, request: str) -> None:
    """Answer one request; says what the answer hashes to."""
    answer = open_authority(directory).activate(Path(request).read_bytes(), now=NOW)
    sys.stdout.write(f"{hashlib.sha256(answer).hexdigest()}\n")


def answer_until_killed(directory: Path, code: str, license_id: str) -> None:
    """Make a request, keep it, answer it, keep the answer: as a program that is killed at any moment does."""
    authority = open_authority(directory)
    for n in range(10_000):
        device = Device(f"{code}-{n}", SigningKey.generate())
        request, answer = directory / f"{device.install_code}.request", directory / f"{device.install_code}.answer"
        request.write_bytes(device.request(Wanted(license_id, 3)))
        answer.write_bytes(authority.activate(request.read_bytes(), now=NOW))
        sys.stdout.write(f"{n}\n")
        sys.stdout.flush()


def order_trials(directory: Path, code: str) -> None:
    """Try to buy a trial for one SmartServer; says how often it could."""
    authority, sold = open_authority(directory), 0
    for _ in range(5):
        with suppress(TrialUsedError):
            authority.order(Purchase(CUSTOMER_ID, LicenseType.TRIAL, 5, install_code=code), now=NOW)
            sold += 1
    sys.stdout.write(f"{sold}\n")


WORKS: dict[str, Callable[..., None]] = {
    work.__name__: work for work in (take_what_there_is, answer_one, answer_until_killed, order_trials)
}


def start(work: str, *arguments: str | Path) -> subprocess.Popen[str]:
    line = [sys.executable, __file__, work, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(TESTS)})


def outputs(processes: list[subprocess.Popen[str]]) -> list[str]:
    said = [each.communicate()[0].strip() for each in processes]
    assert [each.returncode for each in processes] == [0] * len(processes)
    return said


def test_processes_that_activate_at_the_same_time_never_get_more_than_was_sold(vendor: Vendor) -> None:
    license_id = vendor.sell(100)
    processes = [start("take_what_there_is", vendor.directory, f"17box{n}", license_id) for n in range(3)]
    got = [int(each) for each in outputs(processes)]
    assert sum(got) == 98
    assert vendor.at_authority(license_id) == 2


def test_processes_that_answer_the_same_request_at_the_same_time_give_the_same_answer(
    vendor: Vendor, tmp_path: Path
) -> None:
    license_id = vendor.sell(100)
    request = tmp_path / "request"
    request.write_bytes(Device().request(Wanted(license_id, 30)))
    processes = [start("answer_one", vendor.directory, request) for _ in range(4)]
    answer = vendor.authority.activate(request.read_bytes(), now=NOW)
    assert set(outputs(processes)) == {hashlib.sha256(answer).hexdigest()}
    assert vendor.at_authority(license_id) == 70


def test_processes_that_order_at_the_same_time_sell_one_trial(vendor: Vendor) -> None:
    sold = outputs([start("order_trials", vendor.directory, INSTALL_CODE) for _ in range(3)])
    assert sorted(sold) == ["0", "0", "1"]
    assert len(vendor.authority.licenses()) == 1


@pytest.mark.parametrize("delay_ms", [0, 5, 12, 30])
def test_a_kill_while_it_answers_gives_nothing_twice(vendor: Vendor, delay_ms: int) -> None:
    license_id = vendor.sell(10_000)
    process = start("answer_until_killed", vendor.directory, "17box", license_id)
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline()
    time.sleep(delay_ms / 1_000)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    authority = open_authority(vendor.directory)
    requests = sorted(vendor.directory.glob("*.request"))
    assert len(requests) >= 3
    for request in (each for each in requests if each.stat().st_size):
        answer = authority.activate(request.read_bytes(), now=NOW + 60)
        kept = request.with_suffix(".answer")
        assert not kept.exists() or kept.read_bytes() in {answer, b""}
    assert vendor.at_authority(license_id) == 10_000 - 3 * len([each for each in requests if each.stat().st_size])
    assert {each.seq for each in authority.smartservers()} == {1}


if __name__ == "__main__":
    WORKS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
