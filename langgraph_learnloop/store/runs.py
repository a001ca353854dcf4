"""Keep runs and the messages they refer to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import zstandard
from sqlalchemy import Connection, Select, func, select, tuple_

from langgraph_learnloop.errors import NotFoundError, StoreError
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.messages import loads, text_in
from langgraph_learnloop.mirrors import Texts
from langgraph_learnloop.records import COMPRESSION, Feedback, Message, Recorded, Run, ToolCall
from langgraph_learnloop.references import referenced, whole
from langgraph_learnloop.store import tables
from langgraph_learnloop.store.database import Database, Drawer, parts
from langgraph_learnloop.store.outbox import note, wanted

_CHUNK = 500
"""Runs that are read at once where all of them are."""

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}


_NEIGHBOURS = """
SELECT mine.run_id, (
    SELECT run_id FROM runs WHERE thread_id = mine.thread_id AND started_at {side} mine.started_at
    ORDER BY started_at {order} LIMIT 1
) FROM runs AS mine WHERE mine.run_id IN ({{}})
"""
_BEFORE = _NEIGHBOURS.format(side="<", order="DESC")
"""Some runs, each with the one before it in its thread. Asked for the agent as well, SQLite would walk through all the
agent's runs in place of the thread's."""
_AFTER = _NEIGHBOURS.format(side=">", order="ASC")


class Runs(Drawer):
    """Store finished runs with their interned messages, and give them back."""

    def __init__(self, database: Database, feedback: Callable[[str], tuple[Feedback, ...]], blobs: Path) -> None:
        """Work on a database and a folder for blobs; `feedback` answers what was said of a run, oldest first."""
        super().__init__(database)
        self.feedback = feedback
        self._blobs = blobs

    def add_runs(self, recorded: Sequence[Recorded]) -> None:
        """Store runs and what they refer to in one transaction; what is there already stays."""
        pack = zstandard.ZstdCompressor(COMPRESSION)
        rows = [_row(run, pack) for run, _ in recorded]
        bodies = [row for _, more in recorded for row in more.bodies.items()]
        lists = [(key, parent, ",".join(items)) for _, more in recorded for key, (parent, items) in more.lists.items()]
        for _, more in recorded:  # first: a run that is there must be whole
            for digest, data in more.blobs.items():
                self._keep_blob(digest, data)
        with self._database.writing() as connection:
            if wanted(connection, "run"):
                note(connection, "run", [(run_id, None) for run_id in _new(connection, [row[0] for row in rows])])
            for table, new in ((tables.messages, bodies), (tables.lists, lists), (tables.runs, rows)):
                if new:
                    self._database.insert_new_rows(connection, table, new)

    def run(self, run_id: str) -> Run:
        """Return a run, or raise NotFoundError."""
        found = self._runs(select(tables.runs).where(tables.runs.c.run_id == run_id))
        if not found:
            raise NotFoundError(
                f"The run {run_id!r} is not in the store {self._database.where!r}. "
                "`learnloop runs` lists those that are; a run appears when it has ended."
            )
        return found[0]

    def many(self, run_ids: Sequence[str]) -> dict[str, Run]:
        """Return those of some runs that are stored, by id."""
        queries = (select(tables.runs).where(tables.runs.c.run_id.in_(part)) for part in parts(run_ids))
        return {run.run_id: run for query in queries for run in self._runs(query)}

    def of_trace(self, trace: str) -> tuple[Run, ...]:
        """Return the runs that another tracer keeps this trace of, oldest first: it may put several into one."""
        return self._runs(select(tables.runs).where(tables.runs.c.trace == trace).order_by(tables.runs.c.started_at))

    def texts(self, runs: Sequence[Run]) -> Texts:
        """Return all the messages and tool schemas that some runs refer to, each once; raise NotFoundError."""
        steps = [step for run in runs for step in run.steps]
        starts = [key for key in (*(run.messages for run in runs), *(step.input for step in steps)) if key is not None]
        lists = self._lists(list(dict.fromkeys(starts)))
        hashes = dict.fromkeys(key for items in lists.values() for key in items)
        hashes |= dict.fromkeys(key for step in steps for key in step.output)
        blobs = dict.fromkeys(step.tools for step in steps if step.tools is not None)
        bodies = self._bodies({**hashes, **blobs})
        messages = {key: decode_message(bodies[key]) for key in hashes}
        return Texts(messages, lists, {key: bodies[key] for key in blobs})

    def recent(
        self, limit: int = 50, agent: str | None = None, outcome: str | None = None, thread_id: str | None = None
    ) -> tuple[Run, ...]:
        """Return the newest runs first, narrowed by agent, outcome and thread."""
        wanted = {"agent": agent, "outcome": outcome, "thread_id": thread_id}
        query = select(tables.runs).order_by(tables.runs.c.started_at.desc(), tables.runs.c.run_id.desc()).limit(limit)
        for column, value in wanted.items():
            if value is not None:
                query = query.where(tables.runs.c[column] == value)
        return self._runs(query)

    def since(self, began: datetime, agent: str) -> tuple[Run, ...]:
        """Return an agent's runs that began at a time or later, oldest first."""
        late = (tables.runs.c.started_at >= began.timestamp()) & (tables.runs.c.agent == agent)
        return self._runs(select(tables.runs).where(late).order_by(tables.runs.c.started_at, tables.runs.c.run_id))

    def before(self, at: datetime, agent: str, release_id: str, limit: int) -> tuple[Run, ...]:
        """Return the latest runs of a release that began before a time, oldest first."""
        early = (tables.runs.c.started_at < at.timestamp()) & (tables.runs.c.agent == agent)
        query = select(tables.runs).where(early & (tables.runs.c.release == release_id))
        newest = query.order_by(tables.runs.c.started_at.desc(), tables.runs.c.run_id.desc()).limit(limit)
        return self._runs(newest)[::-1]

    def preceding(self, runs: Sequence[Run], known: Mapping[str, Run] = MappingProxyType({})) -> dict[str, Run]:
        """Return the run before each of some stored runs in its thread, by the later one's id; none for the first.

        Runs that are `known`, by their id, are not read again.
        """
        return self._neighbours(_BEFORE, runs, known)

    def following(self, runs: Sequence[Run]) -> dict[str, Run]:
        """Return the run after each of some stored runs in its thread, by the earlier one's id; none for the last."""
        return self._neighbours(_AFTER, runs, {})

    def older_threads(self, thread_ids: Sequence[str], at: datetime) -> frozenset[str]:
        """Return those of some threads that had a run before a time."""
        found: set[str] = set()
        with self._database.reading() as connection:
            for part in parts(list(thread_ids)):
                old = tables.runs.c.thread_id.in_(part) & (tables.runs.c.started_at < at.timestamp())
                found.update(connection.execute(select(tables.runs.c.thread_id).where(old).distinct()).scalars())
        return frozenset(found)

    def resolve(self, beginning: str) -> Run:
        """Return the run whose id is this, or begins so; raise NotFoundError when there is none, or more than one."""
        query = select(tables.runs).where(tables.runs.c.run_id.startswith(beginning, autoescape=True))
        found = self._runs(query.order_by(func.length(tables.runs.c.run_id)).limit(2))
        if len(found) == 2 and found[0].run_id != beginning:
            raise NotFoundError(f"Several runs begin with {beginning!r}: give more of the id.")
        return found[0] if found else self.run(beginning)

    def every(self, agent: str | None = None) -> Iterator[Run]:
        """Yield all runs, oldest first, a few hundred at a time."""
        last: tuple[float, str] | None = None
        begun, run_id = tables.runs.c.started_at, tables.runs.c.run_id
        while True:
            query = select(tables.runs).order_by(begun, run_id).limit(_CHUNK)
            if agent is not None:
                query = query.where(tables.runs.c.agent == agent)
            found = self._runs(query if last is None else query.where(tuple_(begun, run_id) > last))
            yield from found
            if len(found) < _CHUNK:
                return
            last = (found[-1].started_at.timestamp(), found[-1].run_id)

    def last_of_thread(self, thread_id: str) -> Run:
        """Return a thread's newest run, or raise NotFoundError."""
        found = self.recent(limit=1, thread_id=thread_id)
        if not found:
            raise NotFoundError(
                f"The thread {thread_id!r} has no run in the store {self._database.where!r}. Pass the "
                "thread_id that the agent was invoked with; a run appears when it has ended."
            )
        return found[0]

    def count(self) -> int:
        """Return how many runs are stored."""
        with self._database.reading() as connection:
            return int(connection.execute(select(func.count()).select_from(tables.runs)).scalar_one())

    def messages(self, hashes: Sequence[str]) -> tuple[Message, ...]:
        """Return interned messages in order, or raise NotFoundError."""
        bodies = self._bodies(dict.fromkeys(hashes))
        decoded = {key: decode_message(body) for key, body in bodies.items()}
        return tuple(decoded[key] for key in hashes)

    def conversation(self, list_hash: str | None) -> tuple[Message, ...]:
        """Return the messages of an interned list, in order, or raise NotFoundError; none for None."""
        return self.messages(self.items(list_hash))

    def items(self, list_hash: str | None) -> tuple[str, ...]:
        """Return the hashes of the messages of an interned list, in order, or raise NotFoundError; none for None."""
        return () if list_hash is None else self._lists([list_hash])[list_hash]

    def _lists(self, starts: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the hashes of the messages of several lists, whose parents they mostly share."""
        rows: dict[str, tuple[str | None, list[str]]] = {}
        with self._database.reading() as connection:
            for part in parts(starts):
                chain = select(tables.lists).where(tables.lists.c.hash.in_(part)).cte(recursive=True)
                earlier = select(tables.lists).where(tables.lists.c.hash == chain.c.parent)
                found = connection.execute(select(chain.union(earlier)))
                rows.update((row.hash, (row.parent, row.items.split(","))) for row in found)
        return {key: self._joined(key, rows) for key in starts}

    def _joined(self, list_hash: str, rows: Mapping[str, tuple[str | None, list[str]]]) -> tuple[str, ...]:
        """Return the messages of a list: those of the lists that it continues, then its own."""
        pieces: list[list[str]] = []
        at: str | None = list_hash
        while at is not None:
            if at not in rows:
                raise NotFoundError(
                    f"The list of messages {list_hash!r} is not whole in the store {self._database.where!r}; "
                    "its run was stored without it, or it was erased. Take another run."
                )
            at, items = rows[at]
            pieces.append(items)
        return tuple(item for piece in reversed(pieces) for item in piece)

    def whole(self, hashes: Sequence[str]) -> tuple[dict[str, Any], ...]:
        """Return interned messages as LangChain's `messages_from_dict` reads them, with images, audio and files."""
        found = self._bodies(dict.fromkeys(hashes))
        return tuple(self._filled(loads(found[key])) for key in hashes)

    def blob(self, key: str) -> bytes:
        """Return what is stored under a hash, decompressed: the JSON of a message or of tool schemas."""
        return self._bodies([key])[key]

    def _keep_blob(self, digest: str, data: bytes) -> None:
        """Write a blob's file whole or not at all."""
        place = self._blob_file(digest)
        if place.exists():
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(place) as beside:
                beside.write_bytes(data)
        except OSError as error:
            raise StoreError(
                f"The blob {digest!r} could not be written to {str(self._blobs)!r}: {error.strerror or error}. "
                "Make room there, or name another folder in the settings."
            ) from error

    def _blob_file(self, digest: str) -> Path:
        return self._blobs / digest[:2] / digest

    def _filled(self, message: dict[str, Any]) -> dict[str, Any]:
        content = message["data"].get("content")
        if isinstance(content, str):
            return message
        files = {digest: self._blob_file(digest) for digest in referenced(content)}
        there = {digest: file.read_bytes() for digest, file in files.items() if file.exists()}
        return {**message, "data": {**message["data"], "content": whole(content, there)}}

    def _neighbours(self, query: str, runs: Sequence[Run], known: Mapping[str, Run]) -> dict[str, Run]:
        beside: dict[str, str] = {}
        for part in parts([run.run_id for run in runs if run.thread_id is not None]):
            rows = self._database.ask(query, part)
            beside.update((run_id, other_id) for run_id, other_id in rows if other_id is not None)
        if not beside:
            return {}
        there = {**known, **{run.run_id: run for run in runs}}
        there |= self.many([*{other_id for other_id in beside.values() if other_id not in there}])
        found = ((run, there.get(beside.get(run.run_id, ""))) for run in runs)
        return {run.run_id: other for run, other in found if other is not None and other.agent == run.agent}

    def _runs(self, query: Select[Any]) -> tuple[Run, ...]:
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        unpack = zstandard.ZstdDecompressor()
        return tuple(Run.model_validate_json(unpack.decompress(row.body)) for row in rows)

    def _bodies(self, hashes: Iterable[str]) -> dict[str, bytes]:
        unpack = zstandard.ZstdDecompressor()
        bodies: dict[str, bytes] = {}
        wanted = list(hashes)
        with self._database.reading() as connection:
            for part in parts(wanted):
                rows = connection.execute(select(tables.messages).where(tables.messages.c.hash.in_(part)))
                bodies.update((row.hash, unpack.decompress(row.body)) for row in rows)
        lost = next((key for key in wanted if key not in bodies), None)
        if lost is not None:
            raise NotFoundError(
                f"The message {lost!r} is not in the store {self._database.where!r}; "
                "its run was stored without it, or it was erased. Take another run."
            )
        return bodies


def decode_message(body: bytes) -> Message:
    """Return a stored message in the form that every room reads; it needs no LangChain."""
    stored = loads(body)
    data = stored["data"]
    kind = stored["type"].removesuffix("MessageChunk").lower()
    role = _role(kind, data.get("role"))
    calls = tuple(
        ToolCall(name=call["name"], args=call["args"], id=call.get("id")) for call in data.get("tool_calls") or ()
    )
    return Message(
        role=role,
        content=text_in(data.get("content")),
        tool_calls=calls if role == "assistant" else (),
        tool_call_id=data.get("tool_call_id") if role == "tool" else None,
        name=data.get("name"),
    )


def _role(kind: str, spoken: str | None) -> Role:
    """Return the OpenAI role of LangChain's kind of message; its free-form chat messages name a role themselves."""
    free: dict[str, Role] = {"assistant": "assistant", "developer": "system"}
    return _ROLES.get(kind) or _ROLES.get(spoken or "") or free.get(spoken or "", "user")


def _row(run: Run, pack: zstandard.ZstdCompressor) -> tuple[Any, ...]:
    return (
        run.run_id,
        run.thread_id,
        run.agent,
        run.release,
        run.user,
        run.outcome,
        run.started_at.timestamp(),
        pack.compress(run.model_dump_json(exclude_defaults=True).encode()),
        run.trace,
    )


def _new(connection: Connection, run_ids: Sequence[str]) -> list[str]:
    """Return those of some runs that are not stored yet, each once."""
    there: set[str] = set()
    for part in parts(run_ids):
        there.update(connection.execute(select(tables.runs.c.run_id).where(tables.runs.c.run_id.in_(part))).scalars())
    return [run_id for run_id in dict.fromkeys(run_ids) if run_id not in there]
