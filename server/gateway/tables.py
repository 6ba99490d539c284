"""The tables of devices and of their one-time tokens, as migration 0003 makes them.

They are no part of the log: rows change. A token is kept as its SHA-256 alone.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("population", sa.String(200), primary_key=True),
    sa.Column("client", sa.Integer, primary_key=True, autoincrement=False),
    # Ed25519 public key, and the authority's signature that it is this client's.
    sa.Column("identity", sa.LargeBinary, nullable=False),
    sa.Column("attestation", sa.LargeBinary, nullable=False),
    sa.Column("enrolled_at", sa.BigInteger, nullable=False),
    # SHA-256 of the certificate that is in force, in hex, its serial number, Unix seconds.
    sa.Column("certificate", sa.String(64), nullable=False, unique=True),
    sa.Column("serial", sa.String(40), nullable=False),
    sa.Column("not_after", sa.BigInteger, nullable=False),
    # One that was issued since; it takes over when it is first used.
    sa.Column("next_certificate", sa.String(64), unique=True),
    sa.Column("next_serial", sa.String(40)),
    sa.Column("next_not_after", sa.BigInteger),
    sa.Column("renewed_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.UniqueConstraint("population", "identity"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("population", sa.String(200), nullable=False),
    # The number it is for; null takes the next that is free.
    sa.Column("client", sa.Integer),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.BigInteger),
    sa.Column("used_by", sa.LargeBinary),
)
