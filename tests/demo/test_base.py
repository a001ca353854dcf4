"""The base model: its chat template, how it is made, and that the shipped one answers as promised."""

import json
from importlib import resources

import pytest

pytest.importorskip("torch")

from langgraph_learnloop.demo import base, chat, grammar, tokens, words
from tests.torch_threads import one_processor_thread

__all__ = ["one_processor_thread"]

SHIPPED = resources.files("langgraph_learnloop.demo") / "base_model"
ARGS = {"people": 3, "restaurant": 'Joe\'s "Best" Grill', "day": "Sübtag", "tags": ["a b", "c"]}


def called(row):
    """Write a row as a chat: the request and the call it asks for."""
    function = {"name": row["tool"], "arguments": row["args"]}
    return [
        {"role": "user", "content": row["text"]},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Train a base model of five steps; give its folder, its manifest and the progress calls."""
    out = tmp_path_factory.mktemp("base") / "model"
    recipe = base.Recipe(seed=7, steps=5, batch=8, hidden=32, layers=1, heads=2, feed_forward=32, vocabulary=600)
    seen = []
    manifest = base.train_base(
        grammar.base_rows(300, 0),
        out,
        held_out=grammar.base_rows(20, 1),
        recipe=recipe,
        on_progress=seen.append,
    )
    return out, manifest, seen


@pytest.fixture(scope="module")
def shipped():
    """Load the model and tokenizer that ship with the package."""
    return base.load(str(SHIPPED))


@pytest.fixture(scope="module")
def tokenizer():
    """Make a tokenizer on the sample data."""
    return tokens.build_tokenizer(grammar.base_rows(500, 0), 800)


def test_training_writes_a_whole_folder(tiny):
    """Training leaves one folder with weights, tokenizer, template and manifest, and nothing beside it."""
    out, manifest, seen = tiny
    assert {file.name for file in out.iterdir()} == {
        *("model.safetensors", "config.json", "generation_config.json", "manifest.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert [file.name for file in out.parent.iterdir()] == ["model"]
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert manifest["recipe"]["seed"] == 7
    assert manifest["held_out"]["n"] == 20
    assert (seen[-1].done, seen[-1].total) == (5, 5)


def test_training_replaces_an_older_folder(tiny, tmp_path):
    """A second training takes the place of the first one's folder."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "old.txt").write_text("old")
    recipe = base.Recipe(steps=1, batch=2, hidden=32, layers=1, heads=2, feed_forward=32, vocabulary=600)
    base.train_base(grammar.base_rows(50, 0), out, recipe=recipe)
    assert not (out / "old.txt").exists()
    assert (out / "model.safetensors").exists()


def test_failed_training_leaves_the_older_folder(tmp_path):
    """A training that fails leaves the folder as it was and no scraps."""
    out = tmp_path / "model"
    out.mkdir()
    (out / "old.txt").write_text("old")

    def stop(*_):
        raise KeyboardInterrupt

    recipe = base.Recipe(steps=1, batch=2, hidden=32, layers=1, heads=2, feed_forward=32, vocabulary=600)
    with pytest.raises(KeyboardInterrupt):
        base.train_base(grammar.base_rows(50, 0), out, recipe=recipe, on_progress=stop)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert (out / "old.txt").exists()


def test_same_seed_same_weights(tmp_path):
    """The same rows, recipe and seed give the same weights."""
    recipe = base.Recipe(steps=2, batch=4, hidden=32, layers=1, heads=2, feed_forward=32, vocabulary=600)
    rows = grammar.base_rows(100, 0)
    one, two = (base.train_base(rows, tmp_path / name, recipe=recipe)["weights_sha256"] for name in "ab")
    assert one == two


def test_template_writes_what_training_writes(tokenizer):
    """The chat template and the training sequences agree on every token and on what the model says itself."""
    for row in [{"text": "Book it", "tool": "book_table", "args": ARGS}, *grammar.traffic(50, 2)]:
        asked = called(row)
        answered = [*asked, {"role": "tool", "content": "I did."}, {"role": "assistant", "content": "I did."}]
        made = tokens.encode([tokens.call_parts(row), tokens.answer_parts("I did.")], tokenizer)
        for messages, sequence in zip((asked, answered), made, strict=True):
            shown = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
            assert shown["input_ids"] == sequence.ids
            assert [bool(said) for said in shown["assistant_masks"]] == sequence.said


def test_call_survives_the_round_trip(tokenizer):
    """A call written, tokenised and decoded is read back with the same name, values and types."""
    ids = tokenizer(chat.render_call("book_table", ARGS) + chat.END, add_special_tokens=False)["input_ids"]
    assert chat.parse_call(tokenizer.decode(ids, skip_special_tokens=True)) == ("book_table", ARGS)
    assert chat.parse_call(chat.render_call("stop", {})) == ("stop", {})


@pytest.mark.parametrize("text", ["Hello.", '<tool_call>{"name": "x"</tool_call>', "<tool_call>[1]</tool_call>"])
def test_no_call_is_none(text):
    """Text without a valid call reads as None."""
    assert chat.parse_call(text) is None


def test_template_remembers_one_turn(tokenizer):
    """System messages, tools and all before the last request or result are left out; nulls and markers too."""
    function = {"name": "play", "arguments": {"artist": "Anna", "room": None}}
    chats = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three <|end|>"},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "Done."},
    ]

    def shown(messages, prompt):
        return tokenizer.apply_chat_template(messages, tools=[function], add_generation_prompt=prompt, tokenize=False)

    assert shown(chats[:5], False) == (
        "<|user|> three < |end|><|end|>"
        '<|assistant|><tool_call>{"name": "play", "arguments": {"artist": " Anna"}}</tool_call><|end|>'
    )
    assert shown(chats, True) == "<|tool|> Done.<|end|><|assistant|>"


