"""The authority over HTTPS: what a courier carries there and back. An ASGI application.

Rules:
- the same documents as in files, under the same rules: nothing works here that does not work offline. What needs an
  operator's word (`activate --confirm`, `--license`) does not work here;
- what a call changes is one transaction; the same document gets the same answer, byte for byte;
- who may call: a courier with a token. One bound to a customer carries documents of that customer's SmartServers and of
  unknown ones, and requests in them that customer's licenses only;
- bounded: size while reading, time of reading, calls per token, and per address those without a good token. Whoever
  asks for the health takes one thread, once a second, however many ask;
- the log has install codes and names of tokens, never documents, tokens or keys.

What this module does not do: TLS and sockets (`serving`), the form of errors (`refusals`), any licensing rule
(`authority`). It keeps no session and no cookie.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any

import limits
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool

from smartserver_licensed import VERSION
from smartserver_licensed.documents.armor import MAX_ARMOR_BYTES, unwrap
from smartserver_licensed.documents.payloads import CONTACT_TYPES, GRANT_TYPE
from smartserver_licensed.documents.trust import ROOT_TYPE
from smartserver_licensed.domain.errors import ArgumentError, DocumentTooLargeError

from .authority import Authority
from .errors import RateError, ReadTimeoutError, RegisterBusyError, TokenError
from .keyring import LiveKeyring, trust_document
from .refusals import Refusal, answer_errors
from .register import Register
from .tokens import TokenRow, find_token

READ_TIMEOUT_S = 30.0
HEALTH_WAIT_S = 1.0

_log = logging.getLogger(__name__)
_router = APIRouter()
_IPV6_NETWORK = 64  # bits of an address that one subscriber has
_REFUSALS = {
    400: "No document, or one that is not signed by the key that it carries.",
    401: "No token, or one that is not known or revoked.",
    403: "The SmartServer or a license is another customer's than the token's.",
    404: "A license that was never sold, or a customer that is not known.",
    408: "The document did not come in time.",
    409: "The document is fine, the facts speak against it: forked, retired, exhausted, needs the operator, …",
    413: "More than 64 KiB, armored 256 KiB.",
    429: "Too many calls; `Retry-After` says when.",
    500: "The register or the keys cannot be used.",
    503: "Busy; try again.",
}
_CONTACT_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A request or a return, as the SmartServer wrote it: a DSSE envelope, or a block of text.",
        "content": {
            **{each: {"schema": {"type": "object"}} for each in CONTACT_TYPES.values()},
            "text/plain": {"schema": {"type": "string", "maxLength": MAX_ARMOR_BYTES}},
        },
    }
}


def make_app(register: Register, keyring: LiveKeyring, *, rate: str) -> FastAPI:
    """The application. `rate`: calls per token and per address, as in "60/minute". Raises ArgumentError."""
    app = FastAPI(
        title="license-authority",
        version=VERSION,
        summary="Activates SmartServers and takes licenses back: the documents of offline activation, over HTTPS.",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.parts = _Parts(register, keyring, _Limiter(rate), _Health(register, keyring))
    app.include_router(_router)
    answer_errors(app)
    return app


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the calls work with."""

    register: Register
    keyring: LiveKeyring
    limiter: _Limiter
    health: _Health


def _parts(request: Request) -> _Parts:
    parts: _Parts = request.app.state.parts
    return parts


