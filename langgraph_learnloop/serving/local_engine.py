"""Serve a base model and its adapters inside the agent's own process; heavy, import it only to construct one.

PEFT is not thread-safe: two threads that generate on one model with different adapters get each other's words. So one
worker thread runs the models (generation_loop.py); callers queue, render their prompts and read their answers
themselves. Their requests lie side by side in rows (rows.py), each with its release's adapter (weights.py,
row_adapters.py); what a conversation shares with earlier ones is not read again (prefixes.py).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

from langgraph_learnloop.errors import EngineError, needing, not_loaded

with needing("A model in this process", "langgraph-learnloop[train]"):
    import torch

from langgraph_learnloop.files import same_model
from langgraph_learnloop.records import EngineHealth, Generated, Generation, Message, Release
from langgraph_learnloop.serving.batching import FairQueue
from langgraph_learnloop.serving.detokenizer import Detokenizer, cut, kept_tokens, token_logprobs
from langgraph_learnloop.serving.generation_loop import GenerationLoop
from langgraph_learnloop.serving.prefixes import Prefixes
from langgraph_learnloop.serving.rows import Waiting
from langgraph_learnloop.serving.toolcalls import offered_names, parse_answer
from langgraph_learnloop.serving.weights import ReleaseModels, end_tokens, load_base

_LEAST_KNOWN = 32
"""Tokens that must be known of a conversation's beginning to be worth it."""


class LocalEngine:
    """Serve releases of one base model from this process.

    `threads` is the number of PyTorch's processor threads (None: one for a small model, else PyTorch's choice; it holds
    for the process), `max_batch` the most requests that are answered together, `seed` that of sampling at temperatures
    above 0. `prefix_mb` is the most that is kept of answered conversations, in megabytes of keys and values, so that
    the next turn of a thread need not be read from its beginning; 0 keeps nothing.
    """

    def __init__(
        self,
        base: str | Path,
        *,
        threads: int | None = None,
        max_batch: int = 32,
        prefix_mb: int = 256,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.base_model = str(base)
        self._tokenizer, model = load_base(self.base_model, dtype)
        self._models = ReleaseModels(model, self.base_model)
        self._loaded: dict[str, None] = {}
        self._loading = threading.Lock()
        self._queue: FairQueue[Waiting] = FairQueue()
        limit = int(getattr(model.config, "max_position_embeddings", 0) or 2**31)
        self._generation = GenerationLoop(
            self._queue,
            self._models,
            Prefixes(prefix_mb * 2**20, least=_LEAST_KNOWN),
            self._text,
            end_tokens(self._tokenizer, model),
            limit,
            loaded=self._loaded,
            max_batch=max_batch,
            random=torch.Generator(model.device).manual_seed(seed),
        )
        self._worker = threading.Thread(target=self._work, args=(threads,), name="learnloop-engine", daemon=True)
        self._worker.start()

    def load(self, release: Release) -> None:
        """Make a release servable beside the others; raise EngineError when it is not what it says it is."""
        if self._queue.closed:
            raise self._is_closed()
        if release.release_id in self._loaded:  # asked before every answer: it must not wait while another is loaded
            return
        with self._loading:
            if release.release_id not in self._loaded:
                if not same_model(release.base_model, self.base_model):
                    raise EngineError(
                        f"Release {release.release_id!r} belongs to the base model {release.base_model!r}, "
                        f"but this engine holds {self.base_model!r}: make an engine for that base."
                    )
                self._models.add(release)
                self._loaded[release.release_id] = None

    def unload(self, release_id: str) -> None:
        """Forget a release; unknown ids are ignored, requests that wait for it get an EngineError."""
        with self._loading:
            if release_id not in self._loaded:
                return
            del self._loaded[release_id]
            dropped = self._generation.drop(release_id)
            if dropped is None:
                raise self._is_closed()
            dropped.result()

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
        working = self._worker.is_alive() and not self._queue.closed
        trouble = None if working else str(self._is_closed())
        return EngineHealth(trouble=trouble, loaded=tuple(self._loaded), waiting=len(self._queue))

    def close(self) -> None:
        """Stop the worker; requests that still wait get an EngineError."""
        for waiting in self._queue.close():
            waiting.fail(f"The engine of {self.base_model!r} was closed.")
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def _work(self, threads: int | None) -> None:
        if threads is None and self._models.small:
            threads = 1
        if threads is not None:
            torch.set_num_threads(threads)
        self._generation.run()

    def _is_closed(self) -> EngineError:
        return EngineError(self._generation.trouble or f"The engine of {self.base_model!r} is closed; make a new one.")

    def _waiting(self, request: Generation) -> Waiting:
        if request.release_id not in self._loaded:
            raise not_loaded(request.release_id, self._loaded)
        prompt = self._prompt(request)
        return Waiting(request, prompt, self._tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def _put(self, waiting: Waiting) -> None:
        if not self._queue.put(self._models.group(waiting.release_id), waiting, whose=waiting.release_id):
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
                f"The chat template of {self.base_model!r} cannot render this conversation: {error}. "
                "Change its messages or tools to what the template knows, or the template."
            ) from error
        return text

    def _texts(self, waiting: Waiting, heard: SimpleQueue[bool]) -> Iterator[str]:
        """Yield texts, some of them empty; in the thread of whoever listens, so that the worker need not decode."""
        yield waiting.opening
        words = Detokenizer(self._text, waiting.request.stop)
        while heard.get():
            yield words.take(tuple(waiting.tokens))
        waiting.written.result()  # raises what went wrong
        yield words.take(waiting.tokens, is_all=True)

    def _read(self, waiting: Waiting) -> Generated:
        reason, tokens, stops = waiting.written.result(), waiting.tokens, waiting.request.stop
        text = waiting.opening + cut(self._text(tokens), stops)
        answer = parse_answer(text, offered=offered_names(waiting.request.tools))
        kept = kept_tokens(self._text, tokens, stops) if waiting.told else 0
        return Generated(
            message=Message(role="assistant", content=answer.content, tool_calls=answer.tool_calls),
            reasoning=answer.reasoning,
            input_tokens=len(waiting.ids),
            output_tokens=len(tokens),
            finish_reason=reason,
            logprobs=token_logprobs(self._text, tokens[:kept], waiting.told),
        )

    def _text(self, tokens: Sequence[int]) -> str:
        """Decode with special tokens kept: `<tool_call>` may be one of them."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))
