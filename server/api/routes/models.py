"""Models: versions, lineage, artifacts; aliases, moved by compare-and-swap.

Guarantees: whoever moves an alias says which move they saw last, and gets 409 with the state as it
is if another came between. Artifacts go out after their digest was checked. Each read is recorded
before anything is handed over.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from tacit.privacy.errors import AccessError
from tacit.server import lineage as lines
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, allowed, known, recorded, sees
from tacit.server.api.shapes import (
    MOST,
    Alias,
    Aliases,
    AliasState,
    Back,
    Change,
    Details,
    Difference,
    History,
    Limit,
    Lineage,
    Models,
    Name,
    Number,
    Retired,
    Versions,
    Why,
)
from tacit.server.differences import difference
from tacit.server.lifecycle import Move
from tacit.server.store import Row
from tacit.server.views import models as views

router = APIRouter(tags=["models"])
Reader = Annotated[Caller, Depends(allowed("read"))]
Operator = Annotated[Caller, Depends(allowed("operate"))]
OfNumber = Annotated[
    int | None, Query(ge=1, le=MOST, description="Only the leaves that concern this version.")
]
To = Annotated[int, Query(ge=1, le=MOST, description="Number of the other version.")]
First = Annotated[int, Query(ge=1, le=MOST, description="The first number wanted.")]

_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file; ETag is its SHA-256.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_ENVELOPE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A DSSE envelope.",
        "content": {"application/vnd.dsse.envelope.v1+json": {"schema": {"type": "object"}}},
    }
}


@router.get("/models", dependencies=[Depends(recorded("models"))], response_model=Models)
def list_(caller: Reader, here: Here) -> dict[str, Any]:
    """Models, with their newest versions and aliases."""
    return {"models": views.models(here.store, caller.sees)}


@router.get(
    "/models/{name}", dependencies=[Depends(recorded("model {name}"))], response_model=Versions
)
def versions(name: Name, here: Here, start: First = 1, limit: Limit = 100) -> dict[str, Any]:
    """A model's versions in order, page by page."""
    known(here, name)
    rows, more = views.versions(here.store, name, start, limit)
    return {"versions": rows, "next": more}


@router.get(
    "/models/{name}/history",
    dependencies=[Depends(recorded("model {name}"))],
    response_model=History,
)
def history(name: Name, here: Here, number: OfNumber = None) -> dict[str, Any]:
    """The life of a model, or of one version: moves of aliases, gates, retirements."""
    known(here, name)
    return {"history": views.history(here.lifecycle, name, number)}


@router.get(
    "/models/{name}/aliases",
    dependencies=[Depends(recorded("model {name}"))],
    response_model=Aliases,
)
def aliases(name: Name, here: Here) -> dict[str, Any]:
    """The aliases that name a version."""
    known(here, name)
    return {"aliases": views.aliases(here.lifecycle, name)}


@router.get(
    "/models/{name}/aliases/{alias}",
    dependencies=[Depends(recorded("model {name}@{alias}"))],
    response_model=AliasState,
)
def alias(name: Name, alias: Alias, here: Here) -> dict[str, Any]:
    """What an alias names, and what a change of it has to expect."""
    known(here, name)
    return _state(name, alias, here.lifecycle.current(name, alias))


@router.put("/models/{name}/aliases/{alias}", response_model=AliasState)
def change(
    name: Name, alias: Alias, change: Change, caller: Operator, here: Here
) -> dict[str, Any]:
    """Points an alias at a version, if its newest move is the one that the caller expects."""
    known(here, sees(caller, name))
    moved = here.lifecycle.move(
        name,
        alias,
        change.number,
        expected=change.expected,
        actor=caller.name,
        reason=change.reason,
        evidence=change.evidence,
        forced=change.force,
    )
    return _state(name, alias, moved)


@router.post("/models/{name}/aliases/{alias}/rollback", response_model=AliasState)
def rollback(name: Name, alias: Alias, back: Back, caller: Operator, here: Here) -> dict[str, Any]:
    """Points an alias back at a version that it named before."""
    known(here, sees(caller, name))
    moved = here.lifecycle.rollback(
        name,
        alias,
        expected=back.expected,
        actor=caller.name,
        reason=back.reason,
        number=back.number,
        evidence=back.evidence,
    )
    return _state(name, alias, moved)


