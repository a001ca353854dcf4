"""The nouns of the loop: frozen records that the rooms hand to each other.

Read this file first. A record holds no behaviour beyond its own identity; ids of data are content hashes, ids of
events are given by whoever saw the event. Unknown is None, never 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from langgraph_learnloop.errors import IllegalMoveError


class Record(BaseModel):
    """Hold facts that never change after they were written."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def content_hash(value: Any) -> str:
    """Return the first 32 hex digits of the SHA-256 of a JSON-able value, keys sorted."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class ToolCall(Record):
    """A model's request to run one tool."""

    name: str
    """The tool's name, as the model wrote it."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments by name, JSON-able."""
    id: str | None = None
    """The id that joins the call with its result; None in data that needs none."""


class Message(Record):
    """One chat message, in the form that every room reads (OpenAI's roles)."""

    role: Literal["system", "user", "assistant", "tool"]
    """Who speaks."""
    content: str = ""
    """The text; blocks that are not text are left out here and stay whole in the store."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Tools the assistant asks for; only in assistant messages."""
    tool_call_id: str | None = None
    """The call that a tool message answers."""
    name: str | None = None
    """The tool's or the speaker's name."""

    def alike(self, other: Message) -> bool:
        """Return whether another message says the same and asks for the same calls; ids of calls are made anew."""
        calls, others = ([(call.name, call.args) for call in one.tool_calls] for one in (self, other))
        return self.content.strip() == other.content.strip() and calls == others

    def openai(self) -> dict[str, Any]:
        """Return the message as an OpenAI chat dict, with arguments as a mapping (chat templates want that)."""
        out: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            out["tool_calls"] = [
                {"id": c.id or f"call_{i}", "type": "function", "function": {"name": c.name, "arguments": c.args}}
                for i, c in enumerate(self.tool_calls)
            ]
        if self.role == "tool":
            out["tool_call_id"] = self.tool_call_id or "call_0"
        if self.name is not None:
            out["name"] = self.name
        return out


class Step(Record):
    """One model call, tool call or node of a run."""

    step_id: str
    """The callback's run id of this step."""
    parent_id: str | None
    """The step (or run) it happened in; None when it is not known."""
    kind: Literal["model", "tool", "node"]
    """What kind of work it was."""
    name: str
    """Name of the model, tool or node."""
    node: str | None = None
    """The graph node it happened in."""
    superstep: int | None = None
    """LangGraph's number of the step; what ran in parallel shares it."""
    namespace: str | None = None
    """LangGraph's checkpoint namespace: which subgraph, and which task of it."""
    checkpoint_id: str | None = None
    """The checkpoint that its node started from, where one was kept: a replay begins there."""
    attempt: int = 1
    """How often this node had been tried in this superstep, this time included."""
    asked_by: str | None = None
    """The model step that asked for this tool call."""
    input: str | None = None
    """Hash of the list of messages that a model read."""
    output: tuple[str, ...] = ()
    """Hashes of the messages it produced."""
    tools: str | None = None
    """Hash of the tool schemas that were offered to the model."""
    reasoning: str | None = None
    """The chain of thought, where the model gave one."""
    tool_calls: tuple[ToolCall, ...] = ()
    """What a model asked for, or the one call that a tool step ran."""
    steered: bool = False
    """The tool did more than answer: it changed the graph's state, or where the graph goes, by a `Command`."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """How the model was asked to write: temperature and the like, as the caller named them."""
    cached: bool = False
    """The answer came from LangChain's cache of model calls."""
    started_at: datetime
    """When it began, UTC."""
    seconds: float | None = None
    """Wall time; None when it never ended."""
    first_token_seconds: float | None = None
    """Time to the first token; None where the model did not stream."""
    input_tokens: int | None = None
    """Tokens read by the model."""
    output_tokens: int | None = None
    """Tokens written by the model."""
    usd: float | None = None
    """What the call cost, where the model's price is known."""
    error: str | None = None
    """Type and message of the exception, if one left the step."""


Outcome = Literal["finished", "failed", "interrupted"]


