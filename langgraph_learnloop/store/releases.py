"""Keep releases, the pointer to the champion with its history, and the threads that are pinned to a release."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import TypeAdapter
from sqlalchemy import Connection, insert, select, update

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Decision, Probe, Release
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Database, Drawer
from langgraph_learnloop.store.decisions import Entry, write
from langgraph_learnloop.store.outbox import note

_PROBES = TypeAdapter(tuple[Probe, ...])


class Pointed(NamedTuple):
    """One entry of the pointer's history."""

    release_id: str
    at: datetime
    actor: str
    because: str


class Releases(Drawer):
    """Store immutable releases and answer which one new threads, and old threads, get."""

    def add(self, release: Release) -> None:
        """Store a release; one that is there already stays."""
        self._insert_new(tables.releases, {"release_id": release.release_id, "body": release.model_dump_json()})

    def get(self, release_id: str) -> Release:
        """Return a release by its whole id, or raise NotFoundError."""
        query = select(tables.releases.c.body).where(tables.releases.c.release_id == release_id)
        found = self._record(Release, query)
        if found is None:
            raise self._unknown(release_id)
        return found

    def all(self) -> tuple[Release, ...]:
        """Return all releases, newest first."""
        return self._records(Release, select(tables.releases.c.body).order_by(tables.releases.c.seq.desc()))

    def resolve(self, prefix: str) -> Release:
        """Return the one release whose id starts with a prefix; raise NotFoundError for none, or for several."""
        found = [release for release in self.all() if prefix and release.release_id.startswith(prefix)]
        if len(found) > 1:
            ids = ", ".join(release.release_id for release in found)
            raise NotFoundError(f"The release {prefix!r} is ambiguous: {ids}. Write more of the id.")
        if not found:
            raise self._unknown(prefix)
        return found[0]

    def champion(self) -> str:
        """Return the id of the release that new threads get, or raise NotFoundError when there is none yet."""
        with self._database.reading() as connection:
            champion = champion_of(connection)
        if champion is None:
            raise no_champion(self._database)
        return champion

    def point(
        self,
        release_id: str,
        because: str,
        actor: str,
        instead_of: str | None = None,
        *,
        action: str = "serve",
        cycle_id: str | None = None,
        refused: str | None = None,
    ) -> Decision | None:
        """Make a stored release the champion, and say so in the log; None, and no change, where it is that already.

        Threads that have begun with `refused` get the champion from then on. With `instead_of`, raise IllegalMoveError
        when another release serves by now: somebody was faster.
        """
        with self._database.writing() as connection:
            known = select(tables.releases.c.seq).where(tables.releases.c.release_id == release_id)
            if connection.execute(known).first() is None:
                raise self._unknown(release_id)
            if instead_of is not None and (serving := champion_of(connection)) not in (instead_of, release_id):
                raise IllegalMoveError(
                    f"The release {release_id!r} was to take the place of {instead_of!r}, and now {serving!r} serves. "
                    "Examine it again with loop.evaluate()."
                )
            now = datetime.now(UTC)
            if not point_to(connection, release_id, because, actor, now, refused):
                return None
            return write(connection, [Entry(action, release_id, because, actor, cycle_id)], now)[0]

    def previous(self) -> str:
        """Return where a rollback goes: the champion before the present one; raise NotFoundError when none was.

        Going back to a former champion forgets those that came after it, so a second rollback goes further back.
        """
        line: list[str] = []
        for entry in self.history():
            if entry.release_id in line:
                del line[line.index(entry.release_id) :]
            line.append(entry.release_id)
        if len(line) < 2:
            now = f"the champion {line[0]!r} is the first" if line else "no release was ever in service"
            raise NotFoundError(f"There is nothing to roll back to: {now}. `learnloop releases` shows the history.")
        return line[-2]

    def history(self) -> tuple[Pointed, ...]:
        """Return every move of the pointer, oldest first."""
        query = select(tables.pointer).order_by(tables.pointer.c.seq)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(
            Pointed(row.release_id, datetime.fromtimestamp(row.at, UTC), row.actor, row.because) for row in rows
        )

    def keep_probes(self, release_id: str, probes: Collection[Probe]) -> None:
        """Keep what tells that a release is served; the first that were kept stay."""
        body = _PROBES.dump_json(tuple(probes)).decode()
        self._insert_new(tables.probes, {"release_id": release_id, "body": body})

    def probes(self, release_id: str) -> tuple[Probe, ...]:
        """Return what tells that a release is served; nothing for one that was never examined."""
        query = select(tables.probes.c.body).where(tables.probes.c.release_id == release_id)
        with self._database.reading() as connection:
            body = connection.execute(query).scalar()
        return () if body is None else _PROBES.validate_json(body)

    def pin(self, thread_id: str, release_id: str) -> str:
        """Return the thread's release; the first call decides it, for every process."""
        mine = select(tables.pins.c.release_id).where(tables.pins.c.thread_id == thread_id)
        with self._database.reading() as connection:
            there = connection.execute(mine).scalar()
        if there is not None:
            return str(there)
        with self._database.writing() as connection:
            row = {"thread_id": thread_id, "release_id": release_id}
            connection.execute(self._database.insert_new(tables.pins), row)
            return str(connection.execute(mine).scalar_one())

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        """Give a thread another release if it has one of those that are refused; return the one it has then."""
        mine = tables.pins.c.thread_id == thread_id
        with self._database.writing() as connection:
            bad = mine & tables.pins.c.release_id.in_(list(refused))
            connection.execute(update(tables.pins).where(bad).values(release_id=release_id))
            return str(connection.execute(select(tables.pins.c.release_id).where(mine)).scalar_one())

    def pinned_since(self, at: datetime) -> frozenset[str]:
        """Return the releases that threads are pinned to which had a run at a time or later."""
        theirs = select(tables.pins.c.release_id).join(tables.runs, tables.runs.c.thread_id == tables.pins.c.thread_id)
        query = theirs.where(tables.runs.c.started_at >= at.timestamp()).distinct()
        with self._database.reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def unpin(self, release_id: str, instead: str) -> None:
        """Give all threads of a release another one."""
        with self._database.writing() as connection:
            give_threads(connection, release_id, instead)

    def _unknown(self, release_id: str) -> NotFoundError:
        return NotFoundError(
            f"The release {release_id!r} is not in the store {self._database.where!r}. "
            "`learnloop releases` lists those that are."
        )


