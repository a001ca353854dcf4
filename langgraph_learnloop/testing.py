"""Fakes for every port, shipped: this package's own tests and examples use nothing else.

None of them needs a GPU, a key, the network or torch. They are honest stand-ins, not models: `MemoryEngine` answers
with what `TinyTrainer` wrote down, by likeness of words; what differs between two requests it fills into the call.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr, SkipValidation

from langgraph_learnloop.errors import EngineError, TrainingError
from langgraph_learnloop.examples import read_all
from langgraph_learnloop.messages import question
from langgraph_learnloop.mirrors import KINDS, DeliveryError, Kind, Told
from langgraph_learnloop.points import at_least_one, same_length, unit, units, within
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import (
    Case,
    EngineHealth,
    Example,
    Generated,
    Generation,
    Job,
    Judged,
    Message,
    Near,
    Plan,
    Progress,
    Proposal,
    Release,
    Run,
    RunPoint,
    Score,
    TokenLogprob,
    ToolCall,
    TrainingResult,
    Verdict,
)

_MEMORY = "memory.json"
_WORD = re.compile(r"\w+")
_TERM = re.compile(r"\w(?:[\w.,:'/@-]*\w)?")
_NONE: tuple[float, str, Message | None] = (0.0, "", None)
_SPOKEN = re.compile(r"\s*\S+|\s+\Z")


class FixedClock:
    """Tell a time that moves only when it is told to."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), step: timedelta = timedelta()) -> None:
        """Start at `start`; every call moves on by `step`."""
        self.at = start
        self.step = step

    def __call__(self) -> datetime:
        """Return the time, then move on by `step`."""
        now = self.at
        self.at += self.step
        return now


class ScriptedModel(BaseChatModel):
    """Answer with the given messages in turn, over and over; tools can be bound and are ignored."""

    script: SkipValidation[Sequence[AIMessage | str]]
    """What to say, in order."""
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _next: int = PrivateAttr(default=0)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Offer the tools, so that traces show them."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        with self._lock:
            said = self.script[self._next % len(self.script)]
            self._next += 1
        message = AIMessage(said) if isinstance(said, str) else said.model_copy()
        return ChatResult(generations=[ChatGeneration(message=message)])