class Run(Record):
    """One root invocation of the agent."""

    run_id: str
    """The callback's id of the root."""
    thread_id: str | None = None
    """The conversation it belongs to."""
    agent: str
    """The name given to LearnLoop."""
    release: str | None = None
    """The release that served it; None for a model that LearnLoop does not serve."""
    user: str | None = None
    """Whoever asked, as passed in the config's metadata under "user" or "user_id"."""
    messages: str | None = None
    """Hash of the list of the conversation's messages as the run left them."""
    question: str | None = None
    """Text of the last user message."""
    answer: str | None = None
    """Text of the last assistant message."""
    steps: tuple[Step, ...] = ()
    """What happened, in order of start."""
    outcome: Outcome
    """How it ended; a pause for a human is "interrupted", not "failed"."""
    error: str | None = None
    """Type and message of the exception that left the root."""
    started_at: datetime
    """When it began, UTC."""
    seconds: float | None = None
    """Wall time of the root."""
    usd: float | None = None
    """What the model calls cost, where prices are known."""
    tags: tuple[str, ...] = ()
    """Tags of the root's config."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """The caller's metadata in the root's config, without what LangGraph puts there itself."""
    flagged: tuple[str, ...] = ()
    """Why the agent's own graph flagged it."""
    resumes: str | None = None
    """The interrupted run that this one goes on with."""
    trace: str | None = None
    """The trace that another tracer keeps of it, where one watched beside; it is shown there, and not a second time."""


COMPRESSION = 1
"""Zstandard's level for what is stored: for messages of a few kilobytes 3 takes twice as long and saves nothing."""


class Interned(NamedTuple):
    """What a store must have, besides a run, to read the run's messages. All keys are hashes of content."""

    bodies: Mapping[str, bytes] = {}
    """Compressed JSON of messages and tool schemas."""
    lists: Mapping[str, tuple[str | None, tuple[str, ...]]] = {}
    """Lists of messages: the list that one continues, and the hashes of the messages that come after."""
    blobs: Mapping[str, bytes] = {}
    """Images, audio and files."""


class Recorded(NamedTuple):
    """A finished run on its way to the store."""

    run: Run
    """The run."""
    interned: Interned
    """What it refers to, as far as the store is not known to have it."""


class Feedback(Record):
    """What somebody, or something, thought of a run."""

    feedback_id: str
    """Given by the caller, or made; sending the same id twice changes nothing."""
    run_id: str
    """The run it is about."""
    step_id: str | None = None
    """The model call it is about; None lets curation choose."""
    name: str = "user"
    """What was judged, e.g. "user", "helpfulness"."""
    origin: Literal["explicit", "implicit", "judge", "reviewer"] = "explicit"
    """Where it comes from."""
    score: float | None = Field(default=None, ge=-1, le=1)
    """-1 (bad) to 1 (good); None means not judged, which is not 0."""
    categories: tuple[str, ...] = ()
    """Labels such as "wrong_tool"."""
    text: str | None = None
    """A comment in words."""
    correction: Message | None = None
    """The assistant message that would have been right: text or tool calls."""
    by: str | None = None
    """Who said it."""
    at: datetime
    """When it was said, UTC."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.score is None and self.text is None and self.correction is None and not self.categories:
            raise ValueError("feedback must hold a score, a text, a category or a correction")
        return self


FlagState = Literal["open", "queued", "curated", "dismissed"]
FLAG_MOVES: Mapping[FlagState, frozenset[FlagState]] = {
    "open": frozenset({"queued", "dismissed"}),
    "queued": frozenset({"curated", "dismissed", "open"}),
    "curated": frozenset(),
    "dismissed": frozenset({"open"}),
}
"""Where a flag may go: queued flags go back to open when their curation was abandoned."""


class Flag(Record):
    """A run that went wrong, on its way to curation."""

    run_id: str
    """The run; one flag a run."""
    agent: str
    """The agent that made it."""
    thread_id: str | None = None
    """The conversation."""
    reasons: tuple[str, ...]
    """Why, in words."""
    severity: float = Field(ge=0, le=1)
    """0 (look at it some day) to 1 (worst)."""
    state: FlagState = "open"
    """Where it stands; FLAG_MOVES says where it may go."""
    at: datetime
    """When it was raised, UTC."""

    def move(self, state: FlagState) -> Flag:
        """Return the flag in its new state, or raise IllegalMoveError."""
        if state not in FLAG_MOVES[self.state]:
            legal = ", ".join(sorted(FLAG_MOVES[self.state])) or "nowhere"
            raise IllegalMoveError(
                f"The flag on run {self.run_id!r} cannot go from {self.state!r} to {state!r}; "
                f"from there it may go: {legal}."
            )
        return self.model_copy(update={"state": state})


Origin = Literal["correction", "approved", "teacher", "variation", "replay"]
Split = Literal["train", "validation", "heldout"]


_LEARNED = {"messages", "tools", "chosen", "rejected"}


class Example(Record):
    """One thing to learn, or to be examined on: a conversation and the right next message."""

    messages: tuple[Message, ...]
    """The conversation before the answer."""
    tools: tuple[dict[str, Any], ...] = ()
    """Schemas of the tools on offer (OpenAI function form)."""
    chosen: Message
    """The right next assistant message."""
    rejected: Message | None = None
    """What the agent said instead."""
    origin: Origin
    """Where it comes from."""
    confidence: float = Field(default=1.0, ge=0, le=1)
    """How sure curation is that `chosen` is right."""
    review: Literal["pending", "approved", "edited", "rejected"] = "pending"
    """What review said."""
    split: Split | None = None
    """Which part of the dataset; None before the dataset is made."""
    group: str | None = None
    """Examples of one group are near-duplicates or share a thread; a group is never split."""
    run_id: str | None = None
    """The run it was made from."""
    by: str | None = None
    """Whoever corrected it."""

    @cached_property
    def example_id(self) -> str:
        """Return the content hash of what is learned (conversation, tools, chosen, rejected)."""
        return content_hash(self.model_dump(mode="json", include=_LEARNED))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields replaced; it keeps the id only while what is learned is the same."""
        copy = super().model_copy(update=update, deep=deep)
        if update and not _LEARNED.isdisjoint(update):
            copy.__dict__.pop("example_id", None)
        return copy

    @property
    def category(self) -> str:
        """Return the first tool asked for, or "answer": the slice that gates look at one by one."""
        return self.chosen.tool_calls[0].name if self.chosen.tool_calls else "answer"


