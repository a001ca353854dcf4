"""Make the tables of shadow answers and of probes; a move of the pointer may refuse a release."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make them."""
    op.add_column("pointer", sa.Column("refused", sa.Text))
    op.create_table(
        "shadows",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("rollout_id", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("shadows_by_rollout", "shadows", ["rollout_id"])
    op.create_table(
        "probes",
        sa.Column("release_id", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
