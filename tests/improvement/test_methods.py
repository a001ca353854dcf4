"""Every method and option trains a real adapter, and does what its source says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from langgraph_learnloop.errors import DataError, TrainingError
from langgraph_learnloop.improvement.lora.adapters import load
from langgraph_learnloop.improvement.lora.ewc import Consolidation, as_parent, divergence, fisher, penalty_for
from langgraph_learnloop.improvement.lora.rate import find_rate, steepest
from langgraph_learnloop.improvement.lora.rows import IGNORE, collate, in_order, packed, rows_of, tokenise
from langgraph_learnloop.jobs import WEIGHTS
from langgraph_learnloop.records import Example, Message, Recipe, ToolCall
from tests.improvement.jobs import RECIPE, in_process, job_of
from tests.improvement.tiny_base import weather_examples

SHORT = RECIPE.model_copy(update={"steps": 20})


def corrected() -> list[Example]:
    """Return corrections with what the agent said instead: another tool."""
    wrong = Message(role="assistant", tool_calls=(ToolCall(name="time", args={"city": "x"}),))
    return [e.model_copy(update={"rejected": wrong}) for e in weather_examples()]


def likelihood(model: Any, tokenizer: Any, examples: list[Example], rejected: bool = False) -> float:
    """Return the mean log-likelihood of the answers' tokens, good or rejected ones."""
    asked = [e.model_copy(update={"chosen": e.rejected}) if rejected else e for e in examples]
    batch = collate(tokenise(asked, tokenizer), pad=0)
    with torch.no_grad():
        return -float(model(**batch).loss)