class Dataset(Record):
    """A version of what is to be learned; the examples lie in the file at `path`."""

    version: str
    """Content hash of the examples with their splits."""
    parent: str | None = None
    """The version it grew from."""
    kind: Literal["sft", "preference", "unpaired"] = "sft"
    """What a trainer can do with it."""
    counts: dict[str, dict[str, int]]
    """Number of examples by origin, then by split."""
    path: str
    """A JSON-lines file, one Example a line."""
    made_at: datetime
    """When it was made, UTC."""


class Recipe(Record):
    """How a LoRA adapter is trained."""

    method: Literal["sft", "dpo", "kto"] = "sft"
    """What is learned: the right answer alone ("sft"), that it is preferred to the one that was given ("dpo"), or which
    answers are good and which are not, in no pairs ("kto"). The assistant's last tokens only, in each."""
    rank: int = Field(default=16, ge=1)
    """LoRA rank."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale numerator: the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the layers that get an adapter, such as "q_proj"; none named is every linear layer."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)."""
    dora: bool = False
    """Learn the weights' magnitude apart from their direction (Liu et al. 2024)."""
    four_bit: bool = False
    """Hold the base in four bits (QLoRA, Dettmers et al. 2023); needs bitsandbytes."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate; small from-scratch models want 3e-3."""
    find_rate: bool = False
    """Try rates around `learning_rate` first and take the one at which the loss falls fastest (Smith 2017)."""
    continued_rate: float = Field(default=0.1, gt=0, le=1)
    """Share of the learning rate for a job that goes on from an adapter: what it learned is to stay."""
    beta: float = Field(default=0.1, gt=0)
    """How closely "dpo" and "kto" hold on to the model they began with."""
    ewc: float = Field(default=0.0, ge=0)
    """Weight of elastic weight consolidation: moving what replayed examples depend on costs (Kirkpatrick et al.
    2017)."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the parent on replayed examples: KL(parent || model), a token's mean."""
    packing: bool = False
    """Lay a step's examples end to end, apart in attention, instead of padding them; what is learned is the same."""
    steps: int = Field(default=200, ge=1)
    """Optimizer steps."""
    batch: int = Field(default=16, ge=1)
    """Examples a step."""
    replay: float = Field(default=2.0, ge=0)
    """Replayed examples drawn for each new one (before variations); 0 trains without replay. A cycle draws more after
    one that forgot."""
    variations: bool = True
    """Use the variations that curation made."""
    strength: float = Field(default=1.0, gt=0, le=1)
    """Share of what was learned that a fresh adapter keeps: a little below 1 holds on to more of what the model knew,
    as weights between the model's and the fine-tuned ones do (Wortsman et al. 2022, WiSE-FT)."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens after which an example is left out, and counted."""
    seed: int = 0
    """Seed of everything random in the job."""

    @model_validator(mode="after")
    def _fits_its_method(self) -> Self:
        """Refuse what a method has no use for."""
        if self.method != "sft" and (self.kl or self.packing or self.find_rate):
            raise ValueError(
                f'"kl", "packing" and "find_rate" must be left out: they are for "sft", not for {self.method!r}'
            )
        return self


