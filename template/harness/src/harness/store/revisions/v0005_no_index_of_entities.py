"""Decisions without an index of their entities."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Drop it: each decision wrote a page for it, and only erasing, which is rare, asked for it."""
    op.drop_index("ix_decisions_entity", "decisions", if_exists=True)
