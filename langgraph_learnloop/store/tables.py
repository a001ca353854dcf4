"""The tables: columns exist for what is filtered or joined on, the rest of a record is its JSON body.

A body that is binary is compressed (zstd). Times are seconds since the epoch (UTC); `seq` numbers rows in the order in
which they came.
"""

from __future__ import annotations

from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, Table, Text, text

VERSION = "0004"
"""The schema these tables describe: the number of the newest file in migrations/versions."""

VERSION_TABLE = "learnloop_version"
"""Where the schema's version is kept; LangGraph's savers may live in the same database."""

metadata = MetaData()

runs = Table(
    "runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("thread_id", Text),
    Column("agent", Text, nullable=False),
    Column("release", Text),
    Column("user", Text),
    Column("outcome", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("trace", Text),
    Index("runs_by_trace", "trace", sqlite_where=text("trace IS NOT NULL"), postgresql_where=text("trace IS NOT NULL")),
    Index("runs_by_time", "started_at"),
    Index("runs_by_thread", "thread_id", "started_at"),
    Index("runs_by_agent", "agent", "started_at"),
)

messages = Table(
    "messages",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

lists = Table(
    "lists",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("parent", Text),
    Column("items", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""Lists of messages: the list that one continues, and the hashes of what comes after, with commas."""

feedback = Table(
    "feedback",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("feedback_id", Text, nullable=False, unique=True),
    Column("run_id", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index("feedback_by_run", "run_id"),
)

flags = Table(
    "flags",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("agent", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", Float, nullable=False),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
    Index("flags_by_state", "state", "severity"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", Text, nullable=False, unique=True),
    Column("body", Text, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("release_id", Text, nullable=False, unique=True),
    Column("body", Text, nullable=False),
)

pointer = Table(
    "pointer",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("release_id", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("because", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("refused", Text),
)
"""Moves of the pointer to the champion; `refused` is a release whose threads get the champion from then on."""

pins = Table(
    "pins",
    metadata,
    Column("thread_id", Text, primary_key=True),
    Column("release_id", Text, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", Text, nullable=False, unique=True),
    Column("candidate", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("moves", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

shadows = Table(
    "shadows",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("shadows_by_rollout", "rollout_id"),
)

probes = Table(
    "probes",
    metadata,
    Column("release_id", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

servers = Table(
    "servers",
    metadata,
    Column("server_id", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("body", Text, nullable=False),
)

scorecards = Table(
    "scorecards",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("candidate", Text, nullable=False),
    Column("body", Text, nullable=False),
    Index("scorecards_by_candidate", "candidate"),
)

results = Table(
    "results",
    metadata,
    Column("release_id", Text, primary_key=True),
    Column("evaluator", Text, primary_key=True),
    Column("case_id", Text, primary_key=True),
    Column("body", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("subject", Text, nullable=False),
    Column("cycle_id", Text),
    Column("hash", Text, nullable=False, unique=True),
    Column("previous", Text, nullable=False, unique=True),
    Column("body", Text, nullable=False),
    Index("decisions_by_cycle", "cycle_id"),
)

cycles = Table(
    "cycles",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("cycle_id", Text, nullable=False, unique=True),
    Column("started_at", Float, nullable=False),
    Column("finished", Integer, nullable=False),
    Column("body", Text),
)

mirrors = Table(
    "mirrors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kinds", Text, nullable=False),
    Column("holder", Text),
    Column("until", Float),
)
"""Places that are told what is stored: which kinds of things, and which process tells them, until when."""

outbox = Table(
    "outbox",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("mirror", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("body", Text),
    Column("told_at", Float),
    Column("problem", Text),
    Index("outbox_by_kind", "mirror", "kind", "seq"),
)
"""What a mirror is still to be told; `told_at` is set while nobody knows whether that arrived."""
