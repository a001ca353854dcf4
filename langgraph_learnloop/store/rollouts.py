"""Keep rollouts, and what the processes that serve report of themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import CompoundSelect, Connection, delete, exists, insert, literal, select, union_all, update

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import ROLLOUT_MOVES, Decision, Rollout, Routes, Server, ShadowAnswer
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer
from langgraph_learnloop.store.decisions import Entry, write
from langgraph_learnloop.store.releases import champion_of, give_threads, no_champion, point_to

SERVING_WITHIN = timedelta(seconds=15)
"""A process that reported itself this long ago, or later, serves."""
_OPEN = [state for state, moves in ROLLOUT_MOVES.items() if moves]
_REFUSED = 100
"""Rolled back releases that are remembered as refused, the latest."""


def _routes() -> CompoundSelect[Any]:
    """Return one query for all there is to know of routes: every process asks it every second, and at every flip."""
    pointed, later = tables.pointer, tables.pointer.alias("later")
    champion = select(pointed.c.release_id).order_by(pointed.c.seq.desc()).limit(1).subquery()
    under_way = tables.rollouts.c.state.in_(_OPEN)
    latest = select(tables.rollouts.c.body).where(under_way).order_by(tables.rollouts.c.seq.desc()).limit(1).subquery()
    rolled_back = select(tables.rollouts.c.candidate).where(tables.rollouts.c.state == "rolled_back")
    gone = rolled_back.order_by(tables.rollouts.c.seq.desc()).limit(_REFUSED).subquery()
    again = exists().where((later.c.release_id == pointed.c.refused) & (later.c.seq > pointed.c.seq))
    return union_all(
        select(literal("champion"), champion.c.release_id),
        select(literal("open"), latest.c.body),
        select(literal("refused"), gone.c.candidate),
        select(literal("refused"), pointed.c.refused).where(pointed.c.refused.is_not(None) & ~again),
    )


_ROUTES = _routes()


class Rollouts(Drawer):
    """Store rollouts; what they change for threads, and what the log says, changes with them, in one transaction."""

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
            connection.execute(insert(tables.rollouts).values(**_row(rollout)))
            return _say(connection, rollout)

    def move(self, moved: Rollout) -> Decision:
        """Store a rollout that was moved and say so in the log.

        Raise IllegalMoveError when somebody else moved it meanwhile.
        "live" makes its candidate the champion; "rolled_back" gives the threads of its candidate back to the champion.
        """
        with self._database.writing() as connection:
            seen = (tables.rollouts.c.rollout_id == moved.rollout_id) & (tables.rollouts.c.moves == moved.moves - 1)
            if connection.execute(update(tables.rollouts).where(seen).values(**_row(moved))).rowcount == 0:
                raise IllegalMoveError(
                    f"The rollout of {moved.candidate!r} was moved by somebody else meanwhile; nothing was changed. "
                    "`learnloop rollout` shows where it stands."
                )
            if moved.state == "live":
                point_to(connection, moved.candidate, moved.because, moved.by, moved.stage_at)
            if moved.state == "rolled_back":
                give_threads(connection, moved.candidate, moved.champion)
            return _say(connection, moved)

    def open(self) -> Rollout | None:
        """Return the rollout that has not ended, if there is one."""
        with self._database.reading() as connection:
            return _open(connection)

    def get(self, rollout_id: str) -> Rollout:
        """Return a rollout, or raise NotFoundError."""
        query = select(tables.rollouts.c.body).where(tables.rollouts.c.rollout_id == rollout_id)
        found = self._record(Rollout, query)
        if found is None:
            raise NotFoundError(
                f"There is no rollout {rollout_id!r} in the store {self._database.where!r}. `learnloop log` names "
                "those that there were."
            )
        return found

    def all(self) -> tuple[Rollout, ...]:
        """Return all rollouts, oldest first."""
        return self._records(Rollout, select(tables.rollouts.c.body).order_by(tables.rollouts.c.seq))

    def routes(self) -> Routes:
        """Return how threads find their release now; raise NotFoundError before there is a champion."""
        with self._database.reading() as connection:
            found = [(what, said) for what, said in connection.execute(_ROUTES)]
        champion = next((said for what, said in found if what == "champion"), None)
        if champion is None:
            raise no_champion(self._database)
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
            connection.execute(insert(tables.shadows).values(**row))

    def shadows(self, rollout_id: str) -> tuple[ShadowAnswer, ...]:
        """Return what a candidate did in the shadow, in the order in which it did it."""
        query = select(tables.shadows.c.body).where(tables.shadows.c.rollout_id == rollout_id)
        return self._records(ShadowAnswer, query.order_by(tables.shadows.c.seq))

    def report(self, server: Server) -> None:
        """Store what a process that serves reports of itself, in place of what it reported before."""
        row = {"at": server.at.timestamp(), "body": server.model_dump_json()}
        with self._database.writing() as connection:
            mine = tables.servers.c.server_id == server.server_id
            if connection.execute(update(tables.servers).where(mine).values(**row)).rowcount == 0:
                connection.execute(insert(tables.servers).values(server_id=server.server_id, **row))

    def retire(self, server_id: str) -> None:
        """Forget a process that no longer serves."""
        with self._database.writing() as connection:
            connection.execute(delete(tables.servers).where(tables.servers.c.server_id == server_id))

    def serving(self, now: datetime) -> tuple[Server, ...]:
        """Return the processes that serve: those that reported themselves a short while before `now`.

        A report from the future is one of before the clock was set back.
        """
        first, last = ((now + part).astimezone(UTC).timestamp() for part in (-SERVING_WITHIN, SERVING_WITHIN))
        query = select(tables.servers.c.body).where(tables.servers.c.at.between(first, last))
        return self._records(Server, query.order_by(tables.servers.c.server_id))


def _open(connection: Connection) -> Rollout | None:
    query = select(tables.rollouts.c.body).where(tables.rollouts.c.state.in_(_OPEN))
    body = connection.execute(query.order_by(tables.rollouts.c.seq.desc()).limit(1)).scalar()
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