class Sampling(Record):
    """How tokens are drawn."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    max_tokens: int = Field(default=256, ge=1)
    """Most tokens of one answer."""


MOST_SHOTS = 64
"""Messages that a release shows before every conversation."""
LONGEST_SHOTS = 100_000
"""Characters of these in all."""
LONGEST_KNOWLEDGE = 50_000
"""Characters of what a release knows in all."""


class Release(Record):
    """What the agent runs: immutable, named by its content."""

    base_model: str
    """Name or folder of the base model."""
    adapter: str | None = None
    """Folder of the LoRA adapter; None is the bare base."""
    adapter_sha256: str | None = None
    """Hash of the adapter's safetensors file."""
    instructions: str | None = None
    """A system prompt put before the agent's own; None leaves it alone."""
    shots: tuple[Message, ...] = ()
    """Exchanges that are shown before every conversation: what users say, each with the answer that is right."""
    knowledge: tuple[str, ...] = ()
    """Facts that the model is given with every conversation, as data and not as instructions."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How tokens are drawn."""
    dataset: str | None = None
    """Version of the dataset it learned from."""
    parent: str | None = None
    """The release it was made from."""
    recipe: Recipe | None = None
    """How it was trained."""
    made_at: datetime
    """When it was made, UTC; not part of its identity."""

    @model_validator(mode="after")
    def _can_be_said(self) -> Self:
        """Refuse words that no conversation can begin with."""
        if (problem := _trouble_with_shots(self.shots) or _trouble_with_knowledge(self.knowledge)) is not None:
            raise ValueError(problem)
        return self

    @cached_property
    def release_id(self) -> str:
        """Return the content hash; where an adapter lies does not change what it is."""
        empty = {name for name in ("shots", "knowledge") if not getattr(self, name)}  # older than these fields
        return content_hash(self.model_dump(mode="json", exclude={"made_at", "adapter", *empty}))[:12]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with some fields replaced, and an id of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("release_id", None)
        return copy


def _trouble_with_shots(shots: tuple[Message, ...]) -> str | None:
    """Return why exchanges cannot be shown before a conversation, with the way out."""
    if not shots:
        return None
    if len(shots) > MOST_SHOTS:
        return f"there are {len(shots)} messages in the shots, and at most {MOST_SHOTS} are allowed: keep the best ones"
    if (long := sum(len(m.content) + len(str([c.args for c in m.tool_calls])) for m in shots)) > LONGEST_SHOTS:
        return f"the shots have {long:,} characters, and {LONGEST_SHOTS:,} are allowed: shorten them, or train on them"
    if (shots[0].role, shots[-1].role) != ("user", "assistant"):
        return "shots must begin with a user's message and end with the assistant's answer to it"
    waiting = set[str]()
    for number, message in enumerate(shots):
        if message.role == "system":
            return f"the shot {number} is a system message: put what it says into the instructions"
        if message.role == "tool":
            if (answered := message.tool_call_id or "call_0") not in waiting:
                return (
                    f"the shot {number} answers the tool call {answered!r}, which nobody asked for before: leave it out"
                )
            waiting.remove(answered)
        elif waiting:
            break
        waiting |= {call.id or f"call_{place}" for place, call in enumerate(message.tool_calls)}
    return (
        f"the tool calls {sorted(waiting)} in the shots have no answer: let a tool message follow" if waiting else None
    )


