"""Run one training job: `python -m langgraph_learnloop.improvement.lora.worker job.json`; `--plan` only plans it.

Standard output holds nothing but JSON lines of Progress, or one of a Plan; whatever libraries say goes to standard
error, and so does, as the last line, the reason of a failure. Standard input is watched: when it ends, the parent is
gone and so is the job; with `--alone`, as in a container, there is no parent.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from langgraph_learnloop.errors import DataError, LearnLoopError, MissingExtraError, TrainingError
from langgraph_learnloop.examples import draw, read_examples, read_splits
from langgraph_learnloop.records import Job, Plan, Progress

UNSLOTH = "langgraph_learnloop.integrations.unsloth_trainer"
ADAPTERS = "langgraph_learnloop.improvement.lora.adapters"
LOOP = "langgraph_learnloop.improvement.lora.loop"

Tell = Callable[[Progress | Plan], None]


def main(argv: list[str]) -> int:
    """Run the job that a file describes and return the exit code."""
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]  # transformers would load it, for nothing
    tell = _private_stdout()
    if "--alone" not in argv[2:]:
        _die_with_parent()
    try:
        job = _read_job(Path(argv[1]))
        if "--plan" in argv[2:]:
            tell(plan(job))
        else:
            run(job, tell)
    except LearnLoopError as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"A file could not be read or written: {error}. Check the job's folder and the space on its disk.")
    except MemoryError:
        return fail("There is not enough memory for this job: take a smaller batch or max_length.")
    return 0


def run(job: Job, tell: Tell) -> None:
    """Choose the engine, load base and adapter, and train."""
    started = time.monotonic()
    splits = read_splits(job.dataset)
    examples = draw(splits["train"], job.recipe)
    engine, because = choose_engine(job.engine)
    tell(Progress(stage="start", done=0, total=job.recipe.steps, note=f"Training with {engine}: {because}"))
    loop, model, tokenizer = _loaded(job, engine)
    note = f"Ready after {time.monotonic() - started:.1f} s."
    tell(Progress(stage="load", done=0, total=job.recipe.steps, note=note))
    loop.train(job, examples, model, tokenizer, engine=f"{engine}: {because}", tell=tell, aside=splits["validation"])


def plan(job: Job) -> Plan:
    """Say what the job would learn from and take, by loading the model and trying a few steps of it."""
    examples = draw(read_examples(job.dataset), job.recipe)
    engine, because = choose_engine(job.engine)
    loop, model, tokenizer = _loaded(job, engine)
    new = Counter(e.category for e in examples if e.origin != "replay")
    return Plan(
        job_id=job.job_id,
        engine=f"{engine}: {because}",
        examples=dict(Counter(e.origin for e in examples)),
        categories=dict(new),
        steps=job.recipe.steps,
        **loop.rehearse(job, examples, model, tokenizer),
    )


def _loaded(job: Job, engine: str) -> tuple[Any, Any, Any]:
    """Return the training loop, a model with an adapter on it, and its tokenizer."""
    if job.gpu and not _heavy("torch").cuda.is_available():
        raise TrainingError("The job asks for a GPU and PyTorch sees none here: mend its driver, or set gpu to false.")
    if engine == "unsloth":  # before trl, transformers and peft, which it patches when it is imported
        model, tokenizer = importlib.import_module(UNSLOTH).load(job)
        return _heavy(LOOP), model, tokenizer
    return _heavy(LOOP), *_heavy(ADAPTERS).load(job)


def choose_engine(wanted: str) -> tuple[str, str]:
    """Return the engine's name and the reason for it; "auto" takes Unsloth where there is a GPU and it is installed."""
    if wanted != "auto":
        return wanted, "the job asks for it."
    if importlib.util.find_spec("unsloth") is None:
        return "peft", "Unsloth is not installed."
    if not _heavy("torch").cuda.is_available():
        return "peft", "Unsloth is installed but there is no GPU."
    return "unsloth", "there is a GPU and Unsloth is installed."


def _heavy(name: str) -> Any:
    """Import a module of the training extra."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f'Training needs a library that is missing ({error}): pip install "langgraph-learnloop[train]".'
        ) from error


def _read_job(path: Path) -> Job:
    try:
        return Job.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DataError(
            f"{str(path)!r} does not describe a job: {error.errors()[0]['msg']}. Make it with make_job, of this "
            "version."
        ) from error


def _private_stdout() -> Tell:
    """Keep standard output for progress and point everybody else's at standard error."""
    channel = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)

    def tell(line: Progress | Plan) -> None:
        channel.write(line.model_dump_json().encode() + b"\n")

    return tell


def _die_with_parent() -> None:
    """End this process when standard input ends: the parent holds its other end and never writes."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def fail(reason: str) -> int:
    """Say why, on one line that is the last on standard error, and return the exit code."""
    sys.stderr.write("\n" + " ".join(reason.split()) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
