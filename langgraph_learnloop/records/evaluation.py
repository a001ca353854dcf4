"""How releases are examined: cases, results, gates and scorecards."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field, StrictBool

from langgraph_learnloop.records.base import Record
from langgraph_learnloop.records.runs import Message

Suite = Literal["target", "retention", "regression", "safety"]

Score = StrictBool | float | None
"""What an evaluator says: a bool is an assertion, a number (0 bad to 1 good) a score, None could not be judged."""


class Case(Record):
    """One question of a suite, with what is right."""

    case_id: str
    """Content hash of question and answer."""
    suite: Suite
    """Target: what should get better. Retention: what must not get worse. Regression: what an earlier lesson repaired
    and must stay so. Safety: what must hold nearly always."""
    category: str
    """The slice inside its suite, usually the right tool."""
    messages: tuple[Message, ...]
    """The conversation before the answer."""
    expected: Message | None = None
    """The right next assistant message; None where an evaluator needs none."""
    reference: tuple[Message, ...] = ()
    """A whole run as it should be, from the answer to the end: assistant and tool messages."""
    run_id: str | None = None
    """The recorded run that it was made from: a replay can start from that run's checkpoint."""
    step_id: str | None = None
    """The run's model call that is asked again; None looks for the one that read these messages."""


class Judged(NamedTuple):
    """What an evaluator says of an answer."""

    scores: Mapping[str, Score]
    """Each figure by its name."""
    comment: str | None = None
    """Why, in words."""


class CaseResult(Record):
    """How one release did on one case."""

    release_id: str
    """Who answered."""
    case_id: str
    """Which case."""
    evaluator: str
    """Name and version of the evaluator; old and new scores never mix."""
    scores: dict[str, Score] = Field(default_factory=dict)
    """Each figure by its name; empty where nothing could be judged."""
    got: tuple[Message, ...] = ()
    """What was answered: the assistant's next message, and what came after it where the replay went on."""
    comment: str | None = None
    """What the evaluator said of it."""
    error: str | None = None
    """Why it could not be judged."""
    started: Literal["messages", "checkpoint"] = "messages"
    """Where the replay began: with the conversation alone, or with the whole state of the recorded run."""
    diverged: str | None = None
    """Why the replay stopped before its end: it wanted to do what was not recorded."""
    seconds: float | None = None
    """Wall time."""
    model_seconds: float | None = None
    """Of that, the time of the model calls."""
    tokens: int | None = None
    """Tokens that the models read and wrote."""
    usd: float | None = None
    """What the model calls cost, where prices are known."""


ShipVerdict = Literal["ship", "do not ship", "need more cases"]


class Gate(Record):
    """One question a candidate must answer before it ships."""

    name: str
    """E.g. "target", "retention", "retention:set_timer", "regression", "safety", "latency"."""
    required: bool
    """A gate that is not required only informs."""
    passed: bool
    """Did it pass."""
    metric: str
    """Which figure was compared, fixed beforehand."""
    test: str | None = None
    """The statistical test that decided."""
    champion: float | None
    """The champion's figure: a share or mean score, 0 to 1, or seconds, or dollars."""
    candidate: float | None
    """The candidate's figure."""
    cases: int
    """Cases that both answered."""
    left_out: int = 0
    """Cases of the gate that one side or the other left unjudged."""
    low: float | None = None
    """Lower end of the interval of candidate minus champion (of their ratio, for latency and cost)."""
    high: float | None = None
    """Upper end of that interval."""
    p_value: float | None = None
    """Of the gate's own test, corrected for the number of tests in its family."""
    power: float | None = None
    """The chance that so many cases pass a candidate that is as good as the gate hopes for."""
    needed: int | None = None
    """Cases that are missing for a decision; None when the gate decided."""
    because: str
    """The verdict as a sentence."""


class Scorecard(Record):
    """A candidate held against the champion on the same cases."""

    candidate: str
    """Release id."""
    champion: str
    """Release id."""
    gates: tuple[Gate, ...]
    """All the gates that ran."""
    dataset: str | None = None
    """Version of the dataset whose held-out cases were asked."""
    evaluator: str | None = None
    """Name and version of the evaluator."""
    stopped_early: str | None = None
    """Why the examination ended before all the cases were asked."""
    unjudged: tuple[CaseResult, ...] = ()
    """Results that could not be judged, the first of each side, with their reasons."""
    at: datetime
    """When, UTC."""

    @property
    def passed(self) -> bool:
        """Return whether every required gate passed; a scorecard without one has not passed."""
        required = [g for g in self.gates if g.required]
        return bool(required) and all(g.passed for g in required)

    @property
    def verdict(self) -> ShipVerdict:
        """Return "need more cases" when nothing speaks against the candidate but too few cases speak for it."""
        if self.passed:
            return "ship"
        failed = [g for g in self.gates if g.required and not g.passed]
        return "need more cases" if failed and all(g.needed for g in failed) else "do not ship"

    @property
    def because(self) -> str:
        """Return the verdict in a sentence: the failed gates' reasons, or all the required ones."""
        required = [g for g in self.gates if g.required]
        if not required:
            return "No required gate ran."
        return " ".join(g.because for g in required if self.passed or not g.passed)


class NodeCredit(Record):
    """How often giving one node to the candidate, and all others to the champion, mended a run."""

    node: str
    """The graph node."""
    tried: int
    """Runs in which it was given to the candidate."""
    mended: int
    """Runs whose verdict turned from wrong to right by that."""
    broken: int
    """Runs whose verdict turned from right to wrong."""
    weight: float
    """Its share of what was mended, 0 to 1; the weights of all the nodes sum to 1 if anything was mended."""


class Remembered(Record):
    """How well a release still does what an earlier lesson taught."""

    dataset: str
    """Version of the dataset that taught it."""
    learned_by: str
    """The release that learned it."""
    cases: int
    """Held-out cases of that lesson that both releases were asked."""
    then: float | None
    """Share of them that was fully right when it was learned."""
    now: float | None
    """Share of them that is fully right now."""
