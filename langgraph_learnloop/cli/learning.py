"""Walk the loop, or one step of it: review, train, examine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from langgraph_learnloop.cli.app import App, Dataset, Review, RunId, Store, app
from langgraph_learnloop.cli.opened import loaded, newest, opened, whoever
from langgraph_learnloop.cli.terminal import console, say, show_rows
from langgraph_learnloop.errors import ConfigError, DataError

if TYPE_CHECKING:
    from langgraph_learnloop.records import Recipe, Trial


@app.command()
def review(
    store: Store = "learnloop.db",
    by: Annotated[str, typer.Option("--by", help="Who decides (default: your name on this machine).")] = "",
) -> None:
    """Decide on corrections that wait for review."""
    from langgraph_learnloop.curation.review import TerminalReviewer

    with opened(store) as loop:
        waiting = loop.pending()
        if not waiting:
            console.print("Nothing waits for review.")
            return
        left = loop.review(TerminalReviewer(console, by or whoever()).review(waiting))
        console.print(f"{len(waiting) - len(left)} decided, {len(left)} left. `learnloop cycle` goes on from here.")


@app.command()
def cycle(app_name: App = None, ask: Review = False) -> None:
    """Walk the loop once: curate, train, examine, and promote what passes."""
    from langgraph_learnloop.curation.review import TerminalReviewer
    from langgraph_learnloop.evaluation.report import table
    from langgraph_learnloop.show import progress_bar

    with loaded(app_name) as loop:
        with progress_bar(console) as show:
            report = loop.cycle(TerminalReviewer(console, whoever()) if ask else None, show)
        if report.scorecard is not None:
            console.print(table(report.scorecard))
        say(f"{report.outcome}: {report.because}")


@app.command()
def train(
    store: Store = "learnloop.db",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would take, after a few steps.")] = False,
    dataset: Dataset = None,
    method: Annotated[str | None, typer.Option("--method", help="sft, dpo or kto, in place of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Stop then; run again to go on.")] = None,
) -> None:
    """Train a candidate from a dataset; what `cycle` does between curating and examining."""
    from langgraph_learnloop.show import plan_table, progress_bar

    with opened(store, train_minutes=minutes) as loop:
        found, recipe = newest(loop, dataset), loop.config.recipe
        if method:
            recipe = _by_method(recipe, method)
        if plan:
            planned = loop.plan(found, recipe)
            console.print(plan_table(planned))
            if planned.problems:
                raise DataError(" ".join(planned.problems))
            return
        with progress_bar(console) as show:
            candidate = loop.train(found, recipe, show)
    say(
        f"The candidate {candidate.release_id} lies in {candidate.adapter}. It serves nobody: hold it against the "
        "champion with loop.evaluate(candidate), and promote what passes."
    )


def _by_method(recipe: Recipe, method: str) -> Recipe:
    """Return a recipe with another method; raise ConfigError when it does not fit."""
    from pydantic import ValidationError

    try:
        return recipe.model_validate({**recipe.model_dump(), "method": method})
    except ValidationError as error:
        msg = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"The method {method!r} cannot be used: {msg}. Name another, or mend the recipe.") from error


@app.command()
def evaluate(
    release: Annotated[str | None, typer.Argument(help="The candidate, or the beginning of its id.")] = None,
    app_name: App = None,
    dataset: Dataset = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what the cases could show.")] = False,
    store: Store = "learnloop.db",
) -> None:
    """Hold a candidate against the champion on held-out cases, through your own graph; --plan needs no agent."""
    from langgraph_learnloop.evaluation.report import summary
    from langgraph_learnloop.show import evaluation_plan, progress_bar

    if plan:
        with opened(store) as loop:
            console.print(evaluation_plan(loop.plan_evaluation(newest(loop, dataset))))
        return
    if release is None:
        raise ConfigError("Name the candidate: `learnloop evaluate RELEASE`; `learnloop releases` lists them.")
    with loaded(app_name) as loop:
        candidate = loop.store.releases.resolve(release)
        examined = newest(loop, dataset) if dataset else None
        with progress_bar(console) as show:
            card = loop.evaluate(candidate, examined, show)
        console.print(summary(loop.report(candidate.release_id)))
    if not card.passed:
        raise typer.Exit(1)


@app.command()
def replay(
    run: RunId,
    app_name: App = None,
    release: Annotated[str | None, typer.Option("--release", help="Who answers (default: the champion).")] = None,
    step: Annotated[str | None, typer.Option("--step", help="The model call to begin at (default: the first).")] = None,
) -> None:
    """Run a recorded run again with a release; nothing acts, and nothing is written into the run's thread."""
    from langgraph_learnloop.show import replayed

    with loaded(app_name) as loop:
        console.print(replayed(*loop.replay(run, release, step=step)))


@app.command()
def suite(
    path: Annotated[str, typer.Argument(help="The file to write, JSON lines.")],
    store: Store = "learnloop.db",
    dataset: Dataset = None,
) -> None:
    """Write a dataset's held-out cases as a suite: a file to edit, to run with pytest, or to name in the settings."""
    from langgraph_learnloop.evaluation.suites import write_suite

    with opened(store) as loop:
        cases = loop.exams.cases(newest(loop, dataset))
    write_suite(cases, path)
    say(f"{len(cases)} cases are in {path}.")


@app.command()
def search(
    store: Store = "learnloop.db",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Recipes to try, the configured one first.")] = 10,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Begin no trial after that.")] = None,
    dataset: Dataset = None,
) -> None:
    """Look for a better recipe on a tenth of the training examples; prints what to put into learnloop.toml."""
    rows: list[tuple[Any, ...]] = []

    def add(trial: Trial) -> None:
        recipe = trial.recipe
        known = ("failed" if n is None else f"{n:.4f}" for n in (trial.new, trial.old))
        seconds = None if trial.seconds is None else f"{trial.seconds:.0f}"
        rate, replay = f"{recipe.learning_rate:.2g}", f"{recipe.replay:g}"
        rows.append((recipe.rank, rate, recipe.steps, replay, *known, seconds))
        say(f"trial {len(rows)} of {trials}: {trial.failed or 'done'}")

    with opened(store) as loop:
        best = loop.search(newest(loop, dataset), trials=trials, minutes=minutes, on_trial=add)[0].recipe
    show_rows(("rank", "rate", "steps", "replay", "loss: new", "old", "seconds"), rows)
    say(
        f"The best of them, for learnloop.toml:\n\n[recipe]\nrank = {best.rank}\nalpha = {best.alpha}\n"
        f"learning_rate = {best.learning_rate:.6g}\nsteps = {best.steps}\nreplay = {best.replay:g}"
    )
