"""Opening a store: what it makes, what it refuses, and how it says so."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from langgraph_learnloop.errors import NewerStoreError, StoreError
from langgraph_learnloop.records import Run
from langgraph_learnloop.store import database
from langgraph_learnloop.store.opened import Store, open_store
from langgraph_learnloop.store.tables import VERSION, VERSION_TABLE, metadata
from tests.store.recorded import recorded


def test_migrations_lead_to_the_tables_that_the_code_describes(store: Store) -> None:
    """The steps from an empty file end at exactly the schema of tables.py."""
    with create_engine(store.url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == VERSION


def test_tables_can_be_made_on_postgresql() -> None:
    """Every table has a PostgreSQL form."""
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


@pytest.mark.parametrize("name", ["learnloop.db", "a b%?#&;.db"])
def test_a_store_is_found_again_by_path_and_by_url(tmp_path: Path, name: str, make_run: Callable[..., Run]) -> None:
    """The url of a store opens the same file, whatever characters its name has."""
    with open_store(tmp_path / name) as store:
        store.runs.add_runs(recorded(make_run("r1")))
        url = store.url
    assert (tmp_path / name).is_file()
    with open_store(url) as again, open_store(str(tmp_path / name)) as by_path:
        assert again.path == by_path.path == tmp_path / name
        assert again.runs.count() == by_path.runs.count() == 1


def test_a_file_uses_wal_and_waits_for_others(store: Store) -> None:
    """Readers and a writer do not block each other, and writers wait instead of failing."""
    with store._database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_alembic_is_imported_only_to_migrate(store: Store) -> None:
    """Opening a store that is up to date costs no import of alembic."""
    code = (
        "import sys; from langgraph_learnloop.store.opened import open_store; open_store(sys.argv[1]).close(); "
        "sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, store.url], check=False).returncode == 0


def test_a_newer_store_is_left_alone(store: Store) -> None:
    """A store that a newer version wrote is refused, by a sentence that names it, and stays as it is."""
    store.close()
    with sqlite3.connect(str(store.path)) as raw:
        raw.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    raw.close()
    before = store.path.read_bytes() if store.path else b""
    with pytest.raises(NewerStoreError, match=r"learnloop\.db.*schema 9999.*pip install --upgrade"):
        open_store(store.url)
    assert Path(str(store.path)).read_bytes() == before


def test_a_foreign_file_is_left_alone(tmp_path: Path) -> None:
    """A file that is no database is refused and not written to."""
    notes = tmp_path / "notes.txt"
    notes.write_text("dear diary")
    with pytest.raises(StoreError, match=r"notes\.txt' is not a LearnLoop store"):
        open_store(notes)
    assert notes.read_text() == "dear diary"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file that begins like a database and is none is refused by a sentence."""
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(StoreError, match=r"broken\.db"):
        open_store(broken)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The folder that has to be made is named, and not made behind one's back."""
    with pytest.raises(StoreError, match=r"the folder '.*nowhere' does not exist"):
        open_store(tmp_path / "nowhere" / "learnloop.db")
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """Naming a folder is answered with a file name that would do."""
    with pytest.raises(StoreError, match=r"is a folder.*learnloop\.db"):
        open_store(tmp_path)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_memory_is_no_store(url: str) -> None:
    """A store that would end with its process is refused."""
    with pytest.raises(StoreError, match="name a file"):
        open_store(url)


@pytest.mark.parametrize("url", ["http://localhost/x", "://", "nonsense+driver://x"])
def test_an_unknown_url_is_refused(url: str) -> None:
    """A URL that no database answers to is refused by a sentence."""
    with pytest.raises(StoreError, match="Write a file name"):
        open_store(url)


def test_a_read_only_folder_is_named(plain_user_folder: Path) -> None:
    """A folder that may not be written is refused before anything is tried."""
    plain_user_folder.chmod(0o555)
    with pytest.raises(StoreError, match="is read-only for this user"):
        open_store(plain_user_folder / "learnloop.db")


def test_a_read_only_file_is_named(plain_user_folder: Path) -> None:
    """A file that may not be written is refused, and may be opened again when it can be."""
    path = plain_user_folder / "learnloop.db"
    open_store(path).close()
    path.chmod(0o444)
    with pytest.raises(StoreError, match=r"learnloop\.db' is read-only for this user"):
        open_store(path)
    path.chmod(0o644)
    open_store(path).close()


def test_an_unreadable_file_is_named(plain_user_folder: Path) -> None:
    """A file that may not be read is refused by a sentence."""
    path = plain_user_folder / "learnloop.db"
    path.touch(mode=0o000)
    with pytest.raises(StoreError, match="cannot be read"):
        open_store(path)


def test_a_full_disk_is_a_sentence_and_loses_nothing(store: Store, make_run: Callable[..., Run]) -> None:
    """What does not fit is refused whole; what was there stays, and more fits when there is space again."""
    store.runs.add_runs(recorded(make_run("r1")))
    limit = {"pages": 60}
    store._database.engine.dispose()
    event.listen(
        store._database.engine,
        "connect",
        lambda raw, _: raw.execute(f"PRAGMA max_page_count = {limit['pages']}"),
    )
    with pytest.raises(StoreError, match=r"learnloop\.db' could not be used: the disk is full"):
        store.runs.add_runs(recorded(make_run("r2"), bodies={"h": bytes(1_000_000)}))
    assert [run.run_id for run in store.runs.recent()] == ["r1"]
    limit["pages"] = 100_000
    store._database.engine.dispose()
    store.runs.add_runs(recorded(make_run("r2"), bodies={"h": bytes(1_000_000)}))
    assert store.runs.count() == 2


def test_a_lock_that_stays_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that keeps the file locked is waited for, then named as the reason."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with open_store(tmp_path / "learnloop.db") as store:
        raw = sqlite3.connect(str(store.path), isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process kept it locked"):
            store.decisions.append(action="train", subject="x", because="y")
        assert store.decisions.all() == ()
        raw.close()
        store.decisions.append(action="train", subject="x", because="y")


def test_a_missing_driver_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's URL without its driver is answered with what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install .*postgres"):
        open_store("postgresql+psycopg://someone:secret@localhost/x")
