"""Divide examples into training, validation and held-out parts, with nothing on two sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from langgraph_learnloop.curation.texts import components, normal, request, similar_pairs, vectors
from langgraph_learnloop.records import Example, Split, content_hash

NEAR_DUPLICATE = 0.9
"""Cosine of hashed character n-grams from which two requests count as the same."""
_FEWEST_GROUPS = 4
"""A category with so many groups gets some of them held out, however small the share."""


def assign(
    examples: Sequence[Example],
    *,
    heldout: float = 0.25,
    seed: int = 0,
) -> list[Example]:
    """Return the examples, in their order, each with its group and split.

    Examples that share a thread (`group`), a run, or a request that is (nearly) the same are one group, and a group
    goes to one side whole. `heldout` is a share of each category's examples. A split that is set already stays, so
    that what a model has learned is never examined later; where a group joins several, training wins. The outcome
    depends on the seed, not on the order of the input.
    """
    groups = _groups(examples)
    sides = _sides(groups, heldout, seed)
    out: dict[int, Example] = {}
    for name, members in groups.items():
        for i, example in members:
            out[i] = example.model_copy(update={"group": name, "split": sides[name]})
    return [out[i] for i in range(len(examples))]


_Groups = dict[str, list[tuple[int, Example]]]


def _groups(examples: Sequence[Example]) -> _Groups:
    joined = ([(i, examples[i]) for i in members] for members in components(len(examples), _links(examples)))
    # Named by their content: the name does not depend on the order, and joins the group again in a later dataset.
    return {min(content_hash([e.group, e.example_id]) for _, e in members): members for members in joined}


def _links(examples: Sequence[Example]) -> Iterator[tuple[int, int]]:
    first: dict[tuple[int, str], int] = {}
    for i, example in enumerate(examples):
        text = normal(request(example)) or request(example)
        for kind, key in enumerate((example.group, example.run_id, text, example.example_id)):
            if key:
                yield first.setdefault((kind, key), i), i
    yield from similar_pairs(vectors([request(e) for e in examples]), NEAR_DUPLICATE)


def _sides(groups: _Groups, share: float, seed: int) -> dict[str, Split]:
    sides = {name: side for name, members in groups.items() if (side := _given(members)) is not None}
    by_category: dict[str, set[str]] = defaultdict(set)
    for name, members in groups.items():
        for _, example in members:
            by_category[example.category].add(name)
    # The rarest category first: it has the fewest groups to choose from.
    for category in sorted(by_category, key=lambda c: (len(by_category[c]), c)):
        _hold_out(share, category, by_category[category], groups, sides, seed)
    return {name: sides.get(name, "train") for name in groups}


def _given(members: Sequence[tuple[int, Example]]) -> Split | None:
    given = {example.split for _, example in members}
    order: tuple[Split, ...] = ("train", "heldout", "validation")
    return next((side for side in order if side in given), None)


def _hold_out(
    share: float, category: str, names: set[str], groups: _Groups, sides: dict[str, Split], seed: int
) -> None:
    """Hold out groups of one category until its share is reached; at least one stays for training."""
    size = {name: Counter(e.category for _, e in groups[name])[category] for name in names}
    target = share * sum(size.values())
    have = sum(size[name] for name in names if sides.get(name) == "heldout")
    free = sorted((n for n in names if n not in sides), key=lambda name: content_hash([seed, "heldout", name]))
    for name in free:
        left = [n for n in names if n not in sides or sides[n] == "train"]
        if len(left) < 2:
            return
        if have + size[name] <= target + 0.5:
            sides[name] = "heldout"
            have += size[name]
    if free and have == 0 and target > 0 and len(names) >= _FEWEST_GROUPS:
        sides[min(free, key=lambda name: (size[name], content_hash([seed, name])))] = "heldout"