def _trouble_with_knowledge(facts: tuple[str, ...]) -> str | None:
    """Return why facts cannot be given with every conversation, with the way out."""
    if any(not fact.strip() for fact in facts):
        return "a fact of the knowledge is empty: leave it out"
    if (long := sum(map(len, facts))) > LONGEST_KNOWLEDGE:
        return (
            f"the knowledge has {long:,} characters, and {LONGEST_KNOWLEDGE:,} are allowed: keep what most "
            "conversations need, and let a tool look up the rest"
        )
    return None


class Job(Record):
    """A training job, whole: what job.json holds."""

    job_id: str
    """Content hash of base, dataset, recipe and parent: the same job is done once."""
    base_model: str
    """Name or folder of the base model."""
    parent_adapter: str | None = None
    """Adapter to go on from; None starts afresh."""
    dataset: str
    """JSON-lines file of examples."""
    recipe: Recipe
    """How to train."""
    output: str
    """Folder for the adapter; written whole or not at all."""
    engine: Literal["auto", "unsloth", "peft"] = "auto"
    """"auto" takes Unsloth where there is a GPU and it is installed, else TRL + PEFT."""
    gpu: bool = False
    """Refuse to train where there is no GPU."""
    minutes: float | None = Field(default=None, gt=0)
    """Wall time after which the job stops, with a checkpoint to go on from; None is no cap."""


class TrainingResult(Record):
    """What a finished job left behind."""

    adapter: str | None
    """Folder with adapter_model.safetensors and adapter_config.json; None where a provider keeps what was learned."""
    adapter_sha256: str | None
    """Hash of the safetensors file."""
    model: str | None = None
    """Name of the model that a provider trained; it is served in place of the base."""
    engine: str
    """Which engine trained it, and why that one."""
    examples: int
    """Examples trained on."""
    steps: int
    """Optimizer steps done."""
    loss: float | None
    """Mean training loss of the last steps."""
    validation: dict[str, float] = Field(default_factory=dict)
    """Mean loss of a token, in nats, on the dataset's validation examples: of the "new" ones and of the "old"."""
    tokens: int
    """Tokens read."""
    seconds: float
    """Wall time of training, imports left out; of the last attempt, if the job was resumed."""
    memory_mb: float | None = None
    """The most memory that the job took, in megabytes: the GPU's where there is one."""
    left_out: int = 0
    """Examples that were too long."""
    resumed_at: int | None = None
    """The step of the checkpoint that the job went on from; None when it went through in one go."""
    hashes: dict[str, str] = Field(default_factory=dict)
    """Content hashes of what the adapter was made of: base, dataset, parent."""
    recipe: Recipe | None = None
    """How it was trained."""
    libraries: dict[str, str] = Field(default_factory=dict)
    """Versions of this package and of the libraries that trained."""


class Trial(Record):
    """One recipe of a search, and how it did on examples that were kept from training."""

    recipe: Recipe
    """What was tried."""
    new: float | None = None
    """Mean loss of a token, in nats, on new examples."""
    old: float | None = None
    """The same on old ones."""
    seconds: float | None = None
    """How long it trained."""
    failed: str | None = None
    """Why it did not come to an end."""

    @property
    def score(self) -> float:
        """Return the sum of both losses, the less the better; infinite for a trial that failed."""
        known = [loss for loss in (self.new, self.old) if loss is not None]
        return sum(known) if known and not self.failed else float("inf")


class Plan(Record):
    """What a training job would learn from, do and take, before it is begun."""

    job_id: str
    """The job."""
    engine: str
    """Which engine would train, and why that one."""
    examples: dict[str, int]
    """Examples by origin."""
    categories: dict[str, int]
    """New examples (no replayed ones) by the tool they call, or "answer"."""
    left_out: int
    """Examples that are too long."""
    steps: int
    """Optimizer steps."""
    passes: float
    """How often each example is read."""
    tokens: int
    """Tokens that are read in all."""
    minutes: float | None = None
    """How long it would take here, by a few steps that were tried; None where none were."""
    memory_mb: float | None = None
    """The most memory that those steps took, in megabytes."""
    usd: float | None = None
    """What it would cost at a provider; None on one's own machine, and where the price is not known."""
    problems: tuple[str, ...] = ()
    """Why nothing good would come of it; a sentence each."""


