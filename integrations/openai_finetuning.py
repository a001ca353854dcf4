"""Train a hosted model through OpenAI's fine-tuning API, or through any server that speaks its protocol.

    loop = LearnLoop("learnloop.db", trainer=OpenAITrainer(usd_per_million_tokens=25, most_usd=20))

Needs `pip install "langgraph-learnloop[openai]"` and, unless a client is given, OPENAI_API_KEY.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from langgraph_learnloop.errors import ConfigError, DataError, MissingExtraError, TrainingError
from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.files import file_sha256, whole_file
from langgraph_learnloop.jobs import RESULT
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Example, Job, Message, Plan, Progress, Recipe, Record, TrainingResult
from langgraph_learnloop.texts import short

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

Row = dict[str, Any]
"""One line of the file that is uploaded."""
T = TypeVar("T")

LEAST = 10
"""Examples that the provider wants at least."""
MOST_EPOCHS = 50
"""How often the provider reads the examples at most."""
_TAG = "learnloop_job"
"""The key of a provider's job under which our job's id stands."""
_RECENT = 300
"""Jobs of the account that are looked through for an earlier attempt."""
_BYTES_A_TOKEN = 4
"""Of UTF-8; a cautious estimate, since the JSON around the texts counts as well."""
_UPLOAD_SECONDS = 600.0
_ANSWER_SECONDS = 60.0
_LONGEST_REASON = 300
"""Characters of what the provider says."""
_METHODS = {"sft": "supervised", "dpo": "dpo"}
_GIVEN_UP = {"failed", "cancelled"}
_ENDED = {"succeeded", *_GIVEN_UP}
_STAGES = {"validating_files": "validate", "queued": "queue", "running": "train", "succeeded": "train"}
_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "exceeded_quota"}
_NO_MODEL = {"model_not_found", "model_not_available"}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_STEP = re.compile(r"Step (\d+)/(\d+)(?:.*?training loss=(\d+(?:\.\d+)?))?")


class OpenAITrainer:
    """Fine-tune a hosted model: `train` returns its name, and there is no adapter.

    CAPTURED TEXT LEAVES THIS MACHINE: the conversations of the training examples and the schemas of their tools are
    uploaded to the provider, whose terms hold from then on. `rows` shows what would be sent; what must not go is to be
    masked before it is stored (`Policy`). The uploaded file is deleted there when its job has ended.

    A job is made, and paid for, once: `<job.output>.openai.json` keeps the provider's ids, the provider's job carries
    ours, and `train` takes it up where a killed process left it. What a local trainer does with weights (rank, alpha,
    the learning rate and the like) is the provider's business here.
    """

    def __init__(
        self,
        client: OpenAI | None = None,
        *,
        learning_rate_multiplier: float | None = None,
        parallel_tool_calls: bool | None = None,
        usd_per_million_tokens: float | None = None,
        most_usd: float | None = None,
        poll_seconds: float = 5.0,
        outage_seconds: float = 1800.0,
    ) -> None:
        """Use a client (default: `openai.OpenAI()`, made at the first job).

        `learning_rate_multiplier` and `parallel_tool_calls` go to the provider; None leaves its defaults. A job whose
        estimate exceeds `most_usd` is refused before anything is uploaded. `poll_seconds` is the shortest time between
        two looks at a job, `outage_seconds` how long a provider that is out of reach or busy is waited for.
        """
        if most_usd is not None and usd_per_million_tokens is None:
            raise ConfigError("most_usd needs usd_per_million_tokens to be compared with: give the provider's price.")
        self._client = client
        self._multiplier = learning_rate_multiplier
        self._parallel = parallel_tool_calls
        self._price = usd_per_million_tokens
        self._most_usd = most_usd
        self._poll = poll_seconds
        self._outage = outage_seconds
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Cancel the job that is under way, from any thread; `train` tells the provider and raises TrainingError."""
        self._cancelled.set()

    def rows(self, job: Job) -> list[Row]:
        """Return what `train` would upload, or raise what it would raise; nothing is sent."""
        return self._material(job)[0]

    def plan(self, job: Job) -> Plan:
        """Return what `train` would upload and cost, or raise what it would raise; nothing is sent.

        Tokens, and so dollars, are estimates; without `usd_per_million_tokens` the cost is not known.
        """
        rows, left_out = self._material(job)
        planned, drawn = _Plan.of(job.recipe, rows, left_out), _drawn(job)
        return Plan(
            job_id=job.job_id,
            engine=f"openai: {job.base_model!r} is a hosted model.",
            examples=dict(Counter(e.origin for e in drawn)),
            categories=dict(Counter(e.category for e in drawn if e.origin != "replay")),
            left_out=left_out,
            steps=planned.steps,
            passes=float(planned.epochs),
            tokens=planned.tokens,
            usd=None if self._price is None else planned.tokens * self._price / 1e6,
        )

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Fine-tune, or return what the same job left earlier; raise TrainingError with the reason."""
        self._cancelled.clear()
        if (done := _finished(job)) is not None:
            return done
        rows, left_out = self._material(job)
        plan = _Plan.of(job.recipe, rows, left_out)
        openai = _import_openai()
        try:
            client = (self._client or openai.OpenAI()).with_options(max_retries=0, timeout=_ANSWER_SECONDS)
            line = _Line(job, self._cancelled, self._poll, self._outage)
            attempt = _Attempt(job, client, line, on_progress, total=plan.steps)
            remote = attempt.run(lambda: self._afford(job, plan, on_progress), _body(rows), self._method(job, plan))
        except openai.OpenAIError as error:
            raise TrainingError(_sentence(job, error)) from error
        result = TrainingResult(
            adapter=None,
            adapter_sha256=None,
            model=remote.fine_tuned_model,
            engine=f"openai: {job.base_model!r} is a hosted model; its provider trained it as {remote.id!r}.",
            examples=len(rows),
            steps=attempt.step or plan.steps,
            loss=attempt.loss,
            tokens=plan.tokens if remote.trained_tokens is None else remote.trained_tokens,
            seconds=max(0.0, (remote.finished_at or time.time()) - (line.since or time.time())),
            left_out=plan.left_out,
            hashes={"dataset": _sha256(job)},
            recipe=job.recipe,
            libraries={"openai": openai.__version__},
        )
        _write(_result_file(job), result.model_dump_json(indent=2))
        return result

    def _material(self, job: Job) -> tuple[list[Row], int]:
        """Return the rows of a job in the order they are read, and how many examples were left out."""
        _check(job)
        recipe = job.recipe
        drawn = _drawn(job)
        made = [self._row(e, recipe) for e in drawn if recipe.method == "sft" or e.rejected is not None]
        rows = [row for row in made if row is not None]
        left_out = len(made) - len(rows)
        if len(rows) < LEAST:
            also = f" ({left_out} more are too long, or have tool calls without a result)" if left_out else ""
            pairs = " with a rejected answer" if recipe.method == "dpo" else ""
            raise TrainingError(
                f"Job {job.job_id!r} has {len(rows)} examples{pairs}{also}, and the provider wants {LEAST} at least: "
                "collect more corrections, or raise the recipe's replay or max_length."
            )
        random.Random(recipe.seed).shuffle(rows)  # who reads them in order must not end with nothing but the old
        return rows, left_out

    def _row(self, example: Example, recipe: Recipe) -> Row | None:
        """Return an example's row, or None where the provider could not read it or it is too long."""
        try:
            row = supervised_row(example) if recipe.method == "sft" else preference_row(example)
        except DataError:
            return None
        offer = row if recipe.method == "sft" else row["input"]
        if self._parallel is not None and "tools" in offer:
            offer["parallel_tool_calls"] = self._parallel
        return row if _tokens(row) <= recipe.max_length else None

    def _afford(self, job: Job, plan: _Plan, tell: OnProgress) -> None:
        """Say what a job will read and cost; raise TrainingError where that is too much."""
        said = f"about {plan.tokens:,} tokens ({plan.examples} examples, {plan.epochs} times)"
        if self._price is not None:
            usd = plan.tokens * self._price / 1e6
            said += f", about {usd:,.2f} dollars"
            if self._most_usd is not None and usd > self._most_usd:
                raise TrainingError(
                    f"Job {job.job_id!r} would read {said}, and most_usd is {self._most_usd:,.2f}: "
                    "raise it, or lower the recipe's steps."
                )
        left_out = f" {plan.left_out} more are left out." if plan.left_out else ""
        note = f"Sending what is to be learned: {said}.{left_out}"
        tell(Progress(stage="upload", done=0, total=plan.steps, note=note))

    def _method(self, job: Job, plan: _Plan) -> dict[str, Any]:
        settings: dict[str, Any] = {"n_epochs": plan.epochs, "batch_size": plan.batch}
        if self._multiplier is not None:
            settings["learning_rate_multiplier"] = self._multiplier
        if job.recipe.method == "dpo":
            settings["beta"] = job.recipe.beta
        kind = _METHODS[job.recipe.method]
        return {"type": kind, kind: {"hyperparameters": settings}}


