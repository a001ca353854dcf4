"""Hold proposals against their tools, requests, each other and their raters; what does not fit becomes a sentence.

Captured text is compared and counted here, never obeyed: instructions inside it are characters like any others.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langgraph_learnloop.calls import leaves, misfit, parameters
from langgraph_learnloop.curation.texts import (
    Vectors,
    answer_key,
    components,
    context,
    normal,
    request,
    similar_pairs,
    similarities,
    vectors,
)
from langgraph_learnloop.errors import needing
from langgraph_learnloop.records import Example, Proposal

with needing("Curation"):
    import numpy as np

NEARLY_THE_SAME = 0.95
"""Cosine from which two requests ask for the same tool, whatever their values are."""
SOME_SIMILARITY = 0.25
"""Cosine under which a request says nothing about another. Measured on SNIPS: 0.2 to 0.3 balances both errors."""
FEWEST_NEIGHBOURS = 3
"""Neighbours under which there is no opinion."""
FAIR_SHARE = 1 / 3
"""Weight of the neighbours that must have chosen the same tool, when most chose one other tool."""
FEWEST_FOR_TRUST = 3
"""Proposals of one rater under which the rater is not judged."""

_NUMBER_WORD = re.compile(
    r"\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(thir|four|fif|six|seven|eigh|nine)teen"
    r"|(twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|half|quarter|dozen|pair|couple|once|twice|single|double"
    r"|first|second|third|an? (hour|minute|day|week|month|year))\b"
)


def check(proposals: Sequence[Proposal], *, neighbours: int = 7) -> list[Proposal]:
    """Return the proposals with what speaks against each in `problems`; proposals of one id are merged into one.

    The checks: the call fits its tool's schema; its values stand in the conversation; it differs from what the agent
    said; raters of the same request agree; the `neighbours` most similar requests that others corrected do not point
    to another tool; the rater's other corrections are mostly sound. The order of the input makes no difference to
    what is found.
    """
    order = sorted(proposals, key=lambda p: (p.proposal_id, p.example.by or "", p.example.run_id or ""))
    examples = [p.example for p in order]
    rows = vectors([request(e) for e in examples])
    opinions = zip(_conflicts(examples, rows), _neighbours(examples, rows, neighbours), strict=True)
    found = [[*_alone(e), *conflicts, *others] for e, (conflicts, others) in zip(examples, opinions, strict=True)]
    _distrust(examples, found)
    best: dict[str, Proposal] = {}
    for proposal, problems in zip(order, found, strict=True):
        known = best.get(proposal.proposal_id)
        # Of raters who said the same, the one with the least against them stands for all.
        if known is None or len(problems) < len(known.problems):
            best[proposal.proposal_id] = proposal.model_copy(update={"problems": tuple(problems)})
    return [best[name] for name in dict.fromkeys(p.proposal_id for p in proposals)]


def _alone(example: Example) -> Iterator[str]:
    """Find what can be seen from a correction alone."""
    if problem := misfit(example.chosen, example.tools):
        yield problem
    yield from _ungrounded(example)
    if not example.chosen.content.strip() and not example.chosen.tool_calls:
        yield "The correction says nothing."
    elif example.rejected is not None and answer_key(example.chosen) == answer_key(example.rejected):
        yield "The correction is what the agent said already."


def _ungrounded(example: Example) -> Iterator[str]:
    """Find values that stand nowhere in the conversation: made up, or meant for another request."""
    said = " ".join(m.content for m in example.messages if m.role != "system").casefold()
    if not said.strip():
        return
    for call in example.chosen.tool_calls:
        schema = parameters(call.name, example.tools)
        exempt = _literals(schema)
        for name, value in call.args.items():
            if _has_format(schema, name):
                continue
            for leaf in leaves(value):
                if json.dumps(leaf) not in exempt and not _stands_in(leaf, said):
                    yield f"The value {leaf!r} of the argument {name!r} of {call.name!r} stands nowhere in the request."


def _literals(schema: Any) -> set[str]:
    """Return the values that a schema names itself (enum, const, default), as JSON."""
    if isinstance(schema, list):
        return set().union(*map(_literals, schema))
    if not isinstance(schema, Mapping):
        return set()
    own = [*schema.get("enum", []), *(schema[key] for key in ("const", "default") if key in schema)]
    return {json.dumps(value, default=str) for value in own}.union(*map(_literals, schema.values()))


def _has_format(schema: Mapping[str, Any], argument: str) -> bool:
    """Return whether an argument has a form of its own, like a date: "tomorrow" then becomes something else."""
    return '"format"' in json.dumps(schema.get("properties", {}).get(argument, {}), default=str)


def _stands_in(value: str | float, said: str) -> bool:
    text = str(value).casefold().strip()
    if re.fullmatch(r"[+-]?\d+(\.\d+)?", text):
        number = re.escape(re.sub(r"\.0+$", "", text.lstrip("+-")))
        # Numbers may have been said in words; those are left to the reviewer.
        return bool(re.search(rf"(?<!\d){number}(?!\d)", said)) or bool(_NUMBER_WORD.search(said))
    return normal(text).replace(" ", "") in normal(said).replace(" ", "")


def _conflicts(examples: Sequence[Example], rows: Vectors) -> list[list[str]]:
    """Find requests that were corrected in different ways, and who is outvoted; a tie speaks against all."""
    found: list[list[str]] = [[] for _ in examples]
    contexts = [context(e) for e in examples]
    same: dict[Any, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        if text := normal(request(example)):
            same[text, contexts[i]].append(i)
    answers = [answer_key(e.chosen) for e in examples]
    for members in same.values():
        _outvoted(members, answers, examples, found)
    pairs = ((i, j) for i, j in similar_pairs(rows, NEARLY_THE_SAME) if contexts[i] == contexts[j])
    tools = [e.category for e in examples]
    for members in components(len(examples), pairs):
        _outvoted([i for i in members if not found[i]], tools, examples, found)
    return found


def _outvoted(members: Sequence[int], said: Sequence[str], examples: Sequence[Example], found: list[list[str]]) -> None:
    voters: dict[str, set[str | None]] = defaultdict(set)
    for i in members:
        voters[said[i]].add(examples[i].by)
    if len(voters) < 2:
        return
    ranked = sorted((len(people) for people in voters.values()), reverse=True)
    tied = ranked[0] == ranked[1]
    for i in members:
        if tied or len(voters[said[i]]) < ranked[0]:
            others = sum(len(people) for answer, people in voters.items() if answer != said[i])
            people = "1 rater" if others == 1 else f"{others} raters"
            found[i].append(
                f"The same request was corrected differently by {people} ({len(voters[said[i]])} said this)."
            )


def _neighbours(examples: Sequence[Example], rows: Vectors, k: int) -> list[list[str]]:
    """Ask the k most similar requests that other people corrected which tool they chose, weighted by similarity."""
    names, tool = np.unique([e.category for e in examples], return_inverse=True)
    _, rater = np.unique([e.by or "" for e in examples], return_inverse=True)
    found: list[list[str]] = []
    for start, block in similarities(rows, rows):
        own = rater[start : start + len(block)]
        block = np.where(own[:, None] == rater[None, :], -1.0, block)
        nearest = np.argpartition(-block, min(k, len(rows)) - 1, axis=1)[:, :k]
        weight = np.take_along_axis(block, nearest, axis=1)
        for i, (js, ws) in enumerate(zip(nearest, weight, strict=True)):
            near = ws >= SOME_SIMILARITY
            found.append(_opinion(names, tool[js[near]], ws[near], int(tool[start + i])))
    return found


def _opinion(names: Any, chosen: Any, weight: Any, own: int) -> list[str]:
    if len(chosen) < FEWEST_NEIGHBOURS:
        return []
    share = np.bincount(chosen, weights=weight, minlength=len(names)) / weight.sum()
    top = int(share.argmax())
    if top == own or share[own] >= FAIR_SHARE or share[top] <= 0.5:
        return []
    return [f"Most of {len(chosen)} similar corrections by others choose {str(names[top])!r}, not {str(names[own])!r}."]


def _distrust(examples: Sequence[Example], found: list[list[str]]) -> None:
    """Mark all proposals of a rater most of whose proposals have problems; nobody is judged for the nameless."""
    made = Counter(e.by for e in examples)
    failed = Counter(e.by for e, problems in zip(examples, found, strict=True) if problems)
    for example, problems in zip(examples, found, strict=True):
        total, bad = made[example.by], failed[example.by]
        if example.by is not None and total >= FEWEST_FOR_TRUST and 2 * bad > total:
            problems.append(f"Most corrections by {example.by!r} fail the checks ({bad} of {total}).")
