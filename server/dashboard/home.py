"""The first page: what runs, what waits, what is left, and whether the ledger holds."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.server.api.context import Here
from tacit.server.dashboard.figures import books, figures, waiting
from tacit.server.dashboard.pages import Page, Reader, reading, render, sight
from tacit.server.views import audits, ledger, models
from tacit.server.views import runs as run_views

router = APIRouter(route_class=Page)
_LATEST = 8


@router.get("/", dependencies=[Depends(reading("overview"))])
def overview(request: Request, caller: Reader, place: Here) -> Response:
    """Everything at a glance."""
    sees, store = sight(caller), place.store
    found = run_views.listed(store, sees, operator=caller.may("operate"))
    checkpoint = ledger.checkpoint(store)
    start = max(0, checkpoint["size"] - _LATEST)
    return render(
        request,
        "overview.html",
        models=models.models(store, sees),
        live=[run for run in found if run["status"] in run_views.LIVE],
        runs=found,
        waiting=waiting(place, caller),
        audits=audits.listed(store, sees),
        populations=books(place).populations(sees),
        checkpoint=checkpoint,
        verification=figures(place, caller),
        leaves=ledger.leaves(store, start, _LATEST, sees=sees)["leaves"][::-1],
    )
