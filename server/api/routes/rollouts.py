"""Rollouts and gates of a model: arms, counts, metrics with their intervals, decisions.

Guarantees: nothing here is more than what RELEASE leaves say, each with its leaf; no read is
without its record. A gate is set by who may operate, under the caller's own name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field

from tacit.privacy.gates import Gate
from tacit.server.access.roles import Caller
from tacit.server.api import problems
from tacit.server.api.context import Here, allowed, known, recorded, sees
from tacit.server.api.shapes import MOST, Alias, Asked, Index, Name, Reason, Run, Shape
from tacit.server.gates import Gates
from tacit.server.views import rollouts as views

router = APIRouter(tags=["rollouts"])
Operator = Annotated[Caller, Depends(allowed("operate"))]


class Bounds(Shape):
    """A confidence interval; null where nothing bounds it."""

    estimate: float | None
    low: float | None
    high: float | None


class Window(Shape):
    """One evaluation of an arm."""

    leaf: Index
    counts: list[float] = Field(description="Score, examples and loss over the cap, noised.")
    metrics: dict[str, float]


class ArmShape(Shape):
    """One version of a rollout."""

    number: int
    artifact: str
    share: float
    deviation: float = Field(description="Of the noise in each count of one evaluation.")
    windows: list[Window]
    confidence: float
    accuracy: Bounds
    loss: Bounds


class RolloutShape(Shape):
    """A run whose rounds are evaluations only."""

    run: str
    leaf: Index
    model: str
    mode: str
    alias: str | None
    status: str
    rounds: int
    planned: int
    arms: list[ArmShape]


class RolloutList(Shape):
    """Rollouts of a model, oldest first."""

    rollouts: list[RolloutShape]


class DecisionShape(Shape):
    """What a gate says of a version on the newest evidence that fits it."""

    number: int
    verdict: Literal["pass", "fail", "undecided"]
    evidence: list[int] = Field(description="RELEASE leaves that it reads.")


class GateShape(Shape):
    """A gate in force."""

    leaf: Index
    alias: str
    gate: dict[str, Any]
    in_words: str
    champion: int | None
    decisions: list[DecisionShape]


class GateList(Shape):
    """The gates of a model."""

    gates: list[GateShape]


class GateAsked(Asked):
    """What a version has to show; at least one of the three bounds."""

    metric: Literal["accuracy", "loss"] = "accuracy"
    at_least: Annotated[float | None, Field(gt=0, lt=1)] = None
    at_most: Annotated[float | None, Field(gt=0, le=1e9)] = None
    margin: Annotated[float | None, Field(ge=0, le=1e9)] = None
    confidence: Annotated[float, Field(ge=0.5, le=0.999999)] = 0.95
    windows: Annotated[int, Field(ge=2, le=MOST)] = 5
    fallback_rounds: Annotated[int, Field(ge=1, le=MOST)] = 3
    reason: Reason


class Leaf(Shape):
    """The leaf that was appended."""

    leaf: Index


@router.get(
    "/models/{name}/rollouts",
    dependencies=[Depends(recorded("rollouts of {name}"))],
    response_model=RolloutList,
)
def rollouts(name: Name, here: Here) -> dict[str, Any]:
    """A model's rollouts: arms, counts, metrics and intervals."""
    known(here, name)
    return {"rollouts": views.rollouts(here.store, name)}


@router.get(
    "/models/{name}/rollouts/{run}",
    dependencies=[Depends(recorded("rollout {run} of {name}"))],
    response_model=RolloutShape,
)
def rollout(name: Name, run: Run, here: Here) -> dict[str, Any]:
    """One rollout."""
    for found in views.rollouts(here.store, name):
        if found["run"] == run:
            return found
    raise problems.missing()


@router.get(
    "/models/{name}/gates",
    dependencies=[Depends(recorded("gates of {name}"))],
    response_model=GateList,
)
def gates(name: Name, here: Here) -> dict[str, Any]:
    """A model's gates, and what each says of the versions that were rolled out."""
    known(here, name)
    return {"gates": views.guards(here.store, name)}


@router.put("/models/{name}/gates/{alias}", response_model=Leaf)
def set_gate(
    name: Name, alias: Alias, asked: GateAsked, caller: Operator, here: Here
) -> dict[str, int]:
    """Guards an alias from here on; rollouts planned before are no evidence for it."""
    known(here, sees(caller, name))
    terms = asked.model_dump(exclude={"reason"})
    gate = Gate(model=name, alias=alias, **terms)
    return {"leaf": Gates(here.store).set(gate, actor=caller.name, reason=asked.reason)}