def supervised_row(example: Example) -> Row:
    """Return an example as a line for supervised fine-tuning: its last message is learned, the others are read.

    Raise DataError where a tool call of the conversation has no result, or a result no call.
    """
    *before, answer = _chat([*example.messages, example.chosen])
    read = [message | {"weight": 0} if message["role"] == "assistant" else message for message in before]
    return {"messages": [*read, answer], **_offer(example)}


def preference_row(example: Example) -> Row:
    """Return an example as a line for preference fine-tuning (DPO).

    Raise DataError where nothing was rejected, or where a tool call of the conversation has no result.
    """
    if example.rejected is None:
        raise DataError(
            f'The example {example.example_id!r} has no rejected answer to prefer the chosen one to: train with "sft".'
        )
    *before, chosen = _chat([*example.messages, example.chosen])
    rejected = _chat([*example.messages, example.rejected])[-1]
    return {
        "input": {"messages": before, **_offer(example)},
        "preferred_output": [chosen],
        "non_preferred_output": [rejected],
    }


def _chat(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Return messages in the provider's form; calls are numbered anew, so that no two of them share an id."""
    chat: list[dict[str, Any]] = []
    waiting: dict[str, str] = {}  # calls without a result so far: their id in the example, and the new one
    calls = 0
    for message in messages:
        if message.role == "tool":
            chat.append({"role": "tool", "content": message.content, "tool_call_id": _called(message, waiting)})
            continue
        if waiting:
            raise DataError(
                f"The tool call {next(iter(waiting))!r} has no result right after it: put its tool message there."
            )
        for at, call in enumerate(message.tool_calls):
            waiting[call.id or f"call_{at}"] = f"call_{calls + at}"
        chat.append(_said_by(message, calls))
        calls += len(message.tool_calls)
    return chat


def _called(result: Message, waiting: dict[str, str]) -> str:
    """Return the new id of the call that a message answers; one that names none answers the first that waits."""
    call = result.tool_call_id if result.tool_call_id is not None else next(iter(waiting), "")
    if call not in waiting:
        raise DataError(f"The tool result {call!r} comes after no call: leave it out.")
    return waiting.pop(call)


def _said_by(message: Message, calls: int) -> dict[str, Any]:
    out: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None and _NAME.fullmatch(message.name):  # others are refused, and the whole file with them
        out["name"] = message.name
    if message.tool_calls:
        out["tool_calls"] = [
            {"id": f"call_{calls + at}", "type": "function", "function": {"name": c.name, "arguments": _json(c.args)}}
            for at, c in enumerate(message.tool_calls)
        ]
        if not message.content:
            del out["content"]
    return out


def _offer(example: Example) -> dict[str, Any]:
    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in example.tools]
    return {"tools": tools} if tools else {}


