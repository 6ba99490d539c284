"""Logging in and out, and the files that pages load: what a stranger may ask for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import RedirectResponse, Response

from tacit.privacy.errors import AccessError
from tacit.server.api.context import Known, sessions, visitor
from tacit.server.dashboard.pages import STATIC, Page, render, static

router = APIRouter(route_class=Page)


@router.get("/static/{name}")
def file(name: str) -> Response:
    """A style sheet or a picture."""
    data = static(name)
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(data, media_type=STATIC[name], headers=headers)


@router.get("/login")
def ask(request: Request, to: str = "/") -> Response:
    """Asks for a token."""
    if visitor(request) is not None and request.state.cookie:
        return RedirectResponse(local(to), 303)
    return render(request, "login.html", to=local(to), problem="")


@router.post("/login")
def begin(
    request: Request,
    token: Annotated[str, Form(max_length=200)],
    to: Annotated[str, Form(max_length=2000)] = "/",
) -> Response:
    """Begins a session."""
    answer = RedirectResponse(local(to), 303)
    try:
        sessions(request).begin(token.strip(), answer)
    except AccessError as error:
        return render(request, "login.html", 401, to=local(to), problem=error.message)
    return answer


@router.post("/logout")
def end(request: Request, caller: Known) -> Response:
    """Ends a session."""
    answer = RedirectResponse("/login", 303)
    sessions(request).end(request, answer)
    return answer


def local(to: str) -> str:
    """A place on this site; anything else is its first page."""
    plain = to.isprintable() and to.startswith("/") and not to.startswith(("//", "/\\"))
    return to if plain else "/"
