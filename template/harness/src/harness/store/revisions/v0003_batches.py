"""Batches: decisions in files, with a row for each file."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add them; code of the revision before goes on beside, and does not see what batches decided."""
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.String(128), primary_key=True),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("input_sha256", sa.String(64), nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32)),
    )
    op.create_table(
        "batch_chunks",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("batch_id", sa.String(128), nullable=False),
        sa.Column("chunk", sa.Integer, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("set_aside_sha256", sa.String(64)),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("set_aside", sa.Integer, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("broken", sa.Text, nullable=False),
        sa.Column("digests", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("sandbox", sa.Boolean, nullable=False),
        sa.Column("in_decisions", sa.Boolean, nullable=False),
        sa.Column("decided_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32), nullable=False),
        sa.UniqueConstraint("batch_id", "chunk"),
    )
    for column in ("batch_id", "decided_at"):
        op.create_index(f"ix_batch_chunks_{column}", "batch_chunks", [column])
