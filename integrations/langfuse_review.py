"""Let people decide on proposals in Langfuse, in an annotation queue.

    loop = LearnLoop("learnloop.db", agent="support", reviewer=LangfuseReviewer())

A proposal becomes a trace of its own: the conversation, and the right answer that would be learned. Nobody is waited
for: what nobody has decided yet stays pending, the cycle ends "waiting", and the next one reads what was said since.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.calls import LONGEST_TEXT, misfit, read_message
from langgraph_learnloop.errors import ConfigError, DataError, EngineError
from langgraph_learnloop.integrations.langfuse_spans import (
    as_list,
    as_text,
    key_values,
    make_span,
    observed,
    openai,
    short_form,
    written,
)
from langgraph_learnloop.integrations.langfuse_wire import ONCE, PAGE, Wire, answering, followed, pages, trace_of
from langgraph_learnloop.messages import check, from_openai, no_key_twice
from langgraph_learnloop.mirrors import DeliveryError
from langgraph_learnloop.records import Message, Proposal, Verdict
from langgraph_learnloop.texts import cut, quoted, short, visible

if TYPE_CHECKING:
    pass

QUEUE = "learnloop"
"""The annotation queue that proposals wait in, unless another is named."""
VERDICT = "learnloop_verdict"
"""The score that a reviewer gives; its configuration asks for one of two words."""
APPROVE, REJECT = "approve", "reject"
SPAN = "learnloop proposal"
"""The name of a proposal's trace, and of its only observation."""
ENVIRONMENT = "learnloop-review"
"""The environment, as Langfuse calls it, of these traces: they are not the agent's."""
_TRACES_A_REQUEST = 50
_LONGEST_REASON = 1_000
"""Characters of a reviewer's words that are kept."""
_log = logging.getLogger(__name__)


