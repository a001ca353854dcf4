"""Keep the flags on runs that went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from langgraph_learnloop.errors import NotFoundError
from langgraph_learnloop.records import Flag, FlagState
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer, parts
from langgraph_learnloop.store.outbox import labelled, note


class Flags(Drawer):
    """Store one flag a run, and move flags along FLAG_MOVES."""

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
        query = select(tables.flags.c.body).order_by(tables.flags.c.severity.desc(), tables.flags.c.at.desc())
        if state is not None:
            query = query.where(tables.flags.c.state == state)
        if agent is not None:
            query = query.where(tables.flags.c.agent == agent)
        return self._records(Flag, query)

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
        queries = (select(tables.flags.c.body).where(tables.flags.c.run_id.in_(part)) for part in parts(run_ids))
        return {flag.run_id: flag for query in queries for flag in self._records(Flag, query)}

    def among(self, run_ids: Sequence[str]) -> frozenset[str]:
        """Return those of some runs that are flagged, whatever became of it but for flags that were dismissed."""
        return frozenset(run_id for run_id, flag in self.of(run_ids).items() if flag.state != "dismissed")


def _find(connection: Connection, run_id: str) -> Flag | None:
    body = connection.execute(select(tables.flags.c.body).where(tables.flags.c.run_id == run_id)).scalar()
    return None if body is None else Flag.model_validate_json(body)


def _put(connection: Connection, flag: Flag) -> None:
    connection.execute(delete(tables.flags).where(tables.flags.c.run_id == flag.run_id))
    connection.execute(
        insert(tables.flags).values(
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
