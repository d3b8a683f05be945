from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import json
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from license_authority.authority import Authority
from license_authority.errors import PasswordNeededError, PasswordWrongError
from license_authority.keyring import LiveKeyring, load_keyring, make_authority
from license_authority.main import main
from license_authority.orders import Purchase
from license_authority.refusals import answer_errors
from license_authority.register import LOCK_WAIT_S, Register, register_url
from license_authority.rotating import rotate
from license_authority.serve import HEALTH_WAIT_S, make_app
from license_authority.tokens import add_token, find_token, list_tokens, revoke_token
from smartserver_licensed.documents.armor import wrap
from smartserver_licensed.documents.payloads import CONTACT_TYPES, GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE, load_trust
from smartserver_licensed.domain.errors import ArgumentError, LicensedError
from smartserver_licensed.domain.licenses import LicenseType
from support.devices import Device
from support.documents import CUSTOMER_ID, INSTALL_CODE

OTHER_CUSTOMER = "11111111-51a9-4ac9-9c36-6d1c3a2c6a11"
PASSWORD = b"correct horse battery staple"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes
    headers: Message

    @property
    def code(self) -> str:
        value = json.loads(self.body)
        assert set(value) == {"code", "message"}
        return str(value["code"])


@dataclass
class Served:
    """A real authority with one customer and 1,000 devices reserved for one SmartServer, served over TLS."""

    directory: Path
    rate: str = "1000/minute"
    more: tuple[str, ...] = ()
    url: str = ""
    register: Register = field(init=False)
    tls: ssl.SSLContext = field(init=False)
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        authority = self.directory / "authority"
        make_authority(
            authority,
            now=int(time.time()),
            password=PASSWORD,
            make_register=lambda: Register.create(register_url(authority)).close(),
        )
        self.register = Register.open(register_url(authority))
        self.authority = Authority(self.register, load_keyring(authority, PASSWORD))
        for customer, name in ((CUSTOMER_ID, "ACME"), (OTHER_CUSTOMER, "Others")):
            self.authority.add_customer(name, now=int(time.time()), customer_id=customer)
        self.trust = load_keyring(authority, PASSWORD).trust
        self.begin(INSTALL_CODE)

    def begin(self, install_code: str) -> None:
        """Another SmartServer, for which 1,000 devices are reserved, and a token of its own."""
        self.device = Device(install_code=install_code, trust=self.trust)
        self.device.renew_key()
        self.license_id = self.sell(1_000, install_code=install_code)
        self.token = add_token(self.register, f"token of {install_code}", now=int(time.time()))

    def sell(self, devices: int, *, customer_id: str = CUSTOMER_ID, install_code: str = "") -> str:
        purchase = Purchase(customer_id, LicenseType.CAPACITY, devices, install_code=install_code)
        return self.authority.order(purchase, now=int(time.time()))

    def start(self) -> None:
        (self.directory / "password").write_bytes(PASSWORD)
        certificate, key = make_certificate(self.directory)
        self.tls = ssl.create_default_context(cafile=str(certificate))
        self.process = run_serve(
            "--dir", str(self.directory / "authority"), "--password-file", str(self.directory / "password"),
            "--certfile", str(certificate), "--keyfile", str(key), "--rate", self.rate, "--port", "0", *self.more,
            log=self.directory / "log",
        )  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said.startswith("serving https://127.0.0.1:"), (self.directory / "log").read_text()
        self.url = said.split()[1]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        with self.process:
            return self.process.wait(20)

    def call(
        self, path: str, body: bytes | None = None, *, token: str | None = None, forwarded_for: str = ""
    ) -> Answer:
        """Without a token of its own it is the good one; "" sends none."""
        token = self.token if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if forwarded_for:
            headers["X-Forwarded-For"] = forwarded_for
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30, context=self.tls) as response:
                return Answer(response.status, response.read(), response.headers)
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), error.headers)

    def contact(self, document: bytes, *, token: str | None = None) -> Answer:
        return self.call("/v1/contacts", document, token=token)

    def log(self) -> str:
        return (self.directory / "log").read_text()


def run_serve(*more: str, log: Path) -> subprocess.Popen[str]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "license_authority.main", "serve", *more],
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        )


def make_certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority.test")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "certificate.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@contextlib.contextmanager
def serving(directory: Path, rate: str = "1000/minute", *more: str) -> Iterator[Served]:
    served = Served(directory, rate, more)
    served.start()
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.stop()
        served.register.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def served(shared: Served) -> Served:
    """One process for all, a SmartServer for each test."""
    shared.begin(f"17q{secrets.token_hex(3)}")
    return shared


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Served]:
    """A process for this test: it is stopped, or what it works with is changed."""
    with serving(tmp_path) as served:
        yield served