@dataclass(frozen=True)
class _Plan:
    """What a job will read."""

    examples: int
    epochs: int
    batch: int
    tokens: int
    left_out: int

    @classmethod
    def of(cls, recipe: Recipe, rows: Sequence[Row], left_out: int) -> _Plan:
        """Read the rows about as often as the recipe's steps would."""
        epochs = min(MOST_EPOCHS, max(1, round(recipe.steps * recipe.batch / len(rows))))
        return cls(len(rows), epochs, min(recipe.batch, len(rows)), epochs * sum(map(_tokens, rows)), left_out)

    @property
    def steps(self) -> int:
        """Return how many optimizer steps that makes."""
        return self.epochs * math.ceil(self.examples / self.batch)


class _Kept(Record):
    """What is written down of a job at the provider."""

    job: str | None = None
    """The provider's id of it."""
    files: tuple[str, ...] = ()
    """What was uploaded for it."""


class _Stop(Exception):
    """Say why a job is to end before it is done."""


class _Garbled(Exception):
    """Say that an answer is not what was asked for: a page of a proxy, say."""


@dataclass
class _Line:
    """A line to the provider: asks again while that is out of reach or busy, until the job is to stop."""

    job: Job
    cancelled: threading.Event
    poll: float
    outage: float
    since: float | None = field(default_factory=time.time)
    """Unix time from which the job's minutes count; None is no cap."""

    def ask(self, call: Callable[[], T]) -> T:
        """Return what a call returns; raise what asking again would not mend, and TrainingError after the outage."""
        import openai

        began, wait = time.monotonic(), self.poll
        while True:
            self._stop_if_cancelled()
            try:
                return call()
            except (openai.APIError, json.JSONDecodeError, _Garbled) as error:
                if (told := _worth_waiting(error)) is None:
                    raise
                left = began + self.outage - time.monotonic()
                if left <= 0:
                    raise TrainingError(
                        f"Job {self.job.job_id!r} is not known to have ended: the provider gave no answer for "
                        f"{self.outage:g} s ({_said(error)}). Run it again later; what was begun there is taken up."
                    ) from error
            self.pause(min(max(wait, told), left))
            wait = min(2 * wait, 60.0)

    def pause(self, seconds: float) -> None:
        """Wait; raise _Stop as soon as the job is cancelled or its minutes are over."""
        minutes = self.job.minutes
        left = math.inf if minutes is None or self.since is None else self.since + 60 * minutes - time.time()
        self.cancelled.wait(max(0.0, min(seconds, left)))
        self._stop_if_cancelled()
        if left <= seconds:
            raise _Stop(f"its {minutes:g} minutes were over")

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise _Stop("it was asked to stop")

    def for_the_end(self) -> _Line:
        """Return a line on which a job that is to stop can still be cancelled."""
        return replace(self, cancelled=threading.Event(), since=None, outage=min(self.outage, 60.0))


