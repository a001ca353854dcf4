"""Give transactions on one SQL database, bring its tables up to date, and turn its errors into sentences."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    Table,
    column,
    create_engine,
    event,
    inspect,
    make_url,
    select,
    table,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from langgraph_learnloop.errors import MissingExtraError, NewerStoreError, StoreError
from langgraph_learnloop.records import Record
from langgraph_learnloop.store.tables import VERSION, VERSION_TABLE

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound=Record)

BUSY_SECONDS = 30.0
"""How long a transaction waits for another process's transaction."""

_PAGE = 8192
"""Bytes of a page of SQLite: compressed messages of a kilobyte or two leave half as much of it empty as of 4096."""
_UNQUOTES = make_url("sqlite:///%25").database == "%"
"""Whether SQLAlchemy quotes the file's name in a URL, as 2.1 does and 2.0 does not."""
_MAGIC = b"SQLite format 3\x00"
_WAYS_OUT = {
    "SQLITE_FULL": "the disk is full. Free some space and try again; nothing that was stored before is lost.",
    "SQLITE_READONLY": "it is read-only. Make the file and its folder writable for this user, or name another file.",
    "SQLITE_CANTOPEN": "it cannot be opened. Make the file and its folder writable for this user, or name another.",
    "SQLITE_NOTADB": "it is not a LearnLoop store. Name another file; this one was left as it is.",
    "SQLITE_CORRUPT": "the file is damaged. Put back a copy, or save what is readable with: sqlite3 FILE .recover",
    "SQLITE_BUSY": f"another process kept it locked for {BUSY_SECONDS:.0f} seconds. End that process or try again.",
    "SQLITE_LOCKED": f"another process kept it locked for {BUSY_SECONDS:.0f} seconds. End that process or try again.",
    "SQLITE_IOERR": "the disk did not read or write. Look at the disk (space, quota, health) and try again.",
}


