"""Keep the flags on runs that went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Flag, FlagState
from langgraph_learnloop.store.database import Database, parts
from langgraph_learnloop.store.outbox import labelled, note
from langgraph_learnloop.store.tables import flags as flags_table


class Flags:
    """Store one flag a run, and move flags along FLAG_MOVES."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def add(self, flag: Flag) -> Flag:
        """Store a flag, or merge it into the run's flag: all reasons, the worse severity, the state that was there."""
        with self._database.writing() as connection:
            there = _find(connection, flag.run_id)
            if there is not None:
                flag = there.model_copy(
                    update={
                        "reasons": tuple(dict.fromkeys(there.reasons + flag.reasons)),
                        "severity": max(there.severity, flag.severity),
                    }
                )
            _put(connection, flag)
        return flag

    def list(self, state: FlagState | None = None, agent: str | None = None) -> tuple[Flag, ...]:
        """Return flags, the worst first, then the newest; narrowed by state and agent."""
        query = select(flags_table.c.body).order_by(flags_table.c.severity.desc(), flags_table.c.at.desc())
        if state is not None:
            query = query.where(flags_table.c.state == state)
        if agent is not None:
            query = query.where(flags_table.c.agent == agent)
        with self._database.reading() as connection:
            return tuple(Flag.model_validate_json(body) for body in connection.execute(query).scalars())

    def move(self, run_ids: Sequence[str], state: FlagState) -> None:
        """Move the flags of runs, all or none; raise NotFoundError or IllegalMoveError."""
        with self._database.writing() as connection:
            for run_id in run_ids:
                flag = _find(connection, run_id)
                if flag is None:
                    raise NotFoundError(
                        f"The run {run_id!r} has no flag that could become {state!r}. "
                        "`learnloop flagged` lists the runs that have one."
                    )
                _put(connection, flag.move(state))

    def of(self, run_ids: Sequence[str]) -> dict[str, Flag]:
        """Return the flags of those of some runs that have one, by run."""
        found: dict[str, Flag] = {}
        with self._database.reading() as connection:
            for part in parts(run_ids):
                bodies = connection.execute(select(flags_table.c.body).where(flags_table.c.run_id.in_(part))).scalars()
                found.update((flag.run_id, flag) for flag in map(Flag.model_validate_json, bodies))
        return found

    def among(self, run_ids: Sequence[str]) -> frozenset[str]:
        """Return those of some runs that are flagged, whatever became of it but for flags that were dismissed."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for part in parts(run_ids):
                some = flags_table.c.run_id.in_(part) & (flags_table.c.state != "dismissed")
                found.update(connection.execute(select(flags_table.c.run_id).where(some)).scalars())
        return frozenset(found)


def _find(connection: Connection, run_id: str) -> Flag | None:
    body = connection.execute(select(flags_table.c.body).where(flags_table.c.run_id == run_id)).scalar()
    return None if body is None else Flag.model_validate_json(body)


def _put(connection: Connection, flag: Flag) -> None:
    connection.execute(delete(flags_table).where(flags_table.c.run_id == flag.run_id))
    connection.execute(
        insert(flags_table).values(
            run_id=flag.run_id,
            agent=flag.agent,
            state=flag.state,
            severity=flag.severity,
            at=flag.at.timestamp(),
            body=flag.model_dump_json(),
        )
    )
    label = labelled(flag)
    note(connection, "label", [(label.label_id, label.model_dump_json())])
