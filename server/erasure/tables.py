"""The tables of erasure, as migration 0004 makes them.

They are no part of the log: their rows change and go, which is what they are for. On SQLite the
first two have no rowids, in whose order there would be more than in the rows.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# What clients' handles are derived from (`tacit.server.erasure.handles`): secret.
seeds = sa.Table(
    "seeds",
    metadata,
    sa.Column("population", sa.String(200), primary_key=True),
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seed", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Who isn't drawn any more, for good. ``case`` is null once the case is closed.
withdrawals = sa.Table(
    "withdrawals",
    metadata,
    sa.Column("population", sa.String(200), primary_key=True),
    sa.Column("client", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("case", sa.String(64), unique=True),
    sqlite_with_rowid=False,
)

cases = sa.Table(
    "cases",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("population", sa.String(200), nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    # Opens what leaves say of the case under commitment: secret; null once it is forgotten.
    sa.Column("key", sa.LargeBinary),
)
