"""Look for a better recipe: a few jobs, each measured on examples that none of them learned from.

Light; Optuna proposes and the jobs run in their own processes. Off unless somebody asks for it: most of what a search
finds on a few hundred corrections is luck, and every trial costs a training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from langgraph_learnloop.errors import MissingExtraError, TrainingError
from langgraph_learnloop.records import Example, Recipe, TrainingResult, Trial, content_hash

Train = Callable[[Recipe], TrainingResult]
"""Trains by a recipe on a dataset with a validation part."""
_RANKS = (4, 8, 16, 32, 64)
_RATES = (0.25, 4.0)
_STEPS = (0.5, 1.0, 2.0)
_REPLAYS = (0.5, 1.0, 2.0, 4.0)
"""What the configured rate, steps and replay are multiplied with."""


def search(
    recipe: Recipe,
    train: Train,
    *,
    trials: int = 10,
    minutes: float | None = None,
    on_trial: Callable[[Trial], object] = lambda _: None,
) -> tuple[Trial, ...]:
    """Return the trials, best first: recipes with the loss on new and on old examples that were kept from training.

    The configured recipe is the first one; no trial begins after `minutes`. The same search proposes the same recipes,
    so one that was killed goes through its finished jobs at once. Raises TrainingError when no trial came to an end.
    """
    study = _study(recipe.seed)
    study.enqueue_trial(
        {"rank": min(_RANKS, key=lambda rank: abs(rank - recipe.rank)), "rate": 1.0, "steps": 1.0, "replay": 1.0}
    )
    began, done = time.monotonic(), list[Trial]()
    for number in range(trials):
        if number and minutes is not None and time.monotonic() - began > 60 * minutes:
            break
        asked = study.ask()
        trial = _tried(_varied(recipe, asked, first=number == 0), train)
        study.tell(asked, None if trial.failed else trial.score, state=_state(trial))
        done.append(trial)
        on_trial(trial)
    if all(trial.failed for trial in done):
        raise TrainingError(f"None of {len(done)} trials came to an end; the first one said: {done[0].failed}")
    return tuple(sorted(done, key=lambda trial: trial.score))


def validated(examples: Sequence[Example], share: float, seed: int = 0) -> list[Example]:
    """Return training examples with a share of them marked "validation", by group; their variations are left out."""

    def kept(example: Example) -> bool:
        key = example.group or example.run_id or example.example_id
        return int(content_hash([seed, key])[:8], 16) < share * 2**32

    marked = [e.model_copy(update={"split": "validation"}) if kept(e) else e for e in examples]
    return [e for e in marked if not (e.origin == "variation" and e.split == "validation")]


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError('A search needs Optuna: pip install "langgraph-learnloop[search]".') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(direction="minimize", sampler=optuna.samplers.TPESampler(seed=seed))


def _state(trial: Trial) -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL if trial.failed else optuna.trial.TrialState.COMPLETE


def _varied(recipe: Recipe, asked: Any, first: bool) -> Recipe:
    rank = asked.suggest_categorical("rank", _RANKS)
    rate = asked.suggest_float("rate", *_RATES, log=True)
    steps = asked.suggest_categorical("steps", _STEPS)
    replay = asked.suggest_categorical("replay", _REPLAYS)
    if first:
        return recipe
    changed = {
        "rank": rank,
        "alpha": max(1, round(rank * recipe.alpha / recipe.rank)),  # the adapter's scale stays
        "learning_rate": recipe.learning_rate * rate,
        "steps": max(1, round(recipe.steps * steps)),
        "replay": recipe.replay * replay,
    }
    return recipe.model_copy(update=changed)


def _tried(recipe: Recipe, train: Train) -> Trial:
    try:
        result = train(recipe)
    except TrainingError as error:
        return Trial(recipe=recipe, failed=str(error))
    if not result.validation:
        return Trial(recipe=recipe, failed="The trainer measured nothing on the validation examples.")
    return Trial(
        recipe=recipe, new=result.validation.get("new"), old=result.validation.get("old"), seconds=result.seconds
    )