class Progress(Record):
    """One line of progress from a long piece of work."""

    stage: str
    """What is going on, e.g. "train"."""
    done: int
    """Units done."""
    total: int
    """Units in all."""
    loss: float | None = None
    """Training loss, where there is one."""
    tokens_per_second: float | None = None
    """Tokens that training reads in a second."""
    seconds_left: float | None = None
    """How long the rest will take if it goes on like this."""
    note: str | None = None
    """A plain sentence."""


class Generation(Record):
    """One request to an engine."""

    release_id: str
    """Which release must answer."""
    messages: tuple[Message, ...]
    """The conversation."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tool schemas (OpenAI function form)."""
    sampling: Sampling = Field(default_factory=Sampling)
    """How tokens are drawn."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many of the likeliest tokens to tell beside each one that is written; None tells no probabilities at all."""


class TokenLogprob(Record):
    """A token of an answer, and how likely it was."""

    token: str
    """Its text."""
    logprob: float
    """Natural logarithm of its probability, temperature left out of account."""
    top: tuple[tuple[str, float], ...] = ()
    """The likeliest tokens in its place with theirs, the likeliest first."""


class Generated(Record):
    """An engine's answer."""

    message: Message
    """The assistant message."""
    reasoning: str | None = None
    """Chain of thought, where the model wrote one."""
    input_tokens: int
    """Tokens read."""
    output_tokens: int
    """Tokens written."""
    finish_reason: Literal["stop", "length"] = "stop"
    """Why it ended."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each token that was written, where they were asked for and the engine knows them."""


class EngineHealth(Record):
    """How an engine is."""

    trouble: str | None = None
    """Why it cannot answer, in a sentence; None while it can."""
    loaded: tuple[str, ...] = ()
    """Ids of the releases that it can answer with at once."""
    waiting: int | None = None
    """Requests that wait for their turn; None where the engine does not know."""


class Probe(Record):
    """A prompt whose answer tells whether an engine serves the release that it says."""

    request: Generation
    """What is asked."""
    answer: Message
    """What the release answered when it was examined."""


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


RolloutState = Literal["shadow", "canary", "paused", "live", "rolled_back"]
ROLLOUT_MOVES: Mapping[RolloutState, frozenset[RolloutState]] = {
    "shadow": frozenset({"canary", "paused", "live", "rolled_back"}),
    "canary": frozenset({"canary", "paused", "live", "rolled_back"}),
    "paused": frozenset({"shadow", "canary", "live", "rolled_back"}),
    "live": frozenset(),
    "rolled_back": frozenset(),
}
"""Where a rollout may go; from "canary" to "canary" is another stage."""


RolloutMode = Literal["stages", "blue_green", "ab"]
"""How new threads are shared out: more and more of them for the candidate; all of them at once, with the champion held
ready; or an even part of them until somebody decides."""


class Rollout(Record):
    """A candidate on its way from no thread to all of them."""

    rollout_id: str
    """Given when it begins; new threads are dealt out by its hash."""
    candidate: str
    """The release that is rolled out."""
    champion: str
    """The release that serves everybody else."""
    mode: RolloutMode = "stages"
    """How new threads are shared out."""
    stages: tuple[int, ...] = (1, 5, 25, 50, 100)
    """Shares of the new threads, in percent, that the candidate gets one after the other."""
    percent: int = Field(default=0, ge=0, le=100)
    """The share that it gets now; 0 is none, as in the shadow."""
    state: RolloutState
    """Where it stands; ROLLOUT_MOVES says where it may go."""
    started_at: datetime
    """When it began, UTC."""
    stage_at: datetime
    """When it came to where it stands, UTC."""
    because: str = ""
    """Why it stands there."""
    by: str = "learnloop"
    """Who moved it there."""
    moves: int = 0
    """How often it was moved: who moves it must have seen the last move."""
    past: tuple[tuple[datetime, int], ...] = ()
    """When it came to each share that it had before, and which that was."""

    @property
    def open(self) -> bool:
        """Return whether it has not ended."""
        return bool(ROLLOUT_MOVES[self.state])

    @property
    def stage(self) -> str:
        """Return where it stands, in a word."""
        return f"{self.percent}%" if self.state == "canary" else self.state

    @property
    def next_percent(self) -> int | None:
        """Return the share of the next stage; None after the last."""
        return next((stage for stage in self.stages if stage > self.percent), None)

    def move(self, state: RolloutState, percent: int, because: str, by: str, now: datetime) -> Rollout:
        """Return the rollout where it goes, or raise IllegalMoveError."""
        if state not in ROLLOUT_MOVES[self.state]:
            legal = ", ".join(sorted(ROLLOUT_MOVES[self.state])) or "nowhere, it has ended"
            raise IllegalMoveError(
                f"The rollout of {self.candidate!r} cannot go from {self.state!r} to {state!r}; "
                f"from there it may go: {legal}."
            )
        changed = {"state": state, "percent": percent, "because": because, "by": by, "stage_at": now}
        past = (*self.past, (self.stage_at, self.percent))
        return self.model_copy(update={**changed, "moves": self.moves + 1, "past": past})

    def share_at(self, when: datetime) -> tuple[datetime, int] | None:
        """Return since when the candidate had which share of the new threads at a time; None before it began."""
        return next((one for one in reversed((*self.past, (self.stage_at, self.percent))) if one[0] <= when), None)