@dataclass
class _Attempt:
    """One walk with the provider's job, from wherever it stands to its end."""

    job: Job
    client: OpenAI
    line: _Line
    tell: OnProgress
    total: int
    step: int = 0
    loss: float | None = None
    seen: set[str] = field(default_factory=set)
    """Events that were told of."""
    files: set[str] = field(default_factory=set)
    """What was uploaded for the job, by earlier attempts as well."""

    def run(self, afford: Callable[[], None], body: bytes, method: Any) -> FineTuningJob:
        """Return the provider's job when it has succeeded; raise TrainingError when it has not."""
        import openai

        remote: FineTuningJob | None = None
        why = None
        self.files.update(_kept(self.job).files)
        try:
            remote = self.line.ask(self._known) or self._begun(afford, body, method)
            self.line.since = remote.created_at or self.line.since
            self._remember(remote.training_file, remote.id)
            remote = self._followed(remote)
        except _Stop as stop:
            why = str(stop)
            remote = self._stopped(remote)
        except openai.APIStatusError:
            if remote is None:  # refused: no job reads the file
                self._delete_files()
            raise
        if remote is None or remote.status in _ENDED:
            self._delete_files()
        if remote is not None and remote.status == "succeeded" and remote.fine_tuned_model:
            return remote
        raise TrainingError(_ending(self.job, remote, why))

    def _known(self) -> FineTuningJob | None:
        """Return the provider's job of an earlier attempt, unless it was given up."""
        import openai

        if (kept := _kept(self.job).job) is not None:
            with suppress(openai.NotFoundError):  # another account's, or deleted
                remote = self._look(kept)
                if remote.status not in _GIVEN_UP:
                    return remote
        tag = {_TAG: self.job.job_id}
        listed = _entries(lambda: self.client.fine_tuning.jobs.list(limit=100, metadata=tag), _RECENT)
        ours = [remote for remote in listed if (remote.metadata or {}).get(_TAG) == self.job.job_id]
        return next((remote for remote in ours if remote.status not in _GIVEN_UP), None)

    def _look(self, remote_id: str) -> FineTuningJob:
        return _sound(self.client.fine_tuning.jobs.retrieve(remote_id))

    def _begun(self, afford: Callable[[], None], body: bytes, method: Any) -> FineTuningJob:
        """Upload the rows and create the job; an answer that was lost is looked for before anything is created."""
        afford()
        job, client = self.job, self.client
        name = f"learnloop-{job.job_id}.jsonl"
        upload = partial(client.files.create, file=(name, body), purpose="fine-tune", timeout=_UPLOAD_SECONDS)
        file = self.line.ask(lambda: _sound(upload())).id
        self._remember(file)
        create = partial(
            client.fine_tuning.jobs.create,
            model=job.base_model,
            training_file=file,
            method=method,
            seed=job.recipe.seed % 2**31,
            suffix=job.job_id[:18],  # as long as every server allows
            metadata={_TAG: job.job_id},
        )
        return self.line.ask(lambda: self._known() or _sound(create()))

    def _followed(self, remote: FineTuningJob) -> FineTuningJob:
        """Return the job when it has ended, and tell how it goes until then."""
        wait = self.line.poll
        while True:
            wait = self.line.poll if self._news(remote) else min(1.5 * wait, 12 * self.line.poll)
            if remote.status in _ENDED:
                return remote
            self.line.pause(wait)
            remote = self.line.ask(partial(self._look, remote.id))

    def _stopped(self, remote: FineTuningJob | None) -> FineTuningJob | None:
        """Cancel the job at the provider, if there is one, and return how it ended; it may have been done already."""
        import openai

        line, jobs = self.line.for_the_end(), self.client.fine_tuning.jobs
        found = remote or line.ask(self._known)
        if found is None or found.status in _ENDED:
            return found
        try:
            return line.ask(lambda: _sound(jobs.cancel(found.id)))
        except openai.APIStatusError:  # too late
            return line.ask(partial(self._look, found.id))

    def _news(self, remote: FineTuningJob) -> bool:
        """Tell of the events that are new, oldest first, and return whether there were any."""
        import openai

        jobs = self.client.fine_tuning.jobs
        try:
            events = self.line.ask(lambda: _entries(lambda: jobs.list_events(remote.id, limit=100), 100))
        except openai.APIStatusError:  # not every server keeps events
            return False
        fresh = [event for event in reversed(events) if event.id not in self.seen]
        for event in sorted(fresh, key=lambda event: event.created_at or 0):
            self.seen.add(event.id)
            self._tell_of(event, _STAGES.get(remote.status, remote.status))
        return bool(fresh)

    def _tell_of(self, event: FineTuningJobEvent, stage: str) -> None:
        step, total, loss = _figures(event)
        if step is not None:
            self.step = max(self.step, step)
            self.loss = loss if loss is not None else self.loss
        self.total = max(total or self.total, self.step)
        note = event.message if step is None else None
        self.tell(Progress(stage=stage, done=self.step, total=self.total, loss=loss, note=note))

    def _remember(self, file: str, remote_id: str | None = None) -> None:
        self.files.add(file)
        _write(_state_file(self.job), _Kept(job=remote_id, files=tuple(sorted(self.files))).model_dump_json())

    def _delete_files(self) -> None:
        """Delete what was uploaded at the provider, or say what is still there."""
        import openai

        for file in sorted(self.files):
            try:
                self.client.files.delete(file)
            except openai.NotFoundError:
                continue
            except (openai.OpenAIError, json.JSONDecodeError) as error:
                note = f"The uploaded file {file!r} could not be deleted ({_said(error)}): delete it at the provider."
                self.tell(Progress(stage="delete", done=self.step, total=self.total, note=note))


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError(
            f'Fine-tuning at OpenAI needs its library ({error}): pip install "langgraph-learnloop[openai]".'
        ) from error
    return openai


