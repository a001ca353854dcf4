"""What is said of a job before it is begun, and what is refused."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from langgraph_learnloop.errors import TrainingError
from langgraph_learnloop.examples import problems
from langgraph_learnloop.improvement.lora import worker
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, workplace
from langgraph_learnloop.improvement.lora.rows import batches, length, tokenise
from langgraph_learnloop.records import Example, Message, Plan, Progress, Recipe
from langgraph_learnloop.show import plan_table, progress_bar
from tests.improvement.jobs import RECIPE, job_of
from tests.improvement.tiny_base import weather_examples


def replayed() -> list[Example]:
    """Return one of the examples as what the model could do before."""
    return [weather_examples()[0].model_copy(update={"origin": "replay"})]


def test_a_plan_tells_what_the_job_does(base: Path, tmp_path: Path) -> None:
    """Examples, steps and tokens are those of the job; time and memory were measured; nothing is left behind."""
    from transformers import AutoTokenizer

    long = weather_examples()[0].model_copy(update={"messages": (Message(role="user", content="word " * 200),)})
    recipe = RECIPE.model_copy(update={"steps": 20})
    job = job_of(base, tmp_path, [*weather_examples(), long], recipe)
    plan = worker.plan(job)
    assert (plan.examples, plan.categories, plan.left_out) == ({"correction": 9}, {"weather": 9}, 1)
    assert (plan.steps, plan.passes, plan.usd) == (20, 20.0, None)
    rows = tokenise(weather_examples(), AutoTokenizer.from_pretrained(base))
    assert plan.tokens == sum(length(row) for batch in batches(rows, recipe) for row in batch)
    assert plan.minutes is not None
    assert 0 < plan.minutes < 5
    assert plan.memory_mb is not None
    assert plan.memory_mb > 50
    assert plan.engine == "peft: the job asks for it."
    assert finished(job) is None
    assert not workplace(job).exists()


def test_what_cannot_be_planned_is_a_sentence(base: Path, tmp_path: Path) -> None:
    """The reason comes from the worker, with the end of its log."""
    job = job_of(base, tmp_path, weather_examples())
    Path(job.dataset).write_text('{"no": "example"}\n')
    with pytest.raises(TrainingError, match="Line 1 of the dataset") as caught:
        LocalTrainer().plan(job)
    assert any("end of its log" in note for note in caught.value.__notes__)


def test_a_job_that_needs_a_gpu_says_so(base: Path, tmp_path: Path) -> None:
    """Where there is none, nothing is loaded."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(TrainingError, match="asks for a GPU and PyTorch sees none"):
        worker.run(job_of(base, tmp_path, weather_examples(), gpu=True), lambda _: None)


def test_too_few_corrections_are_refused() -> None:
    """Replayed examples and variations are not counted."""
    few = weather_examples()[:3] + [weather_examples()[3].model_copy(update={"origin": "variation"})]
    (problem,) = problems(few + replayed(), Recipe())
    assert problem.startswith("There are 3 corrections to train on, and fewer than 8 teach little")
    assert problems(few + replayed(), Recipe(), least=3) == ()


def test_one_answer_to_everything_is_refused_where_nothing_is_replayed() -> None:
    """Beside what the model did well, learning one answer is a lesson; alone it is a habit."""
    same = [e.model_copy(update={"chosen": Message(role="assistant", content="no")}) for e in weather_examples()]
    assert "8 of 8 corrections give the very same answer" in problems(same, Recipe())[0]
    assert "very same answer" in problems(same + replayed(), Recipe(replay=0))[0]
    assert problems(same + replayed(), Recipe()) == ()
    assert problems(weather_examples(), Recipe()) == ()


def test_a_plan_is_drawn() -> None:
    """Every fact is on the screen, in words, and what a file says is no markup."""
    plan = Plan(
        job_id="j",
        engine="peft: there is no GPU.",
        examples={"correction": 12, "replay": 24},
        categories={"[red]weather": 12},
        left_out=2,
        steps=1000,
        passes=3.25,
        tokens=123456,
        minutes=75.4,
        memory_mb=1234.5,
        usd=1.5,
    )
    out = StringIO()
    Console(file=out, width=120).print(plan_table(plan))
    for said in (
        "12 correction, 24 replay; 2 left out",
        "[red]weather 12",
        "read 3.2 times, 123,456 tokens",
        "1 h 15 min",
        "1,234 MB",
        "1.50 US dollars",
    ):
        assert said in out.getvalue()


def test_progress_is_drawn() -> None:
    """Loss, pace and the time that is left; notes stay."""
    out = StringIO()
    with progress_bar(Console(file=out, width=120, force_terminal=True)) as show:
        show(Progress(stage="start", done=0, total=10, note="Training with [peft]."))
        show(Progress(stage="train", done=5, total=10, loss=0.25, tokens_per_second=4321, seconds_left=65))
    assert "Training with [peft]." in out.getvalue()
    assert "loss 0.250, 4,321 tokens/s, 1:05 left" in out.getvalue()
