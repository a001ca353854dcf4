"""Train the demo's base model from scratch: a Llama of 3.8 million parameters that turns a request into a tool call.

The recipe is made for copying, which small models are bad at: short sequences, a wide initialisation, Muon for the
matrices (`torch.optim.Muon`), values replaced at every draw, and copy drills at first. Heavy: imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from langgraph_learnloop.demo import chat, grammar, toolbox, words
from langgraph_learnloop.demo.rows import read_rows, split_tools
from langgraph_learnloop.demo.tokens import Mixture, Results, Rows, SequenceMaker, TokenSequence, build_tokenizer
from langgraph_learnloop.demo.worlds import FILE_BASE
from langgraph_learnloop.files import whole_folder
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Progress

SAMPLE_ROWS = 20_000
_REPORT_EVERY = 20
_ROUND_WIDTH, _ROUND_SAID = 4, 128
"""Sizes are rounded up to these: oneDNN compiles a kernel for every new shape, and keeps it."""
_LANES = 2
"""Parts of a batch that are learned at the same time, and parts of the matrices that are."""
_POOL = 16
"""Steps whose sequences are drawn together and sorted by length."""


@dataclass(frozen=True)
class Recipe:
    """Every number the base model depends on, besides its rows."""

    seed: int = 0
    """Seeds the first weights and the drawing of sequences."""
    steps: int = 1200
    """Optimiser steps."""
    batch: int = 64
    """Sequences in a step."""
    hidden: int = 256
    """Width of the model."""
    layers: int = 4
    """Number of layers."""
    heads: int = 4
    """Attention heads in a layer."""
    feed_forward: int = 640
    """Width inside the feed-forward part of a layer."""
    vocabulary: int = 3000
    """Tokens at most, special ones included."""
    initializer_range: float = 0.05
    """Standard deviation of the first weights; with the usual 0.02 copying is learned much later."""
    muon_rate: float = 5e-3
    """Learning rate of the matrices."""
    adamw_rate: float = 3e-3
    """Learning rate of embeddings and norms."""
    weight_decay: float = 0.05
    """Weight decay of the matrices."""
    warmup: float = 0.03
    """Share of the steps in which the rates rise."""
    decay: float = 0.6
    """Share of the steps, at the end, in which the rates fall to zero."""
    mixture: Mixture = field(default_factory=Mixture)
    """How sequences are made from rows."""


def train_base(
    rows: Rows,
    out_dir: str | Path,
    *,
    held_out: Rows = (),
    recipe: Recipe | None = None,
    results: Results | None = None,
    language: Sequence[str] = (),
    source: str = "",
    on_progress: OnProgress = lambda _: None,
) -> dict[str, Any]:
    """Train a base model on `rows`, score it on `held_out`, put it in `out_dir` at once when done; return its manifest.

    `results` says what a tool answers to a row; `language` are words to know besides those of the rows; `source` names
    the rows.
    """
    recipe = recipe or Recipe()
    started = time.monotonic()
    tokenizer = build_tokenizer(rows, recipe.vocabulary, language)
    model = _new_model(recipe, tokenizer)
    maker = SequenceMaker(rows, tokenizer, recipe.mixture, recipe.seed, results, language)
    _fit(model, maker, recipe, tokenizer.pad_token_id, on_progress)
    seconds = time.monotonic() - started
    return _publish(Path(out_dir), model, tokenizer, recipe, held_out, {"source": source, "rows": len(rows)}, seconds)


def _new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=512,
        initializer_range=recipe.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


def _fit(model: LlamaForCausalLM, maker: SequenceMaker, recipe: Recipe, pad: int, on_progress: OnProgress) -> None:
    optimizers = _optimizers(model, recipe)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: _rate(step, recipe)) for o in optimizers]
    model.train()
    model.set_attn_implementation("eager")  # bf16 SDPA has a slow backward pass on CPU
    losses: list[float] = []
    with _lanes() as lanes:
        for step, batch in enumerate(_batches(maker, recipe)):
            said = sum(sum(sequence.said) for sequence in batch)
            parts = [batch[lane::_LANES] for lane in range(_LANES)]
            found = list(lanes.map(lambda part: _learn(model, part, pad, said), parts))  # noqa: B023 - ends in the step
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            list(lanes.map(lambda optimizer: optimizer.step(), optimizers))
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(sum(found))
            if (step + 1) % _REPORT_EVERY == 0 or step + 1 == recipe.steps:
                loss = sum(losses) / len(losses)
                on_progress(Progress(stage="train", done=step + 1, total=recipe.steps, loss=loss))
                losses.clear()


@contextlib.contextmanager
def _lanes() -> Iterator[ThreadPoolExecutor]:
    """Give threads that share the cores: for tensors this small, two threads side by side beat two inside each sum.

    What is learned does not depend on who comes first: a gradient is the sum of two.
    """
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(_LANES, initializer=torch.set_num_threads, initargs=(max(1, threads // _LANES),)) as pool:
        yield pool
    torch.set_num_threads(threads)


def _learn(model: LlamaForCausalLM, part: Sequence[TokenSequence], pad: int, said: int) -> float:
    """Add the gradient of a part of a batch that has `said` tokens to learn; return the part's share of the loss."""
    if not part:
        return 0.0
    share = sum(sum(sequence.said) for sequence in part) / said
    loss = _loss(model, part, pad) * share
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item()


