"""Runs: what each plans, has done and has spent. Never who took part, or how many."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.privacy.ledger import STATED
from tacit.server.api.context import Here
from tacit.server.dashboard.charts import Chart, Point, Series
from tacit.server.dashboard.figures import figures
from tacit.server.dashboard.formats import epsilon
from tacit.server.dashboard.pages import Page, Reader, reading, render, sight
from tacit.server.views import runs as views

router = APIRouter(route_class=Page)
_LABELS = {
    "client": "client, public",
    "client_unamplified": "client, public, draw known",
    "client_coordinator": "client, coordinator",
    "client_collusion": "client, collusion",
    "record": "record, public",
    "record_local": "record, everybody",
}


@router.get("/runs", dependencies=[Depends(reading("runs"))])
def runs(request: Request, caller: Reader, place: Here) -> Response:
    """All runs."""
    found = views.listed(place.store, sight(caller), operator=caller.may("operate"))
    return render(request, "runs.html", runs=found)


@router.get("/run", dependencies=[Depends(reading("run", "id"))])
def run(request: Request, id: str, caller: Reader, place: Here) -> Response:
    """One run."""
    made = views.detail(place.store, id, sight(caller), operator=caller.may("operate"))
    found = figures(place, caller)
    return render(
        request,
        "run.html",
        run=made,
        chart=_chart(made["rounds"]),
        names=STATED,
        recomputed=found["runs"].get(id),
        verification=found,
        last=made["charges"][-1]["leaf"] if made["charges"] else None,
    )


def _chart(rounds: list[dict[str, Any]]) -> Chart | None:
    """Epsilon over rounds, by unit and adversary."""
    series: list[Series] = []
    for name, label in _LABELS.items():
        points = [
            Point(
                r["round"],
                r["epsilon"][name],
                link=f"/ledger/{r['leaf']}",
                title=f"{label}, round {r['round']}: {epsilon(r['epsilon'][name])},"
                f" leaf {r['leaf']}",
            )
            for r in rounds
            if r["epsilon"].get(name) is not None
        ]
        if points and not any([p.y for p in points] == [q.y for q in s.points] for s in series):
            series.append(Series(label, points))
    if not series:
        return None
    return Chart(
        "epsilon",
        "Epsilon over rounds",
        "What each release states was spent by then, by unit and adversary.",
        series,
        ticks=ticks([r["round"] for r in rounds]),
        x="round",
        y="epsilon",
    )


def ticks(numbers: list[int], most: int = 10) -> list[tuple[float, str]]:
    """Whole numbers for an axis, not too many."""
    step = max(1, -(-len(numbers) // most))
    return [(float(n), str(n)) for n in numbers[::step]]
