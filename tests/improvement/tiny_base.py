"""Make a tiny Llama with its own tokenizer and chat template, in a second, for tests that need a real model."""

from __future__ import annotations

import json
from pathlib import Path

from langgraph_learnloop.records import Example, Message, ToolCall

TEMPLATE = (
    "{%- if tools %}<|im_start|>system\n{% for t in tools %}{{ t.function.name }} {% endfor %}<|im_end|>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
CITIES = ("oslo", "rome", "lima", "bern", "kyiv", "riga", "doha", "baku")


def make_base(
    folder: Path, hidden: int = 64, layers: int = 2, vocabulary: int = 400, seed: int = 0, like_llama2: bool = False
) -> Path:
    """Write an untrained model and its tokenizer into a folder and return it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer_like_llama2(vocabulary) if like_llama2 else _tokenizer(vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=max(vocabulary, len(tokenizer)),
        hidden_size=hidden,
        intermediate_size=hidden * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(vocabulary: int):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=MARKS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    raw.train_from_iterator([e.model_dump_json() for e in weather_examples()] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _tokenizer_like_llama2(vocabulary: int):
    """Return one that falls back on bytes: llama.cpp knows other kinds only by the hash of what a famous one makes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Replace(" ", "\u2581")
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<unk>", *MARKS, *octets])
    raw.train_from_iterator([e.model_dump_json() for e in weather_examples()] * 3, trainer)
    made = json.loads(raw.to_str())
    made["added_tokens"] = [one for one in made["added_tokens"] if one["content"] not in octets]  # they are no marks
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(made)),
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def weather_examples(origin: str = "correction") -> list[Example]:
    """Return one example a city: asked for the weather, the tool is the answer."""
    return [
        Example(
            messages=(Message(role="user", content=f"weather in {city}"),),
            chosen=Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": city}),)),
            origin=origin,  # type: ignore[arg-type]  # a string in tests
            split="train",
        )
        for city in CITIES
    ]


def write_dataset(path: Path, examples: list[Example]) -> Path:
    """Write examples as JSON lines and return the path."""
    path.write_text("".join(example.model_dump_json() + "\n" for example in examples), encoding="utf-8")
    return path


def loads(text: str) -> object:
    """Parse JSON, for short lines in tests."""
    return json.loads(text)