class Database:
    """Hold the connections to one database; safe for threads, and for several processes on one file."""

    def __init__(self, path_or_url: str | Path) -> None:
        """Open a database and bring its tables up to date; raise StoreError with the way out."""
        self.url, self.path = _address(path_or_url)
        self.address = _written(self.url, self.path)
        self.where = str(self.path) if self.path else self.url.render_as_string(hide_password=True)
        if self.path:
            _check_file(self.path)
        self.engine = _engine(self.url, self.where)
        self._writers = self.engine.execution_options(learnloop_writes=True)
        self._driver_inserts: dict[Table, str] = {}
        _databases.add(self)
        try:
            with self._sentences():
                self._upgrade()
        except BaseException:
            self.engine.dispose()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection inside a transaction that sees one moment of the database."""
        with self._sentences(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection inside a transaction that is alone in writing, for every process, until it ends."""
        with self._sentences(), self._writers.begin() as connection:
            yield connection

    def insert_new(self, into: Table) -> postgresql.Insert | sqlite.Insert:
        """Return an INSERT that leaves rows alone which are there already."""
        if self.engine.dialect.name == "postgresql":
            return postgresql.insert(into).on_conflict_do_nothing()
        return sqlite.insert(into).on_conflict_do_nothing()

    def is_new(self, connection: Connection, into: Table, row: Mapping[str, Any]) -> bool:
        """Insert a row unless it is there already; return whether it was not."""
        first = next(iter(into.primary_key.columns))  # drivers do not all count the rows of an INSERT
        return connection.execute(self.insert_new(into).returning(first), row).first() is not None

    def insert_new_rows(self, connection: Connection, into: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows, tuples of all columns in order, except those that are there already.

        The statement goes to the driver as it is: what SQLAlchemy does for each execution costs as much as SQLite.
        """
        if into not in self._driver_inserts:
            dialect: type[DefaultDialect] = type(self.engine.dialect)  # type: ignore[assignment]  # as all are
            by_position = dialect(paramstyle="qmark" if self.engine.dialect.name == "sqlite" else "format")
            self._driver_inserts[into] = str(self.insert_new(into).compile(dialect=by_position))
        connection.exec_driver_sql(self._driver_inserts[into], list(rows))

    def ask(self, query: str, values: Sequence[str]) -> list[tuple[Any, ...]]:
        """Return what one query of a list of values, at its `{}`, finds; it goes to the driver as it is, by itself.

        It is for what is asked with every run: SQLAlchemy takes several times as long around a query as SQLite in it.
        """
        mark = "?" if self.engine.dialect.name == "sqlite" else "%s"
        asked = query.format(", ".join([mark] * len(values)))
        with self._sentences():
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute(asked, tuple(values))
                return list(cursor.fetchall())
            except self.engine.dialect.loaded_dbapi.Error as error:
                connection.invalidate()  # it may be that of a server that went away
                raise DBAPIError(asked, None, error) from error
            finally:
                connection.close()

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"The store {self.where!r} could not be used: {_way_out(error)}") from error
        except SQLAlchemyError as error:
            raise StoreError(
                f"The store {self.where!r} could not be used: {error}. Check that the database is up, and try again."
            ) from error

    def _upgrade(self) -> None:
        with self.engine.connect() as connection:
            found = _version(connection)
        self._refuse_newer(found)
        if found == VERSION:
            return
        if self.path:
            self._write_ahead()
        with self._writers.begin() as connection:
            found = _version(connection)
            self._refuse_newer(found)
            if found != VERSION:
                _migrate(connection)

    def _write_ahead(self) -> None:
        """Switch a SQLite file to WAL; the switch does not honour busy_timeout, so wait for others here."""
        deadline = time.monotonic() + BUSY_SECONDS
        with self.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            while True:
                try:
                    raw.execute(f"PRAGMA page_size = {_PAGE}")  # type: ignore[union-attr]  # for a new file only
                    raw.execute("PRAGMA journal_mode = WAL")  # type: ignore[union-attr]  # it is sqlite3's own
                    return
                except sqlite3.OperationalError as error:
                    if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                        raise DBAPIError("PRAGMA journal_mode = WAL", None, error) from error
                    time.sleep(0.02)

    def _refuse_newer(self, found: str | None) -> None:
        if found is not None and found > VERSION:
            raise NewerStoreError(
                f"The store {self.where!r} was written by a newer version of langgraph-learnloop (schema {found}; this "
                f"one knows {VERSION}). Upgrade with: pip install --upgrade langgraph-learnloop. Nothing was changed."
            )


class Drawer:
    """Hold one family of records in a database."""

    def __init__(self, database: Database) -> None:
        """Work on a database."""
        self._database = database

    def _records(self, kind: type[Kind], query: Select[Any]) -> tuple[Kind, ...]:
        """Return the records whose JSON a query finds, in its order."""
        with self._database.reading() as connection:
            bodies = connection.execute(query).scalars().all()
        return tuple(kind.model_validate_json(body) for body in bodies)

    def _record(self, kind: type[Kind], query: Select[Any]) -> Kind | None:
        """Return the first record whose JSON a query finds, if there is one."""
        return next(iter(self._records(kind, query)), None)

    def _insert_new(self, into: Table, row: Mapping[str, Any]) -> None:
        """Insert a row unless it is there already."""
        with self._database.writing() as connection:
            connection.execute(self._database.insert_new(into), row)


def parts(values: Sequence[Value], size: int = 500) -> Iterator[Sequence[Value]]:
    """Yield values a few hundred at a time: databases take so many parameters of one statement and no more."""
    return (values[start : start + size] for start in range(0, len(values), size))


def _written(url: URL, path: Path | None) -> str:
    """Return the URL as `_address` reads it, password and all."""
    if path is not None and not _UNQUOTES:
        url = url.set(database=quote(str(url.database)))
    return url.render_as_string(hide_password=False)


def _address(path_or_url: str | Path) -> tuple[URL, Path | None]:
    """Return the URL, and the file's path where the database is one file."""
    if isinstance(path_or_url, Path) or "://" not in path_or_url:
        path = Path(path_or_url).expanduser().absolute()
        return URL.create("sqlite", database=str(path)), path
    try:
        url = make_url(path_or_url)
    except ArgumentError as error:
        raise StoreError("The store's URL cannot be read. Write a file name, or postgresql+psycopg://...") from error
    if url.get_backend_name() != "sqlite":
        return url, None
    if url.database in (None, "", ":memory:"):
        raise StoreError("A store in memory would end with its process and could not be shared: name a file.")
    name = str(url.database) if _UNQUOTES else unquote(str(url.database))
    return url.set(database=name), Path(name).absolute()


def _check_file(path: Path) -> None:
    """Refuse what SQLite would refuse later or, worse, write into."""
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(
            f"The store {str(path)!r} cannot be made: the folder {str(folder)!r} does not exist. "
            "Make the folder first, or name another file."
        )
    if path.is_dir():
        raise StoreError(
            f"The store {str(path)!r} is a folder. Name a file, for example {str(path / 'learnloop.db')!r}."
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_MAGIC))
    except FileNotFoundError:
        head = b""
    except OSError as error:
        raise StoreError(
            f"The store {str(path)!r} cannot be read: {error.strerror}. "
            "Make it readable for this user, or name another file."
        ) from error
    if head and head != _MAGIC:
        raise StoreError(
            f"The file {str(path)!r} is not a LearnLoop store. Name another file; this one was left as it is."
        )
    for place in (folder, path) if path.exists() else (folder,):
        if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreError(
                f"The store {str(path)!r} cannot be written: {str(place)!r} is read-only for this user. "
                "Make it writable, or name another file."
            )


