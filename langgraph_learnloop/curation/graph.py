"""Curation as a LangGraph graph: gather, check, review (waits for a person or a policy), build.

The state is plain JSON: with a checkpointer in a database, a killed process goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command, interrupt
from pydantic import ValidationError
from typing_extensions import TypedDict  # before Python 3.12 pydantic, which LangGraph Studio asks, reads no other

from langgraph_learnloop.calls import misfit, read_message
from langgraph_learnloop.curation.checks import check
from langgraph_learnloop.curation.propose import propose
from langgraph_learnloop.errors import DataError, NotFoundError
from langgraph_learnloop.ports import RunReader
from langgraph_learnloop.records import Example, FlagState, Proposal, Run, Verdict


class CurationInput(TypedDict):
    """What a curation starts with."""

    run_ids: list[str]
    """The flagged runs to learn from."""


class CurationState(CurationInput, total=False):
    """What a curation knows; records are kept as JSON dicts."""

    proposals: list[dict[str, Any]]
    """Every Proposal, in order."""
    lessons: dict[str, list[str]]
    """Ids of the proposals that each run led to; runs that taught the same share one."""
    verdicts: list[dict[str, Any]]
    """The Verdicts so far, at most one for each proposal."""
    refused: str | None
    """Why the last answer to the review could not be used."""
    examples: list[dict[str, Any]]
    """The Examples that review approved or edited."""


Curation = CompiledStateGraph[CurationState, None, CurationInput, CurationState]


def curation_graph(
    reader: RunReader,
    *,
    neighbours: int = 7,
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> Curation:
    """Return the compiled graph; without a checkpointer it needs a host that brings one (LangGraph Studio)."""

    def gather(state: CurationState) -> dict[str, Any]:
        proposals = propose([run for run_id in state["run_ids"] if (run := _known(reader, run_id))], reader)
        lessons: dict[str, list[str]] = {run_id: [] for run_id in state["run_ids"]}
        for proposal in proposals:
            lessons[str(proposal.example.run_id)].append(proposal.proposal_id)
        return {"proposals": _dump(proposals), "lessons": lessons, "verdicts": [], "examples": [], "refused": None}

    def checked(state: CurationState) -> dict[str, Any]:
        return {"proposals": _dump(check(_proposals(state), neighbours=neighbours))}

    graph = StateGraph(CurationState, input_schema=CurationInput)
    graph.add_node("gather", gather)
    graph.add_node("check", checked)
    graph.add_node("review", _review)
    graph.add_node("build", _build)
    graph.add_edge(START, "gather")
    graph.add_edge("gather", "check")
    graph.add_conditional_edges("check", _next)
    graph.add_conditional_edges("review", _next)
    graph.add_edge("build", END)
    return graph.compile(checkpointer=checkpointer, name="curation")


def curate(graph: Curation, thread_id: str, run_ids: Sequence[str]) -> tuple[Proposal, ...]:
    """Start the curation of a thread, or go on with it where it was left; return the proposals that wait for review."""
    config = _config(thread_id)
    state = graph.get_state(config)
    values = state.values
    if not values:
        values = graph.invoke({"run_ids": list(run_ids)}, config, durability="sync")
    elif state.next and not state.interrupts:
        values = graph.invoke(None, config, durability="sync")
    return tuple(_waiting(values))


def pending(graph: Curation, thread_id: str) -> tuple[Proposal, ...]:
    """Return the proposals of a thread that have no verdict yet; none for a thread that is unknown or done."""
    return tuple(_waiting(graph.get_state(_config(thread_id)).values))


def resume(graph: Curation, thread_id: str, verdicts: Sequence[Verdict | dict[str, Any]]) -> tuple[Proposal, ...]:
    """Hand verdicts to the waiting review; return the proposals that still have none.

    Raises NotFoundError when the thread has no open review, and DataError, with nothing decided, when a verdict is not
    usable: an unknown proposal, two verdicts for one, or an edit that does not fit its tools.
    """
    waiting = pending(graph, thread_id)
    if not waiting:
        raise NotFoundError(f"The curation {thread_id!r} has no open review; start it with the flagged runs first.")
    read = _read(verdicts, waiting)
    if not read:
        return waiting
    return tuple(_waiting(graph.invoke(Command(resume=_dump(read)), _config(thread_id), durability="sync")))


def approved(graph: Curation, thread_id: str) -> tuple[Example, ...]:
    """Return what review let through; empty while it is still open."""
    state = graph.get_state(_config(thread_id)).values
    return tuple(Example.model_validate(example) for example in state.get("examples", ()))


def decided(graph: Curation, thread_id: str) -> tuple[tuple[Proposal, Verdict], ...]:
    """Return every proposal that has a verdict, with it."""
    state = graph.get_state(_config(thread_id)).values
    return tuple(_decided(state)) if state else ()


def settled(graph: Curation, thread_id: str) -> dict[str, FlagState]:
    """Return where the flag of each run goes: "curated" when something was learned from it, else "dismissed".

    Empty while review is open; runs that were flagged after the curation began are not in it.
    """
    state = graph.get_state(_config(thread_id))
    if state.next or not state.values:
        return {}
    learned = {verdict.proposal_id for _, verdict in _decided(state.values) if verdict.action != "reject"}
    lessons: dict[str, list[str]] = state.values["lessons"]
    return {run_id: "dismissed" if learned.isdisjoint(made) else "curated" for run_id, made in lessons.items()}


def _review(state: CurationState) -> dict[str, Any]:
    waiting = _waiting(state)
    answer = interrupt({"proposals": _dump(waiting), "refused": state.get("refused")})
    try:
        verdicts = _read(answer, waiting)
    except DataError as error:
        # Asked again with the reason: an exception here would be replayed with the same answer for ever.
        return {"refused": str(error)}
    return {"verdicts": [*state["verdicts"], *_dump(verdicts)], "refused": None}


def _build(state: CurationState) -> dict[str, Any]:
    examples = (_reviewed(proposal.example, verdict) for proposal, verdict in _decided(state))
    return {"examples": _dump([e for e in examples if e is not None])}


def _next(state: CurationState) -> Literal["review", "build"]:
    return "review" if _waiting(state) else "build"


def _reviewed(example: Example, verdict: Verdict) -> Example | None:
    if verdict.action == "approve":
        return example.model_copy(update={"review": "approved"})
    if verdict.action == "edit" and verdict.chosen is not None:
        return example.model_copy(update={"review": "edited", "chosen": verdict.chosen})
    return None


def _read(answer: object, waiting: Sequence[Proposal]) -> list[Verdict]:
    """Read the verdicts of an untrusted answer; raise DataError with a sentence when one is not usable."""
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise DataError(f"A review must be answered with a list of verdicts, not with {type(answer).__name__}.")
    open_ids = {proposal.proposal_id: proposal.example for proposal in waiting}
    verdicts: dict[str, Verdict] = {}
    for item in answer:
        verdict = _verdict(item)
        if verdict.proposal_id not in open_ids:
            raise DataError(
                f"The proposal {verdict.proposal_id[:80]!r} does not wait for review; nothing was decided. "
                "Answer those of loop.pending()."
            )
        if verdict.proposal_id in verdicts:
            raise DataError(f"The proposal {verdict.proposal_id!r} got two verdicts; nothing was decided. Give it one.")
        _check_edit(verdict, open_ids[verdict.proposal_id])
        verdicts[verdict.proposal_id] = verdict
    return list(verdicts.values())


def _verdict(item: object) -> Verdict:
    try:
        return item if isinstance(item, Verdict) else Verdict.model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "it"
        msg = first["msg"].removeprefix("Value error, ")
        raise DataError(
            f"A verdict is not usable: {field}: {msg}; nothing was decided. Mend it, and answer the review again."
        ) from error


def _check_edit(verdict: Verdict, example: Example) -> None:
    if verdict.chosen is None:
        return
    name = f"The edit of proposal {verdict.proposal_id!r}"
    try:
        problem = misfit(read_message(verdict.chosen), example.tools)
    except DataError as error:
        raise DataError(f"{name} cannot be used: {error}") from error
    if problem:
        raise DataError(f"{name} cannot be used. {problem}")


def _known(reader: RunReader, run_id: str) -> Run | None:
    try:
        return reader.run(run_id)
    except NotFoundError:
        # Forgotten since it was flagged: there is nothing left to learn from.
        return None


def _waiting(state: Any) -> list[Proposal]:
    done = {verdict["proposal_id"] for verdict in state.get("verdicts", ())}
    return [proposal for proposal in _proposals(state) if proposal.proposal_id not in done]


def _decided(state: Any) -> list[tuple[Proposal, Verdict]]:
    verdicts = {v["proposal_id"]: Verdict.model_validate(v) for v in state.get("verdicts", ())}
    return [(p, verdicts[p.proposal_id]) for p in _proposals(state) if p.proposal_id in verdicts]


def _proposals(state: Any) -> list[Proposal]:
    return [Proposal.model_validate(proposal) for proposal in state.get("proposals", ())]


def _dump(records: Sequence[Proposal | Verdict | Example]) -> list[dict[str, Any]]:
    return [record.model_dump(mode="json") for record in records]


def _config(thread_id: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread_id}}
