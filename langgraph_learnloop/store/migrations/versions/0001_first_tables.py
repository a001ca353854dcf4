"""Make the first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make them all, with their indexes."""
    _recording()
    _learning()
    _deciding()


def _recording() -> None:
    op.create_table(
        "runs",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("thread_id", sa.Text),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("release", sa.Text),
        sa.Column("user", sa.Text),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_index("runs_by_time", "runs", ["started_at"])
    op.create_index("runs_by_thread", "runs", ["thread_id", "started_at"])
    op.create_index("runs_by_agent", "runs", ["agent", "started_at"])
    op.create_table(
        "messages",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "lists",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("parent", sa.Text),
        sa.Column("items", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "feedback",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("feedback_id", sa.Text, nullable=False, unique=True),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("feedback_by_run", "feedback", ["run_id"])
    op.create_table(
        "flags",
        sa.Column("run_id", sa.Text, primary_key=True),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("severity", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("flags_by_state", "flags", ["state", "severity"])


def _learning() -> None:
    op.create_table(
        "datasets",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.Text, nullable=False, unique=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "releases",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("release_id", sa.Text, nullable=False, unique=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "pointer",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("release_id", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "pins",
        sa.Column("thread_id", sa.Text, primary_key=True),
        sa.Column("release_id", sa.Text, nullable=False),
    )


def _deciding() -> None:
    op.create_table(
        "scorecards",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("scorecards_by_candidate", "scorecards", ["candidate"])
    op.create_table(
        "results",
        sa.Column("release_id", sa.Text, primary_key=True),
        sa.Column("evaluator", sa.Text, primary_key=True),
        sa.Column("case_id", sa.Text, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "decisions",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("cycle_id", sa.Text),
        sa.Column("hash", sa.Text, nullable=False, unique=True),
        sa.Column("previous", sa.Text, nullable=False, unique=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("decisions_by_cycle", "decisions", ["cycle_id"])
    op.create_table(
        "cycles",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("cycle_id", sa.Text, nullable=False, unique=True),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("finished", sa.Integer, nullable=False),
        sa.Column("body", sa.Text),
    )
