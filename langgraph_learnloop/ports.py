"""The doors between the rooms: Protocols of one to three methods.

Every port has a fake in `langgraph_learnloop.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

from langgraph_learnloop.records import (
    Case,
    CaseResult,
    Decision,
    EngineHealth,
    Feedback,
    Generated,
    Generation,
    Job,
    Judged,
    Message,
    Near,
    Plan,
    Progress,
    Proposal,
    Recorded,
    Release,
    Routes,
    Run,
    RunPoint,
    Server,
    TrainingResult,
    Verdict,
)

OnProgress = Callable[[Progress], None]
"""Called with each line of progress; must not raise."""


class RunSink(Protocol):
    """Take finished runs in; the store and its fakes."""

    def add_runs(self, recorded: Sequence[Recorded]) -> None:
        """Store runs and what they refer to in one transaction; what is there already stays."""
        ...


class RunReader(Protocol):
    """Give recorded runs back."""

    def run(self, run_id: str) -> Run:
        """Return a run, or raise NotFoundError."""
        ...

    def messages(self, hashes: Sequence[str]) -> tuple[Message, ...]:
        """Return interned messages in order."""
        ...

    def conversation(self, list_hash: str | None) -> tuple[Message, ...]:
        """Return the messages of an interned list, in order; none for None."""
        ...

    def blob(self, digest: str) -> bytes:
        """Return the JSON stored under a hash (tool schemas), or raise NotFoundError."""
        ...

    def feedback(self, run_id: str) -> tuple[Feedback, ...]:
        """Return what was said of a run, oldest first."""
        ...


class RunIndex(Protocol):
    """Find the runs that lie nearest to one another: vectors in a folder of this machine, or on a server.

    A space is what vectors are compared in: those of other embeddings have other lengths and meanings, and never meet.
    Where it cannot be reached or read, StoreError says so, and what to do.
    """

    @property
    def place(self) -> str:
        """Return what tells it from other indexes; what the store notes for it is noted under that."""
        ...

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        """Keep points of a space; one whose run is there already is replaced. They are found when this returns."""
        ...

    def near(self, space: str, vector: Sequence[float], limit: int, agent: str) -> tuple[Near, ...]:
        """Return an agent's nearest points by cosine, the nearest first; none from a space that holds nothing."""
        ...

    def size(self, space: str, agent: str) -> int:
        """Return how many points of an agent a space holds; 0 where there is no such space."""
        ...

    def close(self) -> None:
        """Let go of files and connections, for other processes; the next call opens them again."""
        ...


class Engine(Protocol):
    """Serve releases of one base model."""

    @property
    def base_model(self) -> str:
        """Return the name or folder of the base model."""
        ...

    def load(self, release: Release) -> None:
        """Make a release servable beside the others; loading it twice changes nothing."""
        ...

    def unload(self, release_id: str) -> None:
        """Forget a release; unknown ids are ignored."""
        ...

    def generate(self, request: Generation) -> Generated:
        """Answer with exactly the release that was asked for, or raise EngineError."""
        ...

    def health(self) -> EngineHealth:
        """Return how the engine is, within seconds; it does not raise."""
        ...


class StreamingEngine(Protocol):
    """Serve releases word by word; an engine may do that too."""

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield texts as they are written, in order, and at last the whole answer; raise EngineError at any time."""
        ...


class Trainer(Protocol):
    """Turn a job into an adapter."""

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Train, or raise TrainingError with the reason."""
        ...


@runtime_checkable
class Planner(Protocol):
    """Say what a job would take; a trainer may do that too."""

    def plan(self, job: Job) -> Plan:
        """Return the plan, or raise TrainingError or DataError with the reason why there is none."""
        ...


class Reviewer(Protocol):
    """Decide on proposals; a person at a terminal, a page, or a policy."""

    def review(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Return one verdict for each proposal."""
        ...


class ThreadPins(Protocol):
    """Remember which release a thread started with."""

    def pin(self, thread_id: str, release_id: str) -> str:
        """Return the thread's release; the first call decides it, for every process."""
        ...

    def repin(self, thread_id: str, refused: Collection[str], release_id: str) -> str:
        """Give a thread another release if it has one of those that are refused; return the one it has then."""
        ...


class Routing(Protocol):
    """Know which release new threads get."""

    def routes(self) -> Routes:
        """Return how threads find their release now, or raise NotFoundError before there is a champion."""
        ...


class Registry(Protocol):
    """Know the processes that serve."""

    def report(self, server: Server) -> None:
        """Take down what a process reports of itself."""
        ...

    def retire(self, server_id: str) -> None:
        """Forget a process that no longer serves."""
        ...

    def serving(self, now: datetime) -> tuple[Server, ...]:
        """Return the processes that reported themselves a short while before `now`."""
        ...


class Operator(Protocol):
    """Look after the agent: a person, reached by whatever they read."""

    def tell(self, decision: Decision) -> None:
        """Tell what was decided; it may raise, and nothing depends on it."""
        ...


class Evaluator(Protocol):
    """Judge an answer against a case."""

    name: str
    """Name and version; part of a result's identity."""
    target: str
    """The score that is to get better."""
    guard: str
    """The score that must not get worse; may be the same."""
    whole: bool
    """Judge the whole run, with its tools answered from the recording, not only the assistant's next message."""

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return at least the scores `target` and `guard`; raise what it likes, and the case is not judged.

        `got` begins with the assistant's next message; where `whole` is set, all that came after it follows.
        """
        ...


class ResultCache(Protocol):
    """Keep results by release, case and evaluator, so that a champion is examined once."""

    def results(self, release_id: str, evaluator: str) -> dict[str, CaseResult]:
        """Return what is known, by case id."""
        ...

    def add_results(self, results: Sequence[CaseResult]) -> None:
        """Store results; a result that is there already stays."""
        ...


class Replayer(Protocol):
    """Ask a release the cases of a suite."""

    evaluator: Evaluator
    """Judges the answers."""

    def run(
        self,
        release_id: str,
        cases: Sequence[Case],
        cache: ResultCache | None = None,
        on_progress: OnProgress | None = None,
        enough: Callable[[CaseResult], object] | None = None,
    ) -> tuple[CaseResult, ...]:
        """Return one result for each case, in order; none for those that `enough` spared, when it was told enough."""
        ...
