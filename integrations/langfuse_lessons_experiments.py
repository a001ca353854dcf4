"""Keep datasets in Langfuse, and show examinations as experiments on them, one for each side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.integrations.langfuse_spans import (
    as_text,
    key_values,
    make_span,
    observed,
    openai,
    short_form,
    storable,
    written,
)
from langgraph_learnloop.integrations.langfuse_wire import (
    ONCE,
    OURS,
    PAGE,
    Wire,
    delivering,
    followed,
    pages,
    span_of,
    trace_of,
)
from langgraph_learnloop.mirrors import DeliveryError, ToldDataset, ToldExamination
from langgraph_learnloop.records import Case, CaseResult, Example, Message, Release, Scorecard, content_hash

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

ENVIRONMENT = "sdk-experiment"
"""The environment in which Langfuse's SDK runs experiments."""
_BEGINNING = 12
"""Characters of a dataset's version by which its counterpart in Langfuse is known."""
_LONGEST_COMMENT = 10_000
_MINUTE = timedelta(minutes=1)
_EXPERIMENT = "langfuse.experiment."


class Item(NamedTuple):
    """An item of a dataset."""

    key: str
    """What it is made of."""
    input: Any
    expected: Any
    metadata: dict[str, Any]
    trace: str | None


def dataset_name(version: str) -> str:
    """Return the name that a dataset version has in Langfuse."""
    return f"{OURS}{version[:_BEGINNING]}"


def cases_name(card: Scorecard, cases: Sequence[Case]) -> str:
    """Return the name of the dataset of the cases that a scorecard is about: candidates of one dataset share it."""
    return f"{OURS}cases-{(card.dataset or content_hash(sorted(case.case_id for case in cases)))[:_BEGINNING]}"


def taught(example: Example, told: ToldDataset) -> Item:
    """Return an example as an item that `cases_from_langfuse` reads."""
    facts = {
        "origin": example.origin,
        "split": example.split,
        "category": example.category,
        "by": example.by,
        "review": example.review,
        "example": example.example_id,
        "run": example.run_id,
        "agent_said": None if example.rejected is None else short_form(example.rejected),
    }
    trace = None if example.run_id is None else told.traces.get(example.run_id) or trace_of(example.run_id)
    asked: dict[str, Any] = {"messages": [openai(message) for message in example.messages]}
    if example.tools:
        asked["tools"] = list(example.tools)
    return Item(example.example_id, asked, short_form(example.chosen), facts, trace)


def asked_of(case: Case) -> Item:
    """Return a case as an item that `cases_from_langfuse` reads."""
    facts = {"suite": case.suite, "category": case.category, "case": case.case_id, "run": case.run_id}
    asked = {"messages": [openai(message) for message in case.messages]}
    expected = None if case.expected is None else short_form(case.expected)
    trace = None if case.run_id is None else trace_of(case.run_id)
    return Item(case.case_id, asked, expected, facts, trace)


def make_dataset(wire: Wire, name: str, description: str, metadata: dict[str, Any]) -> str:
    """Return the id of a dataset, which is made if need be."""
    with delivering(f"the dataset {name!r}"):
        made = wire.api.datasets.create(
            name=name, description=description, metadata=known(metadata), request_options=ONCE
        )
    return str(made.id)


def item_id(dataset_id: str, key: str) -> str:
    """Return the id of an item."""
    # An id is its project's, not its dataset's: one that was renamed keeps its items.
    return OURS + content_hash([dataset_id, key])


