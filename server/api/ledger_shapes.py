"""What requests and answers about the ledger and its runs look like, as in `shapes`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tacit.server.api.shapes import PRINTABLE, TEXT, Asked, Epsilon, Index, Shape, VersionNumber


class Leaf(Shape):
    """A leaf of the ledger, as it was signed."""

    leaf: Index
    run: str = Field(description="Empty where it is of no run.")
    kind: str = Field(examples=["RELEASE"])
    hash: str = Field(description="RFC 9162 leaf hash, in hex.")
    body: dict[str, Any]


class Leaves(Shape):
    """A page of leaves."""

    size: int = Field(description="Leaves of the ledger.")
    leaves: list[Leaf]
    next: int | None = Field(description="The index to go on from; null at the end.")


class Checkpoint(Shape):
    """The newest checkpoint: keep the note, and nobody can take leaves back unnoticed."""

    origin: str = Field(description="The ledger's name.")
    size: int
    root: str = Field(description="Of the Merkle tree, in hex.")
    keys: list[str] = Field(description="Keys that signed the ledger, oldest first.")
    note: str = Field(description="The signed note (C2SP).")


class Inclusion(Shape):
    """A proof that a leaf is in the ledger; `tacit-verify` checks it as a file."""

    tacit: str = Field(examples=["proof"])
    version: int
    leaf: str = Field(description="Its canonical JSON, as it is hashed.")
    index: Index
    size: int
    proof: list[str]
    checkpoint: str


class Growth(Shape):
    """A proof that the ledger only grew; `tacit-verify` checks it as a file."""

    tacit: str = Field(examples=["consistency"])
    version: int
    since: str
    proof: list[str]
    checkpoint: str


class Since(Asked):
    """A checkpoint that somebody kept."""

    checkpoint: str = Field(max_length=10_000, pattern=TEXT, description="The signed note.")


class Finding(Shape):
    """Something wrong, at a leaf if it is at one."""

    leaf: int | None
    problem: str


class Report(Shape):
    """What the verifier found."""

    holds: bool
    at: str = Field(description="When it was begun.")
    origin: str
    size: int = Field(description="Leaves that were checked; newer ones weren't.")
    root: str
    findings: list[Finding]
    notes: list[str] = Field(description="What a reader should know that isn't wrong.")


class Verified(Shape):
    """The verifier's newest report, and whether another is being made."""

    state: str = Field(description="never, running or done.", examples=["done"])
    failed: str | None = Field(description="Why the last check came to nothing.")
    report: Report | None


class Policy(Shape):
    """A population's policy in force: a POLICY leaf."""

    population: str
    leaf: Index
    at: str
    signed_by: str | None
    terms: dict[str, Any]


class Policies(Shape):
    """The policies in force."""

    policies: list[Policy]


class Awaited(Shape):
    """A run, or a ledger after an audit, that only a reviewer can let go on."""

    run: str
    model: str
    population: str
    status: str
    why: str
    leaf: int | None = Field(description="The run's PLAN leaf.")
    lifts: int | None = Field(description="The AUDIT leaf that freezes releases; null: a plan.")
    reviewers: list[str] = Field(description="Keys, of which one has to sign; empty: any.")


class Approvals(Shape):
    """What waits for a reviewer."""

    waiting: list[Awaited]


class Draft(Shape):
    """An APPROVAL to sign."""

    body: dict[str, Any] = Field(description="The leaf, all but its signature.")
    statement: str = Field(
        description="What is signed, in UTF-8: a line, then the body (RFC 8785)."
    )


class Signed(Asked):
    """An APPROVAL with its reviewer's signature."""

    kind: Literal["APPROVAL"] = "APPROVAL"
    run: str = Field(min_length=1, max_length=64, pattern=PRINTABLE)
    plan: str = Field(pattern="^[0-9a-f]{64}$")
    verdict: Literal["approved", "refused"]
    lifts: Index | None
    note: str = Field(max_length=2000, pattern=TEXT)
    ledger: str = Field(max_length=200, pattern=PRINTABLE)
    nonce: str = Field(pattern="^[0-9a-f]{32}$")
    key: str = Field(max_length=300, pattern=PRINTABLE, description="NAME+HASH+BASE64.")
    signature: str = Field(max_length=200, pattern=PRINTABLE, description="Ed25519, in base64.")


class Appended(Shape):
    """A leaf that was appended."""

    leaf: Index


class RunRow(Shape):
    """A run."""

    id: str
    name: str = Field(description="Of its model.")
    population: str
    status: str = Field(examples=["finished"])
    round: int = Field(description="The last that was released.")
    created_at: str
    plan_digest: str
    configuration_digest: str
    leaf: int | None = Field(description="Its PLAN leaf.")
    message: str | None = Field(description="Of its end; shown to operators.")


class Runs(Shape):
    """Runs, oldest first."""

    runs: list[RunRow]


class RunDetails(RunRow):
    """A run with its privacy plan and its configuration."""

    plan: dict[str, Any]
    configuration: dict[str, Any]


class Round(Shape):
    """What a round released."""

    round: int
    leaf: Index
    charge: Index
    number: VersionNumber
    artifact: str
    metrics: dict[str, float | None]
    epsilon: dict[str, float | None]


class Rounds(Shape):
    """The released rounds of a run."""

    rounds: list[Round]


class Spent(Epsilon):
    """A row of a run's epsilon, recomputed from its charges."""

    delta: float
    cross_check: float | None = None
    accountant: str | None = None
    method: str | None
    assumes: str = ""


class Spending(Shape):
    """What a run has spent, and the CHARGE leaves that say so."""

    run: str
    charges: list[Index]
    rows: list[Spent]


class Population(Shape):
    """What all runs on a population have spent together."""

    population: str
    runs: list[dict[str, Any]]
    policy: int | None = Field(description="The POLICY leaf in force.")
    rows: list[Spent]


class Populations(Shape):
    """The populations that were charged."""

    populations: list[Population]
