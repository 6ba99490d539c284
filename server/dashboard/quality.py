"""Quality: what federated evaluations showed of each model, against its gate."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.server.api import problems
from tacit.server.api.context import Here, sees
from tacit.server.dashboard.charts import Chart, Level, Point, Series, hours
from tacit.server.dashboard.pages import Page, Reader, reading, render, sight
from tacit.server.lifecycle import CHAMPION
from tacit.server.views import drift, runs
from tacit.server.views import models as model_views

router = APIRouter(route_class=Page)
_ROWS = 100


@router.get("/quality", dependencies=[Depends(reading("quality"))])
def models(request: Request, caller: Reader, place: Here) -> Response:
    """The models that were evaluated, and rollouts."""
    found = runs.listed(place.store, sight(caller))
    return render(
        request,
        "qualities.html",
        models=drift.models(place.store, sight(caller)),
        rollouts=[run for run in found if run["kind"] == "rollout"],
    )


@router.get("/quality/model", dependencies=[Depends(reading("quality of model", "name"))])
def model(
    request: Request, name: str, caller: Reader, place: Here, alias: str = CHAMPION
) -> Response:
    """One model over time."""
    sees(caller, name)
    made = drift.model(place.store, name, alias)
    if not made["series"] and not model_views.exists(place.store, name):
        raise problems.missing()
    rows = sorted(
        ({**p, "label": s["label"]} for s in made["series"] for p in s["points"]),
        key=lambda row: -row["leaf"],
    )
    return render(
        request,
        "quality.html",
        made=made,
        alias=alias,
        aliases=sorted({m["alias"] for m in _gates(place.store, name)} | {alias}),
        chart=_chart(made) if made["series"] else None,
        rows=rows[:_ROWS],
        left_out=max(0, len(rows) - _ROWS),
        confidence=made["gate"]["confidence"] if made["gate"] else drift.CONFIDENCE,
    )


def _gates(store: Any, name: str) -> list[dict[str, Any]]:
    leaves = store.leaves(kinds=("GATE",))
    return [leaf["body"] for leaf in leaves if leaf["body"]["model"] == name]


def _chart(made: dict[str, Any]) -> Chart:
    """The metric evaluation by evaluation, in the ledger's order, with bands and the floor."""
    order = sorted({p["leaf"] for s in made["series"] for p in s["points"]})
    place = {leaf: float(i) for i, leaf in enumerate(order, 1)}
    times = {p["leaf"]: p["at"] for s in made["series"] for p in s["points"]}
    series = [
        Series(
            s["label"],
            [
                Point(
                    place[p["leaf"]],
                    p["estimate"],
                    p["low"],
                    p["high"],
                    f"/ledger/{p['leaf']}",
                    f"{s['label']}, round {p['round']}: {number(p['estimate'])}"
                    f" ({number(p['low'])} to {number(p['high'])}), leaf {p['leaf']}",
                    p["breached"],
                )
                for p in s["points"]
            ],
        )
        for s in made["series"]
    ]
    gate, metric = made["gate"], made["metric"]
    levels = []
    if gate and gate["bound"] is not None:
        word = "floor" if metric == "accuracy" else "ceiling"
        levels.append(Level(f"{word} {gate['bound']:g}", gate["bound"], f"/ledger/{gate['leaf']}"))
    return Chart(
        "quality",
        f"{metric.capitalize()} of {made['model']}",
        f"The noised {metric} of each evaluation, with the interval that its noise gives it.",
        series,
        levels,
        hours([times[leaf] for leaf in order]),
        "evaluations, in order, with the hour of the ledger (UTC)",
        metric,
        zero=False,
        most=1.0 if metric == "accuracy" else float("inf"),
    )


def number(value: float | None) -> str:
    """A metric, for people."""
    return "unbounded" if value is None else f"{value:.3f}"