class TinyTrainer:
    """Write down what the training part of a dataset says; a `MemoryEngine` can load it."""

    def __init__(self, fail_with: str | None = None) -> None:
        """Fail every job with this reason, if one is given."""
        self._fail_with = fail_with

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Memorise the examples; raise TrainingError when there are none, or when told to fail."""
        if self._fail_with is not None:
            raise TrainingError(f"Job {job.job_id!r} ended without an adapter: {self._fail_with}.")
        began = time.perf_counter()
        if not (examples := _learned(job)):
            raise TrainingError(f"Job {job.job_id!r} has no training examples in {job.dataset!r}: collect corrections.")
        memory = [(question(e.messages), e.chosen.model_dump(mode="json")) for e in examples]
        folder = Path(job.output)
        folder.mkdir(parents=True, exist_ok=True)
        body = json.dumps(memory, ensure_ascii=False).encode()
        (folder / _MEMORY).write_bytes(body)
        on_progress(Progress(stage="train", done=1, total=1, loss=0.0))
        return TrainingResult(
            adapter=str(folder),
            adapter_sha256=hashlib.sha256(body).hexdigest(),
            engine="memory",
            examples=len(examples),
            steps=1,
            loss=0.0,
            tokens=sum(len(asked.split()) for asked, _ in memory),
            seconds=time.perf_counter() - began,
        )

    def plan(self, job: Job) -> Plan:
        """Say what would be memorised."""
        examples = _learned(job)
        return Plan(
            job_id=job.job_id,
            engine="memory",
            examples=dict(Counter(e.origin for e in examples)),
            categories=dict(Counter(e.category for e in examples if e.origin != "replay")),
            left_out=0,
            steps=1,
            passes=1.0,
            tokens=sum(len(question(e.messages).split()) for e in examples),
        )


class MemoryEngine:
    """Serve releases that `TinyTrainer` made: the answer to the most similar request, if it is similar enough.

    Where that request says "order 7" and the new one "order 9", so does the argument of the tool call. Tools' results
    are repeated, in their order. Its log-probabilities are made up, in the right shape: of the words, each as likely as
    its place is early.
    """

    def __init__(self, base: dict[str, Message | str] | None = None, alike: float = 0.5) -> None:
        """Know `base` (request -> answer) from birth; `alike` is the least Jaccard likeness of words (0 to 1)."""
        self.base_model = "memory"
        self._base = [
            (asked, Message(role="assistant", content=answer) if isinstance(answer, str) else answer)
            for asked, answer in (base or {}).items()
        ]
        self._loaded: dict[str, list[tuple[str, Message]]] = {}
        self._alike = alike

    def load(self, release: Release) -> None:
        """Read what a release remembers; a release without adapter knows the base only."""
        memory: list[tuple[str, Message]] = []
        if release.adapter is not None:
            body = (Path(release.adapter) / _MEMORY).read_bytes()
            if hashlib.sha256(body).hexdigest() != release.adapter_sha256:
                raise EngineError(
                    f"The adapter of release {release.release_id!r} is not the one that was trained: train it again."
                )
            memory = [(asked, Message.model_validate(answer)) for asked, answer in json.loads(body)]
        self._loaded[release.release_id] = memory

    def unload(self, release_id: str) -> None:
        """Forget a release."""
        self._loaded.pop(release_id, None)

    def generate(self, request: Generation) -> Generated:
        """Answer from memory; tools' results are repeated."""
        if request.release_id not in self._loaded:
            raise EngineError(f"Release {request.release_id!r} is not loaded; call load() first.")
        if results := list(takewhile(lambda m: m.role == "tool", reversed(request.messages))):
            told = "\n".join(m.content for m in reversed(results))
            return _said(Message(role="assistant", content=told), request)
        known = [*self._loaded[request.release_id], *self._base]
        asked = question(request.messages)
        score, like, answer = max(((_likeness(asked, q), q, a) for q, a in known), key=lambda p: p[0], default=_NONE)
        if answer is None or score < self._alike:
            answer = Message(role="assistant", content="I do not know.")
        return _said(_filled(answer, like, asked), request)

    def health(self) -> EngineHealth:
        """Return what is loaded."""
        return EngineHealth(loaded=tuple(self._loaded), waiting=0)

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield the answer word by word, and at last whole."""
        answer = self.generate(request)
        yield from _SPOKEN.findall(answer.message.content)
        yield answer


class FixedJudge:
    """Judge every answer the same way."""

    target = "fully_right"
    guard = "right_tool"
    whole = False

    def __init__(self, right_tool: Score = True, fully_right: Score = True) -> None:
        """Fix what to say; None cannot judge."""
        self.name = f"fixed-{right_tool}-{fully_right}/1"
        self._said = Judged({"right_tool": right_tool, "fully_right": fully_right})

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Return what was fixed."""
        return self._said


class ScriptedReviewer:
    """Give one action to every proposal, or the one that is named for its id."""

    def __init__(self, action: str = "approve", by_id: dict[str, str] | None = None) -> None:
        """Approve or reject; `by_id` makes exceptions."""
        self._action = action
        self._by_id = by_id or {}

    def review(self, proposals: Sequence[Proposal]) -> Sequence[Verdict]:
        """Return one verdict for each proposal."""
        return [
            Verdict.model_validate(
                {"proposal_id": p.proposal_id, "action": self._by_id.get(p.proposal_id, self._action), "by": "script"}
            )
            for p in proposals
        ]


def _learned(job: Job) -> list[Example]:
    """Return what a job's recipe takes of the training examples."""
    taken = {"replay": job.recipe.replay > 0, "variation": job.recipe.variations}
    return [example for example in read_all(job.dataset)["train"] if taken.get(example.origin, True)]


def _likeness(a: str, b: str) -> float:
    left, right = set(_WORD.findall(a.lower())), set(_WORD.findall(b.lower()))
    return len(left & right) / len(left | right) if left | right else 0.0


def _filled(answer: Message, known: str, asked: str) -> Message:
    """Return the answer to a known request as one to another: words that differ between them differ in its calls."""
    left, right = _TERM.findall(known), _TERM.findall(asked)
    spans = difflib.SequenceMatcher(None, [w.lower() for w in left], [w.lower() for w in right], False).get_opcodes()
    other = {" ".join(left[a:b]): " ".join(right[c:d]) for tag, a, b, c, d in spans if tag == "replace"}
    calls = (ToolCall(name=call.name, args=_swapped(call.args, other), id=call.id) for call in answer.tool_calls)
    return answer.model_copy(update={"tool_calls": tuple(calls)})


def _swapped(value: Any, other: dict[str, str]) -> Any:
    """Return a JSON value with the words that `other` has a word for put in their place, all at once."""
    if isinstance(value, dict):
        return {key: _swapped(item, other) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_swapped(item, other) for item in value]
    if isinstance(value, str) and other:
        known = {old.lower(): new for old, new in other.items()}
        found = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, other)) + r")(?!\w)", re.IGNORECASE)
        return found.sub(lambda match: known[match[0].lower()], value)
    if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in other:
        with suppress(ValueError):
            return type(value)(other[str(value)])
    return value


