"""What the loop has to learn: from flagged runs, through the curation graph, to a dataset version.

`LearnLoop` holds one `Lessons`; its verbs `remember`, `curate`, `pending` and `review` end here, and `evaluate` asks
the cases that were set aside.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import MissingExtraError, NotFoundError
from langgraph_learnloop.evaluation.findings import Lesson, ledger
from langgraph_learnloop.evaluation.suites import cases_from, refuse_leaks
from langgraph_learnloop.examples import read_examples
from langgraph_learnloop.records import (
    Case,
    Dataset,
    Example,
    FlagState,
    Proposal,
    Release,
    Remembered,
    Verdict,
    Weakness,
)
from langgraph_learnloop.store.decisions import Entry
from langgraph_learnloop.store.opened import Store

if TYPE_CHECKING:
    from langgraph_learnloop.curation.graph import Curation
    from langgraph_learnloop.curation.weakness import Embed
    from langgraph_learnloop.ports import Evaluator

_QUOTED = re.compile(r"'[^']*'")
"""What differs between reasons of one kind."""


class Shipped(NamedTuple):
    """A lesson that served."""

    release: Release
    """The release that learned it."""
    version: str
    """The dataset that taught it."""
    new: Sequence[Case]
    """Its target cases, without those of earlier lessons."""


class Lessons:
    """Keep what is to be learned by one agent, in its store and in files beside it."""

    def __init__(self, store: Store, config: LoopConfig, agent: str, now: Callable[[], datetime]) -> None:
        """Work on an open store."""
        self._store = store
        self._config = config
        self._agent = agent
        self._now = now

    def remember(self, examples: Sequence[Example]) -> Dataset:
        """Store what the model could do before; the same examples again change nothing."""
        from langgraph_learnloop.curation.dataset import keep

        dataset = keep(examples, folder=self.folder("datasets"), now=self._now())
        return self._add(dataset, "remember", f"{len(examples)} examples of what the model could do before.")

    def start(self, thread: str) -> tuple[Proposal, ...]:
        """Queue the flags that somebody corrected and begin their curation, or go on with it; return what waits."""
        from langgraph_learnloop.curation.graph import curate

        flags = self._store.flags
        corrected = {f.run_id for f in self._store.feedback.all(self._agent) if f.correction is not None}
        flags.move([f.run_id for f in flags.list("open", self._agent) if f.run_id in corrected], "queued")
        return curate(self.graph, thread, [f.run_id for f in flags.list("queued", self._agent)])

    def weaknesses(self, state: FlagState | None, embed: Embed, agent: str | None = None) -> tuple[Weakness, ...]:
        """Return what flagged runs of one agent, or of all, have in common, the worst first."""
        from langgraph_learnloop.curation.weakness import Flagged, weaknesses

        flags = self._store.flags.list(state, agent)
        runs = self._store.runs.many([flag.run_id for flag in flags])
        corrected = {f.run_id for f in self._store.feedback.all(agent) if f.correction is not None}
        flagged = [Flagged(runs[f.run_id], f, f.run_id in corrected) for f in flags if f.run_id in runs]
        config = self._config
        return weaknesses(flagged, embed=embed, alike=config.alike, enough=config.least_corrections)

    def pending(self, thread: str) -> tuple[Proposal, ...]:
        """Return the proposals that wait for review."""
        from langgraph_learnloop.curation.graph import pending

        return pending(self.graph, thread)

    def review(self, verdicts: Sequence[Verdict], thread: str) -> tuple[Proposal, ...]:
        """Hand verdicts to the curation and log them; return the proposals that still wait."""
        from langgraph_learnloop.curation.graph import resume

        waiting = resume(self.graph, thread, verdicts)
        self._store.decisions.append_all(
            (
                Entry(f"review:{v.action}", v.proposal_id, v.because or f"{v.by} looked at it.", v.by, thread)
                for v in verdicts
            ),
            self._now(),
        )
        return waiting

    def decided(self, thread: str) -> tuple[tuple[Proposal, Verdict], ...]:
        """Return the proposals that were decided, with their verdicts."""
        from langgraph_learnloop.curation.graph import decided

        return decided(self.graph, thread)

    def nothing(self, thread: str) -> str:
        """Return why a curation that has ended left nothing to learn: what most corrections were rejected for."""
        decided = self.decided(thread)
        reasons = [(p.problems or (v.because,))[0] or "" for p, v in decided if v.action == "reject"]
        if not reasons:
            return "Nothing that went wrong was corrected, so there is nothing to learn."
        kinds = Counter(_QUOTED.sub("''", reason) for reason in reasons)
        kind, count = kinds.most_common(1)[0]
        example = next(reason for reason in reasons if _QUOTED.sub("''", reason) == kind)
        return (
            f"{len(reasons)} of {len(decided)} corrections were rejected, so there is nothing to learn; {count} of "
            f"them for a reason like this: {example} `learnloop log` has each."
        )

    def dataset(self, thread: str, replay: float) -> Dataset | None:
        """Build the dataset of a reviewed curation and settle its flags; doing it again changes nothing.

        None when review approved no correction.
        """
        from langgraph_learnloop.curation.dataset import build
        from langgraph_learnloop.curation.graph import approved, settled

        corrections = approved(self.graph, thread)
        self._settle(settled(self.graph, thread))
        if not corrections:
            return None
        config = self._config
        dataset, _ = build(
            corrections,
            self._pool(),
            folder=self.folder("datasets"),
            parent=self._parent(thread),
            heldout=config.heldout,
            variations=config.variations,
            replay_ratio=replay,
            retention=config.retention_cases,
            seed=config.recipe.seed,
            now=self._now(),
        )
        counts = ", ".join(f"{sum(n.values())} {origin}" for origin, n in dataset.counts.items())
        return self._add(dataset, "dataset", f"It holds {counts}.", thread)

    def with_validation(self, dataset: Dataset) -> Dataset:
        """Return a dataset of the same training examples, a tenth of them for validation; it lies among the jobs."""
        from langgraph_learnloop.curation.dataset import keep_as_it_is
        from langgraph_learnloop.improvement.lora.search import validated

        examples = validated(read_examples(dataset.path), 0.1, self._config.recipe.seed)
        return keep_as_it_is(examples, folder=self.folder("jobs"), now=self._now())

    def cases(self, dataset: Dataset) -> tuple[Case, ...]:
        """Return what candidates are examined on; raise DataError when training examples leaked into it."""
        return _cases(dataset.path)

    def cases_one_by_one(self, dataset: Dataset) -> Iterator[Case]:
        """Yield the cases as they are read: for a few of them the rest of a large file need not be parsed."""
        from langgraph_learnloop.curation.dataset import heldout

        return (case for example in heldout(dataset.path) for case in cases_from([example]))

    def examples(self, dataset: Dataset) -> tuple[Example, ...]:
        """Return what a dataset holds."""
        from langgraph_learnloop.curation.dataset import read

        return read(dataset.path)

    def shipped(self, before: Dataset | None = None) -> list[Shipped]:
        """Return the lessons that ever served, oldest first; only those that were built before a dataset, if named."""
        releases, known, found = self._store.releases, set[str](), list[Shipped]()
        for release_id in dict.fromkeys(entry.release_id for entry in releases.history()):
            release = releases.get(release_id)
            dataset = self._store.datasets.get(release.dataset) if release.dataset is not None else None
            if dataset is None or (before is not None and dataset.made_at >= before.made_at):
                continue
            new = [c for c in self.cases(dataset) if c.suite == "target" and c.case_id not in known]
            known.update(case.case_id for case in new)
            found.append(Shipped(release, dataset.version, new))
        return found

    def remembered(self, release: Release, evaluator: Evaluator) -> tuple[Remembered, ...]:
        """Return how a release does on each lesson that was shipped before it, by what it was asked already."""
        shipped = [one for one in self.shipped() if one.release.made_at <= release.made_at]
        results = self._store.scorecards.results
        ids = {release.release_id, *(one.release.release_id for one in shipped)}
        lessons = [Lesson(one.version, one.release.release_id, [case.case_id for case in one.new]) for one in shipped]
        asked = {release_id: results(release_id, evaluator.name) for release_id in ids}
        return ledger(lessons, asked, release.release_id, evaluator.target)

    def folder(self, name: str) -> Path:
        """Return a folder for files of one kind, made if need be."""
        folder = self._store.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def graph(self) -> Curation:
        """Return the curation graph, with its checkpoints in the store's own file."""
        from langgraph_learnloop.curation.graph import curation_graph

        return curation_graph(self._store.runs, neighbours=self._config.neighbours, checkpointer=self._checkpoints())

    def _checkpoints(self) -> Any:
        try:
            from langgraph.checkpoint.sqlite import SqliteSaver
        except ImportError as error:
            raise MissingExtraError(
                'Curation keeps its state with langgraph-checkpoint-sqlite: pip install "langgraph-learnloop[loop]".'
            ) from error
        import sqlite3

        where = self._store.path or self.folder("curation") / "checkpoints.db"
        return SqliteSaver(sqlite3.connect(where, check_same_thread=False, timeout=30))

    def _settle(self, ends: Mapping[str, FlagState]) -> None:
        queued = {f.run_id for f in self._store.flags.list("queued", self._agent)}
        for end in sorted(set(ends.values())):
            self._store.flags.move([run_id for run_id in ends if run_id in queued and ends[run_id] == end], end)

    def _parent(self, thread: str) -> Dataset | None:
        """Return the dataset of the cycle before: this one's own, if it was built before a crash, is not its parent."""
        versions = [r.dataset for r in self._store.cycles.all() if r.dataset and r.cycle_id != thread]
        return self._store.datasets.get(versions[-1]) if versions else None

    def _pool(self) -> list[Example]:
        """Return what may be replayed: what was remembered, and runs that somebody liked."""
        from langgraph_learnloop.curation.dataset import read
        from langgraph_learnloop.curation.propose import replayable

        remembered = [d for d in self._store.datasets.all() if not d.counts.keys() - {"replay"}]
        liked = {f.run_id for f in self._store.feedback.all(self._agent) if (f.score or 0) > 0}
        runs = [self._store.runs.run(run_id) for run_id in sorted(liked)]
        return [*(e for d in remembered for e in read(d.path)), *replayable(runs, self._store.runs)]

    def _add(self, dataset: Dataset, action: str, because: str, cycle_id: str | None = None) -> Dataset:
        """Store a dataset and log it, once: a version that is known was logged when it was made."""
        try:
            return self._store.datasets.get(dataset.version)
        except NotFoundError:
            self._store.datasets.add(dataset)
            self._store.decisions.append(
                action=action, subject=dataset.version, because=because, cycle_id=cycle_id, now=self._now()
            )
            return dataset


@lru_cache(maxsize=4)  # a dataset's file is named by its content, and reading a large one takes seconds
def _cases(path: str) -> tuple[Case, ...]:
    from langgraph_learnloop.curation.dataset import read

    examples = read(path)
    return refuse_leaks(cases_from(examples), examples)
