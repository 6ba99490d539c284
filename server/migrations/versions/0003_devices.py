"""Devices, and the one-time tokens that they enrol with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # BigInteger: Unix seconds outlive 2038.
    op.create_table(
        "devices",
        sa.Column("population", sa.String(200), primary_key=True),
        sa.Column("client", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("identity", sa.LargeBinary, nullable=False),
        sa.Column("attestation", sa.LargeBinary, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger, nullable=False),
        sa.Column("certificate", sa.String(64), nullable=False, unique=True),
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("next_certificate", sa.String(64), unique=True),
        sa.Column("next_serial", sa.String(40)),
        sa.Column("next_not_after", sa.BigInteger),
        sa.Column("renewed_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.UniqueConstraint("population", "identity"),
    )
    op.create_table(
        "tokens",
        sa.Column("hash", sa.String(64), primary_key=True),
        sa.Column("population", sa.String(200), nullable=False),
        sa.Column("client", sa.Integer),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("used_by", sa.LargeBinary),
    )


def downgrade() -> None:
    raise RuntimeError("a ledger can't be migrated backwards")
