"""Between SmartServer and authority: tokens, certificates, redirects, somebody in the middle who answers himself.

What this module does not do: slow and broken connections; those are in `tests/adapters/test_courier.py`.
"""

from __future__ import annotations

import contextlib
import http
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from attacks.attack import GotThroughError, attack
from attacks.puppet import Puppet
from attacks.scene import Scene
from attacks.vendor import OTHER_CUSTOMER_ID, make_certificate
from smartserver_licensed.documents.envelope import seal
from smartserver_licensed.documents.keys import SigningKey
from smartserver_licensed.documents.payloads import GRANT_TYPE

_REFUSED, _TRY_LATER, _USAGE = 4, 1, 2


class _Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A courier that hangs up is what is wanted."""


@contextlib.contextmanager
def _in_the_middle(
    scene: Scene, answer: bytes, *, status: int = 200, certificate: str = ""
) -> Iterator[tuple[str, list[bytes]]]:
    """Somebody who answers himself; with the vendor's certificate, or one of his own. Its URL, and what it heard."""
    heard: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Type", GRANT_TYPE)
            self.send_header("Content-Length", str(len(answer)))
            self.send_header("Location", "https://127.0.0.1:1/v1/contacts")
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    paths = make_certificate(scene.directory, certificate) if certificate else None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*(paths or (scene.vendor.certificate, scene.vendor.certificate_key)))
    with _Quiet(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}", heard
        finally:
            server.shutdown()


def _carried(scene: Scene, answer: bytes, status: int, code: str) -> str:
    """What the courier brings back from somebody in the middle changes no license."""
    scene.server.request(is_fresh=False)  # so that the courier's is made already
    before = scene.server.kept(), scene.server.shown().licenses
    with _in_the_middle(scene, answer) as (url, heard):
        found = scene.courier(scene.server, url=url)
    if not heard or found != (status, code):
        raise GotThroughError(f"exit code {found[0]}, {found[1] or 'accepted'}, {len(heard)} documents heard")
    if (scene.server.kept(), scene.server.shown().licenses) != before:
        raise GotThroughError("something has changed")
    return code or "nothing has changed"


@attack("one exchange with the authority", is_control=True)
def a_courier_brings_a_grant(scene: Scene) -> str:
    before = scene.server.shown().ledger
    if scene.courier(scene.server) != (0, "") or scene.server.shown().ledger == before:
        raise GotThroughError("the courier has brought nothing")
    return "accepted"


@attack("somebody in the middle, with the vendor's certificate, answers with a grant of his own")
def a_forged_answer_is_refused_by_the_daemon(scene: Scene) -> str:
    forged = seal(GRANT_TYPE, scene.payload(), [SigningKey.generate(), SigningKey.generate()])
    return _carried(scene, forged, _REFUSED, "signature-invalid")


@attack("he answers with an older genuine grant")
def a_replayed_answer_changes_nothing(scene: Scene) -> str:
    return _carried(scene, scene.older, 0, "")


@attack("he answers with the genuine grant of another SmartServer")
def an_answer_for_another_smartserver_is_refused(scene: Scene) -> str:
    puppet = Puppet(scene, "17neighbor")
    return _carried(scene, scene.vendor.post(puppet.last_sent)[1], _REFUSED, "wrong-smartserver")


@attack("he has a certificate that nobody trusts")
def an_unknown_certificate_is_told_nothing(scene: Scene) -> str:
    with _in_the_middle(scene, b"{}", certificate="other") as (url, heard):
        found = scene.courier(scene.server, url=url)
    if heard or found[0] != _TRY_LATER:
        raise GotThroughError(f"exit code {found[0]}, he heard {len(heard)} documents")
    return scene.same(found[1], "courier-certificate-invalid")


@attack("he redirects elsewhere")
def a_redirect_is_not_followed(scene: Scene) -> str:
    with _in_the_middle(scene, b"", status=307) as (url, _):
        found = scene.courier(scene.server, url=url)
    return scene.same(found[1], "courier-redirected")


@attack("http:// to another machine")
def nothing_is_carried_in_the_clear(scene: Scene) -> str:
    found = scene.courier(scene.server, url="http://license.example")
    return scene.same(found[1] if found[0] == _USAGE else f"exit code {found[0]}", "courier-unusable")


@attack("no token, a wrong one, a revoked one")
def nobody_is_served_without_a_token(scene: Scene) -> str:
    revoked = scene.vendor.command("token", "add", "gone", with_password=False).strip()
    scene.vendor.command("token", "revoke", "gone", with_password=False)
    request, before = scene.server.request(is_fresh=False), scene.vendor.books()
    for token in ("", "lat_wrong", revoked, f"{scene.vendor.token}x"):
        status, _, code = scene.vendor.post(request, token=token)
        if (status, code) != (http.HTTPStatus.UNAUTHORIZED, "token-invalid"):
            raise GotThroughError(f"status {status}, {code or 'accepted'}")
    if scene.vendor.books() != before:
        raise GotThroughError("the register has changed")
    return "token-invalid"


@attack("the token of another customer, with a genuine request")
def a_token_of_another_customer_is_refused(scene: Scene) -> str:
    token = scene.vendor.command(
        "token", "add", "rival", "--customer-id", OTHER_CUSTOMER_ID, with_password=False
    ).strip()
    before = scene.vendor.books()
    code = scene.vendor.post(scene.server.request(is_fresh=False), token=token)[2]
    if scene.vendor.books() != before:
        raise GotThroughError("the register has changed")
    return scene.same(code, "customer-mismatch")


@attack("300 KiB in one call; 30,000 brackets")
def a_call_beyond_the_limits_is_refused(scene: Scene) -> str:
    large = scene.authority_refuses(b"{" + b" " * 300_000 + b"}", "document-too-large")
    return f"{large}, {scene.authority_refuses(b'{' + b'[' * 30_000, 'envelope-malformed')}"


@attack("a fourth call within a minute, where three are allowed")
def more_calls_than_are_allowed_are_refused(scene: Scene) -> str:
    with scene.vendor.serving("3/minute") as port:
        codes = [scene.vendor.post(scene.grant(), port=port)[2] for _ in range(4)]
    return scene.same(", ".join(codes[2:]), "payload-type-unexpected, rate-exceeded")
