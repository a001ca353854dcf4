"""Serve a base model and its adapters inside the agent's own process; heavy, import it only to construct one.

PEFT is not thread-safe: two threads that generate on one model with different adapters get each other's words. So one
worker thread owns the model; callers queue, and the worker answers those who ask for the same release in one batch,
which newcomers join. Batches of several releases take turns of a few tokens, so that nobody waits for another's answer.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from peft import PeftModel
from torch.nn.functional import pad
from transformers.cache_utils import DynamicLayer

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import EngineHealth, Generated, Generation, Message, Release
from langgraph_learnloop.serving.batching import FairQueue
from langgraph_learnloop.serving.toolcalls import THINK_OPEN, may_begin, offered_names, parse_answer
from langgraph_learnloop.serving.weights import checked_adapter, end_tokens, fill, load_base, same_model, wrapped

_SMALL = 50_000_000
"""Parameters below which one thread is best (several wait for each other, ten times as long when the cores are busy),
and a copy of the base with an adapter merged into it: one beside the weights costs up to a quarter of a step."""
_TURN = 4
"""Tokens after which another release has its turn, and newcomers join: reading their prompts costs a step."""
_HALF = "\ufffd"
"""What the bytes of half a character decode to."""
_Result = TypeVar("_Result")


class _Written(NamedTuple):
    """What the worker hands back: token ids read and written."""

    prompt: int
    tokens: list[int]
    finish_reason: Literal["stop", "length"]


@dataclass(eq=False)
class _Waiting:
    """A request in the queue, and while it is being answered."""

    request: Generation
    prompt: str
    written: Future[_Written] = field(default_factory=Future)
    prompt_tokens: int = 0
    room: int = 0
    tokens: list[int] = field(default_factory=list)
    heard: SimpleQueue[bool] | None = None
    """Gets True for each token, where somebody listens to the answer as it is written, and False after the last."""
    gone: bool = False
    """Nobody wants the answer any more."""

    @property
    def opening(self) -> str:
        """Return what the template has begun the answer with: a chain of thought, for some models."""
        return THINK_OPEN if self.prompt.rstrip().endswith(THINK_OPEN) else ""


class _Words:
    """Decode tokens as they come: no half characters, nothing of a text that ends the answer, nothing after it."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = stops
        self._held = ""
        self._from = self._upto = 0

    def take(self, tokens: Sequence[int], is_all: bool = False) -> str:
        """Return the text that the tokens beyond those of the last time add, as far as it is certain.

        Only the last few are decoded, with those before them that their blanks may depend on.
        """
        recent = self._decode(tokens[self._from :])
        if is_all or not recent.endswith(_HALF):
            self._held += recent[len(self._decode(tokens[self._from : self._upto])) :]
            self._from, self._upto = self._upto, len(tokens)
        text = _cut(self._held, self._stops)
        sure = len(text) if is_all or text != self._held else may_begin(text, self._stops)
        self._held = self._held[sure:]
        return text[:sure]


