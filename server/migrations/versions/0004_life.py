"""What happens to a version after its release, who reads it, and clients that withdraw."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

# Each with whatever a new row may not have in common with an old one.
_FROZEN: dict[str, tuple[tuple[str, ...], ...]] = {
    "moves": (("leaf",), ("model", "alias", "previous")),
    "retirements": (("leaf",), ("model", "number")),
    "attestations": (("version",),),
    "accesses": (("id",), ("request",)),
    "batches": (("leaf",), ("first",), ("last",)),
}


def upgrade() -> None:
    _life()
    _custody()
    _withdrawals()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()


def _life() -> None:
    op.create_table(
        "moves",
        sa.Column("leaf", sa.Integer, sa.ForeignKey("leaves.index"), primary_key=True),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=True),
        sa.Column("previous", sa.Integer, nullable=False),
        sa.UniqueConstraint("model", "alias", "previous"),
    )
    op.create_table(
        "retirements",
        sa.Column("leaf", sa.Integer, sa.ForeignKey("leaves.index"), primary_key=True),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.UniqueConstraint("model", "number"),
    )
    op.create_table(
        "attestations",
        sa.Column("version", sa.Integer, sa.ForeignKey("versions.id"), primary_key=True),
        sa.Column("envelope", sa.Text, nullable=False),
    )


def _custody() -> None:
    op.create_table(
        "accesses",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("request", sa.String(64), nullable=False, unique=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("leaf", sa.Integer, sa.ForeignKey("leaves.index"), primary_key=True),
        sa.Column("first", sa.Integer, nullable=False, unique=True),
        sa.Column("last", sa.Integer, nullable=False, unique=True),
    )


def _withdrawals() -> None:
    # Mutable: erasure takes the seeds away that lead to a client's handles.
    op.create_table(
        "seeds",
        sa.Column("population", sa.String(200), primary_key=True),
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seed", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "withdrawals",
        sa.Column("population", sa.String(200), primary_key=True),
        sa.Column("client", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("case", sa.String(64), nullable=True, unique=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "cases",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("population", sa.String(200), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        # Opens what leaves say of the case under commitment: secret.
        sa.Column("key", sa.LargeBinary, nullable=True),
    )


def _sqlite() -> None:
    for table, unique in _FROZEN.items():
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN "
                f"SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        # INSERT OR REPLACE deletes without a trigger's being asked, by rowid too.
        same = [" AND ".join(f'"{name}" = NEW."{name}"' for name in names) for names in unique]
        found = " OR ".join(f"({condition})" for condition in (*same, "rowid = NEW.rowid"))
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {found}) BEGIN "
            f"SELECT RAISE(ABORT, 'UNIQUE: {table} is append-only'); END"
        )


def _postgresql() -> None:
    run = "EXECUTE FUNCTION tacit_append_only()"
    for table in _FROZEN:
        op.execute(
            f"CREATE TRIGGER {table}_frozen BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {run}"
        )
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} {run}")


def downgrade() -> None:
    raise RuntimeError("a ledger can't be migrated backwards")