def _check(job: Job) -> None:
    """Raise TrainingError for what a hosted model cannot be trained with."""
    recipe = job.recipe
    if recipe.method not in _METHODS:
        raise TrainingError(
            f"Job {job.job_id!r} asks for {recipe.method!r}, which the provider does not know: "
            f"take one of {', '.join(map(repr, _METHODS))}, or train on this machine."
        )
    if job.parent_adapter is not None:
        raise TrainingError(
            f"Job {job.job_id!r} goes on from the adapter {job.parent_adapter!r}, which a hosted model cannot read: "
            "name the fine-tuned model as its base model instead."
        )
    if asked := [name for name in ("ewc", "kl") if getattr(recipe, name)] + ["strength"] * (recipe.strength < 1):
        raise TrainingError(
            f"Job {job.job_id!r} asks for {' and '.join(map(repr, asked))}, which a hosted model is not trained with: "
            "leave it at its default, or train on this machine."
        )


@contextmanager
def _readable(job: Job) -> Iterator[None]:
    """Say in a sentence that a job's dataset cannot be read."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"Job {job.job_id!r} cannot be trained: its dataset {job.dataset!r} cannot be read "
            f"({error.strerror}). Make it readable, or curate again."
        ) from error


def _drawn(job: Job) -> list[Example]:
    """Return what a local job of this recipe draws: a job's id says what it learns, wherever it is done."""
    with _readable(job):
        return draw(read_examples(job.dataset), job.recipe)