def add_items(wire: Wire, name: str, dataset_id: str, items: Sequence[Item]) -> None:
    """Add those items that are not there yet; those that Langfuse will never take do not keep the others away."""
    api = wire.api.dataset_items
    with delivering(f"items of the dataset {name!r}"):
        there = {
            str(one.id)
            for one in pages(lambda page: api.list(dataset_name=name, page=page, limit=PAGE, request_options=ONCE))
        }
    refused: list[DeliveryError] = []
    for item in items:
        if item_id(dataset_id, item.key) in there:
            continue
        try:
            with delivering(f"the item {item.key!r} of the dataset {name!r}"):
                api.create(
                    dataset_name=name,
                    id=item_id(dataset_id, item.key),
                    input=storable(item.input),
                    expected_output=storable(item.expected),
                    metadata=known(item.metadata),
                    source_trace_id=item.trace,
                    request_options=ONCE,
                )
        except DeliveryError as error:
            if not error.forever:
                raise
            refused.append(error)
    if refused:
        raise DeliveryError(f"{len(refused)} of {len(items)} items are not shown. {refused[0]}", forever=True)


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of something, as databases take it."""
    return {name: storable(value) for name, value in facts.items() if value is not None}


class _Experiment(NamedTuple):
    """One side of an examination."""

    own_id: str
    name: str
    key: str
    """What the ids of its traces are made of."""
    dataset_id: str
    release: Release
    card: Scorecard
    facts: dict[str, Any]


def send_examination(wire: Wire, told: ToldExamination, doubtful: bool) -> None:
    """Show an examination as two experiments on the dataset of its cases: the candidate's and the champion's.

    Each answer is a trace with the evaluator's figures as scores; the gates and the verdict are scores of the
    experiments. A trace's id is made of the examination, the release and the case. With `doubtful` those that can be
    seen already are not sent again.
    """
    card = told.scorecard
    name = cases_name(card, told.cases)
    of = f"of the dataset {card.dataset}" if card.dataset else "of an examination"
    dataset_id = make_dataset(wire, name, f"The cases {of}.", {"dataset": card.dataset, "evaluator": card.evaluator})
    add_items(wire, name, dataset_id, [asked_of(case) for case in told.cases])
    spans: list[Span] = []
    scores: list[dict[str, Any]] = []
    for role, release in (("candidate", told.candidate), ("champion", told.champion)):
        experiment = _experiment(wire, role, release, card, dataset_id)
        there = _there(wire, experiment) if doubtful else frozenset()
        for case, result in _answers(told, release):
            shown = _spans(experiment, case, result)
            spans += [span for span in shown if (span.trace_id.hex(), span.span_id.hex()) not in there]
            scores += _figures(experiment, result)
        scores += _gates(experiment, role)
    wire.send_spans(spans)
    try:
        wire.send_scores(scores)
    except DeliveryError as error:
        error.arrived = None if spans else error.arrived  # the traces did, and cannot be taken back
        raise


def _experiment(wire: Wire, role: str, release: Release, card: Scorecard, dataset_id: str) -> _Experiment:
    try:
        project = wire.project
    except LearnLoopError as error:
        raise DeliveryError(str(error)) from error
    release_id = release.release_id
    name = f"{role} {release_id} {card.at.isoformat(timespec='seconds')}"
    # As the server and its SDK make the id of an experiment: JSON without spaces, the first 16 digits.
    made_of = json.dumps(
        ["langfuse-experiment-v1", project, dataset_id, name], separators=(",", ":"), ensure_ascii=False
    )
    facts = {
        "role": role,
        "release": release_id,
        "base_model": release.base_model,
        "candidate": card.candidate,
        "champion": card.champion,
        "evaluator": card.evaluator,
        "dataset": card.dataset,
        "verdict": card.verdict,
    }
    key = content_hash([dataset_id, card.candidate, card.champion, card.evaluator, card.at.isoformat(), role])
    own_id = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    return _Experiment(own_id, name, key, dataset_id, release, card, facts)


def _answers(told: ToldExamination, release: Release) -> Iterator[tuple[Case, CaseResult]]:
    """Yield the cases that a release was asked, with what came of it; at last those that could not be judged."""
    cases = {case.case_id: case for case in told.cases}
    unjudged = (one for one in told.scorecard.unjudged if one.release_id == release.release_id)
    for result in (*told.results.get(release.release_id, ()), *unjudged):
        if (case := cases.pop(result.case_id, None)) is not None:
            yield case, result


def _trace(experiment: _Experiment, case_id: str) -> str:
    return content_hash([experiment.key, case_id])


def _task(trace: str) -> str:
    return content_hash([trace, "task"])


def _spans(experiment: _Experiment, case: Case, result: CaseResult) -> list[Span]:
    """Return the observations of one answer as `run_experiment` of Langfuse's SDK sends them: an item, and its task."""
    trace, at = _trace(experiment, case.case_id), experiment.card.at
    task = _task(trace)
    both = key_values([*_everywhere(experiment, case, task), *_answer(experiment, case, result)])
    return [
        make_span(trace, trace, "experiment-item-run", at, both, None, result.seconds, result.error),
        make_span(trace, task, "experiment-item-task", at, both, trace, result.seconds, result.error),
    ]