def test_a_request_is_answered_with_the_grant_and_again_with_the_same_bytes(served: Served) -> None:
    request = served.device.request()
    first, second = served.contact(request), served.contact(request)
    assert (first.status, first.headers["Content-Type"]) == (200, GRANT_TYPE)
    assert second.body == first.body
    served.device.install(first.body)
    assert served.device.usable(served.license_id) == 1_000


def test_an_armored_request_is_the_same_request(served: Served) -> None:
    request = served.device.request()
    assert served.contact(wrap(request).encode()).body == served.contact(request).body


def test_a_return_is_credited_once_and_answered_with_the_next_grant(served: Served) -> None:
    served.device.install(served.contact(served.device.request()).body)
    proof = served.device.give_back(served.license_id, 300)
    first, second = served.contact(proof), served.contact(proof)
    assert second.body == first.body
    grant = served.device.install(first.body)
    assert [(each.granted_total, each.returned_total) for each in grant.licenses] == [(1_000, 300)]
    (balance,) = [each for each in served.authority.balance() if each.license_id == served.license_id]
    assert (balance.at_authority, balance.in_field) == (300, 700)


def test_a_fork_is_a_conflict_and_says_so(served: Served) -> None:
    served.device.install(served.contact(served.device.request()).body)
    clone = served.device.copy()
    served.device.install(served.contact(served.device.request()).body)
    answer = served.contact(clone.request())
    assert (answer.status, answer.code) == (409, "contact-forked")


def test_what_needs_the_operator_does_not_work_here(served: Served) -> None:
    served.device.install(served.contact(served.device.request()).body)
    served.device.renew_key()
    answer = served.contact(served.device.request())
    assert (answer.status, answer.code) == (409, "confirmation-needed")


@pytest.mark.parametrize("token", ["", "lat_wrong", "lät", "Bearer x"])
def test_without_a_good_token_nothing_is_read(served: Served, token: str) -> None:
    answer = served.contact(served.device.request(), token=token)
    assert (answer.status, answer.code) == (401, "token-invalid")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert served.authority.smartservers(served.device.install_code)[0].last_contact == 0


def test_a_revoked_token_is_refused_from_then_on(served: Served) -> None:
    assert served.contact(served.device.request()).status == 200
    revoke_token(served.register, f"token of {served.device.install_code}", now=int(time.time()))
    assert served.contact(served.device.request()).code == "token-invalid"


def test_a_token_of_a_customer_carries_what_is_his_and_what_is_nobodys(served: Served) -> None:
    mine = add_token(served.register, "acme", customer_id=CUSTOMER_ID, now=1)
    theirs = add_token(served.register, "others", customer_id=OTHER_CUSTOMER, now=1)
    assert served.contact(served.device.request(), token=theirs).code == "customer-mismatch"
    assert served.contact(served.device.request(), token=mine).status == 200
    unknown = Device(install_code="17unknown", trust=served.device.trust)
    unknown.renew_key()
    free = served.sell(10)
    for request in (unknown.request(customer_id=CUSTOMER_ID), unknown.request(free)):
        refused = served.contact(request, token=theirs)
        assert (refused.status, refused.code) == (403, "customer-mismatch")
    unknown = Device(install_code="17unknown", trust=served.device.trust)
    unknown.renew_key()
    unknown.install(served.contact(unknown.request(free, customer_id=CUSTOMER_ID), token=mine).body)
    assert unknown.usable(free) == 10


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "armor-malformed"),
        (b"{}", 400, "envelope-malformed"),
        (b"{" + b" " * 70_000, 413, "document-too-large"),
        (b"{" + b" " * 300_000, 413, "document-too-large"),
        (b"-----BEGIN SMARTSERVER LICENSE DOCUMENT-----\n", 400, "armor-malformed"),
    ],
)
def test_what_is_no_document_is_refused(served: Served, body: bytes, status: int, code: str) -> None:
    answer = served.contact(body)
    assert (answer.status, answer.code) == (status, code)


def test_an_edited_request_is_refused_and_not_remembered(served: Served) -> None:
    request = json.loads(served.device.request())
    request["signatures"][0]["sig"] = request["signatures"][0]["sig"][::-1]
    assert served.contact(json.dumps(request).encode()).status == 400
    assert served.authority.smartservers(served.device.install_code)[0].last_contact == 0


def test_a_body_without_end_is_cut_off_where_it_gets_too_large(served: Served) -> None:
    host, port = served.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        served.tls.wrap_socket(plain, server_hostname=host) as stream,
    ):
        stream.sendall(
            b"POST /v1/contacts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            b"Authorization: Bearer " + served.token.encode() + b"\r\n\r\n"
        )
        for _ in range(5):
            stream.sendall(b"10000\r\n" + b"{" * 0x10000 + b"\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 413 ")


