"""Ask a provider with patience, and say in a sentence what it refuses. A part of `openai_finetuning`."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.records import Job
from langgraph_learnloop.texts import one_line

T = TypeVar("T")

_QUOTA = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "exceeded_quota"}
_NO_MODEL = {"model_not_found", "model_not_available"}


class Stop(Exception):
    """Say why a job is to end before it is done."""


class _Garbled(Exception):
    """Say that an answer is not what was asked for: a page of a proxy, say."""


@dataclass
class Line:
    """A line to the provider: asks again while that is out of reach or busy, until the job is to stop."""

    job: Job
    """Whose id and minutes hold."""
    cancelled: threading.Event
    """Set from another thread when the job is to stop."""
    poll: float
    """Seconds between two questions, at least."""
    outage: float
    """Seconds for which a provider that does not answer is asked again."""
    since: float = field(default_factory=time.time)
    """Unix time from which the job's minutes count."""

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
                        f"{self.outage:g} s ({said_by(error)}). Run it again later; what was begun there is taken up."
                    ) from error
            self.pause(min(max(wait, told), left))
            wait = min(2 * wait, 60.0)

    def pause(self, seconds: float) -> None:
        """Wait; raise Stop as soon as the job is cancelled or its minutes are over."""
        minutes = self.job.minutes
        left = math.inf if minutes is None else self.since + 60 * minutes - time.time()
        self.cancelled.wait(max(0.0, min(seconds, left)))
        self._stop_if_cancelled()
        if left <= seconds:
            raise Stop(f"its {minutes:g} minutes were over")

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set():
            raise Stop("it was asked to stop")

    def for_the_end(self) -> Line:
        """Return a line on which a job that is to stop can still be cancelled."""
        no_cap = self.job.model_copy(update={"minutes": None})
        return replace(self, job=no_cap, cancelled=threading.Event(), outage=min(self.outage, 60.0))


def sound(answer: T) -> T:
    """Return a record, or raise _Garbled: what is no JSON the library hands out as text."""
    if not getattr(answer, "id", None):
        raise _Garbled("the answer is not what was asked for")
    return answer


def entries(call: Callable[[], Iterable[T]], most: int) -> list[T]:
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


def said_by(error: Exception) -> str:
    """Return what the provider says of an error, on one line and without its full stop."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, Mapping) else None
    return one_line(said or str(error) or type(error).__name__)


def refusal(job: Job, error: Exception) -> str:
    """Return why the provider refused a job, and the way out."""
    who, said = f"Job {job.job_id!r}", said_by(error)
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
