"""Keep the audit log: entries chained by hash, so that a changed or missing entry shows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Decision, content_hash
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.tables import decisions as decisions_table

FIRST = "0" * 32
"""What the first entry names as the one before it."""


class Entry(NamedTuple):
    """What is to be written into the log."""

    action: str
    subject: str
    because: str
    actor: str = "learnloop"
    cycle_id: str | None = None


class Decisions:
    """Append to the audit log and check its chain."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def append(
        self,
        *,
        action: str,
        subject: str,
        because: str,
        actor: str = "learnloop",
        cycle_id: str | None = None,
        now: datetime | None = None,
    ) -> Decision:
        """Append an entry that names the hash of the one before it; safe for several processes."""
        return self.append_all([Entry(action, subject, because, actor, cycle_id)], now)[0]

    def append_all(self, entries: Iterable[Entry], now: datetime | None = None) -> tuple[Decision, ...]:
        """Append entries in one transaction, as `append` does with one."""
        with self._database.writing() as connection:
            return write(connection, entries, now or datetime.now(UTC))

    def of_cycle(self, cycle_id: str, action: str) -> Decision | None:
        """Return the latest decision of a kind that a cycle made, if there is one."""
        query = select(decisions_table.c.body).where(decisions_table.c.cycle_id == cycle_id)
        with self._database.reading() as connection:
            bodies = connection.execute(query.order_by(decisions_table.c.seq.desc())).scalars().all()
        found = (Decision.model_validate_json(body) for body in bodies)
        return next((one for one in found if one.action == action), None)

    def all(self, limit: int | None = None) -> tuple[Decision, ...]:
        """Return the entries, oldest first; with a limit, the newest so many of them."""
        query = select(decisions_table.c.body).order_by(decisions_table.c.seq.desc()).limit(limit)
        with self._database.reading() as connection:
            bodies = connection.execute(query).scalars().all()
        return tuple(Decision.model_validate_json(body) for body in reversed(bodies))

    def verify(self) -> None:
        """Check the whole chain; raise StoreError that names the first broken entry.

        Entries cut off at the end cannot be noticed from the log alone: keep the last hash elsewhere for that.
        """
        previous = FIRST
        for number, entry in enumerate(self.all(), start=1):
            if entry.previous != previous or entry.hash != _hash(entry):
                raise StoreError(
                    f"The audit log of {self._database.where!r} is broken at entry {number} ({entry.action!r} of "
                    f"{entry.subject!r}, {entry.at.isoformat()}): it, or an entry before it, was changed or removed. "
                    "Compare with a copy of the store."
                )
            previous = entry.hash


def write(connection: Connection, entries: Iterable[Entry], at: datetime) -> tuple[Decision, ...]:
    """Append entries inside of a transaction: what they tell of is done in the same one, or neither is."""
    last = select(decisions_table.c.hash).order_by(decisions_table.c.seq.desc()).limit(1)
    previous = connection.execute(last).scalar() or FIRST
    written: list[Decision] = []
    for entry in entries:
        open_one = Decision(at=at, previous=previous, hash="", **entry._asdict())
        written.append(open_one.model_copy(update={"hash": _hash(open_one)}))
        previous = written[-1].hash
    if written:
        connection.execute(insert(decisions_table), [_row(one) for one in written])
    return tuple(written)


def _row(entry: Decision) -> dict[str, Any]:
    columns = entry.model_dump(include={"subject", "cycle_id", "previous", "hash"})
    return columns | {"body": entry.model_dump_json()}


def _hash(entry: Decision) -> str:
    return content_hash(entry.model_dump(mode="json", exclude={"hash"}))
