"""Show in Langfuse what is learned: datasets, examinations as experiments, and the instructions that serve.

Each function may be called again with the same: what has its place there already is not sent a second time, and what
people changed there stays. Each raises DeliveryError.
"""

from __future__ import annotations

import re
from typing import Any

from langgraph_learnloop.integrations.langfuse_lessons_experiments import (
    add_items,
    dataset_name,
    make_dataset,
    send_examination,
    taught,
)
from langgraph_learnloop.integrations.langfuse_spans import storable
from langgraph_learnloop.integrations.langfuse_wire import ONCE, PAGE, Wire, delivering, pages
from langgraph_learnloop.mirrors import ToldChampion, ToldDataset

__all__ = ["prompt_name", "send_champion", "send_dataset", "send_examination"]

PRODUCTION = "production"
"""The label of the instructions that serve."""
_LONGEST_AGENT = 200
_NO_NAME = re.compile(r"[^\w .()-]+")
"""What does not go into the name of a prompt, for it goes into an address."""


def send_dataset(wire: Wire, told: ToldDataset, *, replay: bool = False) -> None:
    """Show a dataset version as a dataset: what is new in it, for training and held out, and with `replay` the rest.

    `cases_from_langfuse` reads the items. Each links to the trace of the run that it was made from.
    """
    dataset = told.dataset
    name = dataset_name(dataset.version)
    counts = "; ".join(
        f"{origin}: {', '.join(f'{number} {split}' for split, number in splits.items())}"
        for origin, splits in dataset.counts.items()
    )
    facts = {"version": dataset.version, "parent": dataset.parent, "kind": dataset.kind, "counts": dataset.counts}
    dataset_id = make_dataset(wire, name, f"What LearnLoop learns, version {dataset.version}. {counts}.", facts)
    shown = [one for one in told.examples if one.split != "validation" and (replay or one.origin != "replay")]
    add_items(wire, name, dataset_id, [taught(one, told) for one in shown])


def prompt_name(agent: str) -> str:
    """Return the name that the instructions of an agent have in Langfuse."""
    return f"{_NO_NAME.sub('-', agent)[:_LONGEST_AGENT]}-instructions"


def send_champion(wire: Wire, told: ToldChampion) -> None:
    """Show the instructions of the release that serves as the version of a prompt that is labelled "production".

    The same text is one version, whichever releases have it; the first of them is its commit message. After a rollback
    the label goes back to the version from before. A release without instructions changes nothing there: Langfuse takes
    no label away but by giving it to another version, and an agent that fetches the prompt must find one.
    """
    text = storable(told.release.instructions or "")
    if not text.strip():
        return
    name = prompt_name(told.agent)
    with delivering(f"the prompt {name!r}"):
        found = _version(wire, name, text)
        if found is None:
            _new_version(wire, name, text, told)
        elif PRODUCTION not in found.labels:
            labels = sorted({*found.labels, PRODUCTION} - {"latest"})
            wire.api.prompt_version.update(name, found.version, new_labels=labels, request_options=ONCE)


def _version(wire: Wire, name: str, text: str) -> Any:
    """Return the newest version of a prompt that has a text; None where none has."""
    api = wire.api.prompts
    listed = pages(lambda page: api.list(name=name, page=page, limit=PAGE, request_options=ONCE))
    versions = [version for one in listed if one.name == name for version in one.versions]
    for version in sorted(versions, reverse=True):
        known = api.get(name, version=version, resolve=False, request_options=ONCE)
        if known.prompt == text:
            return known
    return None


def _new_version(wire: Wire, name: str, text: str, told: ToldChampion) -> None:
    from langfuse.api.prompts import CreateTextPromptRequest, CreateTextPromptType

    release = told.release
    wire.api.prompts.create(
        request=CreateTextPromptRequest(
            name=name,
            prompt=text,
            type=CreateTextPromptType("text"),
            labels=[PRODUCTION],
            tags=["learnloop"],
            config={"release": release.release_id, "base_model": release.base_model},
            commit_message=release.release_id,
        ),
        request_options=ONCE,
    )