def _batches(maker: SequenceMaker, recipe: Recipe) -> Iterator[list[TokenSequence]]:
    """Draw the batches of every step, each of sequences of about one length, so that little is spent on padding."""
    order = words.seeded(f"batches {recipe.seed}")
    for start in range(0, recipe.steps, _POOL):
        steps = min(_POOL, recipe.steps - start)
        pool = sorted(maker.draw(recipe.batch * steps, start / recipe.steps), key=lambda s: len(s.ids))
        batches = [pool[i * recipe.batch : (i + 1) * recipe.batch] for i in range(steps)]
        order.shuffle(batches)
        yield from batches


def _optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Give the matrices inside the layers to Muon, in as many parts as there are lanes, the others to AdamW."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    muons = [
        torch.optim.Muon(
            matrices[lane::_LANES],
            lr=recipe.muon_rate,
            weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        for lane in range(_LANES)
    ]
    return [*muons, torch.optim.AdamW(others, lr=recipe.adamw_rate, betas=(0.9, 0.95), weight_decay=0.0)]


def _rate(step: int, recipe: Recipe) -> float:
    """Shape the rates as a trapezoid: up, level, down to zero."""
    up = (step + 1) / max(1.0, recipe.warmup * recipe.steps)
    down = (recipe.steps - step) / max(1.0, recipe.decay * recipe.steps)
    return min(1.0, up, down)


