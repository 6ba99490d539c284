"""Populations: what was spent on the people behind a name, and what is left of what may be."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.server.api import problems
from tacit.server.api.context import Here
from tacit.server.dashboard.charts import Chart, Level, Point, Series, hours
from tacit.server.dashboard.figures import books, figures
from tacit.server.dashboard.formats import at, epsilon
from tacit.server.dashboard.pages import Page, Reader, reading, render, sight

router = APIRouter(route_class=Page)
_ROWS = 60


@router.get("/populations", dependencies=[Depends(reading("populations"))])
def populations(request: Request, caller: Reader, place: Here) -> Response:
    """All populations."""
    found = books(place).populations(sight(caller))
    return render(
        request, "populations.html", populations=found, verification=figures(place, caller)
    )


@router.get("/population", dependencies=[Depends(reading("population", "id"))])
def population(request: Request, id: str, caller: Reader, place: Here) -> Response:
    """One population."""
    made = books(place).population(id, sight(caller))
    if made is None:
        raise problems.missing()
    found = figures(place, caller)
    return render(
        request,
        "population.html",
        population=made,
        chart=_chart(made) if made["points"] and made["claimed"] else None,
        points=made["points"][-_ROWS:][::-1],
        together=found["populations"].get(id),
        verification=found,
    )


def _chart(made: dict[str, Any]) -> Chart:
    """What was spent after each charge, against the cap."""
    rows = made["points"]
    points = [
        Point(
            float(i),
            row["epsilon"],
            link="" if row["leaf"] is None else f"/ledger/{row['leaf']}",
            title=f"{at(row['at'])}: {epsilon(row['epsilon'])}"
            + ("" if row["leaf"] is None else f", leaf {row['leaf']}"),
        )
        for i, row in enumerate(rows, 1)
    ]
    terms = made["policy"]["terms"]
    days = terms["window_days"]
    cap = Level(f"cap {made['cap']:g}", made["cap"], f"/ledger/{made['policy']['leaf']}")
    window = "" if days is None else f", in the {days:g} days before it"
    return Chart(
        "budget",
        f"Budget of {made['population']}",
        f"Epsilon spent after each charge{window}, against the policy's cap of {made['cap']:g}.",
        [Series("spent", points, steps=True)],
        levels=[cap],
        ticks=hours([row["at"] for row in rows]),
        x="charges, in order, with the hour of the ledger (UTC)",
        y="epsilon",
    )