def _sha256(job: Job) -> str:
    with _readable(job):
        return file_sha256(job.dataset)


def _figures(event: FineTuningJobEvent) -> tuple[int | None, int | None, float | None]:
    """Return step, steps in all and training loss of an event; servers that send no figures say them in words."""
    data = event.data if isinstance(event.data, Mapping) else {}
    said = _STEP.search(event.message or "")
    in_words = said.groups() if said else (None, None, None)
    step, total, loss = (
        data.get(name) if data.get(name) is not None else word
        for name, word in zip(("step", "total_steps", "train_loss"), in_words, strict=True)
    )
    return (
        None if step is None else int(step),
        None if total is None else int(total),
        None if loss is None else float(loss),
    )


def _sound(answer: T) -> T:
    """Return a record, or raise _Garbled: what is no JSON the library hands out as text."""
    if not getattr(answer, "id", None):
        raise _Garbled("the answer is not what was asked for")
    return answer


def _entries(call: Callable[[], Iterable[T]], most: int) -> list[T]:
    """Return the first entries of a list, or raise _Garbled: over a list that is no JSON the library stumbles."""
    try:
        return list(islice(call(), most))
    except AttributeError as error:
        raise _Garbled("the answer is not what was asked for") from error


def _worth_waiting(error: Exception) -> float | None:
    """Return how many seconds to wait at least before asking again, or None where that would change nothing."""
    status = getattr(error, "status_code", None)
    if status is None or status < 400:
        return 0.0
    if getattr(error, "code", None) in _QUOTA or (status not in (408, 409, 429) and status < 500):
        return None
    response: Any = getattr(error, "response", None)
    told = response.headers.get("retry-after", "")
    return float(told) if re.fullmatch(r"\d+(\.\d+)?", told) else 0.0


