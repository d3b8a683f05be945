"""A vendor with a real authority: keys with a password, thresholds of 2 of 3, a second root, `serve` over TLS.

Rules:
- what is attacked is a process: `serve`, or the command `license-authority`; what is only set up before an attack runs
  the same `main` in this process, which costs a tenth;
- the suite knows the vendor's keys: documents that are signed as they should be, and wrong all the same, are the ones
  that reach the later checks.

What this module does not do: it attacks nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import http.client
import io
import ipaddress
import json
import re
import sqlite3
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from license_authority.key_files import key_files, read_key
from license_authority.main import main
from smartserver_licensed.documents.keys import SigningKey
from support.box import BIN, CUSTOMER_ID

PASSWORD = b"a long password of the suite"
OTHER_CUSTOMER_ID = "22222222-3333-4444-8555-666666666666"
_URL = re.compile(r"serving https://127\.0\.0\.1:(\d+)")


class Vendor:
    """A context manager. `first_root` is what SmartServers are shipped with; the authority has signed a second one."""

    def __init__(self, directory: Path, *, program: Sequence[str] = ()) -> None:
        """`program`: in place of the installed command, where it runs as a process."""
        self._program = program or (str(BIN / "license-authority"),)
        self.directory = directory / "authority"
        self._password_file = directory / "password"
        self._password_file.write_bytes(PASSWORD)
        self.first_root = directory / "root-1.json"
        self.certificate, self.certificate_key = make_certificate(directory)
        self._log = directory / "serve.log"
        self._serve: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.token = ""

    def __enter__(self) -> Vendor:  # noqa: PYI034 - typing.Self is Python 3.11's
        thresholds = [f"--{role}-{what}={count}" for role in ("root", "grant") for what, count in _KEYS]
        self.command("init", str(self.directory), *thresholds, with_dir=False)
        self.command("trust", "-o", str(self.first_root), with_password=False)
        self.retired_keys = self.keys("grant")
        self.command("rotate", "--retire", "grant")
        retired = {each.public.key_id for each in self.retired_keys}
        self.grant_keys = [each for each in self.keys("grant") if each.public.key_id not in retired]
        self.root_keys = self.keys("root")
        for name, customer_id in (("ACME", CUSTOMER_ID), ("Rival", OTHER_CUSTOMER_ID)):
            self.command("customer", "add", name, "--id", customer_id, with_password=False)
        self.token = self.command("token", "add", "suite", with_password=False).strip()
        self._serve, self.port = self._serve_at("5000/minute")
        return self

    def __exit__(self, *_: object) -> None:
        if self._serve is not None:
            _end(self._serve)

    def keys(self, role: str) -> list[SigningKey]:
        """The private keys of a role, as the operator could read them."""
        return [read_key(path, PASSWORD) for path in key_files(self.directory / "keys", role)]

    # -- commands ----------------------------------------------------------------------------------------------------

    def _arguments(self, arguments: tuple[str, ...], *, with_dir: bool, with_password: bool) -> list[str]:
        directory = ["--dir", str(self.directory)] if with_dir else []
        return [*arguments, *directory, *(["--password-file", str(self._password_file)] if with_password else [])]

    def command(self, *arguments: str, with_dir: bool = True, with_password: bool = True) -> str:
        """Run a command that has to succeed, in this process; what it writes."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(self._arguments(arguments, with_dir=with_dir, with_password=with_password))
        assert code == 0, f"license-authority {arguments}: {err.getvalue()}"
        return out.getvalue()

    def process(self, *arguments: str, stdin: bytes = b"", with_password: bool = True) -> str:
        """Run a command as a process; the code with which it refuses, "" where it does not."""
        command = self._arguments(arguments, with_dir=True, with_password=with_password)
        done = subprocess.run([*self._program, *command], input=stdin, check=False, capture_output=True, timeout=60)
        said = re.search(r"\[([a-z-]+)\]\s*$", done.stderr.decode())
        assert (done.returncode == 0) == (said is None), done
        return said[1] if said else ""

    def order(self, devices: int, *more: str, kind: str = "capacity", customer_id: str = CUSTOMER_ID) -> str:
        """Sell a license; its id."""
        return self.command(
            "order", "--type", kind, "--devices", str(devices), "--customer-id", customer_id, *more, with_password=False
        ).strip()

    def document(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """The document that a command writes, run in this process."""
        file, out = self.directory / "in.json", self.directory / "out.json"
        file.write_bytes(stdin)
        self.command(*(str(file) if each == "-" else each for each in arguments), "-o", str(out))
        return out.read_bytes()

    def show(self, topic: str) -> Any:  # noqa: ANN401 - JSON
        """`license-authority show TOPIC --json`."""
        return json.loads(self.command("show", topic, "--json", with_password=False))

    def books(self) -> str:
        """A digest of all that the register remembers."""
        with contextlib.closing(sqlite3.connect(self.directory / "authority.db")) as database:
            return hashlib.sha256("\n".join(database.iterdump()).encode()).hexdigest()

    # -- serve ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def serving(self, rate: str) -> Iterator[int]:
        """One more `serve`, with this limit; its port."""
        process, port = self._serve_at(rate)
        try:
            yield port
        finally:
            _end(process)

    def _serve_at(self, rate: str) -> tuple[subprocess.Popen[bytes], int]:
        tls = ("--certfile", str(self.certificate), "--keyfile", str(self.certificate_key))
        command = self._arguments(("serve", "--port", "0", *tls, "--rate", rate), with_dir=True, with_password=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen([*self._program, *command], stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        served = _URL.search(line)
        assert served is not None, f"serve says {line!r}: {self._log.read_text()}"
        return process, int(served[1])

    @property
    def url(self) -> str:
        """Where couriers go."""
        return f"https://127.0.0.1:{self.port}"

    def post(self, document: bytes, *, token: str | None = None, port: int = 0) -> tuple[int, bytes, str]:
        """Bring a document over TLS: the status, the answer, and the code of a refusal ("" where it is none)."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", port or self.port, context=context, timeout=60)
        try:
            bearer = self.token if token is None else token
            headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
            connection.request("POST", "/v1/contacts", document, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        is_refused = answer.status != http.HTTPStatus.OK
        return answer.status, body, str(json.loads(body)["code"]) if is_refused else ""


_KEYS = (("keys", 3), ("threshold", 2))


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate(timeout=10)  # closes its pipe too


def make_certificate(directory: Path, name: str = "tls") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = directory / f"{name}.crt", directory / f"{name}.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
