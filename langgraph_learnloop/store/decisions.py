"""Keep the audit log: entries chained by hash, so that a changed or missing entry shows."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import insert, select

from langgraph_learnloop.errors import StoreError
from langgraph_learnloop.records import Decision, content_hash
from langgraph_learnloop.store.database import Database
from langgraph_learnloop.store.tables import decisions as decisions_table

FIRST = "0" * 32
"""What the first entry names as the one before it."""


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
        at = now or datetime.now(UTC)
        last = select(decisions_table.c.hash).order_by(decisions_table.c.seq.desc()).limit(1)
        with self._database.writing() as connection:
            previous = connection.execute(last).scalar() or FIRST
            open_entry = Decision(
                at=at,
                actor=actor,
                action=action,
                subject=subject,
                because=because,
                cycle_id=cycle_id,
                previous=previous,
                hash="",
            )
            entry = open_entry.model_copy(update={"hash": _hash(open_entry)})
            connection.execute(
                insert(decisions_table).values(
                    subject=subject, cycle_id=cycle_id, previous=previous, hash=entry.hash, body=entry.model_dump_json()
                )
            )
        return entry

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


def _hash(entry: Decision) -> str:
    return content_hash(entry.model_dump(mode="json", exclude={"hash"}))
