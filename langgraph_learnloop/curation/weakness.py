"""Find what flagged runs have in common: errors of one kind, and requests that are alike, the worst first.

Requests are joined by average linkage (Sokal & Michener 1958): two groups become one while the mean cosine between
them is at least `alike`. So no number of groups has to be guessed, and a group is never a chain of neighbours.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from langgraph_learnloop.curation.flag import failed_tools
from langgraph_learnloop.curation.texts import Vectors, normal
from langgraph_learnloop.errors import needing
from langgraph_learnloop.records import Flag, Run, Weakness, content_hash
from langgraph_learnloop.texts import short, visible

with needing("Grouping flagged runs"):
    import numpy as np

Embed = Callable[[Sequence[str]], Vectors]
"""Give each text a row of length 1, or of zeros where there is nothing to embed."""

_BLOCK = 2_000
"""Runs that are compared with each other at once: 32 MB of distances."""
_VALIDATION = re.compile(r"ValidationError: \d+ validation errors? for (\S+)")
_SCHEMAS = frozenset({"", "input", "args", "arguments", "schema", "toolinput", "inputschema", "argsschema"})
"""What follows a tool's name in that of its schema."""
_WORDS = 3
"""Words of a label."""
_LONGEST = 80
"""Characters of an example or an error in a label."""


class Flagged(NamedTuple):
    """A run that went wrong."""

    run: Run
    """The run."""
    flag: Flag
    """What speaks against it."""
    corrected: bool
    """Somebody said what would have been right."""


@dataclass
class _Group:
    """Requests that are alike, and where their middle is."""

    total: Vectors
    """The sum of its rows."""
    members: list[tuple[float, int]] = field(default_factory=list)
    """How near each is to the middle, and its number."""

    def add(self, row: Vectors, number: int) -> None:
        """Take one more row in, and how near it is to the middle of those so far."""
        self.total = self.total + row
        self.members.append((float(row @ self.total) / (len(self.members) + 1), number))

    @property
    def middle(self) -> Vectors:
        """Return the mean of its rows: a product with it is the mean cosine with each of them."""
        return self.total / np.float32(len(self.members))


def weaknesses(flagged: Sequence[Flagged], *, embed: Embed, alike: float, enough: int) -> tuple[Weakness, ...]:
    """Return what flagged runs have in common, what spoiled most conversations first; each run is in one weakness.

    `flagged` begins with the worst; `embed` makes a row of length 1 of each text, `alike` is the mean cosine (0 to 1)
    at which requests belong together, `enough` the corrections that can be trained on. Runs that failed, or a tool of
    which did, are grouped by their error, unless the tool only refused what the model called it with, or somebody
    corrected them: then there is something to learn.
    """
    errors: dict[str, list[Flagged]] = defaultdict(list)
    answers: list[Flagged] = []
    for one in flagged:
        error = None if one.corrected else _error(one.run)
        (answers if error is None else errors[error]).append(one)
    found = [_of_error(error, ones) for error, ones in errors.items()]
    found += _of_answers(answers, embed, alike, enough)
    return tuple(sorted(found, key=lambda one: (-one.impact, -len(one.run_ids), one.weakness_id)))


def groups(rows: Iterable[Vectors], alike: float) -> list[list[int]]:
    """Return the numbers of rows of length 1 that belong together, in each group the most typical first.

    Rows come in blocks; a block is compared with the middles of the groups before it, and what belongs to none of them
    makes new groups. So memory grows with the groups and not with the square of the rows.
    """
    found: list[_Group] = []
    begun = 0
    for block in rows:
        left = _joined(found, block, begun, alike)
        found += [_group(block, [left[i] for i in members], begun) for members in _linked(block[left], alike)]
        begun += len(block)
    return [[number for _, number in sorted(group.members, key=lambda m: (-m[0], m[1]))] for group in found]


def _joined(found: Sequence[_Group], block: Vectors, begun: int, alike: float) -> list[int]:
    """Add rows to the groups that they belong to; return the others, by their number in the block."""
    if not found:
        return [*range(len(block))]
    cosines = block @ np.stack([group.middle for group in found]).T
    nearest = cosines.argmax(axis=1)
    left = []
    for i, group in enumerate(nearest):
        if cosines[i, group] >= alike:
            found[group].add(block[i], begun + i)
        else:
            left.append(i)
    return left


def _group(block: Vectors, members: Sequence[int], begun: int) -> _Group:
    rows = block[[*members]]
    middle = rows.mean(axis=0)
    return _Group(rows.sum(axis=0), [(float(block[i] @ middle), begun + i) for i in members])


def _linked(rows: Vectors, alike: float) -> Iterator[list[int]]:
    """Yield the groups of average linkage; a row of zeros, which has no direction, belongs to the others like it."""
    something = np.flatnonzero(np.abs(rows).sum(axis=1))
    nothing = [*map(int, np.setdiff1d(np.arange(len(rows)), something))]
    if nothing:
        yield nothing
    labels = _labels(rows[something], alike)
    members: dict[int, list[int]] = defaultdict(list)
    for i, label in zip(something, labels, strict=True):
        members[int(label)].append(int(i))
    yield from members.values()


