"""Runs: what each released and spent; a version's privacy statement; what populations spent.

How many clients were asked and answered isn't here: that is the operator's, and in no release.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse, Response

from tacit.privacy.statement.statement import markdown
from tacit.server import statements
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, Place, allowed, recorded, sight
from tacit.server.api.ledger_shapes import Populations, Rounds, RunDetails, Runs, Spending
from tacit.server.api.routes.models import traceable
from tacit.server.api.shapes import Name, Number, Run
from tacit.server.views import ledger as views
from tacit.server.views import spending
from tacit.server.views.spending import Memo

router = APIRouter(tags=["runs"])
Reader = Annotated[Caller, Depends(allowed("read"))]
_STATEMENT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The statement.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/markdown": {"schema": {"type": "string"}},
        },
    }
}


def memo(here: Place) -> Memo:
    """What was computed of a place's ledger."""
    return here.shared("memo", Memo)


@router.get("/runs", dependencies=[Depends(recorded("runs"))], response_model=Runs)
def list_(caller: Reader, here: Here) -> dict[str, Any]:
    """Runs, oldest first."""
    operator = caller.may("operate")
    return {"runs": views.runs(here.store, sight(caller), operator=operator)}


@router.get("/runs/{run}", dependencies=[Depends(recorded("run {run}"))], response_model=RunDetails)
def show(run: Run, caller: Reader, here: Here) -> dict[str, Any]:
    """One run with its privacy plan and configuration."""
    found = views.run(here.store, run, sight(caller), operator=caller.may("operate"))
    begun = found["configuration"].get("initial")
    if begun is not None and not caller.sees(begun.partition("@")[0]):
        found["configuration"] = {**found["configuration"], "initial": "not yours to see"}
    return found


@router.get(
    "/runs/{run}/rounds", dependencies=[Depends(recorded("run {run}"))], response_model=Rounds
)
def rounds(run: Run, caller: Reader, here: Here) -> dict[str, Any]:
    """What each round released."""
    row = views.found(here.store, run, sight(caller))
    return {"rounds": views.rounds(here.store, row["id"])}


@router.get(
    "/runs/{run}/spending", dependencies=[Depends(recorded("run {run}"))], response_model=Spending
)
def spent(run: Run, caller: Reader, here: Here) -> dict[str, Any]:
    """What a run has spent, by unit and adversary, recomputed from its charges."""
    row = views.found(here.store, run, sight(caller))
    return spending.of_run(here.store, row["id"], memo(here))


@router.get(
    "/populations", dependencies=[Depends(recorded("populations"))], response_model=Populations
)
def populations(caller: Reader, here: Here) -> dict[str, Any]:
    """What all runs on each population have spent together."""
    found = spending.populations(here.store, sight(caller), memo(here))
    return {"populations": found}


@router.get(
    "/models/{name}/versions/{number}/statement",
    dependencies=[Depends(recorded("model {name}@{number}"))],
    response_class=Response,
    responses=_STATEMENT,
    tags=["models"],
)
def statement(
    name: Name,
    number: Number,
    caller: Reader,
    here: Here,
    format: Annotated[Literal["json", "markdown"], Query(description="Of the answer.")] = "json",
) -> Response:
    """A version's privacy statement, made from leaves that the newest checkpoint covers."""
    rows = here.store.versions(name=name, number=number)
    if not rows:
        raise problems.missing()
    traceable(here, rows[0], caller)
    made = memo(here).get(
        ("statement", rows[0]["release"], here.store.checkpoint()),
        lambda: statements.of_version(here.store, rows[0]),
    )
    made = narrowed(made, caller)
    if format == "markdown":
        return Response(markdown(made), media_type="text/markdown")
    return JSONResponse(made)


def narrowed(statement: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """A statement, without the population's runs of models that a caller may not know of."""
    made = dict(statement["composition"])
    for when in ("at_release", "at_checkpoint"):
        runs = [run for run in made[when]["runs"] if caller.sees(run["model"])]
        made[when] = {**made[when], "runs": runs}
    return {**statement, "composition": made}
