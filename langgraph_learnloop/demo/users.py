"""Simulate the people: they ask, several at once, and some of them say what would have been right.

They are simulated from the known right answers, and the story says so. A few are wrong on purpose.
"""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage

from langgraph_learnloop.demo.worlds import THREADS, Request
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.records import ToolCall, content_hash

TURNS = 3
"""Requests in one conversation."""
PEOPLE = 40
CORRECTED = 0.3
"""Share of the failed requests that somebody corrects."""
LIARS = 4
"""People who are wrong on purpose."""


@dataclass(frozen=True)
class Seen:
    """What came of one request."""

    request: Request
    run_id: str
    thread_id: str
    release: str | None
    """Who answered; None when nobody did."""
    call: ToolCall | None
    """The first tool that was asked for."""
    right_tool: bool
    fully_right: bool
    error: str | None
    began: float
    """Seconds on a monotonic clock."""
    seconds: float


class Crowd:
    """Send requests to an agent, in conversations of a few turns, several conversations at a time."""

    def __init__(
        self,
        agent: Any,
        judge: Callable[[Request, ToolCall | None], tuple[bool, bool]],
        day: str,
        threads: int = THREADS,
    ) -> None:
        """Talk to `agent`; `judge` says whether a call has the right tool and is fully right; `day` names threads."""
        self._agent = agent
        self._judge = judge
        self._day = day
        self._threads = threads

    def ask(self, requests: Sequence[Request], on_seen: Callable[[Seen], None] | None = None) -> list[Seen]:
        """Ask everything and return what came of it, in the order of the requests."""
        talks = [requests[i : i + TURNS] for i in range(0, len(requests), TURNS)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="user") as pool:
            done = pool.map(lambda number: self._talk(number, talks[number], on_seen), range(len(talks)))
            return [seen for talk in done for seen in talk]

    def _talk(self, number: int, requests: Sequence[Request], on_seen: Callable[[Seen], None] | None) -> list[Seen]:
        found = []
        for request in requests:
            found.append(self._one(f"{self._day}-{number}", request))
            if on_seen is not None:
                on_seen(found[-1])
        return found

    def _one(self, thread_id: str, request: Request) -> Seen:
        run_id, began = uuid.uuid4(), time.monotonic()
        config = {"run_id": run_id, "configurable": {"thread_id": thread_id}, "recursion_limit": 12}
        answers: list[AIMessage] = []
        error = None
        try:
            state = self._agent.invoke({"messages": [("user", request.text)]}, config)
            answers = _answers(state["messages"])
        except Exception as failure:  # noqa: BLE001 - a user sees that it failed, whatever it was; it is counted
            error = f"{type(failure).__name__}: {failure}"
        calls = [call for answer in answers for call in answer.tool_calls]
        call = ToolCall(name=calls[0]["name"], args=calls[0]["args"]) if calls else None
        right_tool, fully_right = self._judge(request, call)
        released = {answer.response_metadata.get("learnloop_release") for answer in answers}
        return Seen(
            request,
            str(run_id),
            thread_id,
            released.pop() if len(released) == 1 else None,
            call,
            right_tool,
            fully_right,
            error,
            began,
            time.monotonic() - began,
        )


def _answers(messages: Sequence[Any]) -> list[AIMessage]:
    """Return the assistant messages of the last turn."""
    last = max(i for i, message in enumerate(messages) if message.type == "human")
    return [message for message in messages[last:] if isinstance(message, AIMessage)]


def mixed_threads(seen: Sequence[Seen]) -> int:
    """Count the threads that were answered by more than one release."""
    by_thread: dict[str, set[str | None]] = {}
    for one in seen:
        if one.error is None:
            by_thread.setdefault(one.thread_id, set()).add(one.release)
    return sum(len(releases) > 1 or None in releases for releases in by_thread.values())


def give_feedback(loop: LearnLoop, seen: Sequence[Seen], seed: int = 0) -> Counter[str]:
    """Correct a share of what failed, like a share of what went well, and lie a little; return what was done.

    The feedback ids are made of the run, so that doing it again after a crash changes nothing.
    """
    done: Counter[str] = Counter()
    calls = [one.request.call for one in seen]
    for number, one in enumerate(seen):
        rng = random.Random(f"people {seed} {number}")  # one request's luck must not turn on how another went
        person = rng.randrange(PEOPLE)
        speaks, lie = rng.random() < CORRECTED, rng.choice(calls)
        if not speaks or (one.fully_right and person >= LIARS and rng.random() < 0.5):
            continue
        kind = "lied" if person < LIARS else "liked" if one.fully_right else "corrected"
        right = _lie(one.request.call, lie) if kind == "lied" else one.request.call
        said: dict[str, Any] = (
            {"score": 1.0}
            if kind == "liked"
            else {"score": -1.0, "correction": {"tool": right.name, "args": right.args}}
        )
        try:
            loop.feedback(one.run_id, by=f"user-{person}", feedback_id=content_hash([one.run_id, person]), **said)
        except DataError:  # a lie that does not even fit the tool's schema is refused at the door
            kind = "refused"
        done[kind] += 1
    return done


def _lie(right: ToolCall, other: ToolCall) -> ToolCall:
    """Return a call that fits its tool and is wrong: somebody else's, or the own one with its words turned round."""
    if other.name != right.name:
        return other
    twisted = {name: value[::-1] if isinstance(value, str) else value for name, value in right.args.items()}
    return ToolCall(name=right.name, args=twisted)