def _labels(rows: Vectors, alike: float) -> Iterable[int]:
    if len(rows) < 2:
        return range(len(rows))
    with needing("Grouping flagged runs"):
        from sklearn.cluster import AgglomerativeClustering
    linkage = AgglomerativeClustering(n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - alike)
    return [int(label) for label in linkage.fit_predict(rows)]


def _of_answers(answers: Sequence[Flagged], embed: Embed, alike: float, enough: int) -> list[Weakness]:
    blank = [one for one in answers if not normal(one.run.question or "")]
    answers = [one for one in answers if normal(one.run.question or "")]
    texts = [one.run.question or "" for one in answers]
    blocks = (embed(texts[at : at + _BLOCK]) for at in range(0, len(texts), _BLOCK))
    found = groups(blocks, alike)
    labels = _distinctive([[texts[i] for i in members] for members in found])
    named = [([answers[i] for i in members], label) for members, label in zip(found, labels, strict=True)]
    if blank:
        named.append((blank, "requests without words"))
    return [_of_answer(ones, label, enough) for ones, label in named]


def _of_answer(ones: Sequence[Flagged], label: str, enough: int) -> Weakness:
    corrected = sum(one.corrected for one in ones)
    if corrected >= enough:
        because = f"{corrected} of its runs are corrected, which is enough to train on: run `learnloop cycle`."
        return _weakness("answer", label, ones, "train", because)
    because = (
        f"{corrected} of its runs are corrected, and {enough} are needed to train on: say of {enough - corrected} "
        "more what would have been right, with loop.feedback(run, correction=...)."
    )
    return _weakness("answer", label, ones, "correct", because)


def _of_error(error: str, ones: Sequence[Flagged]) -> Weakness:
    because = "An error is nothing that a model unlearns: mend the code, or the service that it calls."
    return _weakness("error", error, ones, "repair", because)


def _weakness(cause: str, label: str, ones: Sequence[Flagged], fix: str, because: str) -> Weakness:
    worst: dict[str, float] = defaultdict(float)
    for run, flag, _ in ones:
        thread = f"thread {run.thread_id}" if run.thread_id is not None else f"run {run.run_id}"
        worst[thread] = max(worst[thread], flag.severity)
    run_ids = tuple(one.run.run_id for one in ones)
    example = _brief(ones[0].run.question or "")
    raised = [one.flag.at for one in ones]
    return Weakness.model_validate(
        {
            "weakness_id": content_hash(sorted(run_ids)),
            "cause": cause,
            "label": label or example,
            "example": example,
            "run_ids": run_ids,
            "threads": len(worst),
            "impact": math.fsum(worst.values()),
            "corrected": sum(one.corrected for one in ones),
            "fix": fix,
            "because": because,
            "first_at": min(raised),
            "last_at": max(raised),
        }
    )


def _error(run: Run) -> str | None:
    """Return what broke, and how, without what differs from run to run; None where nothing did but the model."""
    failures = [*failed_tools(run)]
    for name, error in failures:
        if not _refuses(name, error):
            return f"tool {name}: {_kind(error)}"
    if failures or run.outcome != "failed":
        return None
    failed = next((step for step in reversed(run.steps) if step.kind == "model" and step.error is not None), None)
    where = "run" if failed is None else f"model {failed.name}"
    return f"{where}: {_kind(run.error or 'no reason was recorded')}"


def _refuses(tool: str, error: str) -> bool:
    """Tell whether a tool only refused arguments that do not fit its schema: that is a mistake of who called it.

    LangGraph says so by a type of its own; pydantic names the schema, which is called like the tool, or `ToolInput`.
    """
    if error.startswith("ToolInvocationError"):
        return True
    found = _VALIDATION.match(error)
    return found is not None and _letters(found[1]).removeprefix(_letters(tool)) in _SCHEMAS


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def _kind(error: str) -> str:
    """Return an exception's type, or the beginning of what is none."""
    return _brief(re.split(r"[:(]", error, maxsplit=1)[0])


def _brief(text: str) -> str:
    return short(visible(" ".join(text.split())), _LONGEST)


def _distinctive(texts: Sequence[Sequence[str]]) -> list[str]:
    """Return the words that tell each group of texts from the others, by class-based TF-IDF (Grootendorst 2022, eq. 1).

    A text has a word or has it not: one that says it ten times does not name the group.
    """
    with needing("Naming what flagged runs have in common"):
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
    said = [Counter(word for text in group for word in set(normal(text).split())) for group in texts]
    everywhere = sum(said, Counter[str]())
    usual = sum(everywhere.values()) / max(1, len(said))
    labels = []
    for group, words in zip(texts, said, strict=True):
        weights = {
            word: count / len(group) * math.log(1 + usual / everywhere[word])
            for word, count in words.items()
            if len(word) > 1 and word not in ENGLISH_STOP_WORDS
        }
        labels.append(", ".join(sorted(weights, key=lambda word: (-weights[word], word))[:_WORDS]))
    return labels