def _everywhere(experiment: _Experiment, case: Case, task: str) -> Iterator[tuple[str, Any]]:
    """Yield what ties an observation to its experiment and to its item."""
    yield "langfuse.environment", ENVIRONMENT
    yield "langfuse.version", experiment.release.release_id
    yield _EXPERIMENT + "id", experiment.own_id
    yield _EXPERIMENT + "name", experiment.name
    yield _EXPERIMENT + "description", storable(experiment.card.because)
    yield _EXPERIMENT + "metadata", written(known(experiment.facts))
    yield _EXPERIMENT + "dataset.id", experiment.dataset_id
    yield _EXPERIMENT + "item.id", item_id(experiment.dataset_id, case.case_id)
    yield _EXPERIMENT + "item.metadata", written(known(asked_of(case).metadata))
    yield _EXPERIMENT + "item.root_observation_id", span_of(task)
    if case.expected is not None:
        yield _EXPERIMENT + "item.expected_output", as_text(short_form(case.expected))


def _answer(experiment: _Experiment, case: Case, result: CaseResult) -> Iterator[tuple[str, Any]]:
    facts = {
        "experiment_name": experiment.name,
        "experiment_run_name": experiment.name,
        "dataset_id": experiment.dataset_id,
        "dataset_item_id": item_id(experiment.dataset_id, case.case_id),
        "release": result.release_id,
        "evaluator": result.evaluator,
        "suite": case.suite,
        "category": case.category,
        "started": result.started,
        "diverged": result.diverged,
        "tokens": result.tokens,
        "usd": result.usd,
    }
    shown = {name: as_text(value) for name, value in known(facts).items()}
    return observed("span", written(asked_of(case).input), _said(result.got), shown, result.error)


def _said(got: Sequence[Message]) -> str | None:
    """Return what was answered; with what came after it, as a list of messages."""
    if not got:
        return None
    return as_text(short_form(got[0])) if len(got) == 1 else written([openai(message) for message in got])


def _figures(experiment: _Experiment, result: CaseResult) -> Iterator[dict[str, Any]]:
    """Yield an evaluator's figures as scores of the answer; what could not be judged is none."""
    trace = _trace(experiment, result.case_id)
    about = {"traceId": trace, "observationId": span_of(_task(trace))}
    for name, value in result.scores.items():
        if value is not None:
            yield _score(experiment, [trace, name], about, name, value, result.comment)


def _gates(experiment: _Experiment, role: str) -> Iterator[dict[str, Any]]:
    """Yield a side's figure at each gate as scores of its experiment; for the candidate what the gates said, too."""
    card, about = experiment.card, {"datasetRunId": experiment.own_id}
    for gate in card.gates:
        figure = gate.candidate if role == "candidate" else gate.champion
        if figure is not None:
            yield _score(experiment, ["figure", gate.name], about, gate.name, float(figure), gate.metric)
        if role == "candidate":
            yield _score(experiment, ["gate", gate.name], about, f"gate {gate.name}", gate.passed, gate.because)
    if role == "candidate":
        yield _score(experiment, ["verdict"], about, "verdict", card.verdict, card.because)


def _score(
    experiment: _Experiment,
    own: Sequence[str],
    about: dict[str, Any],
    name: str,
    value: bool | float | str,
    comment: str | None,
) -> dict[str, Any]:
    kind = "CATEGORICAL" if isinstance(value, str) else "BOOLEAN" if isinstance(value, bool) else "NUMERIC"
    return {
        **about,
        "id": OURS + content_hash([experiment.key, *own]),
        "name": storable(name),
        "value": value if isinstance(value, str) else float(value),
        "dataType": kind,
        "comment": storable(comment)[:_LONGEST_COMMENT] if comment else None,
        "timestamp": experiment.card.at.isoformat(),
        "environment": ENVIRONMENT,
    }


def _there(wire: Wire, experiment: _Experiment) -> frozenset[tuple[str, str]]:
    """Return the traces' and observations' ids of a release's answers that can be seen by now."""
    at = experiment.card.at

    def page(cursor: str | None) -> Any:
        return wire.api.observations.get_many(
            version=experiment.release.release_id,
            environment=ENVIRONMENT,
            from_start_time=at - _MINUTE,
            to_start_time=at + _MINUTE,
            limit=1_000,
            cursor=cursor,
            request_options=ONCE,
        )

    try:
        with delivering(f"the experiment {experiment.name!r}"):
            return frozenset((str(one.trace_id), str(one.id)) for one in followed(page))
    except DeliveryError as error:
        error.arrived, error.forever = None, False  # a question: what was sent before is as doubtful as ever
        raise