@dataclass
class _Rows:
    """Requests that are being answered together, one row each; what is shorter is padded on the left."""

    release_id: str
    waiting: list[_Waiting]
    ids: torch.Tensor
    """What the model reads next: rows x tokens."""
    mask: torch.Tensor
    """What of it, and of all that is in the cache, is no padding: rows x (cached + next) tokens."""
    positions: torch.Tensor
    """Where the next tokens stand in their conversation: rows x tokens."""
    temperatures: torch.Tensor
    cache: Any = None
    padded: bool = True
    """Without a mask a step is an eighth faster."""

    @classmethod
    def of(cls, release_id: str, waiting: list[_Waiting], prompts: list[list[int]], device: torch.device) -> _Rows:
        """Begin with whole prompts."""
        ids, mask = _pad_left(prompts, device)
        warmth = torch.tensor([one.request.sampling.temperature for one in waiting], device=device)
        return cls(
            release_id, waiting, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), warmth, padded=not bool(mask.all())
        )

    @property
    def done(self) -> bool:
        """Tell whether every answer is written."""
        return all(one.written.done() for one in self.waiting)

    def advance(self, drawn: torch.Tensor) -> None:
        """Go on with one drawn token a row."""
        self.ids, self.positions = drawn[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)

    def shed(self) -> None:
        """Drop the rows that are done, which cost as much as the others, and the padding that is in every row left."""
        left = [row for row, one in enumerate(self.waiting) if not one.written.done()]
        if len(left) == len(self.waiting):
            return
        rows = torch.tensor(left, device=self.ids.device)
        self.cache.batch_select_indices(rows)
        self.waiting = [self.waiting[row] for row in left]
        self.ids, self.positions, self.temperatures = self.ids[rows], self.positions[rows], self.temperatures[rows]
        first = int(self.mask[rows].any(0).int().argmax()) if self.joinable else 0
        self.mask = self.mask[rows, first:]
        for layer in self.cache.layers if first else ():
            layer.keys, layer.values = layer.keys[:, :, first:], layer.values[:, :, first:]
        self.padded = not bool(self.mask.all())

    @property
    def joinable(self) -> bool:
        """Tell whether the cache is the plain kind, which holds every token once and in order."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def join(self, others: _Rows) -> None:
        """Add rows whose prompts were read meanwhile."""
        self.waiting = [*self.waiting, *others.waiting]  # first: should the rest fail, they must hear of it
        width = max(self.mask.shape[1], others.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, others.cache.layers, strict=True):
            mine.keys = _stacked(mine.keys, theirs.keys, width - 1)
            mine.values = _stacked(mine.values, theirs.values, width - 1)
        masks = [pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, others.mask)]
        self.mask, self.padded = torch.cat(masks), True
        self.ids, self.positions = torch.cat([self.ids, others.ids]), torch.cat([self.positions, others.positions])
        self.temperatures = torch.cat([self.temperatures, others.temperatures])


class LocalEngine:
    """Serve releases of one base model from this process.

    `threads` is the number of PyTorch's processor threads (None: one for a small model, else PyTorch's choice; it holds
    for the process), `max_batch` the most requests that are answered together, `seed` that of sampling at temperatures
    above 0.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        threads: int | None = None,
        max_batch: int = 32,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.base_model = str(base)
        self._max_batch = max_batch
        self._tokenizer, self._model = load_base(self.base_model, dtype)
        self._ends = end_tokens(self._tokenizer, self._model)
        self._limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)
        self._random = torch.Generator(self._model.device).manual_seed(seed)
        self._adapters: dict[str, bool] = {}
        self._small = self._model.num_parameters() < _SMALL
        self._base = self._model
        """What small releases are copied from; larger ones are adapters beside its weights, in `_model`."""
        self._merged: dict[str, Any] = {}
        self._loading = threading.Lock()
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._worker = threading.Thread(target=self._work, args=(threads,), name="learnloop-engine", daemon=True)
        self._worker.start()

    def load(self, release: Release) -> None:
        """Make a release servable beside the others; raise EngineError when it is not what it says it is."""
        release_id = release.release_id
        if self._queue.closed:
            raise self._is_closed()
        if release_id in self._adapters:  # asked before every answer: it must not wait while another release is loaded
            return
        with self._loading:
            if release_id in self._adapters:
                return
            self._check_base(release)
            if release.adapter is not None:
                folder = checked_adapter(release)
                if self._small:
                    self._merged[release_id] = self._merged_copy(folder, release_id)
                else:
                    self._in_worker(lambda: self._add_adapter(folder, release_id))
            self._adapters[release_id] = release.adapter is not None

    def unload(self, release_id: str) -> None:
        """Forget a release; unknown ids are ignored, requests that wait for it get an EngineError."""
        with self._loading:
            if self._adapters.pop(release_id, False):
                self._in_worker(lambda: self._drop_adapter(release_id))

    def generate(self, request: Generation) -> Generated:
        """Answer with exactly the release that was asked for, or raise EngineError."""
        waiting = self._waiting(request)
        self._put(waiting)
        return self._read(waiting)

    def stream(self, request: Generation) -> Iterator[str | Generated]:
        """Yield the answer as it is written, and at last whole; who stops listening gives the place in the batch up."""
        waiting = self._waiting(request)
        waiting.heard = SimpleQueue()
        waiting.written.add_done_callback(lambda _: waiting.heard.put(False) if waiting.heard else None)
        self._put(waiting)
        try:
            yield from filter(None, self._texts(waiting, waiting.heard))
            yield self._read(waiting)
        finally:
            waiting.gone = True

    def health(self) -> EngineHealth:
        """Return what is loaded, and how many wait."""
        trouble = None if self._worker.is_alive() and not self._queue.closed else str(self._is_closed())
        return EngineHealth(trouble=trouble, loaded=tuple(self._adapters), waiting=len(self._queue))

    def close(self) -> None:
        """Stop the worker; requests that still wait get an EngineError."""
        for waiting in self._queue.close():
            waiting.written.set_exception(EngineError(f"The engine of {self.base_model!r} was closed."))
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def _is_closed(self) -> EngineError:
        return EngineError(f"The engine of {self.base_model!r} is closed; make a new one.")

    def _waiting(self, request: Generation) -> _Waiting:
        if request.release_id not in self._adapters:
            raise EngineError(
                f"Release {request.release_id!r} is not loaded in this engine; load it first. "
                f"Loaded are: {', '.join(sorted(self._adapters)) or 'none'}."
            )
        return _Waiting(request, self._prompt(request))

    def _put(self, waiting: _Waiting) -> None:
        if not self._queue.put(waiting.request.release_id, waiting):
            raise self._is_closed()

    def _prompt(self, request: Generation) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [message.openai() for message in request.messages],
                tools=list(request.tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except Exception as error:  # a template may raise whatever it likes about roles and tools
            raise EngineError(
                f"The chat template of {self.base_model!r} cannot render this conversation: {error}."
            ) from error
        return text

    def _texts(self, waiting: _Waiting, heard: SimpleQueue[bool]) -> Iterator[str]:
        """Yield texts, some of them empty; in the thread of whoever listens, so that the worker need not decode."""
        yield waiting.opening
        words = _Words(self._text, waiting.request.stop)
        while heard.get():
            yield words.take(tuple(waiting.tokens))
        yield words.take(waiting.written.result().tokens, is_all=True)

    def _read(self, waiting: _Waiting) -> Generated:
        written = waiting.written.result()
        text = waiting.opening + _cut(self._text(written.tokens), waiting.request.stop)
        answer = parse_answer(text, offered=offered_names(waiting.request.tools))
        return Generated(
            message=Message(role="assistant", content=answer.content, tool_calls=answer.tool_calls),
            reasoning=answer.reasoning,
            input_tokens=written.prompt,
            output_tokens=len(written.tokens),
            finish_reason=written.finish_reason,
        )

    def _text(self, tokens: Sequence[int]) -> str:
        """Decode with special tokens kept: `<tool_call>` may be one of them."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _check_base(self, release: Release) -> None:
        if not same_model(release.base_model, self.base_model):
            raise EngineError(
                f"Release {release.release_id!r} belongs to the base model {release.base_model!r}, "
                f"but this engine holds {self.base_model!r}: make an engine for that base."
            )

    def _merged_copy(self, folder: str, release_id: str) -> Any:
        """Return a copy of the base with an adapter merged into it; nobody who is being answered waits for that."""
        with self._must_fit(folder, release_id):
            model = wrapped(copy.deepcopy(self._base), folder, release_id)
            fill(model, folder, release_id)
            return model.merge_and_unload()

    def _add_adapter(self, folder: str, release_id: str) -> None:
        """Put an adapter beside the others; runs in the worker."""
        try:
            with self._must_fit(folder, release_id):
                self._model = wrapped(self._model, folder, release_id)
                fill(self._model, folder, release_id)
        except EngineError:
            self._drop_adapter(release_id)
            raise

    @contextlib.contextmanager
    def _must_fit(self, folder: str, release_id: str) -> Iterator[None]:
        """Make one sentence of the many ways in which damaged and foreign adapters fail."""
        try:
            yield
        except Exception as error:
            raise EngineError(
                f"The adapter of release {release_id!r} in {folder!r} does not fit {self.base_model!r}: {error}."
            ) from error

    def _drop_adapter(self, release_id: str) -> None:
        """Delete an adapter; the last one leaves the plain base behind, which is faster. Runs in the worker."""
        self._merged.pop(release_id, None)
        if isinstance(self._model, PeftModel) and release_id in self._model.peft_config:
            if len(self._model.peft_config) == 1:
                self._model = self._model.unload()
            else:
                self._model.delete_adapter(release_id)

    def _in_worker(self, work: Callable[[], _Result]) -> _Result:
        """Run work in the thread that owns the model, and wait for it."""
        done: Future[_Result] = Future()
        if not self._queue.put_task(lambda: _settle(done, work)):
            raise self._is_closed()
        return done.result()

    def _work(self, threads: int | None) -> None:
        if threads is None and self._small:
            threads = 1
        if threads is not None:
            torch.set_num_threads(threads)
        while (work := self._queue.take(self._max_batch)) is not None:
            if callable(work):
                work()
            else:
                self._answer(work)

    def _answer(self, batch: list[_Waiting]) -> None:
        """Answer a batch, and with it all who come meanwhile; the releases that are asked for take turns."""
        active: list[_Rows] = self._begin(batch)
        while active:
            active = [rows for rows in active if self._turn(rows)]
            busy = [rows.release_id for rows in active]
            for others in self._queue.take_others(busy, self._max_batch):
                active += self._begin(others)

    def _begin(self, batch: list[_Waiting]) -> list[_Rows]:
        """Read the prompts of those who ask for a release that nobody is being answered by; none if that fails."""
        release_id = batch[0].request.release_id
        if release_id not in self._adapters:
            _fail(batch, f"Release {release_id!r} was unloaded while this request waited.")
            return []
        try:
            with self._serving(release_id) as model:
                rows = self._read_prompts(release_id, model, batch)
                return [] if rows.done else [rows]
        except Exception as error:  # noqa: BLE001 - whatever broke, it breaks these requests and no others
            _fail(batch, _broke(error))
            return []

    def _turn(self, rows: _Rows) -> bool:
        """Write a few tokens of each answer, and let those join who ask for the same release; False when all is said.

        A loop of our own: `generate` costs several times as much for each step of a small model, and it would hold
        short answers, and all who come later, back until the longest of the batch is written.
        """
        try:
            with self._serving(rows.release_id) as model:
                for _ in range(_TURN):
                    self._step(rows, model)
                    if rows.done:
                        return False
                rows.shed()
                self._join(rows, model)
        except Exception as error:  # noqa: BLE001 - as above
            _fail(rows.waiting, _broke(error))
        return not rows.done

    def _join(self, rows: _Rows, model: Any) -> None:
        """Let those join who ask for the same release."""
        room = self._max_batch - len(rows.waiting)
        newcomers = self._queue.take_more(rows.release_id, room) if rows.joinable else []
        if not newcomers:
            return
        try:
            more = self._read_prompts(rows.release_id, model, newcomers)
        except Exception as error:  # noqa: BLE001 - as above: those who are being answered go on
            _fail(newcomers, _broke(error))
            return
        if more.waiting:
            rows.join(more)

    def _fits(self, waiting: _Waiting, tokens: int) -> bool:
        if waiting.gone:
            _fail([waiting], "Nobody waits for the answer any more.")
            return False
        waiting.prompt_tokens = tokens
        waiting.room = min(waiting.request.sampling.max_tokens, self._limit - tokens)
        if waiting.room <= 0:
            _fail([waiting], f"The conversation has {tokens} tokens and the model reads at most {self._limit}.")
        return waiting.room > 0

    @contextlib.contextmanager
    def _serving(self, release_id: str) -> Iterator[Any]:
        """Give the model of a release, in the worker's thread only."""
        with torch.inference_mode():
            if release_id in self._merged:
                yield self._merged[release_id]
            elif not isinstance(self._model, PeftModel):
                yield self._model
            elif release_id in self._model.peft_config:
                self._model.set_adapter(release_id)
                yield self._model
            else:
                with self._model.disable_adapter():
                    yield self._model

    def _read_prompts(self, release_id: str, model: Any, batch: list[_Waiting]) -> _Rows:
        """Read the prompts that are not too long, and draw the first token of their answers."""
        prompts = self._tokenizer([waiting.prompt for waiting in batch], add_special_tokens=False)["input_ids"]
        fitting = [(one, ids) for one, ids in zip(batch, prompts, strict=True) if self._fits(one, len(ids))]
        waiting, read = [one for one, _ in fitting], [ids for _, ids in fitting] or [[]]
        rows = _Rows.of(release_id, waiting, read, model.device)
        if rows.waiting:
            self._step(rows, model)
        return rows

    def _step(self, rows: _Rows, model: Any) -> None:
        out = model(
            input_ids=rows.ids,
            attention_mask=rows.mask if rows.padded else None,
            position_ids=rows.positions,
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        rows.cache = out.past_key_values
        drawn = self._draw(out.logits[:, -1], rows.temperatures)
        for waiting, token in zip(rows.waiting, drawn.tolist(), strict=True):
            if not waiting.written.done():
                self._take(waiting, token)
        rows.advance(drawn)

    def _draw(self, logits: torch.Tensor, temperatures: torch.Tensor) -> torch.Tensor:
        """Return one token a row (batch x vocabulary -> batch): the likeliest at temperature 0, else a sample."""
        best = logits.argmax(-1)
        warm = temperatures > 0
        if warm.any():
            shares = torch.softmax(logits[warm].float() / temperatures[warm, None], dim=-1)
            best[warm] = torch.multinomial(shares, 1, generator=self._random)[:, 0]
        return best

    def _take(self, waiting: _Waiting, token: int) -> None:
        """Add a token to an answer; answer the caller when it is the last."""
        ended = token in self._ends or waiting.gone
        if not ended:
            waiting.tokens.append(token)
            if waiting.heard is not None:
                waiting.heard.put(True)
            stops = waiting.request.stop
            ended = bool(stops) and _cut(text := self._text(waiting.tokens), stops) != text
        if ended or len(waiting.tokens) >= waiting.room:
            reason: Literal["stop", "length"] = "stop" if ended else "length"
            waiting.written.set_result(_Written(waiting.prompt_tokens, waiting.tokens, reason))


def _pad_left(rows: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and attention mask, batch x longest; what fills the left is masked, so its id does not matter."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _stacked(some: torch.Tensor, more: torch.Tensor, width: int) -> torch.Tensor:
    """Return keys or values (rows x heads x tokens x size) below each other, padded on the left to `width` tokens."""
    return torch.cat([pad(one, (0, 0, width - one.shape[2], 0)) for one in (some, more)])


def _cut(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def _settle(done: Future[_Result], work: Callable[[], _Result]) -> None:
    try:
        done.set_result(work())
    except Exception as error:  # noqa: BLE001 - handed to whoever waits
        done.set_exception(error)


def _broke(error: Exception) -> str:
    return f"The model broke while it answered: {type(error).__name__}: {error}."


def _fail(batch: Sequence[_Waiting], reason: str) -> None:
    for waiting in batch:
        if not waiting.written.done():
            waiting.written.set_exception(EngineError(reason))
