"""The tree over the leaves, its checkpoints, and triggers against changing what was written."""

import secrets

import sqlalchemy as sa
from alembic import op

from tacit.privacy.log import merkle

revision = "0002"
down_revision = "0001"

_FROZEN = ("leaves", "nodes", "checkpoints", "cohorts", "versions", "rounds")
# Whatever a new row may not have in common with an old one.
_UNIQUE: dict[str, tuple[tuple[str, ...], ...]] = {
    "leaves": (("index",),),
    "nodes": (("level", "index"),),
    "checkpoints": (("size",),),
    "cohorts": (("leaf",),),
    "versions": (("id",), ("release",), ("name", "number"), ("run", "round")),
    "rounds": (("run", "round"),),
    "runs": (("id",),),
}
_FIXED = ("id", "name", "created_at", "spec", "spec_digest", "plan", "plan_digest", "code")
_FIXED_RUN = (*_FIXED, "population", "key")


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_index("leaves_kind", "leaves", ["kind", "index"])
    _add_columns()
    _lay_tree()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite()
    else:
        _postgresql()


def _add_columns() -> None:
    empty = sa.text("''")
    op.add_column(
        "runs", sa.Column("population", sa.String(200), nullable=False, server_default=empty)
    )
    op.add_column("runs", sa.Column("key", sa.LargeBinary, nullable=False, server_default=empty))
    connection = op.get_bind()
    for identifier, name in connection.execute(sa.text("SELECT id, name FROM runs")).all():
        connection.execute(
            sa.text("UPDATE runs SET population = :name, key = :key WHERE id = :id"),
            {"name": name, "key": secrets.token_bytes(32), "id": identifier},
        )


def _lay_tree() -> None:
    connection = op.get_bind()
    found = connection.execute(sa.text('SELECT hash FROM leaves ORDER BY "index"')).all()
    tree = merkle.Tree()
    for (digest,) in found:
        tree.append(bytes.fromhex(digest))
    nodes = sa.table("nodes", sa.column("level"), sa.column("index"), sa.column("hash"))
    level, count = 1, len(found) // 2
    while count:
        rows = [{"level": level, "index": i, "hash": tree.node(level, i)} for i in range(count)]
        op.bulk_insert(nodes, rows)
        level, count = level + 1, count // 2


def _sqlite() -> None:
    for table in _FROZEN:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} BEGIN "
                f"SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    for table, unique in _UNIQUE.items():
        # INSERT OR REPLACE deletes without a trigger's being asked, by rowid too.
        same = [" AND ".join(f'"{name}" = NEW."{name}"' for name in names) for names in unique]
        found = " OR ".join(f"({condition})" for condition in (*same, "rowid = NEW.rowid"))
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {found}) BEGIN "
            f"SELECT RAISE(ABORT, 'UNIQUE: {table} is append-only'); END"
        )
    changed = " OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in ("rowid", *_FIXED_RUN))
    refuse = "BEGIN SELECT RAISE(ABORT, 'runs is append-only but for its progress'); END"
    op.execute(f"CREATE TRIGGER runs_fixed BEFORE UPDATE ON runs WHEN {changed} {refuse}")
    op.execute(f"CREATE TRIGGER runs_no_delete BEFORE DELETE ON runs {refuse}")


def _postgresql() -> None:
    op.execute(
        "CREATE FUNCTION tacit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    run = "EXECUTE FUNCTION tacit_append_only()"
    for table in _FROZEN:
        op.execute(
            f"CREATE TRIGGER {table}_frozen BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW {run}"
        )
    for table in (*_FROZEN, "runs"):
        op.execute(f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} {run}")
    changed = " OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in _FIXED_RUN)
    op.execute(
        f"CREATE TRIGGER runs_fixed BEFORE UPDATE ON runs FOR EACH ROW WHEN ({changed}) {run}"
    )
    op.execute(f"CREATE TRIGGER runs_no_delete BEFORE DELETE ON runs FOR EACH ROW {run}")


def downgrade() -> None:
    raise RuntimeError("a ledger can't be migrated backwards")
