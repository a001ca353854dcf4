"""Give recorded runs to other programs: as JSON lines, or as a Parquet table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import IO, Any

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.ports import RunReader
from langgraph_learnloop.records import Message, Run, Step


class ExportedStep(Step):
    """A step that needs no store to be read."""

    output: tuple[Message, ...] = ()  # type: ignore[assignment]  # the messages in place of their hashes
    """The messages it produced."""


class ExportedRun(Run):
    """A run that needs no store to be read: one line of an export."""

    messages: tuple[Message, ...] = ()  # type: ignore[assignment]  # the messages in place of their list's hash
    """The conversation as the run left it."""
    steps: tuple[ExportedStep, ...] = ()
    """What happened, in order of start."""


def exported(run: Run, reader: RunReader) -> ExportedRun:
    """Return a run with its messages; raise NotFoundError when one was erased."""
    steps = [{**step.model_dump(), "output": reader.messages(step.output)} for step in run.steps]
    return ExportedRun.model_validate(
        {**run.model_dump(), "messages": reader.conversation(run.messages), "steps": steps}
    )


def write_jsonl(runs: Iterable[ExportedRun], out: IO[str]) -> int:
    """Write one JSON object a line and return how many."""
    count = 0
    for run in runs:
        out.write(run.model_dump_json() + "\n")
        count += 1
    return count


def write_parquet(runs: Iterable[ExportedRun], path: Path, rows: int = 1_000) -> int:
    """Write a Parquet table and return its length: a column a field, what is nested as JSON text."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtraError("Parquet needs pyarrow: pip install pyarrow. JSON lines need nothing more.") from error
    schema = arrow.schema([(name, _type(arrow, name)) for name in ExportedRun.model_fields])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        each = map(_row, runs)
        while batch := list(islice(each, rows)):
            writer.write_table(arrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


_NESTED = ("messages", "steps", "metadata")
_NUMBERS = ("seconds", "usd")
_LISTS = ("tags", "flagged")


def _type(arrow: Any, name: str) -> Any:
    if name == "started_at":
        return arrow.timestamp("us", tz="UTC")
    if name in _NUMBERS:
        return arrow.float64()
    return arrow.list_(arrow.string()) if name in _LISTS else arrow.string()


def _row(run: ExportedRun) -> dict[str, Any]:
    plain = run.model_dump(mode="json")
    nested = {name: json.dumps(plain[name], ensure_ascii=False) for name in _NESTED}
    return {**plain, **nested, "started_at": run.started_at}
