"""Moving an alias: a page that says what will happen, and the form that has it happen.

Guarantees: the form carries the leaf of the move that its page showed. If another came between,
nothing happens and the page shows the new state, to be decided anew. Reasons are the operator's own
words and go into the leaf, with the token's name as actor.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from tacit.privacy.errors import ConflictError, StorageError, TacitError
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, Place, allowed, sees
from tacit.server.dashboard.formats import url
from tacit.server.dashboard.pages import Page, reading, render
from tacit.server.views import models as views

router = APIRouter(route_class=Page)
Operator = Annotated[Caller, Depends(allowed("operate"))]
MOVE, ROLLBACK, REMOVE = "move", "rollback", "remove"
_WORDS = Form(max_length=4000)
# What a move would do, or why it was not made, shows what the alias names.
_READING = reading("model", "name", "alias")


@router.get("/moves", dependencies=[Depends(_READING)])
def ask(
    request: Request,
    name: str,
    alias: str,
    caller: Operator,
    place: Here,
    what: str = MOVE,
    number: int | None = None,
) -> Response:
    """What a move would do."""
    return _page(request, place, caller, name, alias, what, number)


@router.post("/moves", dependencies=[Depends(_READING)])
def make(
    request: Request,
    name: str,
    alias: str,
    caller: Operator,
    place: Here,
    what: str = MOVE,
    number: int | None = None,
    expected: Annotated[str, _WORDS] = "",
    reason: Annotated[str, _WORDS] = "",
    evidence: Annotated[str, _WORDS] = "",
    forced: Annotated[str, _WORDS] = "",
) -> Response:
    """Makes it."""
    sees(caller, name)
    said: dict[str, Any] = {"reason": reason, "evidence": evidence, "forced": bool(forced)}
    try:
        after = _leaf(expected)
        known: dict[str, Any] = {"expected": after, "actor": caller.name, "reason": reason}
        known["evidence"] = [_needed(part) for part in evidence.replace(",", " ").split()]
        life = place.lifecycle
        if what == ROLLBACK:
            moved = life.rollback(name, alias, **known)
        else:
            wanted = None if what == REMOVE else number
            moved = life.move(name, alias, wanted, forced=bool(forced), **known)
    except ConflictError as error:
        conflict = {"problem": error.message, "conflict": True}
        return _page(request, place, caller, name, alias, what, number, 409, **said, **conflict)
    except TacitError as error:
        refused = {"problem": error.message, "hint": error.hint or ""}
        status = 400 if not isinstance(error, StorageError) else 409
        return _page(request, place, caller, name, alias, what, number, status, **said, **refused)
    return RedirectResponse(url("/model", name=name, moved=moved.leaf), 303)


def _page(
    request: Request,
    place: Place,
    caller: Caller,
    name: str,
    alias: str,
    what: str,
    number: int | None,
    status: int = 200,
    **said: Any,
) -> Response:
    sees(caller, name)
    every, _ = views.versions(place.store, name)
    known = {v["number"]: v for v in every}
    if not known or what not in (MOVE, ROLLBACK, REMOVE) or (what == MOVE and number not in known):
        raise problems.missing()
    current = place.lifecycle.current(name, alias)
    blank = {"problem": "", "hint": "", "conflict": False, "reason": "", "evidence": ""}
    return render(
        request,
        "move.html",
        status,
        model=name,
        alias=alias,
        what=what,
        version=known.get(number or 0),
        now=known.get(current.number) if current and current.number else None,
        current=current,
        **{**blank, "forced": False, **said},
    )


def _leaf(text: str) -> int | None:
    return _needed(text) if text else None


def _needed(text: str) -> int:
    """A leaf that a form names."""
    plain = text.removeprefix("#")
    if not (plain.isascii() and plain.isdigit() and len(plain) < 16):
        raise TacitError(f"leaf={text[:40]!r} must be a whole number", "leaves are numbered from 0")
    return int(plain)