def margin(model: Any, tokenizer: Any) -> float:
    """Return by how much the good answers are likelier than the rejected ones."""
    return likelihood(model, tokenizer, corrected()) - likelihood(model, tokenizer, corrected(), rejected=True)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_are_learned(base: Path, tmp_path: Path, method: str) -> None:
    """After a few steps the right answers are likelier than the rejected ones by more than they were."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    recipe = SHORT.model_copy(update={"method": method, "learning_rate": 1e-2, "batch": 4})
    job = job_of(base, tmp_path, corrected(), recipe)
    before = margin(*load(job))
    result = in_process(job)
    assert result.recipe is not None
    assert result.recipe.method == method
    assert sorted(file.name for file in Path(str(result.adapter)).iterdir()) == [
        "adapter_config.json",
        WEIGHTS,
        "result.json",
    ]
    bare = AutoModelForCausalLM.from_pretrained(base)
    assert margin(PeftModel.from_pretrained(bare, result.adapter), load(job)[1]) > before + 1


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_go_on_from_an_adapter(base: Path, tmp_path: Path, method: str) -> None:
    """The parent stays as it was, and the child holds one adapter."""
    first = in_process(job_of(base, tmp_path, corrected(), SHORT))
    recipe = SHORT.model_copy(update={"method": method, "steps": 2, "batch": 4})
    child = in_process(job_of(base, tmp_path, corrected(), recipe, parent_adapter=first.adapter))
    assert load_file(Path(str(child.adapter)) / WEIGHTS).keys() == load_file(Path(str(first.adapter)) / WEIGHTS).keys()
    assert set(child.hashes) == {"base", "dataset", "parent"}


def test_without_rejected_answers_there_is_no_preference(base: Path, tmp_path: Path) -> None:
    """The error says what the method needs."""
    with pytest.raises(DataError, match="no example with a rejected answer, and 'dpo' learns from those"):
        in_process(job_of(base, tmp_path, weather_examples(), SHORT.model_copy(update={"method": "dpo"})))


@pytest.mark.parametrize("option", [{"kl": 1.0}, {"packing": True}, {"find_rate": True}])
def test_a_method_refuses_what_it_has_no_use_for(option: dict[str, Any]) -> None:
    """A setting that would be ignored is an error."""
    with pytest.raises(ValidationError, match="must be left out"):
        Recipe(method="dpo", **option)


def test_pairs_share_their_prompt(base: Path, tmp_path: Path) -> None:
    """Prompt and answers put together are the two rendered conversations."""
    tokenizer = load(job_of(base, tmp_path, corrected()))[1]
    (row, *_) = rows_of(corrected(), tokenizer, Recipe(method="dpo"))
    said = [tokenizer.decode(row["prompt_ids"] + row[name]) for name in ("chosen_ids", "rejected_ids")]
    assert all(text.startswith("<|im_start|>user\nweather in oslo<|im_end|>\n<|im_start|>assistant\n") for text in said)
    assert tokenizer.decode(row["rejected_ids"]).startswith('<tool_call>{"name": "time"')
    unpaired = in_order(rows_of(corrected(), tokenizer, Recipe(method="kto")), Recipe(method="kto", steps=4, batch=4))
    assert len(unpaired) == 16
    assert all(
        unpaired[at]["KL_completion_ids"] == unpaired[at - 1 + 4 * (at % 4 == 0)]["completion_ids"] for at in range(16)
    )


# -- the adapter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [{"rslora": True}, {"dora": True}, {"targets": ("q_proj", "v_proj")}])
def test_kinds_of_adapters(base: Path, tmp_path: Path, option: dict[str, Any]) -> None:
    """Options of PEFT reach the adapter, which is smaller, or larger, or scaled, for it."""
    adapter = Path(str(in_process(job_of(base, tmp_path, weather_examples(), SHORT.model_copy(update=option))).adapter))
    names = load_file(adapter / WEIGHTS).keys()
    config = (adapter / "adapter_config.json").read_text()
    if "targets" in option:
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {"q_proj", "v_proj"}
    else:
        (name,) = option
        assert f'"use_{name}": true' in config
        assert any("magnitude" in weight for weight in names) == (name == "dora")


def test_going_on_is_slower(base: Path, tmp_path: Path) -> None:
    """A job that goes on from an adapter moves by a tenth of what a fresh one moves, unless it is told otherwise."""
    first = in_process(job_of(base, tmp_path, weather_examples(), SHORT))
    moved = {}
    for rate in (0.1, 1.0):
        recipe = SHORT.model_copy(update={"steps": 1, "continued_rate": rate})
        child = in_process(job_of(base, tmp_path, weather_examples(), recipe, parent_adapter=first.adapter))
        before, after = (load_file(Path(str(r.adapter)) / WEIGHTS) for r in (first, child))
        moved[rate] = math.sqrt(sum(float(((after[n] - before[n]) ** 2).sum()) for n in before))
    assert moved[0.1] == pytest.approx(moved[1.0] / 10, rel=0.05)


def test_packing_learns_the_same(base: Path, tmp_path: Path) -> None:
    """Rows that lie end to end do not see each other: loss and gradients are those of padded rows."""
    job = job_of(base, tmp_path, weather_examples())
    model, tokenizer = load(job)
    rows = tokenise(weather_examples()[:3], tokenizer)
    grads = []
    for batch in (collate(rows, pad=0), packed(rows)):
        torch.manual_seed(0)
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        grads.append(
            (float(loss.detach()), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
        model.zero_grad(set_to_none=True)
    assert grads[0][0] == pytest.approx(grads[1][0], abs=1e-5)
    assert all(torch.allclose(grads[1][1][name], grad, atol=1e-5) for name, grad in grads[0][1].items())
    assert packed(rows)["labels"].shape == (1, sum(len(row["labels"]) for row in rows))


def test_a_packed_job_ends_where_a_padded_one_does(base: Path, tmp_path: Path) -> None:
    """The whole job learns the same, to rounding."""
    losses = [
        in_process(job_of(base, tmp_path, weather_examples(), SHORT.model_copy(update={"packing": packing}))).loss
        for packing in (False, True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


# -- holding on --------------------------------------------------------------------------------------------------------


def old_and_new() -> list[Example]:
    """Return the weather of four cities to learn, and of four others to hold on to."""
    weather = weather_examples()
    return weather[:4] + [e.model_copy(update={"origin": "replay"}) for e in weather[4:]]


@pytest.mark.parametrize("method", ["ewc", "kl"])
def test_holding_on_costs_learning(base: Path, tmp_path: Path, method: str) -> None:
    """A heavy weight keeps the model near what it was; a light one does not."""
    recipe = SHORT.model_copy(update={"replay": 1.0})
    moved = {}
    for weight in (1e-6, 1e3):
        job = job_of(base, tmp_path, old_and_new(), recipe.model_copy(update={method: weight}))
        moved[weight] = in_process(job).loss
    assert moved[1e3] > moved[1e-6]


def test_what_goes_on_holds_on_to_its_parent(base: Path, tmp_path: Path) -> None:
    """The divergence is from the adapter that the job began with, and what is written is the new one alone."""
    first = in_process(job_of(base, tmp_path, weather_examples(), SHORT.model_copy(update={"steps": 5})))
    recipe = SHORT.model_copy(update={"replay": 1.0, "kl": 1.0, "steps": 2})
    job = job_of(base, tmp_path, old_and_new(), recipe, parent_adapter=first.adapter)
    child = in_process(job)
    assert load_file(Path(child.adapter) / WEIGHTS).keys() == load_file(Path(first.adapter) / WEIGHTS).keys()
    model, tokenizer = load(job)
    assert penalty_for(job, model, tokenizer, old_and_new(), 0) is not None
    batch = collate(tokenise(weather_examples()[:2], tokenizer), pad=0)
    marked = torch.ones_like(batch["labels"])
    assert float(divergence(model, batch, marked).detach()) == pytest.approx(0, abs=1e-5)
    with model.disable_adapter(), torch.no_grad():
        bare = model(**batch).logits
    with as_parent(model), torch.no_grad():
        assert not torch.allclose(model(**batch).logits, bare)
    assert model.active_adapter == "default"


def test_holding_on_needs_something_to_hold(base: Path, tmp_path: Path) -> None:
    """Without replayed examples there is nothing to protect, and the error says so."""
    with pytest.raises(TrainingError, match="holds on to replayed examples, and there are none"):
        in_process(job_of(base, tmp_path, weather_examples(), SHORT.model_copy(update={"ewc": 1.0})))


def test_fisher_is_the_mean_square_of_gradients(base: Path, tmp_path: Path) -> None:
    """It equals what autograd gives row by row; a fresh adapter's first matrix has none, for its second one is 0."""
    model, tokenizer = load(job_of(base, tmp_path, weather_examples()))
    rows = tokenise(weather_examples()[:2], tokenizer)
    found = fisher(model, rows, pad=0)
    expected = {name: torch.zeros_like(value) for name, value in found.items()}
    for row in rows:
        batch = collate([row], pad=0)
        model.zero_grad()
        (model(**batch).loss * sum(label != IGNORE for label in row["labels"])).backward()
        for name, value in model.named_parameters():
            if value.grad is not None:
                expected[name] += value.grad**2 / 2
    assert all(torch.allclose(found[name], expected[name]) for name in found)
    assert all((float(found[name].sum()) > 0) == ("lora_B" in name) for name in found)
    hold = Consolidation(model, rows, 2.0, pad=0)
    assert float(hold(model).detach()) == 0
    name, weight = next((n, p) for n, p in model.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        weight += 0.5
    assert float(hold(model).detach()) == pytest.approx(float((found[name] * 0.25).sum()), rel=1e-4)


def test_divergence_is_from_the_parent(base: Path, tmp_path: Path) -> None:
    """It is 0 where nothing was learned, and the mean of KL over the marked tokens alone else."""
    model, tokenizer = load(job_of(base, tmp_path, weather_examples()))
    batch = collate(tokenise(weather_examples()[:3], tokenizer), pad=0)
    old = torch.zeros_like(batch["labels"])
    old[1:] = 1
    assert float(divergence(model, batch, old).detach()) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight += 0.05
        now = model(**batch).logits.log_softmax(-1)
        with as_parent(model):
            before = model(**batch).logits.log_softmax(-1)
    there = (batch["labels"][:, 1:] != IGNORE) & old[:, 1:].bool()
    expected = (before.exp() * (before - now)).sum(-1)[:, :-1][there].mean()
    for one in (model, _Everywhere(model)):
        assert float(divergence(one, batch, old).detach()) == pytest.approx(float(expected), rel=1e-3)
    assert float(divergence(model, batch, torch.zeros_like(old))) == 0


class _Everywhere:
    """Answers for every place, whatever is to be kept, as Unsloth's models do on a GPU."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *, logits_to_keep: torch.Tensor, **given: Any) -> Any:
        return self._model(**given)


# -- the rate ----------------------------------------------------------------------------------------------------------


def test_the_steepest_fall_is_before_the_lowest_point() -> None:
    """What falls after the model fell apart is no reason, and a loss that never falls has none."""
    assert steepest([5.0, 4.9, 4.0, 3.9, 9.0, 2.0e9]) == 1
    assert steepest([5.0, 4.0, 3.0, float("nan")]) == 0
    assert steepest([5.0, 6.0, 7.0]) == 0


def test_a_rate_is_found_and_nothing_else_changes(base: Path, tmp_path: Path) -> None:
    """From a rate far too low the test finds one that learns; the weights are those from before."""
    low = RECIPE.model_copy(update={"learning_rate": 2e-4, "steps": 40})
    job = job_of(base, tmp_path, weather_examples(), low)
    model, tokenizer = load(job)
    before = {name: value.clone() for name, value in model.named_parameters()}
    rate = find_rate(low, tokenise(weather_examples(), tokenizer), model, pad=0)
    assert 2e-4 / 30 < rate <= 2e-4 * 30
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    notes: list[str | None] = []
    found = in_process(
        job.model_copy(update={"recipe": low.model_copy(update={"find_rate": True})}), lambda p: notes.append(p.note)
    )
    assert found.recipe is not None
    assert found.recipe.learning_rate == rate
    assert any(note and note.startswith("The learning rate is") for note in notes)