def _loss(model: LlamaForCausalLM, batch: Sequence[TokenSequence], pad: int) -> torch.Tensor:
    """Compute the mean cross-entropy of the tokens the model has to say; the vocabulary is projected only there.

    Padding stands on the right, where a causal model cannot see it, so no mask is needed.
    """
    ids, said = _padded(batch, pad)  # both (sequences, tokens)
    labels = ids[:, 1:][said[:, 1:]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
        asked = states[:, :-1][said[:, 1:]]  # (said tokens, hidden)
        asked = functional.pad(asked, (0, 0, 0, -len(asked) % _ROUND_SAID))
        logits = model.lm_head(asked)[: len(labels)]  # (said tokens, vocabulary)
    return functional.cross_entropy(logits.float(), labels)


def _padded(batch: Sequence[TokenSequence], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(sequence.ids) for sequence in batch)
    width += -width % _ROUND_WIDTH
    ids = torch.tensor([s.ids + [pad] * (width - len(s.ids)) for s in batch])
    said = torch.tensor([s.said + [False] * (width - len(s.said)) for s in batch])
    return ids, said


def score(model: PreTrainedModel, tokenizer: Any, rows: Rows, batch: int = 128) -> dict[str, Any]:
    """Ask for every row greedily and count: share with the right tool, share fully right, both per tool as well."""
    hits: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        for row, text in zip(some, generate(model, tokenizer, [r["text"] for r in some]), strict=True):
            call = chat.parse_call(text)
            hits[row["tool"]].append((call is not None and call[0] == row["tool"], call == (row["tool"], row["args"])))
    everything = [hit for tool in hits.values() for hit in tool]
    return {**_shares(everything), "tools": {name: _shares(tool) for name, tool in sorted(hits.items())}}


def _shares(hits: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """Return n and the two shares, None when nothing was asked."""
    n = len(hits)
    tool, full = (round(sum(hit[i] for hit in hits) / n, 4) if n else None for i in (0, 1))
    return {"n": n, "right_tool": tool, "fully_right": full}


def generate(model: PreTrainedModel, tokenizer: Any, texts: Sequence[str], tokens: int = 80) -> list[str]:
    """Let the model answer each request, greedily, in one left-padded batch of at most `tokens` new tokens each."""
    chats = [[{"role": "user", "content": text}] for text in texts]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        out = model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=tokens, do_sample=False
        )
    said: list[str] = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def _publish(
    out_dir: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    recipe: Recipe,
    held_out: Rows,
    data: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Write the folder beside its place, score what was written, and put it in its place."""
    with whole_folder(out_dir) as made:
        _write_weights(made, model, tokenizer)
        figures = score(*load(made), held_out)
        manifest = _manifest(made, model, recipe, data, figures, seconds)
        (made / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _write_weights(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save weights in bf16, but a config that says float32: half the size on disk, exact arithmetic when loaded."""
    tokenizer.save_pretrained(folder)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"}
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _manifest(
    folder: Path, model: LlamaForCausalLM, recipe: Recipe, data: dict[str, Any], figures: dict[str, Any], seconds: float
) -> dict[str, Any]:
    weights = (folder / "model.safetensors").read_bytes()
    return {
        "data": data,
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "held_out": figures,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "seconds": round(seconds, 1),
        "versions": {
            "python": platform.python_version(),
            **{m.__name__: m.__version__ for m in (torch, transformers, tokenizers)},
        },
    }


def load(folder: str | Path) -> tuple[PreTrainedModel, Any]:
    """Load a base model in float32, ready to answer, and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.train(False)
    return model, AutoTokenizer.from_pretrained(folder)


def train_sample_base(out_dir: Path, on_progress: OnProgress) -> dict[str, Any]:
    """Train the base model that ships with the package, on the sample data; return its manifest."""
    rows = grammar.base_rows(SAMPLE_ROWS, seed=0)
    known = {row["text"] for row in rows}
    held_out = [row for row in grammar.base_rows(1000, seed=1) if row["text"] not in known]
    home = toolbox.Home()
    return train_base(
        rows,
        out_dir,
        held_out=held_out,
        results=lambda row: str(getattr(home, row["tool"])(**row["args"])),
        language=words.LANGUAGE,
        source=f"grammar.base_rows({SAMPLE_ROWS}, seed=0)",
        on_progress=on_progress,
    )


def train_file_base(
    path: str | Path, hold_out: Collection[str], out_dir: Path, on_progress: OnProgress
) -> dict[str, Any]:
    """Train a base model on the rows of a data file, without the tools in `hold_out`; return its manifest."""
    split = split_tools(read_rows(path), hold_out)
    return train_base(
        split.base_train,
        out_dir,
        held_out=split.base_test,
        recipe=Recipe(**FILE_BASE),
        language=words.ENGLISH,
        source=f"{Path(path).name} without {', '.join(split.held_out)}",
        on_progress=on_progress,
    )
