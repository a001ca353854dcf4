"""What is told to places where people look at runs, and what they say there: its nouns and its doors.

A mirror shows what the store holds; the store stays what is true. All that a mirror is told has an id that never
changes, and it may be told it twice: after a failure nobody knows what arrived.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

from langgraph_learnloop.errors import LearnLoopError
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    Dataset,
    Example,
    Feedback,
    Message,
    Record,
    Release,
    Run,
    Scorecard,
    Step,
)

Kind = Literal["run", "feedback", "label", "dataset", "examination", "champion"]
"""What a mirror is told: a finished run, what was said of it, what became of it, a dataset version, a candidate's
examination, and which release serves."""
KINDS: tuple[Kind, ...] = get_args(Kind)
_HEX = re.compile("[0-9a-f]{32}")


def trace_of(run_id: str) -> str:
    """Return the id of a run's trace: the digits of its UUID; of an id that is none, half of its SHA-256."""
    digits = run_id.replace("-", "")  # three times as fast as a UUID
    return (
        digits if _HEX.fullmatch(digits) else hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    )


def run_of(trace_id: str) -> str:
    """Return the id of the run whose trace this is, or would be."""
    return str(uuid.UUID(trace_id)) if _HEX.fullmatch(trace_id) else trace_id


def span_of(step_id: str) -> str:
    """Return the id of a step's or a run's observation: the second half of `trace_of`, which is the random one."""
    return trace_of(step_id)[16:]


class Label(Record):
    """What became of a run after it was stored: it was flagged, or a dataset learned from it."""

    run_id: str
    """The run."""
    name: str
    """What kind of label: "flag", or "dataset"."""
    value: str
    """The flag's state, or the dataset's version."""
    comment: str | None = None
    """Why, in words."""
    at: datetime
    """When, UTC."""

    @property
    def label_id(self) -> str:
        """Return what tells it from others: a run has one flag, and may be in several datasets."""
        return f"{self.run_id}:{self.name}" + ("" if self.name == "flag" else f":{self.value}")


class Texts(NamedTuple):
    """The messages that runs refer to, shared by all that is told at once."""

    messages: Mapping[str, Message] = {}
    """By hash."""
    lists: Mapping[str, tuple[str, ...]] = {}
    """Hashes of the messages of a list, in order, by the list's hash."""
    blobs: Mapping[str, bytes] = {}
    """JSON of tool schemas, by hash."""

    def conversation(self, list_hash: str | None) -> tuple[Message, ...]:
        """Return the messages of a list, in order; none for None."""
        return tuple(self.messages[key] for key in self.lists[list_hash]) if list_hash else ()


class ToldRun(NamedTuple):
    """A finished run."""

    run: Run
    texts: Texts
    flag: Label | None = None
    """How it is flagged, where that is known by now."""


class ToldFeedback(NamedTuple):
    """What somebody said of a run."""

    run: Run
    feedback: Feedback


class ToldLabel(NamedTuple):
    """What became of a run."""

    run: Run
    label: Label


class ToldDataset(NamedTuple):
    """A dataset version with its examples."""

    dataset: Dataset
    examples: tuple[Example, ...]
    """All but those that only measure a search for a recipe."""
    traces: Mapping[str, str] = {}
    """The traces that another tracer keeps of the runs they were made from, by run id; most runs have none."""


class ToldExamination(NamedTuple):
    """How a candidate did on the cases of its examination, beside the champion."""

    scorecard: Scorecard
    candidate: Release
    champion: Release
    cases: tuple[Case, ...]
    results: Mapping[str, tuple[CaseResult, ...]]
    """By release id; those that could be judged."""


class ToldChampion(NamedTuple):
    """The release that new threads get from now on."""

    release: Release
    agent: str
    because: str


class Told(NamedTuple):
    """One thing that a mirror is told."""

    kind: Kind
    subject: str
    """Its id; with the kind it names it for good."""
    what: ToldRun | ToldFeedback | ToldLabel | ToldDataset | ToldExamination | ToldChampion
    doubtful: bool = False
    """It was told before, and nobody knows whether that arrived: look before you write what cannot be written twice."""


class DeliveryError(LearnLoopError, RuntimeError):
    """Say that a mirror did not take what it was told, and what is known of that."""

    def __init__(
        self, sentence: str, *, arrived: bool | None = False, forever: bool = False, retry_after: float | None = None
    ) -> None:
        """Say why; `arrived` is None when nobody knows, `forever` that the same will never be taken."""
        super().__init__(sentence)
        self.arrived = arrived
        self.forever = forever
        self.retry_after = retry_after


class Mirror(Protocol):
    """Show what is recorded where people look."""

    name: str
    """Names it in the store; what it was told is remembered under that."""
    kinds: Sequence[Kind]
    """What it wants to be told."""
    settles: float
    """Seconds after which what it took can be seen there."""

    def send(self, told: Sequence[Told]) -> None:
        """Show some things of one kind; raise DeliveryError, for all of them, when one did not arrive."""
        ...

    def where(self, run: Run) -> str:
        """Return the address at which people see a run; it may be shown there a while later."""
        ...


@runtime_checkable
class Witness(Protocol):
    """Know the traces that other tracers keep of this process's runs; a mirror may do that too."""

    def trace_beside(self, handlers: Sequence[object], run_id: Any) -> str | None:
        """Return the trace that one of a run's callback handlers keeps of it, None if none does; quickly."""
        ...


class ForeignStep(NamedTuple):
    """A step of a run that another tracer saw."""

    step: Step
    """Without hashes."""
    asked: tuple[Message, ...] = ()
    """What a model read."""
    said: tuple[Message, ...] = ()
    """What came out."""
    tools: tuple[dict[str, Any], ...] = ()
    """Schemas of the tools on offer (OpenAI function form)."""


class ForeignRun(NamedTuple):
    """A run that another tracer saw."""

    run: Run
    """Without hashes and steps; `trace` names it there, and an empty agent is that of whoever takes it in."""
    conversation: tuple[Message, ...]
    """As the run left it."""
    steps: tuple[ForeignStep, ...]
    """In order of start."""


class Untold(NamedTuple):
    """What another place holds that cannot be taken from there."""

    subject: str
    """Its id there."""
    why: str
    """The reason, a sentence that does not name it: reasons are counted."""


class Remark(NamedTuple):
    """What somebody said of a run in another place."""

    remark_id: str
    """Its id there, with what changes when it is changed; saying it twice changes nothing."""
    trace: str
    """The trace it is about."""
    observation: str | None
    """The observation it is about; None is the whole run."""
    name: str
    """What was judged."""
    score: float | None
    """-1 (bad) to 1 (good); None is not judged."""
    text: str | None
    """In words."""
    correction: object
    """The right answer, as `loop.feedback` takes it; None where there is none."""
    categories: tuple[str, ...]
    """Labels."""
    by: str | None
    """Who said it."""
    at: datetime
    """When, UTC."""
    origin: Literal["explicit", "reviewer"] = "reviewer"
    """Somebody of the team who looked at it there, or the agent's own user."""


class History(Protocol):
    """Give back what another tracer has seen, and what people said there."""

    name: str
    """Names the place."""

    def runs(self, since: datetime, until: datetime) -> Iterator[ForeignRun | Untold]:
        """Yield runs that began in a time, oldest first; raise ConfigError or EngineError with the reason."""
        ...

    def remarks(self, since: datetime) -> Iterator[Remark | Untold]:
        """Yield what people said there since a time, but not what was told by the mirror."""
        ...
