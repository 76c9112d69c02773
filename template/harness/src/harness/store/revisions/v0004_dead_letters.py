"""Deliveries that are given up, and what waits behind them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the index by which they are found."""
    dead = sa.text("state = 'dead'")
    op.create_index("outbox_dead", "outbox", ["entity"], sqlite_where=dead, postgresql_where=dead)
