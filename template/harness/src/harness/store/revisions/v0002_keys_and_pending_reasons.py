"""Idempotency keys, and reasons that are given after the decision."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them; code of the revision before goes on beside."""
    op.create_table(
        "idempotency_keys",
        sa.Column("idempotency_key", sa.Text, primary_key=True),
        sa.Column("decision_id", sa.String(36), nullable=False),
        sa.Column("record_sha256", sa.String(64), nullable=False),
        sa.Column("decided_at", sa.String(32), nullable=False),
    )
    op.create_index("ix_idempotency_keys_decision_id", "idempotency_keys", ["decision_id"])
    op.create_index("ix_idempotency_keys_decided_at", "idempotency_keys", ["decided_at"])
    op.add_column(
        "decisions",
        sa.Column("reasons_pending", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    pending = sa.text("reasons_pending = true")
    op.create_index(
        "decisions_pending",
        "decisions",
        ["reasons_pending", "sequence"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