class LangfuseReviewer:
    """Put proposals into an annotation queue, and return the verdicts that people have given there."""

    def __init__(
        self,
        wire: Wire | None = None,
        *,
        queue: str = QUEUE,
        people: Mapping[str, str] | None = None,
        environment: str = ENVIRONMENT,
        settles: float = 30.0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Speak over a wire (default: as the LANGFUSE_... variables say), and use the queue of a name.

        `people` names Langfuse's users by their ids, which is all that its API tells of them. `settles` is how many
        seconds it takes until what Langfuse took can be read there, at most.
        """
        self.queue = queue
        self._wire = wire or Wire()
        self._people = dict(people or {})
        self._environment = environment
        self._settles = settles
        self._now = now
        self._clock = clock
        self._sent: set[str] = set()
        self._unclear: dict[str, float] = {}
        """When traces were sent that may have arrived without that it could be seen by now."""

    def review(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Return the verdicts that were given by now; the other proposals are in the queue then, and stay pending.

        A proposal is approved, rejected (the score's comment is the reason), or edited by a correction of its output.
        Calling it again changes nothing. Raise EngineError when Langfuse does not answer, and ConfigError when its keys
        or its queue cannot be used; nothing is lost by that.
        """
        if not proposals:
            return []
        by_trace = {trace_of(one.proposal_id): one for one in proposals}
        queue = self._queue()
        completed = self._queued(queue, by_trace)
        self._show(queue, {trace: one for trace, one in by_trace.items() if trace not in completed})
        done = [trace for trace in by_trace if completed.get(trace)]
        said = self._said(done)
        verdicts = [self._verdict(by_trace[trace], said.get(trace, [])) for trace in done]
        return [verdict for verdict in verdicts if verdict is not None]

    # -- the queue -----------------------------------------------------------------------------------------------------

    def _queue(self) -> str:
        """Return the id of the queue, which is made if need be."""
        api = self._wire.api.annotation_queues
        with answering(f"the annotation queue {self.queue!r}"):
            asked = pages(lambda page: api.list_queues(page=page, limit=PAGE, request_options=ONCE))
            found = next((one for one in asked if one.name == self.queue), None)
            configs = [str(one.id) for one in self._configs()]
            if found is None:
                about = f"What LearnLoop would learn: choose {APPROVE} or {REJECT}, or correct the output."
                asks = [configs[0] if configs else self._new_config()]
                made = api.create_queue(name=self.queue, description=about, score_config_ids=asks, request_options=ONCE)
                return str(made.id)
        if not set(configs) & set(found.score_config_ids):
            raise ConfigError(
                f"The annotation queue {self.queue!r} of Langfuse does not ask for {VERDICT!r}: add a score "
                f"configuration of that name with the categories {APPROVE!r} and {REJECT!r} to it, or name a queue "
                "that is not there, and it is made."
            )
        return str(found.id)

    def _configs(self) -> Iterator[Any]:
        """Yield the configurations of the verdict that can be used."""
        api = self._wire.api.score_configs
        for one in pages(lambda page: api.get(page=page, limit=PAGE, request_options=ONCE)):
            labels = {category.label for category in one.categories or ()}
            if one.name == VERDICT and not one.is_archived and {APPROVE, REJECT} <= labels:
                yield one

    def _new_config(self) -> str:
        from langfuse.api.commons import ConfigCategory, ScoreConfigDataType

        made = self._wire.api.score_configs.create(
            name=VERDICT,
            data_type=ScoreConfigDataType.CATEGORICAL,
            categories=[ConfigCategory(value=1, label=APPROVE), ConfigCategory(value=0, label=REJECT)],
            description="Is this the right answer, and may LearnLoop learn it? A correction of the output does both.",
            request_options=ONCE,
        )
        return str(made.id)

    def _queued(self, queue: str, wanted: Collection[str]) -> dict[str, bool]:
        """Return whether somebody is done with those traces that are in the queue; the newest item counts."""
        api = self._wire.api.annotation_queues
        found: dict[str, bool] = {}
        with answering(f"the items of the annotation queue {self.queue!r}"):
            for item in pages(lambda page: api.list_queue_items(queue, page=page, limit=PAGE, request_options=ONCE)):
                if item.object_type == "TRACE" and item.object_id in wanted:
                    found.setdefault(item.object_id, item.status == "COMPLETED")
                if len(found) == len(wanted):
                    break
        return found

    def _show(self, queue: str, by_trace: Mapping[str, Proposal]) -> None:
        """Send the traces of proposals that are not there yet, and put them all into the queue."""
        from langfuse.api.annotation_queues import AnnotationQueueObjectType

        now = self._clock()
        self._unclear = {trace: sent for trace, sent in self._unclear.items() if now - sent < self._settles}
        clear = [trace for trace in by_trace if trace not in self._unclear]
        if new := [trace for trace in clear if trace not in self._sent and not self._wire.observations(trace)]:
            self._send({trace: by_trace[trace] for trace in new})
        for trace in clear:
            with answering(f"a place in the annotation queue {self.queue!r}"):
                self._wire.api.annotation_queues.create_queue_item(
                    queue,
                    object_id=trace,
                    object_type=AnnotationQueueObjectType.TRACE,
                    request_options=ONCE,
                )

    def _send(self, by_trace: Mapping[str, Proposal]) -> None:
        now, told = self._now(), by_trace.items()
        spans = [make_span(trace, one.proposal_id, SPAN, now, key_values(self._facts(one))) for trace, one in told]
        try:
            self._wire.send_spans(spans)
        except DeliveryError as error:
            if error.arrived is not False:
                self._unclear.update(dict.fromkeys(by_trace, self._clock()))
            raise EngineError(f"The proposals keep waiting, for they cannot be shown: {error}") from error
        self._sent.update(by_trace)

    def _facts(self, proposal: Proposal) -> Iterator[tuple[str, Any]]:
        example = proposal.example
        yield "langfuse.trace.name", SPAN
        yield "langfuse.environment", self._environment
        problems = ["problems"] if proposal.problems else []
        yield "langfuse.trace.tags", ["learnloop", f"origin: {example.origin}", *problems]
        facts = {
            "proposal": proposal.proposal_id,
            "the_agent_said": None if example.rejected is None else cut(_shown(example.rejected), LONGEST_TEXT),
            "problems": "\n".join(proposal.problems) or None,
            "origin": example.origin,
            "by": example.by,
            "run": example.run_id,
            "trace_of_the_run": None if example.run_id is None else trace_of(example.run_id),
            "tools": written(list(example.tools)) if example.tools else None,
        }
        asked = as_list(example.messages, lambda message: written(openai(message)))
        yield from observed("span", asked, _shown(example.chosen), facts)

    # -- what people said ----------------------------------------------------------------------------------------------

    def _said(self, traces: Sequence[str]) -> dict[str, list[Any]]:
        """Return the scores that people gave to traces, by trace."""
        said: dict[str, list[Any]] = {}
        for start in range(0, len(traces), _TRACES_A_REQUEST):
            for score in self._scores(",".join(traces[start : start + _TRACES_A_REQUEST])):
                subject = score.subject
                about = getattr(subject, "trace_id", None) or getattr(subject, "id", None)
                said.setdefault(str(about), []).append(score)
        return said

    def _scores(self, traces: str) -> Iterator[Any]:
        def page(cursor: str | None) -> Any:
            return self._wire.api.scores.get_many(
                trace_id=traces,
                source="ANNOTATION",
                data_type="CATEGORICAL,CORRECTION",
                fields="details,subject,annotation",
                limit=PAGE,
                cursor=cursor,
                request_options=ONCE,
            )

        with answering("what people said of the proposals"):
            yield from followed(page)

    def _verdict(self, proposal: Proposal, scores: Sequence[Any]) -> Verdict | None:
        """Return what was decided; None, and a line in the log, where that cannot be known."""
        word = _latest(one for one in scores if one.data_type == "CATEGORICAL" and one.name == VERDICT)
        right = _latest(one for one in scores if one.data_type == "CORRECTION" and one.value.strip())
        decided = "" if word is None else word.value.strip().lower()
        if decided == REJECT:
            return self._decided(proposal, word, "reject")
        try:
            chosen = None if right is None else _corrected(right.value, proposal)
        except DataError as error:
            _warn(proposal, f"its correction cannot be used: {error}")
            return None
        if chosen is not None:
            return self._decided(proposal, right, "edit", chosen)
        if decided == APPROVE:
            return self._decided(proposal, word, "approve")
        _warn(proposal, f"nobody chose {APPROVE!r} or {REJECT!r} for it (the score {VERDICT!r}).")
        return None

    def _decided(self, proposal: Proposal, score: Any, action: Any, chosen: Message | None = None) -> Verdict:
        author = score.author_user_id or "langfuse"
        return Verdict(
            proposal_id=proposal.proposal_id,
            action=action,
            chosen=chosen,
            by=self._people.get(author, author),
            because=short(visible(score.comment), _LONGEST_REASON) if score.comment else None,
        )


def _latest(scores: Iterable[Any]) -> Any:
    """Return the score that was given or changed last; None where there is none."""
    return max(scores, key=lambda score: score.updated_at, default=None)


def _warn(proposal: Proposal, why: str) -> None:
    _log.warning(
        "The proposal %s is completed in Langfuse and keeps waiting, for %s Mend that in its trace there.",
        proposal.proposal_id,
        visible(why),
    )


def _corrected(text: str, proposal: Proposal) -> Message | None:
    """Return the message that a correction stands for, None where it says what is proposed anyway.

    Raise DataError when it is none, or asks for a tool as the agent does not have it.
    """
    proposed = proposal.example.chosen
    if text.strip() == _shown(proposed).strip():
        return None
    message = _read(text)
    if problem := misfit(message, proposal.example.tools):
        raise DataError(problem)
    return None if message.alike(proposed) else message


def _read(text: str) -> Message:
    text = text.strip()
    if not text.startswith(("{", "[")):
        return read_message(text)
    try:
        value = json.loads(text, object_pairs_hook=no_key_twice)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{quoted(text)} begins like JSON and is none; write it as JSON, or begin with a word."
        ) from error
    if isinstance(value, dict) and "role" in value:  # as a text beside tool calls is shown
        check(value, "correction")
        return read_message(from_openai(value, "correction"))
    return read_message(value)


def _shown(message: Message) -> str:
    """Return a message as it can be corrected: a text, or calls as JSON."""
    return as_text(short_form(message))