def _engine(url: URL, where: str) -> Engine:
    try:
        # A connection to a file costs nothing: no thread need wait for another's.
        engine = create_engine(url, **({"max_overflow": -1} if url.get_backend_name() == "sqlite" else {}))
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'The store {where!r} needs the driver {error.name!r}: pip install "langgraph-learnloop[postgres]".'
        ) from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"The store {where!r} cannot be opened: {error}. Write a file name, or postgresql+psycopg://..."
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _on_sqlite_connect)
        event.listen(engine, "begin", _on_sqlite_begin)
    else:
        event.listen(engine, "begin", _on_server_begin)
    return engine


def _on_sqlite_connect(raw: Any, _record: Any) -> None:
    """Take transactions out of the driver's hands: it would begin them late, and never around DDL."""
    raw.isolation_level = None
    raw.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    raw.execute("PRAGMA synchronous = FULL")  # what was acknowledged outlives a power cut


def _on_sqlite_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer: it would have to fail.
    writes = connection.get_execution_options().get("learnloop_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _on_server_begin(connection: Connection) -> None:
    """Give a writing transaction on PostgreSQL the solitude that BEGIN IMMEDIATE gives it on SQLite."""
    if connection.get_execution_options().get("learnloop_writes"):
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7061727)")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.execute(select(column("version_num")).select_from(table(VERSION_TABLE))).scalar()
    return None if version is None else str(version)


def _migrate(connection: Connection) -> None:
    """Run the missing steps inside the connection's transaction; alembic is imported only here."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=VERSION_TABLE)
    command.upgrade(config, "head")


def _way_out(error: DBAPIError) -> str:
    code = str(getattr(error.orig, "sqlite_errorname", ""))
    found = next((sentence for name, sentence in _WAYS_OUT.items() if code.startswith(name)), None)
    return found or f"{str(error.orig).strip()}. Check the database's own log."


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _leave_connections_to_the_parent() -> None:
    for database in list(_databases):
        database.engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_connections_to_the_parent)
