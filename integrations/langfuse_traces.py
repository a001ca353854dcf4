"""Show recorded runs in Langfuse, with all that was said and decided of them.

    loop.mirror(LangfuseTraces())

or in learnloop.toml, with the keys in LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_BASE_URL:

    mirror = "langgraph_learnloop.integrations.langfuse_traces:LangfuseTraces"

A run's id is its trace's id without the dashes. Where Langfuse's own callback handler watches a run too, the run stays
in the handler's trace, and scores go there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.integrations.langfuse_lessons import send_champion, send_dataset, send_examination
from langgraph_learnloop.integrations.langfuse_spans import Teller, openai, written
from langgraph_learnloop.integrations.langfuse_wire import OURS, Wire, run_of, span_of, trace_of
from langgraph_learnloop.mirrors import (
    KINDS,
    DeliveryError,
    Kind,
    Label,
    Told,
    ToldChampion,
    ToldDataset,
    ToldExamination,
    ToldFeedback,
    ToldLabel,
    ToldRun,
)
from langgraph_learnloop.records import Feedback, Run, content_hash

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

__all__ = ["LangfuseTraces", "run_of", "trace_of"]

THEIRS = "langfuse:"
"""What the ids of feedback that was given in Langfuse begin with; it is there already."""
_LONGEST_COMMENT = 10_000
_HANDLER = "langfuse.langchain"
"""The module of Langfuse's own callback handler."""


class LangfuseTraces:
    """Mirror the store in one project of Langfuse."""

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        name: str = "langfuse",
        kinds: Collection[Kind] = KINDS,
        environment: str | None = None,
        settles: float = 30.0,
    ) -> None:
        """Send over a wire (default: as the LANGFUSE_... variables say), and only the kinds of things that are named.

        `name` tells mirrors of one store apart. `settles` is how many seconds it takes until what Langfuse took can be
        read there, at most.
        """
        self.name = name
        self.kinds = tuple(kind for kind in KINDS if kind in kinds)
        self.settles = settles
        self._wire = wire or Wire()
        self._environment = environment

    def send(self, told: Sequence[Told]) -> None:
        """Show some things of one kind; raise DeliveryError, for all of them, when one did not arrive."""
        if told[0].kind == "run":
            self._wire.send_spans(self._spans(told))
            return
        for one in told:
            if isinstance(one.what, ToldExamination):
                send_examination(self._wire, one.what, one.doubtful)
        try:
            self._replace(told)
        except DeliveryError as error:
            error.arrived = error.arrived or False  # all of this replaces what is there: saying it again does no harm
            raise

    def where(self, run: Run) -> str:
        """Return the address of a run's trace; without an answer from the server, one that leads there."""
        trace = run.trace or trace_of(run.run_id)
        try:
            return f"{self._wire.url}/project/{self._wire.project}/traces/{trace}"
        except LearnLoopError:
            return f"{self._wire.url}/trace/{trace}"

    def trace_beside(self, handlers: Sequence[object], run_id: Any) -> str | None:
        """Return the trace that Langfuse's own handler keeps of a run, None where it does not watch it."""
        for handler in handlers:
            if any(kind.__module__.startswith(_HANDLER) for kind in type(handler).__mro__):
                # Its `last_trace_id` may be of another run, and of one that it did not see from the root on.
                trace = getattr(getattr(handler, "_runs", {}).get(run_id), "trace_id", None)
                return None if trace is None else str(trace)
        return None

    def close(self) -> None:
        """Let go of the connections."""
        self._wire.close()

    def _spans(self, told: Sequence[Told]) -> list[Span]:
        """Return the observations of runs that are not there yet."""
        teller = Teller(self._environment)
        spans: list[Span] = []
        for one in told:
            if not isinstance(one.what, ToldRun) or one.what.run.trace is not None:
                continue
            there = self._there(one.what.run) if one.doubtful else frozenset()
            spans += [span for span in teller.spans(one.what) if span.span_id.hex() not in there]
        return spans

    def _there(self, run: Run) -> frozenset[str]:
        try:
            return self._wire.observations(trace_of(run.run_id))
        except LearnLoopError as error:
            raise DeliveryError(
                f"It is not known what of the run {run.run_id!r} arrived: {error}", arrived=None
            ) from error

    def _replace(self, told: Sequence[Told]) -> None:
        """Send what has a place of its own there and can be sent again and again."""
        scores: list[dict[str, Any]] = []
        for one in told:
            match one.what:
                case ToldFeedback(run, said):
                    scores += _feedback(run, said)
                case ToldLabel(run, label):
                    scores.append(_label(label, run.trace or trace_of(run.run_id)))
                case ToldDataset():
                    send_dataset(self._wire, one.what)
                    scores += _members(one.what)
                case ToldChampion():
                    send_champion(self._wire, one.what)
        self._wire.send_scores([{key: value for key, value in one.items() if value is not None} for one in scores])


def _feedback(run: Run, said: Feedback) -> list[dict[str, Any]]:
    """Return what somebody said of a run as scores: one, and the correction as another."""
    if said.feedback_id.startswith(THEIRS):
        return []
    about: dict[str, Any] = {"traceId": run.trace or trace_of(run.run_id)}
    if said.step_id is not None and run.trace is None:
        about["observationId"] = span_of(said.step_id)
    facts = {"origin": said.origin, "by": said.by, "categories": list(said.categories), "feedback": said.feedback_id}
    common = {**about, "timestamp": said.at.isoformat(), "metadata": {k: v for k, v in facts.items() if v}}
    scores: list[dict[str, Any]] = []
    words = "; ".join(filter(None, [said.text, ", ".join(said.categories)]))
    if said.score is not None:
        scores.append({"name": said.name, "value": said.score, "dataType": "NUMERIC", "comment": _comment(words)})
    elif words:
        scores.append({"name": said.name, "value": words[:_LONGEST_COMMENT], "dataType": "TEXT"})
    if said.correction is not None:
        right = said.correction
        value = written(openai(right)) if right.tool_calls else right.content
        scores.append({"name": "correction", "value": value, "dataType": "CORRECTION"})
    return [{**score, **common, "id": _id(said.feedback_id, score["dataType"])} for score in scores]


def _label(label: Label, trace: str) -> dict[str, Any]:
    return {
        "id": _id(label.label_id),
        "traceId": trace,
        "name": label.name,
        "value": label.value,
        "dataType": "CATEGORICAL",
        "comment": _comment(label.comment),
        "timestamp": label.at.isoformat(),
    }


def _members(told: ToldDataset) -> list[dict[str, Any]]:
    """Return, for each run that a dataset learned from, a score that says so."""
    dataset = told.dataset
    runs = {one.run_id: one for one in told.examples if one.run_id is not None}
    scores = []
    for run_id, example in runs.items():
        why = f"{example.origin}, {example.split or 'not split'}"
        label = Label(run_id=run_id, name="dataset", value=dataset.version, comment=why, at=dataset.made_at)
        scores.append(_label(label, told.traces.get(run_id) or trace_of(run_id)))
    return scores


def _id(*parts: str) -> str:
    return OURS + content_hash(parts)


def _comment(text: str | None) -> str | None:
    return text[:_LONGEST_COMMENT] if text else None
