"""license-courier as a process, between the D-Bus service on a private bus and an HTTPS server that may misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smartserver_licensed.adapters.dbus import DbusService
from smartserver_licensed.domain.errors import StaleGrantError
from smartserver_licensed.formats.bus import Plain
from support.bus import LicenseAnswers, PrivateBus, on_bus

pytestmark = pytest.mark.needs("dbus-daemon")

TOKEN = "s3cr3t-t0ken"
GRANT = "application/vnd.smartserver.grant+json"
RETURN: dict[str, Plain] = {
    "number": 1,
    "license_id": "L-1",
    "devices": 5,
    "made_at": "2026-02-03T04:05:06Z",
    "acknowledged": False,
}


class Daemon(LicenseAnswers):
    """Answers as the daemon does: an answer acknowledges the returns, and is not installed twice."""

    async def install_document(self, data: bytes) -> dict[str, Plain]:
        if data in self.installed:
            raise StaleGrantError("cannot install: seq 7 is not higher than 7")
        summary = await super().install_document(data)
        self.returns = [{**each, "acknowledged": True} for each in self.returns]
        return summary


class Forgetful(Daemon):
    """It has installed the answer already when it is asked for the request again, as if its own state were older."""

    async def create_request(self, customer_id: str, licenses: object, *, is_new_key: bool, is_fresh: bool) -> bytes:
        return b'{"request": 1}'


class Handler(BaseHTTPRequestHandler):
    """One POST; what becomes of it is the server's `behavior`."""

    def do_POST(self) -> None:
        vendor: Vendor = self.server.vendor  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        vendor.seen.append((self.path, body, self.headers.get("Authorization", "")))
        with contextlib.suppress(OSError):  # the courier has gone
            vendor.behavior(self, vendor.answer_to(body))

    def say(self, status: int, body: bytes, kind: str = GRANT, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def answers(handler: Handler, answer: bytes) -> None:
    handler.say(200, answer)


def fails(handler: Handler, _: bytes) -> None:
    handler.say(500, b"<h1>Internal Server Error</h1>", "text/html")


def is_busy(handler: Handler, _: bytes) -> None:
    handler.say(
        503, b'{"code": "register-busy", "message": "cannot answer: busy"}', "application/json", Retry_After="5"
    )


def refuses(handler: Handler, _: bytes) -> None:
    said = b'{"code": "contact-forked", "message": "cannot accept contact 3: \\u001b[2Jit was said otherwise"}'
    handler.say(409, said, "application/json")


def is_a_portal(handler: Handler, _: bytes) -> None:
    handler.say(200, b"<html>Please sign in</html>", "text/html; charset=utf-8")


def is_huge(handler: Handler, _: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", GRANT)
    handler.end_headers()
    for _piece in range(1_000):
        handler.wfile.write(b"{" * 65_536)


def drips(handler: Handler, _: bytes) -> None:
    """A byte now and then: no single wait is long, the whole would never end."""
    handler.send_response(200)
    handler.send_header("Content-Type", GRANT)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _byte in range(1_000):
        handler.wfile.write(b"{")
        time.sleep(0.1)


def is_silent(handler: Handler, _: bytes) -> None:
    time.sleep(3)


def redirects(handler: Handler, _: bytes) -> None:
    handler.say(307, b"", Location="/elsewhere")


def redirects_permanently(handler: Handler, _: bytes) -> None:
    handler.say(301, b"", Location="http://192.0.2.1/v1/contacts")


def is_cut(handler: Handler, answer: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", GRANT)
    handler.send_header("Content-Length", str(len(answer)))
    handler.end_headers()
    handler.wfile.write(answer[:5])


def hangs_up(handler: Handler, _: bytes) -> None:
    """The contact has arrived and is answered in the books; the answer is lost."""


Behavior = Callable[[Handler, bytes], None]


@dataclass
class Vendor:
    """An authority over HTTPS: the same contact gets the same answer."""

    url: str
    ca_file: Path
    behavior: Behavior = answers
    seen: list[tuple[str, bytes, str]] = field(default_factory=list)

    def answer_to(self, contact: bytes) -> bytes:
        bodies = list(dict.fromkeys(body for _, body, _ in self.seen))
        return b'{"grant": %d}' % bodies.index(contact)

    @property
    def contacts(self) -> list[bytes]:
        return [body for _, body, _ in self.seen]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of a test")])
    now = dt.datetime.now(dt.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    pem = directory / "certificate.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file = directory / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem, key_file


@pytest.fixture
def vendor(certificate: tuple[Path, Path]) -> Iterator[Vendor]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a courier that does not trust us
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    vendor = Vendor(f"https://127.0.0.1:{server.server_port}", certificate[0])
    server.vendor = vendor  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield vendor
    server.shutdown()
    thread.join()
    server.socket.close()


@pytest.fixture
async def daemon(bus: PrivateBus) -> AsyncIterator[Daemon]:
    daemon = Daemon()
    service = DbusService(address=bus.address)
    await service.start(daemon)
    yield daemon
    await service.stop()


class Courier:
    """The program, with the token and the certificate that it needs."""

    def __init__(self, bus: PrivateBus, vendor: Vendor, directory: Path) -> None:
        self._environment = on_bus(bus.address)
        token = directory / "token"
        token.write_text(f"{TOKEN}\n")
        self.options: tuple[str, ...] = (
            "--url",
            vendor.url,
            "--ca-file",
            str(vendor.ca_file),
            "--token-file",
            str(token),
        )

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "smartserver_licensed.cli.courier",
            *(*self.options, *arguments),
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert TOKEN not in out.decode() + err.decode()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def courier(bus: PrivateBus, vendor: Vendor, tmp_path: Path) -> Courier:
    return Courier(bus, vendor, tmp_path)


async def test_a_request_is_carried_and_its_answer_installed(daemon: Daemon, vendor: Vendor, courier: Courier) -> None:
    assert await courier.run("--once") == (0, "the answer is installed: seq 7, capacity ?\n", "")
    assert vendor.seen == [("/v1/contacts", b'{"request": 1}', f"Bearer {TOKEN}")]
    assert daemon.installed == [b'{"grant": 0}']


async def test_the_request_asks_for_what_is_said(daemon: Daemon, courier: Courier) -> None:
    assert (await courier.run("--license", "L-1", "--license", "L-2=30"))[0] == 0
    assert (await courier.run("--customer-id", "C-1"))[0] == 0
    assert daemon.asked == [("", ("L-1", "L-2=30"), False, False), ("C-1", (), False, False)]


async def test_returns_that_are_not_acknowledged_are_carried_first_and_once(
    daemon: Daemon, vendor: Vendor, courier: Courier
) -> None:
    daemon.returns = [{**RETURN, "number": 2}, {**RETURN, "number": 1}, {**RETURN, "number": 3, "acknowledged": True}]
    code, out, _ = await courier.run()
    assert (code, out.splitlines()[:2]) == (0, ["return 1 of L-1 is delivered", "return 2 of L-1 is delivered"])
    assert vendor.contacts == [b'{"return": 1}', b'{"return": 2}', b'{"request": 1}']
    vendor.seen.clear()
    assert (await courier.run())[0] == 0
    assert vendor.contacts == [b'{"request": 2}']


async def test_an_answer_that_is_installed_already_is_success(
    bus: PrivateBus, vendor: Vendor, courier: Courier
) -> None:
    daemon, service = Forgetful(), DbusService(address=bus.address)
    await service.start(daemon)
    assert (await courier.run())[:2] == (0, "the answer is installed: seq 7, capacity ?\n")
    assert await courier.run() == (0, "the answer is installed already\n", "")
    await service.stop()
    assert daemon.installed == [b'{"grant": 0}']


@pytest.mark.parametrize(
    ("behavior", "exit_code", "code"),
    [
        (fails, 1, "courier-busy"),
        (is_busy, 1, "courier-busy"),
        (refuses, 4, "courier-refused"),
        (is_a_portal, 1, "courier-answer-invalid"),
        (is_huge, 1, "courier-answer-invalid"),
        (drips, 1, "courier-timeout"),
        (is_silent, 1, "courier-timeout"),
        (redirects, 1, "courier-redirected"),
        (redirects_permanently, 1, "courier-redirected"),
        (is_cut, 1, "courier-unreachable"),
        (hangs_up, 1, "courier-unreachable"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
async def test_after_a_vendor_that_misbehaved_the_same_request_gets_its_one_answer(
    daemon: Daemon, vendor: Vendor, courier: Courier, behavior: Behavior, exit_code: int, code: str
) -> None:
    vendor.behavior = behavior
    began = time.monotonic()
    done, out, err = await courier.run("--timeout", "1")
    assert (done, out, daemon.installed) == (exit_code, "", [])
    assert err.startswith("license-courier: cannot ")
    assert err.endswith(f" [{code}]\n")
    assert "\x1b" not in err
    assert time.monotonic() - began < 10
    vendor.behavior = answers
    assert (await courier.run())[0] == 0
    assert (set(vendor.contacts), daemon.installed) == ({b'{"request": 1}'}, [b'{"grant": 0}'])
    assert {path for path, _, _ in vendor.seen} == {"/v1/contacts"}


async def test_why_the_vendor_refuses_is_said_in_its_words(daemon: Daemon, vendor: Vendor, courier: Courier) -> None:
    vendor.behavior = refuses
    assert "it was said otherwise [contact-forked] [courier-refused]" in (await courier.run())[2]


@pytest.mark.parametrize("is_answered", [False, True])
async def test_a_courier_that_was_killed_gets_the_same_answer_the_next_time(
    daemon: Daemon, vendor: Vendor, courier: Courier, is_answered: bool
) -> None:
    daemon.returns = [dict(RETURN)]
    posted = threading.Event()

    def waits(handler: Handler, answer: bytes) -> None:
        if b"request" in vendor.contacts[-1]:
            posted.set()
            time.sleep(0.5)
        if is_answered or b"return" in vendor.contacts[-1]:
            handler.say(200, answer)

    vendor.behavior = waits
    process = await courier.start()
    assert await asyncio.to_thread(posted.wait, 20)
    process.kill()
    await process.communicate()
    assert daemon.installed == []
    vendor.behavior = answers
    assert (await courier.run())[0] == 0
    assert vendor.contacts == [b'{"return": 1}', b'{"request": 1}'] * 2
    assert daemon.installed == [b'{"grant": 1}']
    assert daemon.returns[0]["acknowledged"]


async def test_a_vendor_whose_certificate_is_not_known_is_told_nothing(
    daemon: Daemon, vendor: Vendor, courier: Courier
) -> None:
    courier.options = ("--url", vendor.url, *courier.options[4:])
    code, _, err = await courier.run()
    assert (code, vendor.seen) == (1, [])
    assert err.endswith("[courier-certificate-invalid]\n")
    port = vendor.url.rpartition(":")[2]
    courier.options = ("--url", f"https://localhost:{port}", "--ca-file", str(vendor.ca_file))
    code, _, err = await courier.run()
    assert (code, vendor.seen) == (1, [])
    assert "localhost" in err


async def test_a_vendor_that_is_not_there_is_to_be_tried_again(daemon: Daemon, courier: Courier) -> None:
    courier.options = ("--url", "https://127.0.0.1:9")
    code, _, err = await courier.run()
    assert (code, err) == (1, "license-courier: cannot deliver: Connection refused [courier-unreachable]\n")


async def test_without_the_daemon_nothing_is_sent(bus: PrivateBus, vendor: Vendor, courier: Courier) -> None:
    code, _, err = await courier.run()
    assert (code, vendor.seen) == (3, [])
    assert err.endswith("[daemon-unreachable]\n")


async def test_what_the_daemon_does_not_take_is_refused(daemon: Daemon, vendor: Vendor, courier: Courier) -> None:
    vendor.behavior = lambda handler, _: handler.say(200, b"[]")
    code, _, err = await courier.run()
    assert (code, daemon.installed) == (4, [])
    assert err.endswith("[envelope-malformed]\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--url", "http://192.0.2.1"),
        ("--token-file", "/nowhere"),
        ("--ca-file", "/nowhere"),
        ("--every", "0"),
        ("--every", "nan"),
        ("--timeout", "x"),
        ("--once", "--every", "1"),
        ("--license", "L-1", "--customer-id", "C-1"),
    ],
)
async def test_wrong_usage_ends_with_2_and_nothing_is_sent(
    daemon: Daemon, vendor: Vendor, courier: Courier, arguments: tuple[str, ...]
) -> None:
    code, out, err = await courier.run(*arguments)
    assert (code, out, vendor.seen) == (2, "", [])
    assert "courier-unusable" in err or "usage: license-courier" in err


async def test_every_so_often_it_goes_on_also_after_a_failure(daemon: Daemon, vendor: Vendor, courier: Courier) -> None:
    vendor.behavior = fails
    process = await courier.start("--every", "0.0001")
    for _ in range(200):
        await asyncio.sleep(0.05)
        if len(vendor.seen) >= 2:
            vendor.behavior = answers
        if len(daemon.installed) >= 2:
            break
    process.terminate()
    _, err = await process.communicate()
    assert len(daemon.installed) >= 2
    assert b"courier-busy" in err


async def test_plain_http_on_this_machine_is_not_sent_through_a_proxy(daemon: Daemon, courier: Courier) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Vendor(f"http://127.0.0.1:{server.server_port}", Path())
    server.vendor = here  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    courier._environment["http_proxy"] = "http://127.0.0.1:9"
    courier.options = ("--url", here.url)
    try:
        assert (await courier.run())[0] == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert daemon.installed == [b'{"grant": 0}']