def point_to(
    connection: Connection, release_id: str, because: str, actor: str, now: datetime, refused: str | None = None
) -> bool:
    """Make a release the champion inside of a transaction; return whether it was not that already."""
    if champion_of(connection) == release_id:
        return False
    row = {"release_id": release_id, "actor": actor, "because": because, "at": now.timestamp(), "refused": refused}
    connection.execute(insert(tables.pointer).values(**row))
    note(connection, "champion", [(release_id, because)])
    if refused is not None:
        give_threads(connection, refused, release_id)
    return True


def give_threads(connection: Connection, release_id: str, instead: str) -> None:
    """Give all threads of a release another one, inside of a transaction."""
    mine = tables.pins.c.release_id == release_id
    connection.execute(update(tables.pins).where(mine).values(release_id=instead))


def no_champion(database: Database) -> NotFoundError:
    """Return the error of who asks before a release was put in service."""
    return NotFoundError(
        f"The store {database.where!r} has no champion yet: no release was put in "
        "service. Call loop.model(engine), which puts the bare base model in service."
    )


def champion_of(connection: Connection) -> str | None:
    """Return the champion inside of a transaction."""
    query = select(tables.pointer.c.release_id).order_by(tables.pointer.c.seq.desc()).limit(1)
    return connection.execute(query).scalar()