class Routes(NamedTuple):
    """How threads find their release."""

    champion: str
    """The release that new threads get."""
    candidate: str | None = None
    """The release that some of them get instead."""
    percent: int = 0
    """How many of a hundred."""
    salt: str = ""
    """What their ids are hashed with."""
    refused: frozenset[str] = frozenset()
    """Releases that were rolled back: threads that have begun with them get the champion."""
    shadow: str | None = None
    """The rollout whose candidate is asked what the champion was asked, without anybody seeing it."""


class ShadowAnswer(Record):
    """What a candidate did with a request that the champion had answered; nobody saw it."""

    rollout_id: str
    """The rollout that it is in the shadow of."""
    thread: str
    """Content hash of the thread's id: a thread counts once."""
    same: bool
    """It said the same and asked for the same tools."""
    error: str | None = None
    """Why it gave no answer that can be used."""
    seconds: float
    """How long it took."""
    champion_seconds: float
    """How long the champion took."""
    at: datetime
    """When, UTC."""


class Server(Record):
    """A process that serves, as it last reported itself."""

    server_id: str
    """Host, process and a random part."""
    champion: str
    """The release that it gives to new threads."""
    candidate: str | None = None
    """The release that it gives to some of them."""
    loaded: tuple[str, ...] = ()
    """Releases that are in its memory."""
    trouble: str | None = None
    """Why it cannot serve what it should."""
    at: datetime
    """When it last reported, UTC."""


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


class Proposal(Record):
    """An example that waits for review, with what the checks said."""

    proposal_id: str
    """The example's id."""
    example: Example
    """What would be learned."""
    problems: tuple[str, ...] = ()
    """What the checks hold against it; empty when it passed."""


class Verdict(Record):
    """What a reviewer said of a proposal."""

    proposal_id: str
    """Which proposal."""
    action: Literal["approve", "edit", "reject"]
    """What to do with it."""
    chosen: Message | None = None
    """The right message, for "edit"."""
    by: str
    """Who decided."""
    because: str | None = None
    """Why."""

    @model_validator(mode="after")
    def _edit_has_text(self) -> Self:
        if (self.action == "edit") != (self.chosen is not None):
            raise ValueError("an edit must have the chosen message, and only an edit may")
        return self


class Decision(Record):
    """One entry of the audit log; entries are chained by hash."""

    at: datetime
    """When, UTC."""
    actor: str
    """Who decided: a person's name, or the room."""
    action: str
    """What was done, e.g. "train", "gate", "promote", "rollback"."""
    subject: str
    """The id it was done to."""
    because: str
    """Why, in a sentence."""
    cycle_id: str | None = None
    """The cycle it belongs to."""
    previous: str
    """Hash of the entry before; the first has 32 zeros."""
    hash: str
    """Content hash of this entry with `previous`."""


CycleOutcome = Literal["promoted", "rolling", "stopped", "waiting", "nothing"]


class CycleReport(Record):
    """How one turn of the loop ended."""

    cycle_id: str
    """Its id."""
    outcome: CycleOutcome
    """"rolling": a rollout has begun; "waiting": review is open, or another rollout; "nothing": nothing was learned."""
    dataset: str | None = None
    """Dataset version."""
    candidate: str | None = None
    """Release id."""
    scorecard: Scorecard | None = None
    """What the gates said."""
    because: str
    """In a sentence."""
