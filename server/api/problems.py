"""Errors as callers see them: RFC 9457 ``application/problem+json``.

Guarantees: what a caller may not know of and what isn't there are one answer, byte for byte but
for the request's id; nothing that went wrong inside is quoted, neither a traceback nor a path:
the log has it, beside the request's id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tacit.privacy.errors import (
    AccessError,
    BudgetError,
    ConflictError,
    EngineError,
    MissingError,
    RoundError,
    StorageError,
    TacitError,
)

log = logging.getLogger("tacit.api")

UNKNOWN = "there is no such thing here, or it isn't yours to see"
INSIDE = "something went wrong inside; the operator's log has the request's id"
BUSY = "the store can't answer now; the operator's log has the request's id"
# The first that fits.
_STATUS: tuple[tuple[type[TacitError], int], ...] = (
    (AccessError, 403),
    (MissingError, 404),
    (ConflictError, 409),
    (StorageError, 409),
    (BudgetError, 409),
    (RoundError, 503),
    (EngineError, 503),
)
_INSIDE = (sa.exc.SQLAlchemyError, OSError, UnicodeDecodeError)


class UnauthenticatedError(AccessError):
    """A caller who isn't known."""


class LimitedError(TacitError):
    """A caller who asks too often.

    Args:
        seconds: after which asking again may help.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("too many requests", "come again later")
        self.seconds = max(1, round(seconds + 0.5))


def missing() -> MissingError:
    """What there isn't, or what this caller may not know of."""
    return MissingError(UNKNOWN)


def problem(
    status: int, request: str, detail: str = "", more: Mapping[str, Any] | None = None
) -> Response:
    """One answer that something went wrong.

    Args:
        status: of HTTP.
        request: its id.
        detail: in words; not for 404, which has one text.
        more: members beside those of the RFC.
    """
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    body |= {"detail": UNKNOWN if status == 404 else detail, **(more or {}), "request": request}
    data = json.dumps(body).encode()
    return Response(data, status, media_type="application/problem+json")


def answer(error: TacitError, request: str) -> Response:
    """The answer to one of tacit's errors."""
    if isinstance(error, LimitedError):
        found = problem(429, request, error.message)
        found.headers["Retry-After"] = str(error.seconds)
        return found
    if isinstance(error, UnauthenticatedError):
        found = problem(401, request, error.message, {"hint": error.hint})
        found.headers["WWW-Authenticate"] = 'Bearer realm="tacit"'
        return found
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 400)
    if status == 404:
        return problem(404, request)
    if _inside(error):
        log.error("request %s: %s", request, error.message)
        return problem(503, request, BUSY)
    more: dict[str, Any] = {"hint": error.hint}
    if isinstance(error, ConflictError):
        more["current"] = _plain(error.current)
    return problem(status, request, error.message, more)


def register(app: FastAPI) -> None:
    """Has an app answer with problems."""

    async def tacit_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, TacitError)
        return answer(error, request.state.request)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        found = problem(error.status_code, request.state.request, str(error.detail))
        for name, value in (error.headers or {}).items():
            found.headers[name] = value
        return found

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # Not the values: whoever sent them knows them, and others may read logs of answers.
        errors = [
            {"where": ".".join(str(part) for part in each["loc"]), "problem": each["msg"]}
            for each in error.errors()[:20]
        ]
        detail = "the request isn't of the form that is described"
        return problem(422, request.state.request, detail, {"errors": errors})

    async def busy(request: Request, error: Exception) -> Response:
        log.error("request %s: %s", request.state.request, type(error).__name__)
        return problem(503, request.state.request, BUSY)

    app.add_exception_handler(TacitError, tacit_error)
    # All connections to the database are taken, for half a minute.
    app.add_exception_handler(sa.exc.TimeoutError, busy)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)


def _inside(error: TacitError) -> bool:
    """Whether an error is of the machinery, or names a place on this machine."""
    if isinstance(error.__cause__, _INSIDE):
        return True
    return isinstance(error, StorageError) and ("/" in error.message and _path(error.message))


def _path(text: str) -> bool:
    return any(word.lstrip("'\"(=").startswith("/") or "=/" in word for word in text.split())


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value if isinstance(value, str | int | float | dict | list | None) else str(value)
