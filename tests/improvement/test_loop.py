"""What is drawn, what is learned, and that a real job in a real process learns it."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from langgraph_learnloop.errors import DataError, TrainingError
from langgraph_learnloop.examples import draw, read_examples
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.improvement.lora.adapters import load
from langgraph_learnloop.improvement.lora.job import LocalTrainer
from langgraph_learnloop.improvement.lora.loop import train
from langgraph_learnloop.improvement.lora.rows import collate, tokenise
from langgraph_learnloop.jobs import WEIGHTS
from langgraph_learnloop.records import Example, Message, Progress, Recipe, ToolCall
from tests.improvement.jobs import RECIPE, answers, in_process, job_of
from tests.improvement.tiny_base import weather_examples, write_dataset


def example(tool: str | None, text: str = "hi", origin: str = "replay", **more: object) -> Example:
    answer = (
        Message(role="assistant", tool_calls=(ToolCall(name=tool),)) if tool else Message(role="assistant", content="x")
    )
    asked = (Message(role="user", content=text),)
    return Example(messages=asked, chosen=answer, origin=origin, split="train", **more)  # type: ignore[arg-type]


# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_replay_covers_every_category_evenly():
    """A rare tool is replayed whole before a common one is replayed again, and the proportion is the recipe's."""
    pool = [example("common", f"c{i}") for i in range(100)] + [example("rare", f"r{i}") for i in range(3)]
    pool += [example(None, f"a{i}") for i in range(50)]
    new = [example("new", f"n{i}", "correction") for i in range(4)]
    drawn = draw(new + pool, Recipe(replay=4.0))[4:]
    assert len(drawn) == 16
    assert Counter(e.category for e in drawn) in (
        {"rare": 3, "common": 7, "answer": 6},
        {"rare": 3, "common": 6, "answer": 7},
    )
    assert len({e.example_id for e in drawn}) == 16


def test_variations_are_taken_on_request_and_draw_no_replay():
    """Nine variations of one correction still draw the replay of one."""
    data = [example("t", "n", "correction")] + [example("t", f"v{i}", "variation") for i in range(9)]
    data += [example("old", f"o{i}") for i in range(9)]
    counts = [
        Counter(e.origin for e in draw(data, Recipe(replay=2.0, variations=variations))) for variations in (True, False)
    ]
    assert counts == [{"correction": 1, "variation": 9, "replay": 2}, {"correction": 1, "replay": 2}]


