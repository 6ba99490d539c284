"""Withdrawals: open a case by a client's own statement, look, decide, close, report.

Guarantees: only whoever may erase, and sees every model of the tenant, is told anything: a case
names versions of whatever model came of a client. Every look is recorded. Steps are taken under the
caller's own name and are what `tacit erase` does (`tacit.server.erasure.cases`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path
from pydantic import Field

from tacit.privacy.errors import ConfigError
from tacit.protocol import withdrawal
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, allowed, recorded
from tacit.server.api.shapes import MOST, PRINTABLE, Asked, Reason, Shape
from tacit.server.erasure import proof, report
from tacit.server.erasure.cases import Case, Cases
from tacit.server.store import Store

router = APIRouter(tags=["erasures"])
Id = Annotated[
    str, Path(pattern=r"^[0-9a-f]{16}$", description="Of a case.", examples=["21ffa7b580bb24a1"])
]


class CaseShape(Shape):
    """A case; of an open one what its client took part in, of a closed one its file."""

    case: str
    population: str
    state: Literal["opened", "chosen", "closing", "closed", "forgotten"]
    choice: Literal["retrain", "keep"] | None
    leaves: dict[str, int] = Field(description="Its ERASURE leaves, by stage.")


class CaseList(Shape):
    """The cases of a tenant, oldest first."""

    cases: list[CaseShape]


class ReportShape(Shape):
    """What is handed over: the text in Markdown, and the JSON that tacit-verify checks."""

    text: str
    report: dict[str, Any]


class Client(Asked):
    """Who withdraws, where there is no statement."""

    population: Annotated[str, Field(min_length=1, max_length=200, pattern=PRINTABLE)]
    client: Annotated[int, Field(ge=0, le=MOST)]


class Excluded(Client):
    """Who is excluded without a proof that it asked, and why."""

    reason: Reason


class OpenAsked(Asked):
    """One of the three."""

    withdrawal: dict[str, Any] | None = Field(None, description="The file of tacit withdraw.")
    simulated: Client | None = None
    without_proof: Excluded | None = None


class ChooseAsked(Asked):
    """What to do about the versions."""

    choice: Literal["retrain", "keep"]
    reason: Reason


class CloseAsked(Asked):
    """How to close."""

    anyway: bool = Field(False, description="Although aliases name versions to be replaced.")
    everyone: bool = Field(False, description="Destroy all others' links to past cohorts too.")


async def eraser(caller: Annotated[Caller, Depends(allowed("erase"))]) -> Caller:
    """A caller who may erase, and to whom no model is unknown."""
    if not caller.covers(["*"]):
        raise problems.missing()
    return caller


Eraser = Annotated[Caller, Depends(eraser)]


@router.get(
    "/erasures",
    dependencies=[Depends(eraser), Depends(recorded("erasures"))],
    response_model=CaseList,
)
def cases(here: Here) -> dict[str, Any]:
    """The cases."""
    return {"cases": [case.brief() for case in Cases(here.store).list()]}


@router.post("/erasures", response_model=CaseShape, status_code=201)
def open_(asked: OpenAsked, caller: Eraser, here: Here) -> dict[str, Any]:
    """Excludes a client from now on, and looks up what it took part in."""
    given = [x for x in (asked.withdrawal, asked.simulated, asked.without_proof) if x is not None]
    if len(given) != 1:
        raise ConfigError("who withdraws?", "send one of withdrawal, simulated and without_proof")
    if asked.withdrawal is not None:
        found = proof.by_key(here.store, withdrawal.parse(asked.withdrawal))
    elif asked.simulated is not None:
        who = asked.simulated
        found = proof.simulated(here.store, who.population, who.client)
    else:
        assert asked.without_proof is not None
        out = asked.without_proof
        found = proof.without(here.store, out.population, out.client, out.reason)
    return _shown(here.store, Cases(here.store).open(found, caller.name))


@router.get(
    "/erasures/{case}",
    dependencies=[Depends(eraser), Depends(recorded("erasure {case}"))],
    response_model=CaseShape,
)
def show(case: Id, here: Here) -> dict[str, Any]:
    """One case."""
    return _shown(here.store, Cases(here.store).get(case))


@router.post("/erasures/{case}/choice", response_model=CaseShape)
def choose(case: Id, asked: ChooseAsked, caller: Eraser, here: Here) -> dict[str, Any]:
    """Decides, with the client's epsilon as evidence; can be done again until it is closed."""
    made = Cases(here.store).choose(case, asked.choice, asked.reason, caller.name)
    return _shown(here.store, made)


@router.post("/erasures/{case}/close", response_model=CaseShape)
def close(case: Id, asked: CloseAsked, caller: Eraser, here: Here) -> dict[str, Any]:
    """Destroys what links the client to cohorts."""
    made = Cases(here.store).close(case, caller.name, asked.anyway, asked.everyone)
    return _shown(here.store, made)


@router.get(
    "/erasures/{case}/report",
    dependencies=[Depends(eraser), Depends(recorded("report of erasure {case}"))],
    response_model=ReportShape,
)
def reported(case: Id, here: Here) -> dict[str, Any]:
    """What is handed to the person."""
    made = report.make(here.store, Cases(here.store).get(case))
    return {"text": report.markdown(made), "report": made}


def _shown(store: Store, case: Case) -> dict[str, Any]:
    said = case.brief()
    if case.client is None:
        return {**said, "file": case.body.get("closed")}
    now = Cases(store).affected(case.id)
    evidence = case.body.get("choice", {}).get("evidence")
    asked = case.body["opened"]["asked"]["kind"]
    more = {"client": case.client, "asked": asked, "evidence": evidence, "runs": now.runs()}
    return {**said, **more, "found": now.to_json()}
