"""Keep what mirrors are still to be told: it is written in the transaction that stores what it is about.

One process at a time tells a mirror; it holds the mirror for a while. What it is about to tell is marked first, so that
whoever comes after a crash knows what may have arrived.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Text, cast, delete, func, insert, literal, or_, select, update

from langgraph_learnloop.mirrors import Kind, Label
from langgraph_learnloop.records import Flag
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer, parts


class Waiting(NamedTuple):
    """One thing that a mirror is to be told."""

    seq: int
    kind: Kind
    subject: str
    body: str | None
    told_at: float | None
    """When it was told without an answer, seconds since the epoch; None when it was not."""


class Backlog(NamedTuple):
    """How far a mirror is behind."""

    waiting: int
    """Things that it is still to be told."""
    refused: int
    """Things that it will never take."""
    problem: str | None
    """Why it did not take one of those."""


class Outbox(Drawer):
    """Hand out what is to be told, and forget what was."""

    def register(self, mirror: str, kinds: Collection[Kind], everything: bool = False) -> bool:
        """Have a mirror told of what comes from now on; with `everything`, of what is there too. Return if it is new.

        A mirror that is known already keeps what waits for it; it is not told again what it was told.
        """
        row = {"name": mirror, "kinds": ",".join(kinds)}
        with self._database.writing() as connection:
            new = self._database.is_new(connection, tables.mirrors, row)
            same = tables.mirrors.c.name == mirror
            connection.execute(update(tables.mirrors).where(same).values(kinds=row["kinds"]))
            if new and everything:
                _catch_up(connection, mirror, kinds)
        return new

    def forget(self, mirror: str) -> None:
        """Forget a mirror and what waits for it."""
        with self._database.writing() as connection:
            connection.execute(delete(tables.outbox).where(tables.outbox.c.mirror == mirror))
            connection.execute(delete(tables.mirrors).where(tables.mirrors.c.name == mirror))

    def hold(self, mirror: str, holder: str, now: float, seconds: float) -> bool:
        """Be the one who tells a mirror, for some seconds; return False while somebody else is."""
        free = or_(tables.mirrors.c.holder.is_(None), tables.mirrors.c.holder == holder, tables.mirrors.c.until < now)
        mine = (tables.mirrors.c.name == mirror) & free
        with self._database.writing() as connection:
            held = update(tables.mirrors).where(mine).values(holder=holder, until=now + seconds)
            return connection.execute(held).rowcount == 1

    def let_go(self, mirror: str, holder: str) -> None:
        """Let somebody else tell a mirror."""
        mine = (tables.mirrors.c.name == mirror) & (tables.mirrors.c.holder == holder)
        with self._database.writing() as connection:
            connection.execute(update(tables.mirrors).where(mine).values(holder=None, until=None))

    def waiting(self, mirror: str, kind: Kind, limit: int, told_before: float) -> tuple[Waiting, ...]:
        """Return what a mirror is to be told, oldest first; what was told without an answer if that was long ago."""
        box = tables.outbox.c
        mine = (box.mirror == mirror) & (box.kind == kind) & box.problem.is_(None)
        due = mine & or_(box.told_at.is_(None), box.told_at <= told_before)
        columns = (box.seq, box.kind, box.subject, box.body, box.told_at)
        with self._database.reading() as connection:
            rows = connection.execute(select(*columns).where(due).order_by(box.seq).limit(limit)).all()
        return tuple(Waiting(*row) for row in rows)

    def telling(self, seqs: Sequence[int], at: float | None) -> None:
        """Mark what is about to be told; None takes the mark back, for what surely did not arrive."""
        self._change(seqs, update(tables.outbox).values(told_at=at))

    def told(self, seqs: Sequence[int]) -> None:
        """Forget what arrived."""
        self._change(seqs, delete(tables.outbox))

    def refuse(self, seqs: Sequence[int], problem: str) -> None:
        """Set aside what a mirror will never take, with the reason."""
        self._change(seqs, update(tables.outbox).values(problem=problem, told_at=None))

    def retry(self, mirror: str) -> int:
        """Have what was set aside told again; return how many things that are."""
        aside = (tables.outbox.c.mirror == mirror) & tables.outbox.c.problem.is_not(None)
        with self._database.writing() as connection:
            return connection.execute(update(tables.outbox).where(aside).values(problem=None)).rowcount

    def backlog(self, mirror: str) -> Backlog:
        """Return how far a mirror is behind."""
        box = tables.outbox.c
        query = select(func.count(), func.count(box.problem), func.max(box.problem)).where(box.mirror == mirror)
        with self._database.reading() as connection:
            every, refused, problem = connection.execute(query).one()
        return Backlog(every - refused, refused, problem)

    def names(self) -> tuple[str, ...]:
        """Return the mirrors that are told."""
        with self._database.reading() as connection:
            return tuple(connection.execute(select(tables.mirrors.c.name).order_by(tables.mirrors.c.name)).scalars())

    def _change(self, seqs: Sequence[int], change: Any) -> None:
        with self._database.writing() as connection:
            for part in parts(seqs):
                connection.execute(change.where(tables.outbox.c.seq.in_(part)))


_MIRRORS = select(tables.mirrors.c.name, tables.mirrors.c.kinds)
"""Asked with every batch of runs."""


def wanted(connection: Connection, kind: Kind) -> tuple[str, ...]:
    """Return the mirrors that are to be told things of a kind."""
    return tuple(row.name for row in connection.execute(_MIRRORS) if kind in row.kinds.split(","))


def note(connection: Connection, kind: Kind, subjects: Sequence[tuple[str, str | None]]) -> None:
    """Have the mirrors told of some things, inside of the transaction that stores them; each is an id and a body."""
    _insert(connection, wanted(connection, kind), kind, subjects)


def labelled(flag: Flag) -> Label:
    """Return a flag as mirrors are told it."""
    return Label(run_id=flag.run_id, name="flag", value=flag.state, comment=" ".join(flag.reasons), at=flag.at)


def _catch_up(connection: Connection, mirror: str, kinds: Collection[Kind]) -> None:
    """Have a mirror told of all that is there, in order; of flags, and of who serves, as that stands."""
    ids: dict[Kind, Select[Any]] = {
        "run": select(tables.runs.c.run_id).order_by(tables.runs.c.started_at, tables.runs.c.run_id),
        "feedback": select(tables.feedback.c.feedback_id).order_by(tables.feedback.c.seq),
        "dataset": select(tables.datasets.c.version).order_by(tables.datasets.c.seq),
        "examination": select(cast(tables.scorecards.c.seq, Text)).order_by(tables.scorecards.c.seq),
    }
    for kind in kinds:
        if kind in ids:
            every = ids[kind].add_columns(literal(mirror), literal(kind))
            connection.execute(insert(tables.outbox).from_select(["subject", "mirror", "kind"], every))
    if "label" in kinds:
        bodies = connection.execute(select(tables.flags.c.body)).scalars()
        labels = [labelled(Flag.model_validate_json(body)) for body in bodies]
        _insert(connection, [mirror], "label", [(one.label_id, one.model_dump_json()) for one in labels])
    if "champion" in kinds:
        latest = select(tables.pointer).order_by(tables.pointer.c.seq.desc()).limit(1)
        serving = [(row.release_id, row.because) for row in connection.execute(latest)]
        _insert(connection, [mirror], "champion", serving)


def _insert(
    connection: Connection, names: Iterable[str], kind: Kind, subjects: Sequence[tuple[str, str | None]]
) -> None:
    rows = [
        {"mirror": name, "kind": kind, "subject": subject, "body": body} for name in names for subject, body in subjects
    ]
    if rows:
        connection.execute(insert(tables.outbox), rows)