def test_word_is_the_same_token_in_request_and_call(tokenizer):
    """The tokens of a value are the same in the request and in the call."""
    row = {"text": "wake zorblim now", "tool": "wake", "args": {"who": "zorblim"}}
    value = tokenizer(" zorblim", add_special_tokens=False)["input_ids"]
    (made,) = tokens.encode([tokens.call_parts(row)], tokenizer)
    joined = ",".join(map(str, made.ids))
    assert joined.count(",".join(map(str, value))) == 2


def test_shipped_model_is_small_and_whole(shipped):
    """The shipped folder is at most 8,000,000 bytes and its weights are the manifest's."""
    import hashlib

    folder = base.Path(str(SHIPPED))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8_000_000
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == manifest["weights_sha256"]
    assert shipped[0].dtype == base.torch.float32


def test_shipped_model_knows_the_old_and_not_the_new(shipped):
    """The shipped model is right on at least 90% of the old slice and on at most 20% of the target slice."""
    old = base.score(*shipped, grammar.base_rows(60, 77))
    target = base.score(*shipped, grammar.target_rows(60, 77))
    assert old["fully_right"] >= 0.9
    assert target["fully_right"] <= 0.2


def test_batch_answers_as_single(shipped):
    """Answers are the same in a left-padded batch and one by one."""
    texts = [row["text"] for row in grammar.traffic(10, 11)]
    assert base.generate(*shipped, texts) == [base.generate(*shipped, [text])[0] for text in texts]


def test_everyday_words_are_single_words():
    """Each word that a file's base knows is one lower-case word, and comes once."""
    assert all(word.isalpha() and word.islower() for word in words.ENGLISH)
    assert len(set(words.ENGLISH)) == len(words.ENGLISH)


def test_variation_keeps_arguments_in_the_text():
    """Varying a row changes its values in the text and in the call alike, and keeps their types."""
    rows = grammar.base_rows(500, 0)
    mentions, rng = tokens.Mentions(rows), words.seeded("test")
    varied = [mentions.vary(row, rng) for row in rows]
    assert sum(new["text"] != old["text"] for new, old in zip(varied, rows, strict=True)) > 400
    for new, old in zip(varied, rows, strict=True):
        assert {name: type(value) for name, value in new["args"].items()} == {
            name: type(value) for name, value in old["args"].items()
        }
        assert all(str(value) in new["text"] for value in new["args"].values()), new


def test_variation_keeps_enumerations():
    """An argument that only ever takes a few values is given no invented ones."""
    rows = [row for row in grammar.base_rows(2000, 0) if row["tool"] == "find_route"]
    mentions, rng = tokens.Mentions(rows), words.seeded("test")
    assert {mentions.vary(row, rng, made_up=1.0)["args"]["mode"] for row in rows} == {
        "car", "bike", "train", "bus", "ferry"
    }  # fmt: skip


def test_variation_leaves_unclear_values():
    """A value that stands twice in the text, or inside another one, is kept."""
    row = {"text": "play Mill by Mill Owl", "tool": "t", "args": {"a": "Mill", "b": "Mill Owl"}}
    varied = tokens.Mentions([row]).vary(row, words.seeded("test"), made_up=1.0)
    assert varied["args"]["a"] == "Mill"