async def _caller(
    request: Request, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> TokenRow:
    parts = _parts(request)
    if bearer is None:
        parts.limiter.hit("address", _address(request))
        raise TokenError("cannot accept the call: no token came (Authorization: Bearer TOKEN)")
    try:
        token = await run_in_threadpool(find_token, parts.register, bearer.credentials)
    except TokenError:
        parts.limiter.hit("address", _address(request))
        raise
    parts.limiter.hit("token", token.name)
    return token


@_router.post(
    "/v1/contacts",
    summary="Bring a request or a return; the answer is the SmartServer's next grant",
    response_class=Response,
    responses={
        200: {"description": "The grant, a DSSE envelope.", "content": {GRANT_TYPE: {"schema": {"type": "object"}}}},
        **{status: {"description": why, "model": Refusal} for status, why in _REFUSALS.items()},
    },
    openapi_extra=_CONTACT_BODY,
)
async def _contacts(request: Request, token: Annotated[TokenRow, Depends(_caller)]) -> Response:
    """The same document gets the same answer, byte for byte: repeat a call whose answer got lost."""
    document = unwrap(await _body(request))
    grant = await run_in_threadpool(_answer, _parts(request), document, token)
    return Response(grant, media_type=GRANT_TYPE)


@_router.get(
    "/v1/roots",
    summary="The newest root, with all earlier ones in it: what a SmartServer trusts",
    response_class=Response,
    responses={200: {"description": "The root document.", "content": {ROOT_TYPE: {"schema": {"type": "object"}}}}},
)
def _roots(request: Request) -> Response:
    """Needs no token: roots are public."""
    return Response(trust_document(_parts(request).keyring.current().trust), media_type=ROOT_TYPE)


@_router.get("/healthz", summary="Whether the register and the keys can be used")
async def _healthz(request: Request) -> dict[str, str]:
    """Needs no token, and tells nothing; may be a second old."""
    await _parts(request).health.check()
    return {"status": "ok"}


async def _body(request: Request) -> bytes:
    """The whole body. Raises DocumentTooLargeError as soon as it is more than a document could have."""
    body = bytearray()

    async def read() -> None:
        async for part in request.stream():
            body.extend(part)
            if len(body) > MAX_ARMOR_BYTES:
                raise DocumentTooLargeError(f"cannot read the document: more than {MAX_ARMOR_BYTES} bytes")

    try:
        await asyncio.wait_for(read(), READ_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise ReadTimeoutError(f"cannot read the document: not whole after {READ_TIMEOUT_S:g} s") from error
    return bytes(body)


def _answer(parts: _Parts, document: bytes, token: TokenRow) -> bytes:
    """In a thread: the register waits for its lock and for the disk."""
    authority = Authority(parts.register, parts.keyring.current())
    answer = authority.contact(document, now=int(time.time()), customer_id=token.customer_id)
    kind = "request" if answer.credit is None else "return"
    _log.info("contact answered: %s of install code %s, token %s", kind, answer.install_code, token.name)
    return answer.document


def _address(request: Request) -> str:
    """What calls are counted by: the address, of IPv6 the network, in which one caller has as many as he likes."""
    host = request.client.host.partition("%")[0] if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((host, _IPV6_NETWORK), strict=False))  # noqa: PLR2004


class _Health:
    """Whether register and keys can be used: one look at a time, and one a second."""

    def __init__(self, register: Register, keyring: LiveKeyring) -> None:
        self._register, self._keyring = register, keyring
        self._look: asyncio.Task[None] | None = None
        self._since = 0.0

    async def check(self) -> None:
        """Raises RegisterBusyError after a second of waiting, and what the look has found."""
        now = time.monotonic()
        if self._look is None or (self._look.done() and now > self._since + HEALTH_WAIT_S):
            self._look, self._since = asyncio.create_task(run_in_threadpool(self._use)), now
        try:
            await asyncio.wait_for(asyncio.shield(self._look), HEALTH_WAIT_S)
        except asyncio.TimeoutError as error:
            raise RegisterBusyError(f"cannot use the register: no answer after {HEALTH_WAIT_S:g} s") from error

    def _use(self) -> None:
        self._keyring.current()
        with self._register.transaction():
            pass


class _Limiter:
    """So many calls in any period, counted in memory: a restart forgets them."""

    def __init__(self, rate: str) -> None:
        try:
            self._rate = limits.parse(rate)
        except ValueError as error:
            raise ArgumentError(f"cannot limit calls to {rate[:40]!r}: not as in '60/minute'") from error
        if self._rate.amount < 1:
            raise ArgumentError(f"cannot limit calls to {rate[:40]!r}: nobody could call")
        self._windows = MovingWindowRateLimiter(MemoryStorage())

    def hit(self, kind: str, who: str) -> None:
        """Count a call. Raises RateError for one too many."""
        if not self._windows.hit(self._rate, kind, who):
            reset, _ = self._windows.get_window_stats(self._rate, kind, who)
            retry_s = max(1, math.ceil(reset - time.time()))
            raise RateError(f"cannot answer: more than {self._rate} by this {kind}; again in {retry_s} s", retry_s)
