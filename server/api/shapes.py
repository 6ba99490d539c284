"""What requests and answers of the API look like, and what their texts and numbers may be.

Guarantees: texts and numbers of requests are bounded to what the store can hold; what is outside is
refused before anything is looked up. An answer may have more members than are described.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

# Nothing that a terminal, a header or PostgreSQL takes for a sign.
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]+$"
# Newlines and tabs too.
TEXT = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f]*$"
MOST = 2**31 - 1

Index = Annotated[int, Field(ge=0, le=MOST, description="Index of a leaf.", examples=[17])]
VersionNumber = Annotated[
    int, Field(ge=1, le=MOST, description="Number of a version of its model.", examples=[3])
]
Reason = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        pattern=PRINTABLE,
        description="Why, in words, for whoever reads the ledger.",
        examples=["better on the canary share"],
    ),
]
Name = Annotated[
    str,
    Path(
        min_length=1,
        max_length=200,
        pattern=PRINTABLE,
        description="Name of a model.",
        examples=["digits"],
    ),
]
Alias = Annotated[
    str,
    Path(
        pattern=r"^[a-z][a-z0-9_-]{0,63}$",
        description="An alias; champion is what scoring serves.",
        examples=["champion"],
    ),
]
Number = Annotated[
    int, Path(ge=1, le=MOST, description="Number of a version of its model.", examples=[3])
]
Run = Annotated[
    str,
    Path(
        min_length=1,
        max_length=64,
        pattern=PRINTABLE,
        description="Id of a run, whole.",
        examples=["20260301-101500-4f2a"],
    ),
]
LeafIndex = Annotated[int, Path(ge=0, le=MOST, description="Index of a leaf.", examples=[17])]
Limit = Annotated[int, Query(ge=1, le=500, description="At most so many.", examples=[100])]


class Shape(BaseModel):
    """An answer."""

    # What a view adds is shown rather than dropped; the description says what there always is.
    model_config = ConfigDict(extra="allow")


class Asked(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid")


class Epsilon(Shape):
    """What was spent, in one row of the table that a privacy engineer reads."""

    unit: str = Field(description="Whose data: client or record.", examples=["client"])
    adversary: str = Field(
        description="Against whom: public, coordinator, collusion or local.", examples=["public"]
    )
    amplified: bool = Field(description="Whether the secrecy of draws is counted on.")
    epsilon: float | None = Field(description="Null: nothing is claimed.", examples=[1.25])


class VersionName(Shape):
    """A version, and the RELEASE leaf that released it."""

    name: str = Field(examples=["digits"])
    number: VersionNumber
    leaf: Index


class Move(Shape):
    """A move of an alias: a DEPLOY or ROLLBACK leaf."""

    alias: str = Field(examples=["champion"])
    number: int | None = Field(description="What it names from then on; null: nothing.")
    leaf: Index
    kind: str = Field(examples=["DEPLOY"])
    previous: int | None = Field(description="Leaf of the move before; null: the first.")
    at: str = Field(description="The hour.", examples=["2026-03-01T10:00:00Z"])
    actor: str = Field(examples=["olga"])
    reason: str
    evidence: list[int] = Field(description="RELEASE leaves of evaluations that it rests on.")
    forced: bool = Field(description="Whether it was made past a gate.")
    automatic: bool = Field(description="Whether a fallback made it.")


class Model(Shape):
    """A named model."""

    name: str = Field(examples=["digits"])
    versions: int = Field(description="How many there are.")
    newest: VersionName
    aliases: list[Move]


class Metrics(Shape):
    """What a version's RELEASE leaf states, noised where it is of clients."""

    leaf: Index
    values: dict[str, float | None]


class Version(Shape):
    """A version: immutable, released by a leaf."""

    name: str = Field(examples=["digits"])
    number: VersionNumber
    leaf: Index
    run: str
    round: int
    artifact: str = Field(description="SHA-256 of its safetensors file.")
    created_at: str
    parent: VersionName | None = Field(description="The version it was trained from in its run.")
    stage: str = Field(description="released, retired, or the aliases that name it.")
    charge: Index
    metrics: Metrics
    epsilon: list[Epsilon]


class Models(Shape):
    """The models that the caller may know of."""

    models: list[Model]


class Versions(Shape):
    """A page of versions."""

    versions: list[Version]
    next: int | None = Field(description="The number to go on from; null at the end.")


class Event(Shape):
    """A leaf of a version's life: DEPLOY, ROLLBACK, RETIRE or GATE."""

    leaf: Index
    kind: str
    at: str
    model: str
    actor: str
    reason: str


class Details(Version):
    """A version with its run's deltas, the leaves that led to it, and its history."""

    population: str
    deltas: dict[str, Any]
    attested: bool = Field(description="Whether its artifact has a signed attestation.")
    leaves: list[dict[str, Any]]
    history: list[Event]


class History(Shape):
    """The life of a model."""

    history: list[Event]


class Aliases(Shape):
    """The aliases that name a version."""

    aliases: list[Move]


class AliasState(Shape):
    """An alias now. ``expected`` is what a change has to say that it saw."""

    model: str
    alias: str
    number: int | None = Field(description="What it names; null: nothing.")
    expected: int | None = Field(description="Leaf of its newest move; null: it was never moved.")
    move: Move | None


class Change(Asked):
    """Where an alias shall point."""

    number: VersionNumber | None = Field(description="Null takes the alias away.")
    expected: Index | None = Field(
        description="Leaf of the alias's newest move as the caller saw it; null if there was none."
    )
    reason: Reason
    evidence: list[Index] = Field(
        default=[], max_length=64, description="RELEASE leaves of evaluations that it rests on."
    )
    force: bool = Field(default=False, description="Past a gate; the leaf says so.")


class Back(Asked):
    """A rollback."""

    expected: Index | None = Field(description="As in a change.")
    reason: Reason
    number: VersionNumber | None = Field(
        default=None, description="A version that it named before; null: the one before."
    )
    evidence: list[Index] = Field(default=[], max_length=64, description="As in a change.")


class Why(Asked):
    """Why a version is retired."""

    reason: Reason


class Retired(Shape):
    """A version that no alias may name again."""

    name: str
    number: VersionNumber
    leaf: Index


class Lineage(Shape):
    """Everything that led to a version, and what happened to it since; each item has its leaf."""

    model: str
    number: VersionNumber
    artifact: str
    leaf: Index
    stage: str
    run: dict[str, Any]
    configuration: dict[str, Any]
    plan: dict[str, Any]
    code: dict[str, Any]
    data: dict[str, Any] = Field(description="The population, and cohorts by commitment.")
    rounds: list[dict[str, Any]]
    parents: list[dict[str, Any]]
    charges: list[dict[str, Any]]
    approvals: list[dict[str, Any]]
    audits: list[dict[str, Any]]
    policies: list[dict[str, Any]]
    moves: list[dict[str, Any]]
    evidence: list[dict[str, Any]]


class Difference(Shape):
    """How two versions differ: [what, in the one, in the other], and array by array."""

    versions: list[dict[str, Any]]
    configuration: list[list[Any]]
    plan: list[list[Any]]
    code: list[str]
    metrics: list[list[Any]]
    epsilon: list[list[Any]]
    arrays: list[dict[str, Any]]