def test_too_many_calls_by_one_token_are_told_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path, rate="3/minute") as served:
        request = served.device.request()
        assert [served.contact(b"x", token="lat_guessed").status for _ in range(2)] == [401, 401]
        assert [served.contact(b"x", token="").status for _ in range(3)] == [401, 429, 429]
        assert [served.contact(request).status for _ in range(4)] == [200, 200, 200, 429]
        answer = served.contact(request)
        assert answer.code == "rate-exceeded"
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        other = add_token(served.register, "another", now=1)
        assert served.contact(request, token=other).status == 200  # from the same address
        assert served.call("/healthz").status == 200


@pytest.mark.parametrize(
    ("more", "statuses"),
    [((), [401, 401, 429]), (("--proxy", "127.0.0.1"), [401] * 3), (("--proxy", "192.0.2.1"), [401, 401, 429])],
)
def test_a_caller_is_whom_a_proxy_says_only_where_that_proxy_is_known(
    tmp_path: Path, more: tuple[str, ...], statuses: list[int]
) -> None:
    with serving(tmp_path, "2/minute", *more) as served:
        told = [served.call("/v1/contacts", b"x", token="", forwarded_for=f"192.0.2.{each}") for each in (7, 8, 9)]
        assert [each.status for each in told] == statuses


def test_roots_need_no_token(served: Served) -> None:
    answer = served.call("/v1/roots", token="")
    assert (answer.status, answer.headers["Content-Type"]) == (200, ROOT_TYPE)
    assert load_trust(answer.body) == served.trust


def test_a_rotation_is_followed_without_a_restart(alone: Served) -> None:
    alone.device.install(alone.contact(alone.device.request()).body)
    keyring = rotate(alone.directory / "authority", now=int(time.time()), retire=["grant"], password=PASSWORD)
    alone.device.install(alone.contact(alone.device.request()).body)
    assert alone.device.trust == keyring.trust
    assert load_trust(alone.call("/v1/roots").body).current.version == 2


def test_openapi_lists_every_path_with_its_bodies_and_refusals(served: Served) -> None:
    described = json.loads(served.call("/openapi.json", token="").body)
    assert set(described["paths"]) == {"/v1/contacts", "/v1/roots", "/healthz"}
    contacts = described["paths"]["/v1/contacts"]["post"]
    assert set(contacts["requestBody"]["content"]) == {*CONTACT_TYPES.values(), "text/plain"}
    assert set(contacts["responses"]["200"]["content"]) == {GRANT_TYPE}
    assert {"400", "401", "403", "409", "413", "429", "503"} <= set(contacts["responses"])
    assert contacts["security"]
    assert described["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_unknown_paths_and_methods_are_refused_in_the_same_form(served: Served) -> None:
    assert (served.call("/v2").status, served.call("/v2").code) == (404, "not-found")
    answer = served.call("/v1/contacts")
    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"
    assert served.call("/docs").status == 404


def test_health_says_that_the_register_is_gone(alone: Served) -> None:
    assert json.loads(alone.call("/healthz", token="").body) == {"status": "ok"}
    (alone.directory / "authority" / "authority.db").write_bytes(bytes(8_192))
    time.sleep(HEALTH_WAIT_S)
    answer = alone.call("/healthz", token="")
    assert answer.status == 500
    assert answer.code in {"register-corrupt", "file-unusable"}
    for told in (answer, alone.contact(alone.device.request())):
        assert told.status == 500
        assert json.loads(told.body)["message"].endswith("the vendor's side has a fault, its log says which")
    assert "500 register-corrupt: cannot use the register /" in alone.log()


def test_health_of_a_register_that_is_held_is_told_after_a_second_and_stops_nobody_else(alone: Served) -> None:
    with alone.register.transaction(), ThreadPoolExecutor(50) as callers:
        asked = [callers.submit(alone.call, "/healthz", token="") for _ in range(50)]
        began = time.monotonic()
        assert alone.call("/v1/roots", token="").status == 200
        answers = [each.result() for each in asked]
        assert time.monotonic() - began < LOCK_WAIT_S / 2
    assert {(each.status, each.code) for each in answers} == {(503, "register-busy")}
    assert int(answers[0].headers["Retry-After"]) > 0


def test_a_keyring_that_cannot_be_opened_any_more_is_the_vendors_fault(alone: Served) -> None:
    alone.device.install(alone.contact(alone.device.request()).body)
    (alone.directory / "authority" / "roots" / "2.json").write_bytes(b"{}")
    answer = alone.contact(alone.device.request())
    assert (answer.status, answer.code) == (500, "authority-missing")
    assert str(alone.directory).encode() not in answer.body


@pytest.mark.parametrize("error", [PasswordNeededError("cannot open /x"), PasswordWrongError("cannot open /x")])
def test_a_password_is_the_vendors_fault(error: LicensedError) -> None:
    app = FastAPI()
    answer_errors(app)
    handle = app.exception_handlers[LicensedError]
    answer = handle(Request({"type": "http", "method": "GET", "path": "/", "headers": []}), error)
    assert isinstance(answer, JSONResponse)
    assert (answer.status_code, json.loads(bytes(answer.body))["code"]) == (500, error.code)
    assert b"/x" not in bytes(answer.body)


def test_the_log_names_who_and_what_but_holds_no_secret(alone: Served) -> None:
    request = alone.device.request()
    answer = alone.contact(request)
    alone.contact(request, token="lat_guessed")
    assert alone.stop() == 0
    log = alone.log()
    assert f"contact answered: request of install code {INSTALL_CODE}, token token of {INSTALL_CODE}" in log
    assert "call refused: POST /v1/contacts, 401 token-invalid" in log
    payloads = [json.loads(each)["payload"] for each in (request, answer.body)]
    for secret in (alone.token, "lat_guessed", PASSWORD.decode(), *payloads):
        assert secret not in log


def test_it_stops_when_it_is_told_to_and_goes_on_where_it_was(alone: Served) -> None:
    request = alone.device.request()
    first = alone.contact(request)
    assert alone.stop() == 0
    alone.start()
    assert alone.contact(request).body == first.body


def test_calls_at_the_same_time_all_get_the_one_answer(served: Served) -> None:
    request = served.device.request()
    (served.directory / "request").write_bytes(request)
    code = (
        "import ssl, sys, urllib.request as u\n"
        f"r = u.Request({served.url + '/v1/contacts'!r}, data=open({str(served.directory / 'request')!r}, 'rb').read(),"
        f" headers={{'Authorization': 'Bearer ' + {served.token!r}}})\n"
        f"t = ssl.create_default_context(cafile={str(served.directory / 'certificate.pem')!r})\n"
        "sys.stdout.buffer.write(u.urlopen(r, timeout=60, context=t).read())"
    )
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(6)]
    answers = {each.communicate()[0] for each in running}
    assert len(answers) == 1
    assert served.device.install(answers.pop()).seq == 1


