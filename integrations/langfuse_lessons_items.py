"""Keep datasets in Langfuse: the same items under the same ids, however often they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from langgraph_learnloop.integrations.langfuse_spans import openai, short_form, storable
from langgraph_learnloop.integrations.langfuse_wire import ONCE, OURS, PAGE, Wire, delivering, pages, trace_of
from langgraph_learnloop.mirrors import DeliveryError, ToldDataset
from langgraph_learnloop.records import Case, Example, Scorecard, content_hash

_BEGINNING = 12
"""Characters of a dataset's version by which its counterpart in Langfuse is known."""


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
            _add_one(wire, name, dataset_id, item)
        except DeliveryError as error:
            if not error.forever:
                raise
            refused.append(error)
    if refused:
        raise DeliveryError(f"{len(refused)} of {len(items)} items are not shown. {refused[0]}", forever=True)


def _add_one(wire: Wire, name: str, dataset_id: str, item: Item) -> None:
    with delivering(f"the item {item.key!r} of the dataset {name!r}"):
        wire.api.dataset_items.create(
            dataset_name=name,
            id=item_id(dataset_id, item.key),
            input=storable(item.input),
            expected_output=storable(item.expected),
            metadata=known(item.metadata),
            source_trace_id=item.trace,
            request_options=ONCE,
        )


def known(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of something, as databases take it."""
    return {name: storable(value) for name, value in facts.items() if value is not None}
