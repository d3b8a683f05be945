"""The vendor's license-authority as license-courier sees it: one POST over HTTPS, one answer.

Rules:
- https with a verified certificate; http only to this machine; a redirect is refused, and so is a URL with a password;
- an answer has at most 96 KiB and a JSON type; a question with its answer has a time limit;
- the token goes into one header and nowhere else;
- every failure is a CourierError with a code of its own; what the authority refuses carries the authority's code too.

What this module does not do: it reads no document: who signed an answer is for the daemon to judge.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import signal
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from smartserver_licensed import VERSION
from smartserver_licensed.domain.errors import LicensedError
from smartserver_licensed.formats.bus import MAX_ARMORED_BYTES

CONTACTS = "/v1/contacts"
DEFAULT_TIMEOUT_S = 120.0
_MAX_REASON_BYTES = 8 * 1024
_MAX_TOKEN_BYTES = 4 * 1024
_BUSY = {408, 425, 429}
_CLIENT_ERRORS, _SERVER_ERRORS = 400, 500


class CourierError(LicensedError):
    """A contact could not be delivered or answered. Nothing is lost: it is tried again with the next run."""

    code = "courier-failed"


class CourierUsageError(CourierError):
    """The URL, the token or the certificates that were given cannot be used."""

    code = "courier-unusable"


class UnreachableError(CourierError):
    """No connection, or one that broke before the answer was whole."""

    code = "courier-unreachable"


class TooSlowError(CourierError):
    """No whole answer within the time limit."""

    code = "courier-timeout"


class CertificateError(CourierError):
    """It cannot be proved that the other end is the authority."""

    code = "courier-certificate-invalid"


class RedirectedError(CourierError):
    """The answer is to ask elsewhere: the URL is wrong, or somebody is in between."""

    code = "courier-redirected"


class AnswerError(CourierError):
    """What came is not an answer of an authority: another type, or too large."""

    code = "courier-answer-invalid"


class BusyError(CourierError):
    """The authority cannot answer now."""

    code = "courier-busy"


class RefusedByAuthorityError(CourierError):
    """The authority said no; why is in the message, with its own code."""

    code = "courier-refused"


class Authority:
    """Where contacts are sent to; `timeout_s` for each, as a whole. Raises CourierUsageError."""

    def __init__(
        self, url: str, *, token_file: str = "", ca_file: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        self._url = _checked(url) + CONTACTS
        self._timeout_s = timeout_s
        self._token = _read_token(token_file) if token_file else ""
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except OSError as error:  # ssl.SSLError is one
            raise CourierUsageError(f"cannot use the certificates of {ca_file}: {error}") from error
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context), _NoRedirect()]
        if not self._url.startswith("https:"):
            handlers.append(urllib.request.ProxyHandler({}))  # a proxy of the environment would see the token
        self._opener = urllib.request.build_opener(*handlers)

    def post(self, contact: bytes) -> bytes:
        """The answer to a request or a return. Raises CourierError."""
        request = urllib.request.Request(self._url, data=contact, method="POST", headers=self._headers())  # noqa: S310 - checked
        try:
            with _time_limit(self._timeout_s):
                return self._exchange(request)
        except urllib.error.URLError as error:
            raise self._failure(error.reason) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # UnicodeError: no name of a host
            raise self._failure(error) from error

    def _exchange(self, request: urllib.request.Request) -> bytes:
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return _read_answer(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from error

    def _failure(self, error: object) -> CourierError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return CertificateError(f"cannot deliver: the authority's certificate: {error.verify_message}")
        if isinstance(error, TimeoutError):
            return TooSlowError(f"cannot deliver: no answer within {self._timeout_s:g} s")
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return UnreachableError(f"cannot deliver: {why}")

    def _headers(self) -> dict[str, str]:
        token = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        return {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"license-courier/{VERSION}",
            **token,
        }


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object, **__: object) -> None:
        """None: the redirect is an error like any other status."""


def _checked(url: str) -> str:
    """The URL without a slash at its end; the errors do not repeat it, as it may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise CourierUsageError("cannot use the URL: it is none") from error
    if not host or parts.username is not None or parts.query or parts.fragment or not url.isprintable() or " " in url:
        raise CourierUsageError("cannot use the URL: expected https://HOST[:PORT][/PATH], without user and query")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise CourierUsageError(f"cannot use the URL: {parts.scheme!r} to {host}, expected https")
    return urllib.parse.urlunsplit(parts).rstrip("/")  # its scheme in small letters


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_token(name: str) -> str:
    """The first line of a file."""
    try:
        with Path(name).open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).partition(b"\n")[0].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not ASCII"
        raise CourierUsageError(f"cannot read the token in {name}: {why}") from error
    if not token or not token.isprintable() or " " in token:
        raise CourierUsageError(f"cannot read the token in {name}: its first line is no token")
    return token


def _read_answer(answer: http.client.HTTPResponse) -> bytes:
    kind = answer.headers.get_content_type()
    if kind != "application/json" and not kind.endswith("+json"):
        raise AnswerError(
            f"cannot use the answer: it is {kind[:80]!r}, expected JSON; is the URL that of an authority?"
        )
    data = answer.read(MAX_ARMORED_BYTES + 1)
    if len(data) > MAX_ARMORED_BYTES:
        raise AnswerError(f"cannot use the answer: it has more than {MAX_ARMORED_BYTES} bytes")
    if answer.length:  # read() with a limit does not tell of a connection that was cut
        raise UnreachableError(f"cannot read the answer: the connection was cut, {answer.length} bytes are missing")
    return data


def _refusal(error: urllib.error.HTTPError) -> CourierError:
    """What an answer with an error status means; its body may say why."""
    why = f"HTTP status {error.code}"
    with contextlib.suppress(http.client.HTTPException, ValueError, RecursionError):
        said = json.loads(error.read(_MAX_REASON_BYTES))
        if isinstance(said, dict) and said.keys() >= {"message", "code"}:
            why = f"{said['message']} [{said['code']}]"
    if error.code < _CLIENT_ERRORS:
        return RedirectedError(
            f"cannot deliver: HTTP status {error.code} asks to go to {error.headers['Location']!r:.200}"
        )
    if error.code >= _SERVER_ERRORS or error.code in _BUSY:
        return BusyError(f"cannot deliver: the authority cannot answer now: {why}")
    return RefusedByAuthorityError(f"cannot deliver: the authority refuses: {why}")


@contextlib.contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """A TimeoutError when the whole takes too long: a socket's own limit starts anew with every byte."""

    def expired(_: int, __: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
