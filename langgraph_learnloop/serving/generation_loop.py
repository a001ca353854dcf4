"""Write the answers of those who wait, in the one thread that may run the models; heavy, for the in-process engine.

A loop of its own: `generate` of transformers costs several times as much for each step of a small model, and it would
hold short answers, and all who come later, back until the longest of a batch is written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.serving.batching import FairQueue
from langgraph_learnloop.serving.detokenizer import Decode, cut
from langgraph_learnloop.serving.prefixes import Known, Prefixes
from langgraph_learnloop.serving.rows import Rows, Waiting, read_together
from langgraph_learnloop.serving.weights import ReleaseModels

_TURN = 4
"""Tokens after which another batch has its turn, and newcomers join: reading their prompts costs a step."""


@dataclass(eq=False)
class GenerationLoop:
    """Answer whoever waits in `queue`; those whose releases may speak together in one batch, which newcomers join.

    Several batches take turns of a few tokens. `loaded` holds the ids of the releases that may be asked for.
    """

    queue: FairQueue[Waiting]
    models: ReleaseModels
    prefixes: Prefixes
    decode: Decode
    ends: frozenset[int]
    """Tokens that end an answer."""
    limit: int
    """Tokens that a conversation may have."""
    loaded: Collection[str]
    max_batch: int
    random: torch.Generator
    trouble: str | None = field(default=None, init=False)
    """Why it stopped, if nobody told it to."""
    _active: list[Rows] = field(default_factory=list, init=False)
    _leaving: list[tuple[str, Future[None]]] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Work until the queue is closed."""
        try:
            with torch.inference_mode():
                while (work := self.queue.take(self.max_batch)) is not None:
                    self._do(work)
        except BaseException as error:  # noqa: BLE001 - told to everybody who waits, and to whoever asks how it is
            self.trouble = f"The thread that answers has died: {type(error).__name__}: {error}. Make a new engine."
            self._give_up(self.trouble)

    def drop(self, release_id: str) -> Future[None] | None:
        """Forget a release when the last answer that it is writing is written; None when the queue is closed."""
        done: Future[None] = Future()
        return done if self.queue.put_task(lambda: self._leaving.append((release_id, done))) else None

    def _give_up(self, reason: str) -> None:
        for waiting in (*self.queue.close(), *(one for rows in self._active for one in rows.waiting)):
            waiting.fail(reason)
        for task in self.queue.take_tasks():
            task()
        for _, done in self._leaving:
            done.set_exception(EngineError(reason))

    def _do(self, work: Callable[[], None] | list[Waiting]) -> None:
        """Do a piece of work, or answer a batch and with it all who come meanwhile."""
        if callable(work):
            work()
        else:
            self._begin(work)
        self._let_go()
        while self._active:
            self._active = [rows for rows in self._active if self._turn(rows)]
            for task in self.queue.take_tasks():
                task()
            self._let_go()
            for others in self.queue.take_others([rows.group for rows in self._active], self.max_batch):
                self._begin(others)

    def _let_go(self) -> None:
        """Forget the releases that are to leave and that nobody is being answered by."""
        busy = {release_id for rows in self._active for release_id in rows.release_ids}
        for release_id, done in (one for one in self._leaving if one[0] not in busy):
            self.models.drop(release_id)
            self.prefixes.drop(release_id)
            done.set_result(None)
        self._leaving = [one for one in self._leaving if one[0] in busy]

    def _begin(self, batch: list[Waiting]) -> None:
        """Read the prompts of a group that nobody is being answered of."""
        if (rows := self._read(batch)) is not None:
            self._active.append(rows)

    def _turn(self, rows: Rows) -> bool:
        """Write a few tokens of each answer, and let those join who wait; False when all is said."""
        try:
            for _ in range(_TURN):
                self._step(rows)
                if rows.done:
                    break
            self._keep(rows)
            if rows.done:
                return False
            rows.shed()
            self._join(rows)
        except Exception as error:  # noqa: BLE001 - whatever broke, it breaks these requests and no others
            _fail(rows.waiting, error)
        return not rows.done

    def _join(self, rows: Rows) -> None:
        """Let those join who wait for the same group."""
        room = self.max_batch - len(rows.waiting)
        newcomers = self.queue.take_more(rows.group, room) if rows.joinable else []
        if (more := self._read(newcomers) if newcomers else None) is not None:
            rows.join(more)

    def _read(self, batch: list[Waiting]) -> Rows | None:
        """Read prompts, and draw the first token of their answers; None if there is nothing left to write."""
        try:
            fitting = [one for one in batch if self._fits(one)]
            rows = self._read_prompts(fitting) if fitting else None
            if rows is None or not rows.done:
                return rows
            self._keep(rows)
        except Exception as error:  # noqa: BLE001 - as above: those who are being answered go on
            _fail(batch, error)
        return None

    def _fits(self, waiting: Waiting) -> bool:
        """Tell whether a request can be answered; tell whoever waits why not."""
        if waiting.gone:
            waiting.fail("Nobody waits for the answer any more.")
            return False
        if waiting.release_id not in self.loaded:
            waiting.fail(f"Release {waiting.release_id!r} was unloaded while this request waited.")
            return False
        waiting.room = min(waiting.request.sampling.max_tokens, self.limit - len(waiting.ids))
        if waiting.room <= 0:
            tokens = len(waiting.ids)
            waiting.fail(f"The conversation has {tokens} tokens and the model reads at most {self.limit}.")
        return waiting.room > 0

    def _read_prompts(self, waiting: list[Waiting]) -> Rows:
        """Read what is not known of the prompts, those in one go that have about as much to read."""
        known = [self.prefixes.find(one.release_id, one.ids) for one in waiting]
        parts = read_together(waiting, known) if self.models.plain else [list(range(len(waiting)))]
        first, *more = [self._read_part([waiting[at] for at in part], [known[at] for at in part]) for part in parts]
        for rows in more:
            first.join(rows)
        return first

    def _read_part(self, waiting: list[Waiting], known: list[Known]) -> Rows:
        rows = Rows.of(self.models.group(waiting[0].release_id), waiting, known, self.random.device)
        self._step(rows)
        return rows

    def _keep(self, rows: Rows) -> None:
        """Keep what was read and written of the answers that are done: a thread's next turn begins with it."""
        for row, one in enumerate(rows.waiting if rows.joinable else ()):
            if one.written.done() and self.prefixes.worth(len(one.ids) + len(one.tokens)):
                self.prefixes.keep(one.release_id, *rows.conversation(row))

    def _step(self, rows: Rows) -> None:
        out = self.models.model(rows.release_ids)(
            input_ids=rows.ids,
            attention_mask=rows.mask if rows.padded else None,
            position_ids=rows.positions,
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows.cache = out.past_key_values
        logits = out.logits[:, -1]
        drawn = self._draw(logits, rows.temperatures)
        tokens = drawn.tolist()
        self._tell(rows.waiting, logits, tokens)
        for waiting, token in zip(rows.waiting, tokens, strict=True):
            if not waiting.written.done():
                self._take(waiting, token)
        rows.advance(drawn)

    def _draw(self, logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
        """Return one token a row (batch x vocabulary -> batch): the likeliest at temperature 0, else a sample."""
        best = logits.argmax(-1)
        warm = temperatures > 0
        if warm.any():
            shares = torch.softmax(logits[warm].float() / temperatures[warm, None], dim=-1)
            best[warm] = torch.multinomial(shares, 1, generator=self.random)[:, 0]
        return best

    def _tell(self, waiting: Sequence[Waiting], logits: torch.Tensor, tokens: Sequence[int]) -> None:
        """Note how likely the tokens were, for those who asked for that."""
        asked = {
            row: one.request.logprobs
            for row, one in enumerate(waiting)
            if one.request.logprobs is not None and not one.written.done()
        }
        if not asked:
            return
        logprobs = torch.log_softmax(logits[[*asked]].float(), dim=-1)
        best, which = logprobs.topk(min(max(asked.values()), logprobs.shape[-1]), dim=-1)
        for (row, count), likely, values, others in zip(
            asked.items(), logprobs, best.tolist(), which.tolist(), strict=True
        ):
            top = list(zip(others[:count], values[:count], strict=True))
            waiting[row].told.append((float(likely[tokens[row]]), top))

    def _take(self, waiting: Waiting, token: int) -> None:
        """Add a token to an answer; answer the caller when it is the last."""
        ended = token in self.ends or waiting.gone
        if not ended:
            waiting.tokens.append(token)
            if waiting.heard is not None:
                waiting.heard.put(True)
            stops = waiting.request.stop
            ended = bool(stops) and cut(text := self.decode(waiting.tokens), stops) != text
        if ended or len(waiting.tokens) >= waiting.room:
            waiting.written.set_result("stop" if ended else "length")


def _fail(batch: Sequence[Waiting], error: Exception) -> None:
    for waiting in batch:
        waiting.fail(f"The model broke while it answered: {type(error).__name__}: {error}.")
