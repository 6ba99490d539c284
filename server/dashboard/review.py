"""Approvals: what waits for a reviewer, what they would sign, and where a signature is handed in.

Guarantees: nothing here asks for a private key. A statement to sign is made for a reviewer's public
key, signed on their machine, and counts only if the governor takes it.
"""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from starlette.responses import RedirectResponse, Response

from tacit.privacy.errors import TacitError
from tacit.server.access.roles import Caller
from tacit.server.api.context import Here, Place, allowed
from tacit.server.dashboard.figures import books, waiting
from tacit.server.dashboard.pages import Page, Reader, download, reading, render, sight
from tacit.server.governance import Governance
from tacit.server.views import ledger

router = APIRouter(route_class=Page)
Reviewer = Annotated[Caller, Depends(allowed("review"))]
_KEY = "YOUR.key"


@router.get("/approvals", dependencies=[Depends(reading("approvals"))])
def approvals(request: Request, caller: Reader, place: Here) -> Response:
    """What waits."""
    return _page(request, caller, place)


@router.get("/approvals/statement", dependencies=[Depends(reading("approval of", "run"))])
def statement(
    run: str,
    caller: Reviewer,
    place: Here,
    verdict: str,
    key: str,
    note: str = "",
    lifts: int | None = None,
) -> Response:
    """What a reviewer signs, as a file."""
    row = ledger.found(place.store, run, sight(caller))
    word = "refused" if verdict == "refused" else "approved"
    body = Governance(place.store).draft(row["id"], word, note[:2000], lifts, key.strip()[:300])
    return download(json.dumps(body, indent=2), f"approval-{row['id']}.json", "application/json")


@router.post("/approvals", dependencies=[Depends(reading("approvals"))])
def accept(
    request: Request,
    caller: Reviewer,
    place: Here,
    signed: Annotated[str, Form(max_length=20_000)] = "",
) -> Response:
    """Takes in a signed statement."""
    try:
        body = json.loads(signed)
    except ValueError:
        return _page(request, caller, place, 400, "that isn't JSON", signed)
    if not isinstance(body, dict) or not isinstance(body.get("run"), str):
        return _page(request, caller, place, 400, "that isn't a signed approval", signed)
    row = ledger.found(place.store, body["run"], sight(caller))
    try:
        leaf = Governance(place.store).accept(body)
    except TacitError as error:
        said = f"{error.message}. {error.hint}" if error.hint else error.message
        return _page(request, caller, place, 400, said, signed)
    del row
    return RedirectResponse(f"/ledger/{leaf}", 303)


def _page(
    request: Request,
    caller: Reader,
    place: Place,
    status: int = 200,
    problem: str = "",
    signed: str = "",
) -> Response:
    sees = sight(caller)
    known = {row["population"] for row in books(place).populations(sees)}
    said = ledger.leaves(place.store, limit=500, kinds=("APPROVAL",), sees=sees)
    return render(
        request,
        "approvals.html",
        status,
        waiting=waiting(place, caller),
        policies=[p for p in ledger.policies(place.store) if p["population"] in known],
        approvals=said["leaves"][::-1],
        problem=problem,
        signed=signed,
        keyfile=_KEY,
    )