def _said(error: Exception) -> str:
    """Return what the provider says of an error, on one line and without its full stop."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, Mapping) else None
    text = " ".join(str(said or error or type(error).__name__).split()).rstrip(".")
    return short(text, _LONGEST_REASON)


def _sentence(job: Job, error: Exception) -> str:
    """Return why the provider refused a job, and the way out."""
    who, said = f"Job {job.job_id!r}", _said(error)
    status, code = getattr(error, "status_code", None), getattr(error, "code", None)
    if status is None:
        return f"{who} cannot be sent to the provider: {said}. Set OPENAI_API_KEY, or give a client."
    if code in _QUOTA:
        return f"{who} was refused, for the account's quota is used up ({said}): raise it at the provider."
    if status == 401:
        return f"{who} was refused, for the API key is not valid ({said}): set OPENAI_API_KEY, or give a client."
    if status == 403:
        return f"{who} was refused, for the API key may not fine-tune ({said}): take one of a project that may."
    if code in _NO_MODEL or getattr(error, "param", None) == "model":
        return f"{who} was refused, for {job.base_model!r} cannot be fine-tuned ({said}): take a base model that can."
    if status == 404:
        return f"{who} was refused ({said}): check that the client's base_url leads to a server that fine-tunes."
    return f"{who} was refused by the provider ({said}). Mend what it names, and run it again."


def _ending(job: Job, remote: FineTuningJob | None, why: str | None) -> str:
    """Return why a job ended without a model."""
    who = f"Job {job.job_id!r}"
    if remote is None:
        return f"{who} ended before the provider began it, for {why}. Run it again."
    if remote.status == "failed":
        return f"{who} failed at the provider ({remote.id}): {_failure(remote)}. Mend that and run it again."
    if remote.status == "succeeded":
        return f"{who} succeeded at the provider ({remote.id}), which names no model: ask the provider."
    because = f"for {why}" if why else "and not by this process"
    return f"{who} was cancelled at the provider ({remote.id}), {because}. Run again, it begins anew."


def _failure(remote: FineTuningJob) -> str:
    error = remote.error
    return (error.message or error.code or "").rstrip(".") or "it gave no reason" if error else "it gave no reason"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _body(rows: Iterable[Row]) -> bytes:
    return b"".join(_json(row).encode() + b"\n" for row in rows)


def _tokens(row: Row) -> int:
    return math.ceil(len(_json(row).encode()) / _BYTES_A_TOKEN)


def _result_file(job: Job) -> Path:
    return Path(job.output, RESULT)


def _state_file(job: Job) -> Path:
    return Path(f"{job.output}.openai.json")


def _finished(job: Job) -> TrainingResult | None:
    """Return what the job left behind, if it has been done."""
    try:
        result = TrainingResult.model_validate_json(_result_file(job).read_bytes())
    except (OSError, ValidationError):
        return None
    return result if result.model is not None else None


def _kept(job: Job) -> _Kept:
    """Return what an attempt on this machine wrote down."""
    try:
        return _Kept.model_validate_json(_state_file(job).read_bytes())
    except (OSError, ValidationError):
        return _Kept()


def _write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as beside:
            beside.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{str(path)!r} cannot be written ({error}): mend that and run again; what the provider did is taken up."
        ) from error
