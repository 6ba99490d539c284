"""The tables. Alembic's migrations make them; this is what queries are written against.

``leaves`` is append-only and its index has no gaps: a Merkle tree is laid over it. ``runs`` is
the one table of mutable state, and only of it (status, message, round, state); triggers refuse
every other change, on either engine, and all that a row says is bound by a leaf
(`tacit.server.check`).
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("status", String(20), nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("created_at", String(40), nullable=False),
    Column("spec", Text, nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("plan", Text, nullable=False),
    Column("plan_digest", String(64), nullable=False),
    Column("code", String(80), nullable=False),
    Column("round", Integer, nullable=False, default=0),
    Column("state", String(64), nullable=True),
    Column("population", String(200), nullable=False),
    # Opens what leaves say of this run under commitment: secret.
    Column("key", LargeBinary, nullable=False),
)

leaves = Table(
    "leaves",
    metadata,
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("run", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", String(64), nullable=False),
    Index("leaves_run", "run", "index"),
    Index("leaves_kind", "kind", "index"),
)

# Of complete subtrees of 2^level leaves, level >= 1; those of level 0 are the leaves' own.
nodes = Table(
    "nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("index", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary, nullable=False),
)

# C2SP signed notes: one for each transaction that appended leaves.
checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", Integer, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

# Opens a leaf's commitment: secret, as the amplified claims rest on it.
cohorts = Table(
    "cohorts",
    metadata,
    Column("leaf", Integer, ForeignKey("leaves.index"), primary_key=True),
    Column("run", String(64), nullable=False, index=True),
    Column("purpose", String(16), nullable=False),
    Column("salt", LargeBinary, nullable=False),
    Column("members", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run", String(64), ForeignKey("runs.id"), nullable=False),
    Column("round", Integer, nullable=False),
    Column("artifact", String(64), nullable=False),
    Column("parent", Integer, ForeignKey("versions.id"), nullable=True),
    Column("charge", Integer, ForeignKey("leaves.index"), nullable=False),
    Column("release", Integer, ForeignKey("leaves.index"), nullable=False, unique=True),
    Column("plan_digest", String(64), nullable=False),
    Column("spec_digest", String(64), nullable=False),
    Column("code", String(80), nullable=False),
    Column("metrics", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    UniqueConstraint("name", "number"),
    UniqueConstraint("run", "round"),
)

# One row a DEPLOY or ROLLBACK leaf: where an alias points from then on. That no two moves follow
# the same one is the compare-and-swap, which the database enforces too; -1 follows nothing.
moves = Table(
    "moves",
    metadata,
    Column("leaf", Integer, ForeignKey("leaves.index"), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("number", Integer, nullable=True),
    Column("previous", Integer, nullable=False),
    UniqueConstraint("model", "alias", "previous"),
)

# One row a RETIRE leaf.
retirements = Table(
    "retirements",
    metadata,
    Column("leaf", Integer, ForeignKey("leaves.index"), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    UniqueConstraint("model", "number"),
)

# A DSSE envelope a version: what an artifact is, signed with the ledger's key of its day.
attestations = Table(
    "attestations",
    metadata,
    Column("version", Integer, ForeignKey("versions.id"), primary_key=True),
    Column("envelope", Text, nullable=False),
)

# Who read what, and which version scored which request: one canonical JSON object a row, sealed
# batch by batch into ACCESS leaves. ``request`` is what a row is found by again.
accesses = Table(
    "accesses",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("request", String(64), nullable=False, unique=True),
    Column("body", Text, nullable=False),
)

# One row an ACCESS leaf: the ids that its Merkle root is over, ends included.
batches = Table(
    "batches",
    metadata,
    Column("leaf", Integer, ForeignKey("leaves.index"), primary_key=True),
    Column("first", Integer, nullable=False, unique=True),
    Column("last", Integer, nullable=False, unique=True),
)

# One row a released round, for reports. The counts are the operator's: no release has them.
rounds = Table(
    "rounds",
    metadata,
    Column("run", String(64), ForeignKey("runs.id"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("metrics", Text, nullable=False),
    Column("epsilon", Text, nullable=False),
    Column("asked", Integer, nullable=False),
    Column("accepted", Integer, nullable=False),
    Column("rejected", Text, nullable=False),
    Column("seconds", Float, nullable=False),
)
