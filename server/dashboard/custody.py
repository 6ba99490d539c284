"""What was looked at and what was taken away: audits, erasure cases, the record of reads."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.server.access.roles import Caller
from tacit.server.api.context import Here, allowed
from tacit.server.api.routes.erasures import Eraser
from tacit.server.api.routes.ledger import whole
from tacit.server.dashboard.pages import Page, Reader, reading, render, sight
from tacit.server.erasure.cases import Cases
from tacit.server.views import audits as audit_views
from tacit.server.views import ledger

router = APIRouter(route_class=Page)
Admin = Annotated[Caller, Depends(allowed("administer"))]
_READS = 200


@router.get("/audits", dependencies=[Depends(reading("audits"))])
def audits(request: Request, caller: Reader, place: Here) -> Response:
    """What audits found."""
    return render(request, "audits.html", audits=audit_views.listed(place.store, sight(caller)))


@router.get("/erasures", dependencies=[Depends(reading("erasures"))])
def erasures(request: Request, caller: Eraser, place: Here) -> Response:
    """Cases of erasure: what the ledger says of each, which is no client's name."""
    return render(request, "erasures.html", cases=_cases(place))


@router.get("/access", dependencies=[Depends(reading("access log"))])
def access(request: Request, caller: Admin, place: Here, subject: str = "") -> Response:
    """Who read what, and the leaves that cover it; names all models, so it's for who sees all."""
    whole(caller)
    found = ledger.leaves(place.store, limit=10_000, kinds=("ACCESS",))["leaves"]
    batches = [(row["body"]["first"], row["body"]["last"], row["leaf"]) for row in found]
    rows = place.recorder.reads(subject or None, _READS)
    for row in rows:
        row["leaf"] = next((leaf for a, b, leaf in batches if a <= row["id"] <= b), None)
    return render(
        request, "access.html", reads=rows, subject=subject, most=_READS, sealed=found[::-1][:20]
    )


def _cases(place: Here) -> list[dict[str, Any]]:
    """Cases by their leaves, newest first."""
    made: dict[str, dict[str, Any]] = {}
    states = {case.id: case.state for case in Cases(place.store).list()}
    for row in place.store.leaves(kinds=("ERASURE",)):
        body = row["body"]
        case = made.setdefault(
            body["case"],
            {"case": body["case"], "population": body["population"], "stages": []}
            | {"state": states.get(body["case"], "forgotten")},
        )
        case["stages"].append(
            {"leaf": row["index"], "at": body["at"], "stage": body["stage"]}
            | {"choice": body.get("choice")}
        )
    return list(made.values())[::-1]
