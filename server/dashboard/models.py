"""Models and their versions: stages, lineage, what each claims, and its files."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from tacit.privacy.statement.text import markdown
from tacit.server import boms, cards, statements
from tacit.server import lineage as lineages
from tacit.server.api import problems
from tacit.server.api.context import Here, Place, sees
from tacit.server.api.routes.models import traceable
from tacit.server.api.routes.runs import narrowed
from tacit.server.dashboard import lineage
from tacit.server.dashboard.figures import figures
from tacit.server.dashboard.pages import Page, Reader, download, reading, render, sight
from tacit.server.store import Row
from tacit.server.views import models as views
from tacit.server.views import runs

router = APIRouter(route_class=Page)
_MANY = 200


@router.get("/models", dependencies=[Depends(reading("models"))])
def models(request: Request, caller: Reader, place: Here) -> Response:
    """All models."""
    return render(request, "models.html", models=views.models(place.store, sight(caller)))


@router.get("/model", dependencies=[Depends(reading("model", "name"))])
def model(request: Request, name: str, caller: Reader, place: Here) -> Response:
    """One model."""
    sees(caller, name)
    every, _ = views.versions(place.store, name)
    if not every:
        raise problems.missing()
    begun = _begun(place, caller, name)
    shown = every[-_MANY:]
    return render(
        request,
        "model.html",
        model=name,
        versions=shown[::-1],
        left_out=len(every) - len(shown),
        aliases=views.aliases(place.lifecycle, name),
        history=views.history(place.lifecycle, name)[::-1],
        graph=lineage.graph(name, every, begun),
        begun=begun,
    )


@router.get("/version", dependencies=[Depends(reading("model", "name", "number"))])
def version(request: Request, name: str, number: int, caller: Reader, place: Here) -> Response:
    """One version."""
    made = _version(place, caller, name, number)
    found = figures(place, caller)
    recomputed = found["runs"].get(made["run"])
    newest, _ = views.versions(place.store, name)
    whole = recomputed is not None and not found["behind"]
    return render(
        request,
        "version.html",
        version=made,
        run=runs.detail(place.store, made["run"], sight(caller)),
        aliases=views.aliases(place.lifecycle, name),
        newest=newest[-1]["number"],
        recomputed=recomputed if whole else None,
        verification=found,
        named={a["alias"] for a in views.aliases(place.lifecycle, name) if a["number"] == number},
    )


_EXPORT = reading("model", "name", "number", action="export")


@router.get("/version/artifact", dependencies=[Depends(_EXPORT)])
def artifact(name: str, number: int, caller: Reader, place: Here) -> Response:
    """The version's file, whose digest and attestation are checked as it is read."""
    _version(place, caller, name, number)
    data = place.registry.verified(place.store.versions(name=name, number=number)[0])
    return download(data, f"{name}-{number}.safetensors", "application/octet-stream")


@router.get("/version/attestation", dependencies=[Depends(reading("model", "name", "number"))])
def attestation(name: str, number: int, caller: Reader, place: Here) -> Response:
    """The version's signed attestation."""
    _version(place, caller, name, number)
    text = place.registry.envelope(place.store.versions(name=name, number=number)[0])
    return download(text, f"{name}-{number}.dsse.json", "application/json")


@router.get("/version/lineage", dependencies=[Depends(reading("model", "name", "number"))])
def descent(name: str, number: int, caller: Reader, place: Here) -> Response:
    """Everything that led to the version, as a file."""
    row = _traced(place, caller, name, number)
    text = json.dumps(lineages.lineage(place.store, row), indent=2)
    return download(text, f"{name}-{number}-lineage.json", "application/json")


@router.get("/version/card", dependencies=[Depends(reading("model", "name", "number"))])
def card(name: str, number: int, caller: Reader, place: Here) -> Response:
    """The version's model card, as a file."""
    text = cards.card(place.store, _traced(place, caller, name, number))
    return download(text, f"{name}-{number}-card.md", "text/markdown; charset=utf-8")


@router.get("/version/bom", dependencies=[Depends(reading("model", "name", "number"))])
def bom(name: str, number: int, caller: Reader, place: Here) -> Response:
    """The version's bill of materials, as a file."""
    made = boms.bom(place.registry, _traced(place, caller, name, number))
    text = json.dumps(made, indent=2)
    return download(text, f"{name}-{number}.cdx.json", "application/vnd.cyclonedx+json")


@router.get("/version/statement", dependencies=[Depends(reading("model", "name", "number"))])
def statement(
    name: str, number: int, caller: Reader, place: Here, form: str = "markdown"
) -> Response:
    """The version's privacy statement, as a file."""
    row = _traced(place, caller, name, number)
    made = narrowed(statements.of_version(place.store, row), caller)
    if form == "json":
        text = json.dumps(made, indent=2)
        return download(text, f"{name}-{number}-statement.json", "application/json")
    if form == "html":
        return download(
            statements.html(made), f"{name}-{number}-statement.html", "text/html; charset=utf-8"
        )
    return download(markdown(made), f"{name}-{number}-statement.md", "text/markdown; charset=utf-8")


def _version(place: Place, caller: Reader, name: str, number: int) -> dict[str, Any]:
    sees(caller, name)
    if not 0 < number < 2**31:
        raise problems.missing()
    found = views.version(place.store, name, number)
    if found["begun_with"] is not None and not caller.sees(found["begun_with"]["model"]):
        found["begun_with"] = None
    return found


def _traced(place: Place, caller: Reader, name: str, number: int) -> Row:
    """A version's row, if all that it came from is the caller's to see."""
    _version(place, caller, name, number)
    row = place.store.versions(name=name, number=number)[0]
    traceable(place, row, caller)
    return row


def _begun(place: Place, caller: Reader, name: str) -> dict[str, dict[str, Any]]:
    """The versions that a model's runs began with, by run; those that the caller may know of."""
    rows = place.store.leaves(kinds=("PLAN",))
    return {
        row["body"]["run"]: row["body"]["initial"]
        for row in rows
        if row["body"]["name"] == name
        and row["body"].get("initial")
        and caller.sees(row["body"]["initial"]["model"])
    }