def _said(message: Message, request: Generation) -> Generated:
    read = sum(len(m.content.split()) for m in request.messages)
    return Generated(
        message=message,
        input_tokens=read,
        output_tokens=max(1, len(message.content.split())),
        logprobs=() if request.logprobs is None else _made_up(message, request.logprobs),
    )


def _made_up(message: Message, top: int) -> tuple[TokenLogprob, ...]:
    written = message.content or json.dumps([call.args for call in message.tool_calls])
    return tuple(
        TokenLogprob(
            token=word,
            logprob=-0.1 * (place + 1),
            top=tuple((word if other == 0 else f"other-{other}", -0.1 * (place + 1) - other) for other in range(top)),
        )
        for place, word in enumerate(_SPOKEN.findall(written))
    )


class MemoryMirror:
    """Keep what it is told, and refuse as it is asked to; the fake of a mirror.

    What is told twice stands there twice, unless it is said to be doubtful and stands there already.
    """

    def __init__(self, name: str = "memory", kinds: Sequence[Kind] = KINDS, settles: float = 0.0) -> None:
        """Name it, and say what it wants to be told."""
        self.name = name
        self.kinds = kinds
        self.settles = settles
        self.told: list[Told] = []
        self.tries = 0
        self.failures: list[Exception] = []
        """Raised by the next tries, one each."""
        self.arrives_all_the_same = False
        """What is told in a try that fails is kept."""
        self.arrives_in_part = False
        """What is told beside something that it will not take is kept."""
        self.never: set[str] = set()
        """Ids of what it will not take."""

    def send(self, told: Sequence[Told]) -> None:
        """Keep what is told, or raise what it was asked to."""
        self.tries += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is None or self.arrives_all_the_same:
            there = {(one.kind, one.subject) for one in self.told}
            new = [one for one in told if not (one.doubtful and (one.kind, one.subject) in there)]
            if bad := [one.subject for one in new if one.subject in self.never]:
                good = [one for one in new if one.subject not in self.never] if self.arrives_in_part else []
                self.told += good
                sentence = f"The mirror {self.name!r} does not take {bad[0]!r}: take it out of `never`."
                raise DeliveryError(sentence, arrived=None if good else False, forever=True)
            self.told += new
        if failure is not None:
            raise failure

    def where(self, run: Run) -> str:
        """Return an address that leads nowhere."""
        return f"memory:{run.run_id}"

    def subjects(self, kind: Kind) -> list[str]:
        """Return the ids of what it was told of a kind, in order."""
        return [one.subject for one in self.told if one.kind == kind]


class MemoryIndex:
    """Keep points in memory and compare them all; the fake of an index of runs."""

    def __init__(self) -> None:
        """Begin empty."""
        self.place = "memory"
        self.spaces: dict[str, dict[tuple[str, str], list[float]]] = {}
        """Vectors of length 1 by agent and run, for each space."""
        self.closed = 0
        """How often it was closed; what it holds stays."""

    def add(self, space: str, points: Sequence[RunPoint]) -> None:
        """Keep points of a space; raise DataError, and keep none, when one of them is no vector of it."""
        rows = units(space, points)
        there = self.spaces.get(space, {})
        for point, row in zip(points, rows, strict=True):
            length = len(next(iter(there.values()), row))
            same_length(space, length, len(row), f"the run {point.run_id!r}")
        for point, row in zip(points, rows, strict=True):
            self.spaces.setdefault(space, {})[point.agent, point.run_id] = row

    def near(self, space: str, vector: Sequence[float], limit: int, agent: str) -> tuple[Near, ...]:
        """Return an agent's nearest points, the nearest first; raise DataError."""
        at_least_one(limit)
        row = unit(vector, "what is looked for")
        found = []
        for (whose, run_id), other in self.spaces.get(space, {}).items():
            same_length(space, len(other), len(row), "what is looked for")
            if whose == agent:
                cosine = sum(a * b for a, b in zip(row, other, strict=True))
                found.append(Near(run_id, within(cosine)))
        return tuple(sorted(found, key=lambda one: (-one.cosine, one.run_id))[:limit])

    def size(self, space: str, agent: str) -> int:
        """Return how many points of an agent a space holds."""
        return sum(whose == agent for whose, _ in self.spaces.get(space, ()))

    def close(self) -> None:
        """Count that it was closed."""
        self.closed += 1
