"""Decisions, outcomes, the outbox and shadow, as they were before the store had revisions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make what is missing: an earlier release's store has some of it, and no word of its revision."""
    _decisions()
    _outcomes()
    _outbox()
    _shadow()


def _decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
        sa.Column("decided_at", sa.String(32), nullable=False),
        sa.Column("record_key", sa.Text, nullable=False),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("served_by", sa.String(16), nullable=False),
        sa.Column("assigned", sa.String(16), nullable=False),
        sa.Column("why", sa.String(32), nullable=False),
        sa.Column("model_digest", sa.String(64)),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("bucket", sa.Integer),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("sandbox", sa.Boolean, nullable=False),
        sa.Column("elapsed_ms", sa.Float, nullable=False),
        if_not_exists=True,
    )
    for column in ("decided_at", "record_key", "entity"):
        op.create_index(f"ix_decisions_{column}", "decisions", [column], if_not_exists=True)


def _outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("record_key", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("known_at", sa.String(32)),
        sa.Column("received_at", sa.String(32), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        if_not_exists=True,
    )
    for column in ("record_key", "received_at"):
        op.create_index(f"ix_outcomes_{column}", "outcomes", [column], if_not_exists=True)


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("decision_id", sa.String(36), nullable=False, unique=True),
        sa.Column("entity", sa.Text, nullable=False),
        sa.Column("queued_at", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("settled_at", sa.String(32)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("attempted_at", sa.String(32)),
        sa.Column("error", sa.String(200)),
        if_not_exists=True,
    )
    waits = sa.text("state = 'waiting'")
    op.create_index(
        "outbox_waiting",
        "outbox",
        ["sequence"],
        sqlite_where=waits,
        postgresql_where=waits,
        if_not_exists=True,
    )


def _shadow() -> None:
    op.create_table(
        "shadow",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("decision_id", sa.String(36)),
        sa.Column("at", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bucket", sa.Integer),
        sa.Column("sandbox", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("score", sa.Float),
        sa.Column("decision", sa.Text),
        sa.Column("agrees", sa.Boolean),
        sa.Column("elapsed_ms", sa.Float),
        if_not_exists=True,
    )
    op.create_index("ix_shadow_decision_id", "shadow", ["decision_id"], if_not_exists=True)
    op.create_index("shadow_by_model", "shadow", ["digest", "at"], if_not_exists=True)
