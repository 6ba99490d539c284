"""Scores with receipts, and which version scored what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tacit.privacy.errors import ConfigError
from tacit.privacy.log.lifecycle import ALIAS
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, Place, allowed, recorded, sees
from tacit.server.scoring import receipts
from tacit.server.scoring.errors import BusyError
from tacit.server.scoring.router import Router
from tacit.server.scoring.settings import Settings

router = APIRouter(tags=["scoring"])
May = Annotated[Caller, Depends(allowed("score"))]
MayRead = Annotated[Caller, Depends(allowed("read"))]
_BUSY: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such model or alias, or it isn't the caller's to see."},
    409: {"description": "The request's id was used before."},
    503: {"description": "No answer within the budget; Retry-After says when to ask again."},
}


class Records(BaseModel):
    """Records to score."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any] = Field(
        min_length=1, max_length=4096, description="One entry a record: a list of numbers, nested."
    )
    request: str | None = Field(
        default=None,
        pattern="^[A-Za-z0-9_-]{8,64}$",
        description="An id of your own, used once; left out, the answer's X-Request-Id.",
    )


def of(place: Place, request: Request) -> Router:
    """The router of a place, made when it is first asked for; it ends with the place.

    An app may have its own way to make one, ``state.scorer``.
    """
    settings: Settings = request.app.state.settings.scoring
    scorer: Callable[[Place, Settings], Router] = getattr(request.app.state, "scorer", _router)

    def make() -> Router:
        made = scorer(place, settings)
        place.closing.callback(made.close)
        return made

    return place.shared("scoring", make)


def _router(place: Place, settings: Settings) -> Router:
    return Router(place.store, place.registry, place.lifecycle, place.recorder, settings)


def _named(caller: Caller, name: str, alias: str) -> None:
    """Refuses a model that the caller may not know of, and what can't be a name."""
    sees(caller, name)
    if not ALIAS.fullmatch(alias) or not name.isprintable():
        raise problems.missing()


@router.post("/models/{name}/{alias}/score", responses=_BUSY)
async def score(
    name: str, alias: str, records: Records, request: Request, caller: May, place: Here
) -> Response:
    """Scores records with the version that an alias names; the answer has its receipt.

    ``outputs`` is what the model gives for each record, as it is, and ``labels`` where the
    largest output is. ``key`` opens the receipt's commitments to the records: it isn't kept here.
    """
    _named(caller, name, alias)
    scorer = of(place, request)
    _bounded(records.inputs, scorer.settings)
    identifier: str = request.state.request
    try:
        answer = await scorer.score(
            caller.name, name, alias, records.inputs, records.request or identifier
        )
    except BusyError as error:
        found = problems.answer(error, identifier)
        found.headers["Retry-After"] = str(error.seconds)
        return found
    return JSONResponse(answer.to_json())


@router.get(
    "/models/{name}/{alias}/serving", dependencies=[Depends(recorded("model {name}@{alias}"))]
)
async def serving(
    name: str, alias: str, request: Request, caller: MayRead, place: Here
) -> dict[str, Any]:
    """Which version answers for an alias, what runs beside it, and the shape of the traffic."""
    _named(caller, name, alias)
    scorer = of(place, request)
    stand = scorer.stands.now(name, alias)
    if stand is None and await run_in_threadpool(place.lifecycle.current, name, alias) is None:
        raise problems.missing()
    return scorer.state(name)


@router.get("/receipts/{request_id}", dependencies=[Depends(recorded("receipt {request_id}"))])
async def receipt(request_id: str, caller: MayRead, place: Here) -> dict[str, Any]:
    """The receipt of a request: which version scored it, with proof that the ledger has it."""
    if len(request_id) > 64 or not request_id.isprintable():
        raise problems.missing()
    found = await run_in_threadpool(receipts.envelope, place.store, place.recorder, request_id)
    sees(caller, found["receipt"]["model"])
    return found


def _bounded(inputs: list[Any], settings: Settings) -> None:
    """Refuses more than a request may have, and text, before anything is made of it.

    numpy gives each of many texts the room of the longest.
    """
    if len(inputs) > settings.records:
        raise ConfigError(
            f"inputs={len(inputs)} records must be at most {settings.records}",
            "score files with tacit score",
        )
    waiting, numbers = [inputs], 0
    while waiting:
        for each in waiting.pop():
            if isinstance(each, list):
                waiting.append(each)
            elif not isinstance(each, int | float):
                raise ConfigError("inputs hold something else than numbers")
            numbers += 1
        if numbers > settings.numbers:
            raise ConfigError(f"inputs have more than {settings.numbers} numbers")