@router.get(
    "/models/{name}/versions/{number}",
    dependencies=[Depends(recorded("model {name}@{number}"))],
    response_model=Details,
)
def version(name: Name, number: Number, caller: Reader, here: Here) -> dict[str, Any]:
    """One version: metrics, epsilon by unit and adversary, its leaves and its history."""
    found = views.version(here.store, name, number)
    if found["begun_with"] is not None and not caller.sees(found["begun_with"]["model"]):
        del found["begun_with"]
    return found


@router.get(
    "/models/{name}/versions/{number}/lineage",
    dependencies=[Depends(recorded("model {name}@{number}"))],
    response_model=Lineage,
)
def lineage(name: Name, number: Number, caller: Reader, here: Here) -> dict[str, Any]:
    """Where a version came from: run, plan, code, data by commitment, charges, parents, who."""
    found = lines.lineage(here.store, _row(here, name, number))
    _own(found, caller)
    return found


@router.get(
    "/models/{name}/versions/{number}/diff",
    dependencies=[Depends(recorded("model {name}@{number}"))],
    response_model=Difference,
)
def diff(name: Name, number: Number, to: To, caller: Reader, here: Here) -> dict[str, Any]:
    """How another version of the model differs from this one."""
    rows = [_row(here, name, each) for each in (number, to)]
    for row in rows:
        traceable(here, row, caller)
    found = difference(here.store, *rows)
    for array in found["arrays"]:
        # JSON has no infinity.
        array |= {"distance": _finite(array["distance"])}
        array |= {"norms": [_finite(norm) for norm in array["norms"]]}
    return found


@router.get(
    "/models/{name}/versions/{number}/artifact",
    dependencies=[Depends(recorded("model {name}@{number}", "export"))],
    response_class=Response,
    responses=_FILE,
)
def artifact(name: Name, number: Number, here: Here) -> Response:
    """A version's safetensors file, after its digest and its attestation were checked."""
    row = _row(here, name, number)
    data = here.registry.verified(row)
    headers = {
        "ETag": f'"{row["artifact"]}"',
        # The name in the path isn't fit for a header.
        "Content-Disposition": f'attachment; filename="{row["artifact"][:16]}.safetensors"',
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.get(
    "/models/{name}/versions/{number}/envelope",
    dependencies=[Depends(recorded("model {name}@{number}"))],
    response_class=Response,
    responses=_ENVELOPE,
)
def envelope(name: Name, number: Number, here: Here) -> Response:
    """The signed attestation of a version's artifact."""
    text = here.registry.envelope(_row(here, name, number))
    return Response(text, media_type="application/vnd.dsse.envelope.v1+json")


@router.post("/models/{name}/versions/{number}/retire", response_model=Retired)
def retire(name: Name, number: Number, why: Why, caller: Operator, here: Here) -> dict[str, Any]:
    """Ends a version's life: no alias may name it again."""
    known(here, sees(caller, name))
    leaf = here.lifecycle.retire(name, number, actor=caller.name, reason=why.reason)
    return {"name": name, "number": number, "leaf": leaf}


def traceable(here: Here, row: Row, caller: Caller) -> None:
    """Raises `AccessError` if a version came from a model that a caller may not know of."""
    if not caller.covers(["*"]):
        _own(lines.lineage(here.store, row), caller)


def _own(lineage: dict[str, Any], caller: Caller) -> None:
    if not all(caller.sees(parent["model"]) for parent in lineage["parents"]):
        raise AccessError("it came from models that this token may not know of")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _row(here: Here, name: str, number: int) -> Row:
    """A version's row."""
    for row in here.store.versions(name=name, number=number):
        return row
    raise problems.missing()


def _state(name: str, alias: str, found: Move | None) -> dict[str, Any]:
    number = None if found is None else found.number
    seen = None if found is None else found.leaf
    said = None if found is None else views.move(found)
    return {"model": name, "alias": alias, "number": number, "expected": seen, "move": said}
