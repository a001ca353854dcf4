"""Train a hosted model through OpenAI's fine-tuning API, or through any server that speaks its protocol.

    loop = LearnLoop("learnloop.db", trainer=OpenAITrainer(usd_per_million_tokens=25, most_usd=20))

Needs `pip install "langgraph-learnloop[openai]"` and, unless a client is given, OPENAI_API_KEY.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.errors import ConfigError, TrainingError, needing
from langgraph_learnloop.integrations.openai_jobs import Attempt, finish, finished
from langgraph_learnloop.integrations.openai_line import Line, refusal
from langgraph_learnloop.integrations.openai_rows import METHODS, Row, Upload, upload_of
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Job, Plan, TrainingResult

if TYPE_CHECKING:
    from openai import OpenAI

_ANSWER_SECONDS = 60.0


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

    def rows(self, job: Job) -> Sequence[Row]:
        """Return what `train` would upload, or raise what it would raise; nothing is sent."""
        return upload_of(job, self._parallel).rows

    def plan(self, job: Job) -> Plan:
        """Return what `train` would upload and cost, or raise what it would raise; nothing is sent.

        Tokens, and so dollars, are estimates; without `usd_per_million_tokens` the cost is not known.
        """
        upload = upload_of(job, self._parallel)
        return Plan(
            job_id=job.job_id,
            engine=f"openai: {job.base_model!r} is a hosted model.",
            examples=dict(Counter(e.origin for e in upload.drawn)),
            categories=dict(Counter(e.category for e in upload.drawn if e.origin != "replay")),
            left_out=upload.left_out,
            steps=upload.steps,
            passes=float(upload.epochs),
            tokens=upload.tokens,
            usd=self._usd(upload),
        )

    def train(self, job: Job, on_progress: OnProgress) -> TrainingResult:
        """Fine-tune, or return what the same job left earlier; raise TrainingError with the reason."""
        self._cancelled.clear()
        if (done := finished(job)) is not None:
            return done
        upload = upload_of(job, self._parallel)
        with needing("Fine-tuning at OpenAI", "langgraph-learnloop[openai]"):
            import openai
        try:
            client = (self._client or openai.OpenAI()).with_options(max_retries=0, timeout=_ANSWER_SECONDS)
            line = Line(job, self._cancelled, self._poll, self._outage)
            attempt = Attempt(job, client, line, on_progress, upload, self._method(upload), self._afford)
            remote = attempt.run()
        except openai.OpenAIError as error:
            raise TrainingError(refusal(job, error)) from error
        result = TrainingResult(
            adapter=None,
            adapter_sha256=None,
            model=remote.fine_tuned_model,
            engine=f"openai: {job.base_model!r} is a hosted model; its provider trained it as {remote.id!r}.",
            examples=len(upload.rows),
            steps=attempt.step or upload.steps,
            loss=attempt.loss,
            tokens=upload.tokens if remote.trained_tokens is None else remote.trained_tokens,
            seconds=max(0.0, (remote.finished_at or time.time()) - line.since),
            left_out=upload.left_out,
            hashes={"dataset": upload.dataset_sha256},
            recipe=job.recipe,
            libraries={"openai": openai.__version__},
        )
        finish(job, result)
        return result

    def _usd(self, upload: Upload) -> float | None:
        return None if self._price is None else upload.tokens * self._price / 1e6

    def _afford(self, job: Job, upload: Upload) -> str:
        """Return what a job will read and cost; raise TrainingError where that is too much."""
        said = f"about {upload.tokens:,} tokens ({len(upload.rows)} examples, {upload.epochs} times)"
        if (usd := self._usd(upload)) is not None:
            said += f", about {usd:,.2f} dollars"
            if self._most_usd is not None and usd > self._most_usd:
                raise TrainingError(
                    f"Job {job.job_id!r} would read {said}, and most_usd is {self._most_usd:,.2f}: "
                    "raise it, or lower the recipe's steps."
                )
        return said

    def _method(self, upload: Upload) -> dict[str, Any]:
        """Return how the provider is to train, in its own words."""
        settings: dict[str, Any] = {"n_epochs": upload.epochs, "batch_size": upload.batch}
        if self._multiplier is not None:
            settings["learning_rate_multiplier"] = self._multiplier
        if upload.recipe.method == "dpo":
            settings["beta"] = upload.recipe.beta
        kind = METHODS[upload.recipe.method]
        return {"type": kind, kind: {"hyperparameters": settings}}
