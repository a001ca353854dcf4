"""Keep the audit log: entries chained by hash, so that a changed or missing entry shows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Decision, content_hash
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Drawer

FIRST = "0" * 32
"""What the first entry names as the one before it."""


class Entry(NamedTuple):
    """What is to be written into the log."""

    action: str
    subject: str
    because: str
    actor: str = "learnloop"
    cycle_id: str | None = None


class Decisions(Drawer):
    """Append to the audit log and check its chain."""

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
        query = select(tables.decisions.c.body).where(tables.decisions.c.cycle_id == cycle_id)
        found = self._records(Decision, query.order_by(tables.decisions.c.seq.desc()))
        return next((one for one in found if one.action == action), None)

    def all(self, limit: int | None = None) -> tuple[Decision, ...]:
        """Return the entries, oldest first; with a limit, the newest so many of them."""
        newest = select(tables.decisions.c.body).order_by(tables.decisions.c.seq.desc()).limit(limit)
        return self._records(Decision, newest)[::-1]

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
    last = select(tables.decisions.c.hash).order_by(tables.decisions.c.seq.desc()).limit(1)
    previous = connection.execute(last).scalar() or FIRST
    written: list[Decision] = []
    for entry in entries:
        open_one = Decision(at=at, previous=previous, hash="", **entry._asdict())
        written.append(open_one.model_copy(update={"hash": _hash(open_one)}))
        previous = written[-1].hash
    if written:
        connection.execute(insert(tables.decisions), [_row(one) for one in written])
    return tuple(written)


def _row(entry: Decision) -> dict[str, Any]:
    columns = entry.model_dump(include={"subject", "cycle_id", "previous", "hash"})
    return columns | {"body": entry.model_dump_json()}


def _hash(entry: Decision) -> str:
    return content_hash(entry.model_dump(mode="json", exclude={"hash"}))
