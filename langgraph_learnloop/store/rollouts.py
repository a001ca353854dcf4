"""Keep rollouts, and what the processes that serve report of themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Connection,
    delete,
    exists,
    insert,
    literal,
    select,
    union_all,
    update,
)

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import ROLLOUT_MOVES, Decision, Rollout, Routes, Server, ShadowAnswer
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.decisions import Entry, write
from langgraph_learnloop.store.releases import champion_of, point_to
from langgraph_learnloop.store.tables import pins as pins_table
from langgraph_learnloop.store.tables import pointer as pointer_table
from langgraph_learnloop.store.tables import rollouts as rollouts_table
from langgraph_learnloop.store.tables import servers as servers_table
from langgraph_learnloop.store.tables import shadows as shadows_table

SERVING_WITHIN = timedelta(seconds=15)
"""A process that reported itself this long ago, or later, serves."""
_OPEN = [state for state, moves in ROLLOUT_MOVES.items() if moves]
_REFUSED = 100
"""Rolled back releases that are remembered as refused, the latest."""


def _routes() -> CompoundSelect[Any]:
    """Return one query for all there is to know of routes: every process asks it every second, and at every flip."""
    pointed, later = pointer_table, pointer_table.alias("later")
    champion = select(pointed.c.release_id).order_by(pointed.c.seq.desc()).limit(1).subquery()
    under_way = rollouts_table.c.state.in_(_OPEN)
    latest = select(rollouts_table.c.body).where(under_way).order_by(rollouts_table.c.seq.desc()).limit(1).subquery()
    rolled_back = select(rollouts_table.c.candidate).where(rollouts_table.c.state == "rolled_back")
    gone = rolled_back.order_by(rollouts_table.c.seq.desc()).limit(_REFUSED).subquery()
    again = exists().where((later.c.release_id == pointed.c.refused) & (later.c.seq > pointed.c.seq))
    return union_all(
        select(literal("champion"), champion.c.release_id),
        select(literal("open"), latest.c.body),
        select(literal("refused"), gone.c.candidate),
        select(literal("refused"), pointed.c.refused).where(pointed.c.refused.is_not(None) & ~again),
    )


_ROUTES = _routes()


class Rollouts:
    """Store rollouts; what they change for threads, and what the log says, changes with them, in one transaction."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def start(self, rollout: Rollout) -> Decision:
        """Store a new rollout and say so in the log.

        Raise IllegalMoveError while another one is open, or when its champion has gone.
        """
        with self._database.writing() as connection:
            if (there := _open(connection)) is not None:
                raise IllegalMoveError(
                    f"The rollout of {there.candidate!r} is still open ({there.state}, {there.percent}%), so "
                    f"{rollout.candidate!r} must wait: end that one first with `learnloop rollout`."
                )
            if (serving := champion_of(connection)) != rollout.champion:
                raise IllegalMoveError(
                    f"The candidate {rollout.candidate!r} was to take the place of {rollout.champion!r}, and now "
                    f"{serving!r} serves. Examine it again with loop.evaluate()."
                )
            connection.execute(insert(rollouts_table).values(**_row(rollout)))
            return _say(connection, rollout)

    def move(self, moved: Rollout) -> Decision:
        """Store a rollout that was moved and say so in the log.

        Raise IllegalMoveError when somebody else moved it meanwhile.
        "live" makes its candidate the champion; "rolled_back" gives the threads of its candidate back to the champion.
        """
        with self._database.writing() as connection:
            seen = (rollouts_table.c.rollout_id == moved.rollout_id) & (rollouts_table.c.moves == moved.moves - 1)
            if connection.execute(update(rollouts_table).where(seen).values(**_row(moved))).rowcount == 0:
                raise IllegalMoveError(
                    f"The rollout of {moved.candidate!r} was moved by somebody else meanwhile; nothing was changed. "
                    "`learnloop rollout` shows where it stands."
                )
            if moved.state == "live":
                point_to(connection, moved.candidate, moved.because, moved.by, moved.stage_at)
            if moved.state == "rolled_back":
                bad = pins_table.c.release_id == moved.candidate
                connection.execute(update(pins_table).where(bad).values(release_id=moved.champion))
            return _say(connection, moved)

    def open(self) -> Rollout | None:
        """Return the rollout that has not ended, if there is one."""
        with self._database.reading() as connection:
            return _open(connection)

    def get(self, rollout_id: str) -> Rollout:
        """Return a rollout, or raise NotFoundError."""
        query = select(rollouts_table.c.body).where(rollouts_table.c.rollout_id == rollout_id)
        with self._database.reading() as connection:
            body = connection.execute(query).scalar()
        if body is None:
            raise NotFoundError(
                f"There is no rollout {rollout_id!r} in the store {self._database.where!r}. `learnloop log` names "
                "those that there were."
            )
        return Rollout.model_validate_json(body)

    def all(self) -> tuple[Rollout, ...]:
        """Return all rollouts, oldest first."""
        query = select(rollouts_table.c.body).order_by(rollouts_table.c.seq)
        with self._database.reading() as connection:
            return tuple(Rollout.model_validate_json(body) for body in connection.execute(query).scalars())

    def routes(self) -> Routes:
        """Return how threads find their release now; raise NotFoundError before there is a champion."""
        with self._database.reading() as connection:
            found = [(what, said) for what, said in connection.execute(_ROUTES)]
        champion = next((said for what, said in found if what == "champion"), None)
        if champion is None:
            raise NotFoundError(
                f"The store {self._database.where!r} has no champion yet: no release was put in "
                "service. Call loop.model(engine), which puts the bare base model in service."
            )
        rollout = next((Rollout.model_validate_json(said) for what, said in found if what == "open"), None)
        bad = {said for what, said in found if what == "refused"}
        bad -= {champion, rollout.candidate if rollout is not None else None}  # tried again, and examined again
        if rollout is None:
            return Routes(champion, refused=frozenset(bad))
        shadow = rollout.rollout_id if rollout.state == "shadow" else None
        return Routes(champion, rollout.candidate, rollout.percent, rollout.rollout_id, frozenset(bad), shadow)

    def add_shadow(self, answer: ShadowAnswer) -> None:
        """Store what a candidate did in the shadow."""
        with self._database.writing() as connection:
            row = {"rollout_id": answer.rollout_id, "body": answer.model_dump_json()}
            connection.execute(insert(shadows_table).values(**row))

    def shadows(self, rollout_id: str) -> tuple[ShadowAnswer, ...]:
        """Return what a candidate did in the shadow, in the order in which it did it."""
        query = select(shadows_table.c.body).where(shadows_table.c.rollout_id == rollout_id)
        with self._database.reading() as connection:
            bodies = connection.execute(query.order_by(shadows_table.c.seq)).scalars().all()
        return tuple(ShadowAnswer.model_validate_json(body) for body in bodies)

    def report(self, server: Server) -> None:
        """Store what a process that serves reports of itself, in place of what it reported before."""
        row = {"at": server.at.timestamp(), "body": server.model_dump_json()}
        with self._database.writing() as connection:
            mine = servers_table.c.server_id == server.server_id
            if connection.execute(update(servers_table).where(mine).values(**row)).rowcount == 0:
                connection.execute(insert(servers_table).values(server_id=server.server_id, **row))

    def retire(self, server_id: str) -> None:
        """Forget a process that no longer serves."""
        with self._database.writing() as connection:
            connection.execute(delete(servers_table).where(servers_table.c.server_id == server_id))

    def serving(self, now: datetime) -> tuple[Server, ...]:
        """Return the processes that serve: those that reported themselves a short while before `now`.

        A report from the future is one of before the clock was set back.
        """
        first, last = ((now + part).astimezone(UTC).timestamp() for part in (-SERVING_WITHIN, SERVING_WITHIN))
        query = select(servers_table.c.body).where(servers_table.c.at.between(first, last))
        with self._database.reading() as connection:
            bodies = connection.execute(query.order_by(servers_table.c.server_id)).scalars().all()
        return tuple(Server.model_validate_json(body) for body in bodies)


def _open(connection: Connection) -> Rollout | None:
    query = select(rollouts_table.c.body).where(rollouts_table.c.state.in_(_OPEN))
    body = connection.execute(query.order_by(rollouts_table.c.seq.desc()).limit(1)).scalar()
    return None if body is None else Rollout.model_validate_json(body)


def _say(connection: Connection, rollout: Rollout) -> Decision:
    entry = Entry(f"rollout:{rollout.stage}", rollout.candidate, rollout.because, rollout.by)
    return write(connection, [entry], rollout.stage_at)[0]


def _row(rollout: Rollout) -> dict[str, object]:
    return {
        "rollout_id": rollout.rollout_id,
        "candidate": rollout.candidate,
        "state": rollout.state,
        "moves": rollout.moves,
        "body": rollout.model_dump_json(),
    }
