"""Serve a base model and its adapters inside the agent's own process; heavy, import it only to construct one.

PEFT is not thread-safe: two threads that generate on one model with different adapters get each other's words. So one
worker thread owns the model; callers queue, and the worker answers those who ask for the same release in one batch,
which newcomers join as long as nobody waits for another release.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicLayer

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Generation, Message, Release
from langgraph_learnloop.serving.batching import FairQueue
from langgraph_learnloop.serving.toolcalls import parse_answer

_WEIGHTS = "adapter_model.safetensors"
_SMALL = 50_000_000
"""Parameters below which one thread is best (several wait for each other, ten times as long when the cores are busy),
and a copy of the base with the adapter merged into it: added up at each layer, an adapter costs a quarter of a step."""
_ADMIT = 4
"""Steps after which newcomers join those who are being answered: reading their prompts costs as much as a step."""
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


@dataclass
class _Rows:
    """Requests that are being answered together, one row each; what is shorter is padded on the left."""

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
    def of(cls, waiting: list[_Waiting], prompts: list[list[int]], device: torch.device) -> _Rows:
        """Begin with whole prompts."""
        ids, mask = _pad_left(prompts, device)
        warmth = torch.tensor([one.request.sampling.temperature for one in waiting], device=device)
        return cls(waiting, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), warmth, padded=not bool(mask.all()))

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
        width = max(self.mask.shape[1], others.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, others.cache.layers, strict=True):
            mine.keys = _stacked(mine.keys, theirs.keys, width - 1)
            mine.values = _stacked(mine.values, theirs.values, width - 1)
        masks = [pad(mask, (width - mask.shape[1], 0)) for mask in (self.mask, others.mask)]
        self.mask, self.padded = torch.cat(masks), True
        self.waiting = [*self.waiting, *others.waiting]
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
        self._tokenizer, self._model = _load_base(self.base_model, dtype)
        self._ends = _end_tokens(self._tokenizer, self._model)
        self._limit = int(getattr(self._model.config, "max_position_embeddings", 0) or 2**31)
        self._random = torch.Generator(self._model.device).manual_seed(seed)
        self._adapters: dict[str, bool] = {}
        self._small = self._model.num_parameters() < _SMALL
        self._merged: dict[str, Any] = {}
        self._loading = threading.Lock()
        self._queue: FairQueue[_Waiting] = FairQueue()
        self._worker = threading.Thread(target=self._work, args=(threads,), name="learnloop-engine", daemon=True)
        self._worker.start()

    def load(self, release: Release) -> None:
        """Make a release servable beside the others; raise EngineError when it is not what it says it is."""
        release_id = release.release_id
        if release_id in self._adapters:  # asked before every answer: it must not wait while another release is loaded
            return
        with self._loading:
            if release_id in self._adapters:
                return
            self._check_base(release)
            if release.adapter is not None:
                folder = _checked_adapter(release)
                self._in_worker(lambda: self._add_adapter(folder, release_id))
            self._adapters[release_id] = release.adapter is not None

    def unload(self, release_id: str) -> None:
        """Forget a release; unknown ids are ignored, requests that wait for it get an EngineError."""
        with self._loading:
            if self._adapters.pop(release_id, False):
                self._in_worker(lambda: self._drop_adapter(release_id))

    def generate(self, request: Generation) -> Generated:
        """Answer with exactly the release that was asked for, or raise EngineError."""
        if request.release_id not in self._adapters:
            raise EngineError(
                f"Release {request.release_id!r} is not loaded in this engine; load it first. "
                f"Loaded are: {', '.join(sorted(self._adapters)) or 'none'}."
            )
        waiting = _Waiting(request, self._prompt(request))
        if not self._queue.put(request.release_id, waiting):
            raise EngineError(f"The engine of {self.base_model!r} is closed; make a new one.")
        return self._read(request, waiting.written.result())

    def close(self) -> None:
        """Stop the worker; requests that still wait get an EngineError."""
        for waiting in self._queue.close():
            waiting.written.set_exception(EngineError(f"The engine of {self.base_model!r} was closed."))
        if threading.current_thread() is not self._worker:
            self._worker.join()

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

    def _read(self, request: Generation, written: _Written) -> Generated:
        text = _cut(self._text(written.tokens), request.stop)
        answer = parse_answer(text)
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
        if not _same_model(release.base_model, self.base_model):
            raise EngineError(
                f"Release {release.release_id!r} belongs to the base model {release.base_model!r}, "
                f"but this engine holds {self.base_model!r}: make an engine for that base."
            )

    def _add_adapter(self, folder: str, release_id: str) -> None:
        """Load an adapter under the release's id; runs in the worker."""
        try:
            model = copy.deepcopy(self._model) if self._small else self._model
            if not isinstance(model, PeftModel):
                model = get_peft_model(model, _lora_config(folder), adapter_name=release_id)
                self._model = self._model if self._small else model
            loaded = model.load_adapter(folder, adapter_name=release_id)
            if strange := [*loaded.missing_keys, *loaded.unexpected_keys]:
                raise EngineError(f"{len(strange)} weights do not match, for instance {strange[0]!r}")
            if self._small:
                self._merged[release_id] = model.merge_and_unload()
        except (
            Exception
        ) as error:  # damaged and foreign adapters fail in many ways, all of them one sentence to the user
            self._drop_adapter(release_id)
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
            raise EngineError(f"The engine of {self.base_model!r} is closed; make a new one.")
        return done.result()

    def _work(self, threads: int | None) -> None:
        if threads is None and self._small:
            threads = 1
        if threads is not None:
            torch.set_num_threads(threads)
        while (work := self._queue.take(self._max_batch)) is not None:
            if callable(work):
                work()
                continue
            try:
                self._answer(work)
            except Exception as error:  # noqa: BLE001 - whatever broke, it breaks these requests and no others
                _fail(work, f"The model broke while it answered: {type(error).__name__}: {error}.")

    def _answer(self, batch: list[_Waiting]) -> None:
        release_id = batch[0].request.release_id
        if release_id not in self._adapters:
            _fail(batch, f"Release {release_id!r} was unloaded while this request waited.")
            return
        with self._serving(release_id), torch.inference_mode():
            self._write(batch)

    def _fits(self, waiting: _Waiting, tokens: int) -> bool:
        waiting.prompt_tokens = tokens
        waiting.room = min(waiting.request.sampling.max_tokens, self._limit - tokens)
        if waiting.room <= 0:
            _fail([waiting], f"The conversation has {tokens} tokens and the model reads at most {self._limit}.")
        return waiting.room > 0

    @contextlib.contextmanager
    def _serving(self, release_id: str) -> Iterator[None]:
        """Make one release the active one, in the worker's thread only."""
        if release_id in self._merged:
            base, self._model = self._model, self._merged[release_id]
            try:
                yield
            finally:
                self._model = base
        elif not isinstance(self._model, PeftModel):
            yield
        elif self._adapters[release_id]:
            self._model.set_adapter(release_id)
            yield
        else:
            with self._model.disable_adapter():
                yield

    def _write(self, batch: list[_Waiting]) -> None:
        """Generate token by token with the key-value cache; who asks for the same release meanwhile joins in.

        A loop of our own: `generate` costs several times as much for each step of a small model, and it would hold
        short answers, and all who come later, back until the longest of the batch is written.
        """
        rows = self._read_prompts(batch)
        for step in itertools.count(1):
            if all(waiting.written.done() for waiting in rows.waiting):
                return
            if step % _ADMIT == 0:
                rows.shed()
                self._admit(rows, batch)
            self._step(rows)

    def _admit(self, rows: _Rows, batch: list[_Waiting]) -> None:
        """Let those join who ask for the same release; `batch` becomes everybody who is to hear of a failure."""
        room = self._max_batch - len(rows.waiting)
        newcomers = self._queue.take_more(batch[0].request.release_id, room) if rows.joinable else []
        batch[:] = [*rows.waiting, *newcomers]  # without those who are done: in steady traffic a batch never ends
        if newcomers and (more := self._read_prompts(newcomers)).waiting:
            rows.join(more)

    def _read_prompts(self, batch: list[_Waiting]) -> _Rows:
        """Read the prompts that are not too long, and draw the first token of their answers."""
        prompts = self._tokenizer([waiting.prompt for waiting in batch], add_special_tokens=False)["input_ids"]
        fitting = [(one, ids) for one, ids in zip(batch, prompts, strict=True) if self._fits(one, len(ids))]
        rows = _Rows.of([one for one, _ in fitting], [ids for _, ids in fitting] or [[]], self._model.device)
        if rows.waiting:
            self._step(rows)
        return rows

    def _step(self, rows: _Rows) -> None:
        out = self._model(
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
        ended = token in self._ends
        if not ended:
            waiting.tokens.append(token)
            stops = waiting.request.stop
            ended = bool(stops) and _cut(text := self._text(waiting.tokens), stops) != text
        if ended or len(waiting.tokens) >= waiting.room:
            reason: Literal["stop", "length"] = "stop" if ended else "length"
            waiting.written.set_result(_Written(waiting.prompt_tokens, waiting.tokens, reason))


def _load_base(base: str, dtype: torch.dtype) -> tuple[Any, Any]:
    local = Path(base).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=local)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, local_files_only=local, use_safetensors=True, dtype=dtype
        )
    except Exception as error:  # four libraries, one sentence
        raise EngineError(
            f"The base model {base!r} cannot be loaded: {error}. "
            "It must be a folder with config.json, a tokenizer and weights in safetensors, or a name on the hub."
        ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(f"The tokenizer of {base!r} has no chat template: add chat_template.jinja to its folder.")
    tokenizer("", padding=False, truncation=False)  # drops settings of the file now, while no other thread reads it
    model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    return tokenizer, model


def _lora_config(folder: str) -> Any:
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode = True
    return config


def _end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    """Return the ids that end an answer: end tokens of model and tokenizer, and the padding token."""
    configured = model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in (*several, tokenizer.eos_token_id, tokenizer.pad_token_id) if i is not None)


def _checked_adapter(release: Release) -> str:
    """Return the adapter's folder when its weights are the ones that the release names."""
    file = Path(str(release.adapter)) / _WEIGHTS
    try:
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise EngineError(
            f"The adapter of release {release.release_id!r} cannot be read: {str(file)!r}, {error.strerror}."
        ) from error
    if found != release.adapter_sha256:
        raise EngineError(
            f"The adapter of release {release.release_id!r} in {str(file)!r} has SHA-256 {found[:12]}..., "
            f"but the release names {str(release.adapter_sha256)[:12]}...: the file was changed; train it again."
        )
    return str(file.parent)


def _same_model(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(other).is_dir() and Path(one).samefile(other))


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


def _fail(batch: Sequence[_Waiting], reason: str) -> None:
    for waiting in batch:
        if not waiting.written.done():
            waiting.written.set_exception(EngineError(reason))