# -- starting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--host", "0.0.0.0"], "without TLS only on this machine"),
        (["--certfile", "/nowhere.pem", "--keyfile", "/nowhere.key"], "cannot serve with the certificate"),
        (["--host", "192.0.2.1", "--insecure"], "cannot serve on 192.0.2.1"),
        (["--rate", "many"], "not as in '60/minute'"),
        (["--rate", "0/minute"], "nobody could call"),
    ],
)
def test_it_does_not_start_where_it_should_not(
    tmp_path: Path, more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(tmp_path)
    served.register.close()
    (tmp_path / "password").write_bytes(PASSWORD)
    place = ["--dir", str(tmp_path / "authority"), "--password-file", str(tmp_path / "password")]
    assert main(["serve", *place, "--port", "0", *more]) == 1
    printed = capsys.readouterr()
    assert (printed.out, why in printed.err) == ("", True)


def test_it_serves_in_plain_on_loopback(tmp_path: Path) -> None:
    served = Served(tmp_path)
    served.register.close()
    (tmp_path / "password").write_bytes(PASSWORD)
    served.process = run_serve(
        "--dir", str(tmp_path / "authority"), "--password-file", str(tmp_path / "password"), "--port", "0",
        log=tmp_path / "log",
    )  # fmt: skip
    assert served.process.stdout is not None
    url = served.process.stdout.readline().split()[1]
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(f"{url}/healthz", timeout=30) as response:
        assert response.status == 200
    assert served.stop() == 0


def test_a_rate_that_is_none_makes_no_application(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with pytest.raises(ArgumentError):
        make_app(served.register, LiveKeyring(tmp_path / "authority", PASSWORD), rate="")
    served.register.close()


# -- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_is_shown_once_and_never_again(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert find_token(served.register, served.token).name == "token of 17qei61"
    assert served.token.encode() not in (tmp_path / "authority" / "authority.db").read_bytes()
    assert [each.name for each in list_tokens(served.register)] == ["token of 17qei61"]
    served.register.close()


def test_a_signal_that_comes_before_it_listens_stops_it_all_the_same(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "authority")]) == 0
    process = run_serve("--dir", str(tmp_path / "authority"), "--port", "0", log=tmp_path / "log")
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()  # said before uvicorn takes over the signals
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
