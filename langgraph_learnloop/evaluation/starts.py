"""Find where the replay of a case begins: with its messages, or with the whole state of the run it was made from.

A recorded run is re-run from the checkpoint that its blamed step started from. The checkpoint is read from the user's
saver and put into one that lives as long as the case: nothing is written where the user's threads are. (LangGraph's own
time travel goes on in the user's thread, and its fork becomes that thread's latest state.)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_learnloop.errors import DataError, NotFoundError
from langgraph_learnloop.evaluation.recording import Mask, Recorded, Recording, recorded_as, recorded_in
from langgraph_learnloop.evaluation.shadow import Graph, inner_graphs
from langgraph_learnloop.ports import RunReader
from langgraph_learnloop.records import Case, Message, Run, Step

_RESUME = "__resume__"
"""The channel in which LangGraph keeps the answers to interrupts; a replay gives the same answers."""
_NOTHING_LOST = frozenset({"messages", "jump_to", "structured_response", "remaining_steps"})
"""State keys that a replay from messages alone does without: `create_agent` fills the others as it goes."""


class Start(NamedTuple):
    """Where one replay begins."""

    thread: str
    """The replay's own thread."""
    saver: InMemorySaver
    """Holds the state that the graph goes on from; empty for a replay from messages."""
    known: frozenset[str] | None
    """Ids of the messages in the state that it goes on from; None for a replay from messages."""
    checkpoint_id: str | None
    """The checkpoint to go back to; None for a replay from messages, and where a run goes on after an interrupt."""
    recording: Recording
    """What tools answered."""


class Starts:
    """Find the start of each case of one graph."""

    def __init__(self, graph: Graph, runs: RunReader | None, mask: Mask | None) -> None:
        """Read recorded runs from a store, and their checkpoints from the graph's own saver."""
        self._runs = runs
        self._mask = mask
        self._saver = graph.checkpointer if isinstance(graph.checkpointer, BaseCheckpointSaver) else None
        self._more = sorted(set(graph.stream_channels_list) - _NOTHING_LOST)
        self._deltas = sorted(name for name, channel in graph.channels.items() if isinstance(channel, DeltaChannel))
        self._stateful = [path for path, inner in inner_graphs(graph) if inner.checkpointer is True]

    def of(self, case: Case, *, whole: bool) -> Start:
        """Return the start of a case; raise DataError when its state is lost and its messages do not make up for it."""
        run = self._run(case) if self._saver is not None or whole else None
        step = _blamed(run, case, self._runs) if run is not None and self._runs is not None else None
        saver = InMemorySaver(serde=self._saver.serde if self._saver is not None else None)
        thread = f"learnloop-evaluation-{uuid4()}"
        found = self._seed(saver, thread, run, step) if run is not None and step is not None else None
        recorded = self._recorded(run, step) if run is not None and whole else recorded_as(case.reference)
        if found is None:
            return Start(thread, saver, None, None, Recording(recorded, self._mask))
        known = frozenset(str(m.id) for m in _messages(found))
        # LangGraph forgets the answers to interrupts when it goes back to a checkpoint by its id.
        answered = any(channel == _RESUME for _, channel, _ in found.pending_writes or ())
        back = None if answered else str(found.checkpoint["id"])
        return Start(thread, saver, known, back, Recording(recorded, self._mask))

    def _run(self, case: Case) -> Run | None:
        """Return the recorded run of a case; None when it has none, or it was erased."""
        if case.run_id is None or self._runs is None:
            return None
        with suppress(NotFoundError):
            return self._runs.run(case.run_id)
        return None

    def _seed(self, saver: InMemorySaver, thread: str, run: Run, step: Step) -> CheckpointTuple | None:
        """Put the run's state before a step into a saver, and return it; None when messages alone must do."""
        if self._saver is None or run.thread_id is None:
            return None
        if self._deltas:
            self._refuse_if_more(f"The state keys {', '.join(self._deltas)} are kept as changes (DeltaChannel).", run)
            return None
        found = self._checkpoint(run.thread_id, step)
        if found is None:
            self._refuse_if_more(f"The checkpoint {step.checkpoint_id!r} of the run {run.run_id!r} is gone.", run)
            return None
        _put(saver, thread, "", found)
        for name in self._stateful:
            before = {"configurable": {"checkpoint_id": found.checkpoint["id"]}}
            where = {"configurable": {"thread_id": run.thread_id, "checkpoint_ns": name}}
            for inner in self._saver.list(where, before=before, limit=1):  # type: ignore[arg-type]
                _put(saver, thread, name, inner)
        return found

    def _refuse_if_more(self, because: str, run: Run) -> None:
        """Let a replay go on from messages alone, if that is all that the graph's state holds."""
        if self._more:
            raise DataError(
                f"{because} The graph's state holds more than messages ({', '.join(self._more)}), so that the run "
                f"{run.run_id!r} cannot be replayed from these alone. Compile the graph with the checkpointer "
                "that holds its threads."
            )

    def _checkpoint(self, thread_id: str, step: Step) -> CheckpointTuple | None:
        if self._saver is None or step.checkpoint_id is None:
            return None
        where = {"thread_id": thread_id, "checkpoint_ns": "", "checkpoint_id": step.checkpoint_id}
        return self._saver.get_tuple({"configurable": where})

    def _recorded(self, run: Run, step: Step | None) -> list[Recorded]:
        if self._runs is None:
            return []
        runs = self._runs

        def stored(step: Step) -> Message | None:
            return runs.messages(step.output)[-1] if step.output else None

        live: Sequence[BaseMessage] = ()
        if self._saver is not None and run.thread_id is not None:
            latest = self._saver.get_tuple({"configurable": {"thread_id": run.thread_id, "checkpoint_ns": ""}})
            live = _messages(latest) if latest is not None else ()
        return recorded_in(run, step, stored, live)


def _blamed(run: Run, case: Case, runs: RunReader) -> Step | None:
    """Return the model call that is asked again: the one that is named, or that read the messages of the case."""
    calls = [step for step in run.steps if step.kind == "model" and step.input is not None]
    if case.step_id is not None:
        return next((step for step in calls if step.step_id == case.step_id), None)
    return next((step for step in calls if tuple(runs.conversation(step.input)) == case.messages), None)


def _put(saver: InMemorySaver, thread: str, namespace: str, found: CheckpointTuple) -> None:
    """Copy a checkpoint, without what was written after it, into the one thread of a replay's saver."""
    where = {"configurable": {"thread_id": thread, "checkpoint_ns": namespace}}
    config = saver.put(where, found.checkpoint, found.metadata, found.checkpoint["channel_versions"])  # type: ignore[arg-type]
    for task_id, channel, value in found.pending_writes or ():
        if channel == _RESUME:
            saver.put_writes(config, [(channel, value)], task_id)


def _messages(found: CheckpointTuple) -> list[BaseMessage]:
    kept = found.checkpoint["channel_values"].get("messages")
    return [m for m in kept if isinstance(m, BaseMessage)] if isinstance(kept, list) else []