def test_drawing_is_seeded():
    """The same seed draws the same examples, another seed others."""
    data = [example("t", "n", "correction")] * 3 + [example("old", f"o{i}") for i in range(50)]
    first, again, other = (draw(data, Recipe(replay=3.0, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_no_replay_is_no_replay():
    """A recipe of 0 draws nothing from the pool."""
    assert [e.origin for e in draw([example("t", "n", "correction"), example("old")], Recipe(replay=0))] == [
        "correction"
    ]


def test_only_the_training_split_is_read(tmp_path: Path):
    """Held-out and unmarked examples never reach the trainer."""
    kept = example("t", "kept")
    others = [example("t", "held").model_copy(update={"split": split}) for split in ("heldout", "validation", None)]
    assert read_examples(write_dataset(tmp_path / "d.jsonl", [*others, kept])) == [kept]


def test_a_malformed_line_is_named(tmp_path: Path):
    """The error says which line and what is wrong with it."""
    path = write_dataset(tmp_path / "d.jsonl", [example("t")])
    path.write_text(path.read_text() + "\n" + '{"messages": []}\n')
    with pytest.raises(DataError, match=r"Line 3 of .*d\.jsonl.*chosen Field required"):
        read_examples(path)


def test_a_file_that_is_no_text_is_named(tmp_path: Path):
    """Bytes that are no UTF-8 are a malformed line like any other."""
    (tmp_path / "d.jsonl").write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(DataError, match=r"Line 1 of .*d\.jsonl.* is not an example"):
        read_examples(tmp_path / "d.jsonl")


def test_a_dataset_without_training_examples_is_refused(tmp_path: Path):
    """An empty training split is a sentence, not a crash of the trainer."""
    with pytest.raises(DataError, match="no examples whose split is 'train'"):
        read_examples(write_dataset(tmp_path / "d.jsonl", []))


# -- what is learned ---------------------------------------------------------------------------------------------------


def learned(base: Path, given: Example) -> tuple[str, str]:
    """Return (what is read only, what is learned) of one example, as text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    (row,) = tokenise([given], tokenizer)
    pairs = list(zip(row["input_ids"], row["labels"], strict=True))
    assert all(label in (-100, token) for token, label in pairs)
    read = [token for token, label in pairs if label == -100]
    return tokenizer.decode(read), tokenizer.decode([label for _, label in pairs if label != -100])


def test_only_the_last_answer_is_learned(base: Path):
    """Questions, tools and earlier answers are read; the right answer and its end are learned."""
    given = Example(
        messages=(
            Message(role="user", content="hi"),
            Message(role="assistant", content="wrong before"),
            Message(role="user", content="weather in oslo"),
        ),
        tools=({"type": "function", "function": {"name": "weather", "description": "", "parameters": {}}},),
        chosen=Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": "oslo"}),)),
        origin="correction",
        split="train",
    )
    read, answer = learned(base, given)
    assert read.startswith("<|im_start|>system\nweather <|im_end|>")
    assert "wrong before" in read
    assert read.endswith("weather in oslo<|im_end|>\n<|im_start|>assistant\n")
    assert answer == '<tool_call>{"name": "weather", "arguments": {"city": "oslo"}}</tool_call><|im_end|>\n'


def test_arguments_of_unlike_tools_do_not_mix(base: Path):
    """One tool's arguments never turn up, as nulls, in another's call."""
    one = example("a").model_copy(
        update={"chosen": Message(role="assistant", tool_calls=(ToolCall(name="a", args={"x": 1}),))}
    )
    two = example("b").model_copy(
        update={"chosen": Message(role="assistant", tool_calls=(ToolCall(name="b", args={"y": "z"}),))}
    )
    assert '"arguments": {"x": 1}}' in learned(base, one)[1]
    assert '"arguments": {"y": "z"}}' in learned(base, two)[1]


def test_batches_are_padded_to_multiples_of_eight():
    """Padding is masked from attention and from the loss."""
    batch = collate([{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}], pad=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 9, 9, 9, 9, 9], [4, 9, 9, 9, 9, 9, 9, 9]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 1]
    assert batch["labels"].tolist() == [[-100, 2, 3] + [-100] * 5, [4] + [-100] * 7]


def test_the_cheap_loss_is_the_loss(base: Path, tmp_path: Path):
    """The trainer's loss on a CPU equals the model's own."""
    import torch
    from trl import SFTConfig

    from langgraph_learnloop.improvement.lora.trainers import CpuLoss

    model, tokenizer = load(job_of(base, tmp_path, weather_examples()))
    batch = collate(tokenise(weather_examples()[:3], tokenizer), pad=0)
    with torch.no_grad():
        expected = model(**batch).loss
        got = CpuLoss.compute_loss(object.__new__(CpuLoss), model, batch)
    assert torch.allclose(got, expected, atol=1e-5)
    assert SFTConfig  # the trainer class is TRL's own, this package only changes its loss on a CPU


def test_two_halves_have_the_gradient_of_the_whole(base: Path, tmp_path: Path):
    """Learning half a batch beside the other gives the loss and the gradients of the batch, unequal halves included."""
    import torch
    from transformers import set_seed

    from langgraph_learnloop.improvement.lora.trainers import CpuLoss, _TwoLanes

    class Bare(_TwoLanes, CpuLoss):
        def __init__(self) -> None:
            self.accelerator = self

        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

        def _prepare_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return inputs

    model, tokenizer = load(job_of(base, tmp_path, weather_examples()))
    for size in (3, 1):
        batch = collate(tokenise(weather_examples()[:size], tokenizer), pad=0)
        set_seed(0)
        whole = model(**batch).loss
        whole.backward()
        learned = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad(set_to_none=True)
        loss = Bare().training_step(model, batch)
        assert torch.allclose(loss, whole.detach(), atol=1e-5)
        for name, p in model.named_parameters():
            if name in learned:
                assert torch.allclose(p.grad, learned[name], atol=1e-5), name
        model.zero_grad(set_to_none=True)


# -- real jobs ---------------------------------------------------------------------------------------------------------


def test_a_real_job_in_a_process_learns_the_cities(base: Path, tmp_path: Path):
    """After a few seconds the model calls the tool it never knew, with the right city, served by the real engine."""
    seen: list[Progress] = []
    result = LocalTrainer().train(job_of(base, tmp_path, weather_examples()), seen.append)
    assert (result.engine, result.examples, result.steps) == ("peft: the job asks for it.", 8, 79)
    assert result.loss is not None
    assert result.loss < 0.2
    assert result.tokens > 1000
    assert [p.stage for p in seen[:3]] == ["start", "load", "train"]
    assert [p.done for p in seen[3:]] == list(range(1, 80))
    assert sorted(file.name for file in Path(result.adapter).iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "result.json",
    ]
    right = 0
    for asked, calls in zip(weather_examples(), answers(base, result), strict=True):
        right += [(c.name, c.args) for c in calls] == [(c.name, c.args) for c in asked.chosen.tool_calls]
    assert right >= 7


def test_the_same_seed_gives_the_same_adapter(base: Path, tmp_path: Path):
    """Two runs of one job are equal to the last bit; another seed is not."""
    short = RECIPE.model_copy(update={"steps": 4})
    hashes = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = job_of(base, folder, weather_examples(), short.model_copy(update={"seed": seed}))
        hashes.append(in_process(job).adapter_sha256)
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_weaker_adapter_adds_that_share(base: Path, tmp_path: Path):
    """Strength scales what the adapter adds to the model, and nothing else."""
    from safetensors.torch import load_file

    short = RECIPE.model_copy(update={"steps": 4})
    whole, half = (
        load_file(Path(in_process(job_of(base, tmp_path, weather_examples(), recipe)).adapter) / WEIGHTS)
        for recipe in (short, short.model_copy(update={"strength": 0.5}))
    )
    assert all((half[name] == (weight / 2 if "lora_B" in name else weight)).all() for name, weight in whole.items())


def test_a_parent_adapter_is_gone_on_from(base: Path, tmp_path: Path):
    """Training that goes on starts with a lower loss than the first training did, and the parent stays as it was."""
    short = RECIPE.model_copy(update={"steps": 30})
    first = in_process(job_of(base, tmp_path, weather_examples(), short))
    before = file_sha256(Path(first.adapter) / "adapter_model.safetensors")
    more = short.model_copy(update={"steps": 1})
    second = in_process(job_of(base, tmp_path, weather_examples(), more, parent_adapter=first.adapter))
    fresh = in_process(job_of(base, tmp_path, weather_examples(), more))
    assert second.loss < fresh.loss / 2
    assert file_sha256(Path(first.adapter) / "adapter_model.safetensors") == before


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_job_in_a_process_says_why_and_leaves_nothing(base: Path, tmp_path: Path):
    """A broken row comes back from the worker as one sentence, and no folder looks like an adapter."""
    job = job_of(base, tmp_path, weather_examples())
    Path(job.dataset).write_text('{"no": "example"}\n')
    with pytest.raises(TrainingError, match=r"exit code 1.*Line 1 of the dataset .* is not an example"):
        LocalTrainer().train(job, lambda _: None)
    assert [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("damage", ["weights", "config.json", "pickle"])
def test_a_damaged_base_is_refused(base: Path, tmp_path: Path, damage: str):
    """Cut weights, a broken config and weights that are not safetensors are one sentence each."""
    broken = shutil.copytree(base, tmp_path / "broken")
    job = job_of(broken, tmp_path, weather_examples())
    weights = broken / "model.safetensors"
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:3000])
    if damage == "config.json":
        (broken / "config.json").write_text("{")
    if damage == "pickle":
        weights.rename(broken / "pytorch_model.bin")
    with pytest.raises(TrainingError, match=r"broken'.*cannot be loaded"):
        load(job)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:129] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unable to mmap 15231233 bytes from file <model.safetensors>: Cannot allocate memory (12)"),
    ],
    ids=["python", "gpu", "processor", "system"],
)
def test_a_base_that_memory_has_no_room_for_is_not_called_damaged(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    """What is said is that memory is short: nobody should look for damage in a folder that has none."""

    def full(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", full)
    with pytest.raises(TrainingError, match=r"not enough memory to load the base model .*: take a smaller one"):
        load(job_of(base, tmp_path, weather_examples()))


def test_a_tokenizer_without_template_is_refused(base: Path, tmp_path: Path):
    """A base model that is no chat model cannot be trained on conversations."""
    bare = shutil.copytree(base, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(TrainingError, match="no chat template"):
        in_process(job_of(bare, tmp_path, weather_examples()))


def test_a_loss_that_is_no_number_stops_the_job(base: Path, tmp_path: Path):
    """A learning rate out of this world ends in a sentence, not in an adapter of NaN."""
    wild = RECIPE.model_copy(update={"learning_rate": 1e30})
    job = job_of(base, tmp_path, weather_examples(), wild)
    with pytest.raises(TrainingError, match=r"loss became (nan|inf).*learning_rate"):
        in_process(job)
    assert not Path(job.output).exists()


def test_examples_that_are_too_long_are_left_out(base: Path, tmp_path: Path):
    """Long ones are counted and left out; when all are too long, that is the error."""
    long = example("t", "word " * 200, "correction")
    job = job_of(base, tmp_path, [*weather_examples(), long], RECIPE.model_copy(update={"steps": 1}))
    notes: list[str | None] = []
    result = train(job, read_examples(job.dataset), *load(job), engine="peft", tell=lambda p: notes.append(p.note))
    assert (result.examples, notes[0]) == (8, "8 examples, 1 left out as too long.")
    with pytest.raises(TrainingError, match="All 1 examples exceed 64 tokens"):
        in_process(job_of(base, tmp_path, [long]))


def test_a_full_disk_leaves_no_half_adapter(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """When the adapter cannot be written, nothing of it stays behind."""
    job = job_of(base, tmp_path, weather_examples(), RECIPE.model_copy(update={"steps": 1}))
    model, tokenizer = load(job)

    def full(folder: Path, **_: object) -> None:
        (Path(folder) / "adapter_model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        train(job, weather_examples(), model, tokenizer, engine="peft", tell=lambda _: None)
    assert not Path(job.output).exists()
