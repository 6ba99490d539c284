"""What all pages share: the template engine, formats, errors as pages, records of reads.

Guarantees: whatever comes from the ledger, the database or a caller is escaped, and signs that
can't be printed, or turn the direction of text around, are shown as their code. Epsilons are
rounded up. An error of a page is a page, with the same text for what a caller may not know of and
for what isn't there.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Coroutine
from importlib import resources
from typing import Annotated, Any
from urllib.parse import urlencode

import jinja2
from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from tacit.privacy.errors import TacitError
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, allowed, sessions, visitor
from tacit.server.dashboard.formats import at, epsilon, percent, short, shown, url
from tacit.server.views.models import Sees, everything

STATIC = {"dashboard.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
Reader = Annotated[Caller, Depends(allowed("read"))]
_OF_MODEL = ("number", "alias")
_HTML_ERRORS = (TacitError, HTTPException, RequestValidationError)
# (path, name, the least that it takes to see it in the menu)
MENU = (
    ("/", "Overview", "read"),
    ("/models", "Models", "read"),
    ("/runs", "Runs", "read"),
    ("/populations", "Populations", "read"),
    ("/quality", "Quality", "read"),
    ("/approvals", "Approvals", "read"),
    ("/audits", "Audits", "read"),
    ("/ledger", "Ledger", "read"),
    ("/verification", "Verification", "read"),
    ("/erasures", "Erasures", "erase"),
    ("/access", "Access", "administer"),
)


class Page(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with its errors as pages; a stranger is sent to log in."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except _HTML_ERRORS as error:
                return failed(request, error)

        return handle


def failed(request: Request, error: Exception) -> Response:
    """The page of an error."""
    if isinstance(error, problems.UnauthenticatedError):
        if request.method == "GET":
            asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            where = "/login" if asked == "/" else f"/login?{urlencode({'to': asked})}"
            return RedirectResponse(where, 303)
        return RedirectResponse("/login", 303)
    hint = ""
    if isinstance(error, TacitError):
        answered = problems.answer(error, request.state.request)
        status = answered.status_code
        said, hint = error.message, error.hint or ""
        if status == 404:
            said, hint = problems.UNKNOWN, ""
        elif status == 503:
            said, hint = problems.BUSY, ""
    elif isinstance(error, HTTPException):
        status, said = error.status_code, str(error.detail)
    else:
        status, said = 422, "a value isn't of the form that is asked for"
    return render(request, "error.html", status, said=said, hint=hint, status=status)


def sight(caller: Caller) -> Sees:
    """Which models a caller may know of."""
    return everything if caller.covers(["*"]) else caller.sees


def reading(
    subject: str, *parts: str, action: str = "read"
) -> Callable[..., Coroutine[Any, Any, str]]:
    """A dependency: the read is recorded, durably.

    Args:
        subject: what is read.
        parts: names of query or path parameters that name it further.
        action: what is done, for the record.
    """

    async def record(request: Request, caller: Reader, place: Here) -> str:
        given = {**request.query_params, **request.path_params}
        if "name" in parts and "name" in given and not caller.sees(str(given["name"])):
            raise problems.missing()
        said = subject
        for part in parts:
            if part in given:
                # A version's subject is one of its model's, as the API records it.
                said += ("@" if part in _OF_MODEL else " ") + shown(str(given[part]))
        said = said.strip()[:500]
        identifier: str = request.state.request
        await run_in_threadpool(
            place.recorder.read, caller.name, action, said, identifier, caller.token
        )
        return identifier

    return record


def render(request: Request, template: str, status_code: int = 200, /, **more: Any) -> HTMLResponse:
    """A page.

    Args:
        request: that asks for it.
        template: its name.
        status_code: of the answer.
        more: what it shows.
    """
    caller = visitor(request)
    menu = [(path, name) for path, name, action in MENU if caller and caller.may(action)]
    text = (
        _engine()
        .get_template(f"dashboard/{template}")
        .render(
            caller=caller,
            csrf=sessions(request).csrf(request) if caller else "",
            menu=menu,
            here=_section(request.url.path),
            request_id=request.state.request,
            **more,
        )
    )
    return HTMLResponse(text, status_code)


def download(data: str | bytes, name: str, kind: str) -> Response:
    """A file to keep."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    headers = {"Content-Disposition": f'attachment; filename="{plain}"'}
    return Response(data, media_type=kind, headers=headers)


def static(name: str) -> bytes:
    """A file that pages load.

    Raises:
        MissingError: there is none of this name.
    """
    if name not in STATIC:
        raise problems.missing()
    return (resources.files("tacit.server.dashboard") / "static" / name).read_bytes()


@functools.cache
def _engine() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tacit.server", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"eps": epsilon, "short": short, "at": at, "percent": percent}
    environment.globals |= {"url": url, "assets": {name: _versioned(name) for name in STATIC}}
    return environment


def _versioned(name: str) -> str:
    return f"/static/{name}?v={hashlib.sha256(static(name)).hexdigest()[:12]}"


def _section(path: str) -> str:
    """The entry of the menu that a page belongs to."""
    first = "/" + path.lstrip("/").partition("/")[0]
    return {"/model": "/models", "/version": "/models", "/moves": "/models", "/run": "/runs",
            "/population": "/populations"}.get(first, first)  # fmt: skip
