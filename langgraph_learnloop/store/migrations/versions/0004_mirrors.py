"""Make the tables of mirrors and of what they are to be told; a run may be in another tracer's trace."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make them."""
    op.add_column("runs", sa.Column("trace", sa.Text))
    there = sa.text("trace IS NOT NULL")
    op.create_index("runs_by_trace", "runs", ["trace"], sqlite_where=there, postgresql_where=there)
    op.create_table(
        "mirrors",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("kinds", sa.Text, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("until", sa.Float),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("mirror", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text),
        sa.Column("told_at", sa.Float),
        sa.Column("problem", sa.Text),
    )
    op.create_index("outbox_by_kind", "outbox", ["mirror", "kind", "seq"])
