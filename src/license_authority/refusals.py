"""How `serve` says no: every error as JSON, `{"code", "message"}`, with the HTTP status that fits its kind.

Rules: the codes are those of all other programs; 4xx is for the caller to mend, 409 where the document is fine and the
facts speak against it, 503 to try again. What is the vendor's to mend is logged here; the caller gets its code and
no path and no word of the database.

What this module does not do: it refuses nothing by itself.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from smartserver_licensed.domain.errors import (
    ArgumentError,
    ArmorError,
    DocumentError,
    DocumentTooLargeError,
    LicensedError,
)

from . import errors

RETRY_S = 5

_log = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[LicensedError], HTTPStatus], ...] = (  # the first that holds
    (errors.TokenError, HTTPStatus.UNAUTHORIZED),
    (errors.CustomerMismatchError, HTTPStatus.FORBIDDEN),
    (errors.RateError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.ReadTimeoutError, HTTPStatus.REQUEST_TIMEOUT),
    (errors.RegisterBusyError, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.CustomerUnknownError, HTTPStatus.NOT_FOUND),
    (errors.LicenseNotFoundError, HTTPStatus.NOT_FOUND),
    (errors.SmartServerUnknownError, HTTPStatus.NOT_FOUND),
    (errors.RegisterBehindError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.RegisterCorruptError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.AuthorityMissingError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.FileAccessError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.PasswordNeededError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.PasswordWrongError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (errors.AuthorityError, HTTPStatus.CONFLICT),
    (DocumentTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (DocumentError, HTTPStatus.BAD_REQUEST),
    (ArmorError, HTTPStatus.BAD_REQUEST),
    (ArgumentError, HTTPStatus.BAD_REQUEST),
)
_OURS = {
    HTTPStatus.INTERNAL_SERVER_ERROR: "cannot answer the call: the vendor's side has a fault, its log says which",
    HTTPStatus.SERVICE_UNAVAILABLE: "cannot answer the call: the vendor's side is busy; try again",
}


class Refusal(BaseModel):
    """Why a call was refused."""

    code: str = Field(description="Stable, kebab-case; the same in all programs.", examples=["contact-forked"])
    message: str = Field(description="A sentence for people.")


def answer_errors(app: FastAPI) -> None:
    """Let the application answer every error in the one form."""
    app.add_exception_handler(LicensedError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_by_http)
    app.add_exception_handler(Exception, _refuse_unexpected)


def _refuse(request: Request, error: Exception) -> JSONResponse:
    code = error.code if isinstance(error, LicensedError) else LicensedError.code
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    level = logging.ERROR if status == HTTPStatus.INTERNAL_SERVER_ERROR else logging.INFO
    message = _OURS.get(status, str(error))
    why = f": {error}" if status in _OURS else ""
    _log.log(level, "call refused: %s %s, %d %s%s", request.method, request.url.path, status, code, why)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.RateError):
        headers["Retry-After"] = str(error.retry_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_S)
    return _json(status, code, message, headers)


def _refuse_by_http(_request: Request, error: Exception) -> JSONResponse:
    """A path or a method that is not known here."""
    status = HTTPStatus(error.status_code if isinstance(error, HTTPException) else 500)
    headers = getattr(error, "headers", None) or {}
    code = status.phrase.lower().replace(" ", "-")
    return _json(status, code, f"cannot answer the call: {status.phrase}", dict(headers))


def _refuse_unexpected(request: Request, error: Exception) -> JSONResponse:
    _log.error("call failed: %s %s", request.method, request.url.path, exc_info=error)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _json(status, LicensedError.code, _OURS[status], {})


def _json(status: HTTPStatus, code: str, message: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(Refusal(code=code, message=message).model_dump(), status, headers)
