"""The command line: look at what happened, decide, walk the loop, take it back.

Commands that only look need a store; `cycle` needs your agent as well, named as "module:attribute" of a LearnLoop.
Refusals are one sentence on standard error and exit code 2.
"""

from __future__ import annotations

import getpass
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

from pydantic import ValidationError

from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    LearnLoopError,
    MissingExtraError,
    NotFoundError,
    needing,
)

try:
    with needing("The command line"):
        import typer
        from rich.console import Console
        from rich.table import Table
except MissingExtraError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"learnloop: {error}\n")
    sys.exit(2)

from langgraph_learnloop.cli_import import import_history
from langgraph_learnloop.cli_init import init
from langgraph_learnloop.config import load_config, named
from langgraph_learnloop.files import whole_file
from langgraph_learnloop.jobs import still_there
from langgraph_learnloop.loop import LearnLoop
from langgraph_learnloop.mirroring import Mirroring
from langgraph_learnloop.records import FLAG_MOVES, Dataset, FlagState, Recipe, Run, Trial
from langgraph_learnloop.texts import short, visible

_ID = 18
"""Characters of a run's id that are shown: of a UUID, its time and some of its chance."""
_SHORT = 8
"""Characters of a release's id that are shown where it is one thing among others."""
_LONGEST = 300
"""Characters of a cell."""
_FOLDED = frozenset({"because", "reasons"})
"""Columns of sentences, which are shown whole, on several lines."""
_CUT = frozenset({"thread", "question", "answer"})
"""Columns that give way where the terminal is narrow."""
_INTERRUPTED = 130
"""The shell's exit code for ctrl-C, which typer turns the interrupt into."""

app = typer.Typer(
    help="Agents that get better by themselves, safely.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
runs_app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command()(init)
app.add_typer(runs_app, name="runs")
app.command("import")(import_history)
console = Console()

Store = Annotated[
    str, typer.Option("--store", "-s", envvar="LEARNLOOP_STORE", help="File or database URL of the store.")
]
App = Annotated[str | None, typer.Option("--app", help='Your LearnLoop, as "module:attribute".')]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Rows to show.")]
Agent = Annotated[str | None, typer.Option("--agent", help="Only this agent's.")]
By = Annotated[str, typer.Option("--by", help="Who decides (default: your name on this machine).")]
Flagged = Annotated[str, typer.Option("--state", help=f"One of {', '.join(FLAG_MOVES)}.")]
Release = Annotated[str, typer.Argument(help="A release, or the beginning of its id.")]
RunId = Annotated[str, typer.Argument(help="A run's id, or the beginning of it.")]


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, store: Store = "learnloop.db", limit: Limit = 20, agent: Agent = None) -> None:
    """List recorded runs, newest first; `show` and `export` look into them."""
    if context.invoked_subcommand is not None:
        return
    with _opened(store) as loop:
        table = _table("run", "release", "outcome", "seconds", "thread", "question", "answer")
        for run in loop.store.runs.recent(limit, agent):
            seconds = "" if run.seconds is None else f"{run.seconds:.2f}"
            known = (run.run_id[:_ID], (run.release or "-")[:_SHORT], run.outcome, seconds)
            table.add_row(*map(_cell, known), *map(_line, (run.thread_id, run.question, run.answer)))
        _show(table, "No run is recorded yet: pass callbacks=[loop.recorder], or use loop.watch(graph).")


@runs_app.command()
def show(run: RunId, store: Store = "learnloop.db") -> None:
    """Draw a run as a tree: reasoning, tool calls, results and errors. RUN is its id, or the beginning of it."""
    from langgraph_learnloop.capture.export import exported
    from langgraph_learnloop.show import tree

    with _opened(store) as loop:
        found = loop.store.runs.resolve(run)
        console.print(tree(exported(found, loop.store.runs)))
        if loop.config.mirror is not None:
            console.print(_shown_at(loop, found), markup=False, highlight=False, soft_wrap=True)


def _shown_at(loop: LearnLoop, run: Run) -> str:
    try:
        return f"It is shown at {loop.trace_url(run)}"
    except LearnLoopError as error:
        return f"Where it is shown is not known: {error}"


@runs_app.command()
def export(
    jsonl: Annotated[
        str | None, typer.Option("--jsonl", help='Write JSON lines to this file; "-" is the terminal.')
    ] = None,
    parquet: Annotated[str | None, typer.Option("--parquet", help="Write a Parquet table to this file.")] = None,
    store: Store = "learnloop.db",
    agent: Agent = None,
) -> None:
    """Write runs with their messages for other programs, oldest first; `learnloop schema` describes a line."""
    from langgraph_learnloop.capture.export import exported, write_jsonl, write_parquet

    if (jsonl is None) == (parquet is None):
        raise ConfigError("Say where to export to: --jsonl FILE or --parquet FILE.")
    with _opened(store) as loop:
        found = (exported(run, loop.store.runs) for run in loop.store.runs.every(agent))
        if jsonl == "-":
            write_jsonl(found, sys.stdout)
            return
        target = Path(str(jsonl or parquet))
        try:
            with whole_file(target) as beside:
                if parquet is not None:
                    count = write_parquet(found, beside)
                else:
                    with beside.open("w", encoding="utf-8") as out:
                        count = write_jsonl(found, out)
        except OSError as error:
            raise ConfigError(_unwritable("The export", target, error)) from error
        console.print(f"{count} runs are in {target}.", markup=False, highlight=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of an exported run."""
    from langgraph_learnloop.capture.export import ExportedRun

    sys.stdout.write(json.dumps(ExportedRun.model_json_schema(), indent=2) + "\n")


@app.command()
def flagged(store: Store = "learnloop.db", limit: Limit = 20, state: Flagged = "open", agent: Agent = None) -> None:
    """List runs that went wrong, worst first."""
    if state not in FLAG_MOVES:
        raise ConfigError(f"There is no flag state {state!r}; the states are: {', '.join(FLAG_MOVES)}.")
    with _opened(store) as loop:
        table = _table("run", "severity", "thread", "reasons")
        for flag in loop.store.flags.list(cast(FlagState, state), agent)[:limit]:
            known = (flag.run_id[:_ID], f"{flag.severity:.2f}")
            table.add_row(*map(_cell, known), _line(flag.thread_id), _cell(" ".join(flag.reasons)))
        _show(table, f"No flag is {state}.")


@app.command()
def review(store: Store = "learnloop.db", by: By = "") -> None:
    """Decide on corrections that wait for review."""
    from langgraph_learnloop.curation.review import TerminalReviewer

    with _opened(store) as loop:
        waiting = loop.pending()
        if not waiting:
            console.print("Nothing waits for review.")
            return
        left = loop.review(TerminalReviewer(console, by or _me()).review(waiting))
        console.print(f"{len(waiting) - len(left)} decided, {len(left)} left. `learnloop cycle` goes on from here.")


@app.command()
def cycle(
    app_name: App = None, ask: Annotated[bool, typer.Option("--review", help="Ask me about each correction.")] = False
) -> None:
    """Walk the loop once: curate, train, examine, and promote what passes."""
    from langgraph_learnloop.curation.review import TerminalReviewer
    from langgraph_learnloop.evaluation.report import table
    from langgraph_learnloop.show import progress_bar

    loop = _load(app_name)
    with progress_bar(console) as show:
        report = loop.cycle(TerminalReviewer(console, _me()) if ask else None, show)
    if report.scorecard is not None:
        console.print(table(report.scorecard))
    console.print(f"{report.outcome}: {report.because}", markup=False, highlight=False)
    loop.close()


@app.command()
def train(
    store: Store = "learnloop.db",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would take, after a few steps.")] = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")] = None,
    method: Annotated[str | None, typer.Option("--method", help="sft, dpo or kto, in place of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Stop then; run again to go on.")] = None,
) -> None:
    """Train a candidate from a dataset; what `cycle` does between curating and examining."""
    from langgraph_learnloop.show import plan_table, progress_bar

    found = _dataset(store, dataset)
    config = load_config(train_minutes=minutes)
    try:
        recipe = Recipe.model_validate({**config.recipe.model_dump(), **({"method": method} if method else {})})
    except ValidationError as error:
        msg = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"The method {method!r} cannot be used: {msg}. Name another, or mend the recipe.") from error
    with LearnLoop(store, config=config) as loop:
        if plan:
            planned = loop.plan(found, recipe)
            console.print(plan_table(planned))
            if planned.problems:
                raise DataError(" ".join(planned.problems))
            return
        with progress_bar(console) as show:
            candidate = loop.train(found, recipe, show)
    console.print(
        f"The candidate {candidate.release_id} lies in {candidate.adapter}. It serves nobody: hold it against the "
        "champion with loop.evaluate(candidate), and promote what passes.",
        markup=False,
        highlight=False,
    )


@app.command()
def evaluate(
    release: Annotated[str | None, typer.Argument(help="The candidate, or the beginning of its id.")] = None,
    app_name: App = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what the cases could show.")] = False,
    store: Store = "learnloop.db",
) -> None:
    """Hold a candidate against the champion on held-out cases, through your own graph; --plan needs no agent."""
    from langgraph_learnloop.evaluation.report import summary
    from langgraph_learnloop.show import evaluation_plan, progress_bar

    if plan:
        found = _dataset(store, dataset)
        with LearnLoop(store, config=load_config()) as loop:
            console.print(evaluation_plan(loop.plan_evaluation(found)))
        return
    if release is None:
        raise ConfigError("Name the candidate: `learnloop evaluate RELEASE`; `learnloop releases` lists them.")
    loop = _load(app_name)
    candidate = loop.store.releases.resolve(release)
    chosen = _chosen(loop, dataset) if dataset else None
    with progress_bar(console) as show:
        card = loop.evaluate(candidate, chosen, show)
    console.print(summary(loop.report(candidate.release_id)))
    loop.close()
    if not card.passed:
        raise typer.Exit(1)


@app.command()
def report(
    release: Annotated[
        str | None, typer.Argument(help="Its id, or the beginning of it (default: the one examined last).")
    ] = None,
    store: Store = "learnloop.db",
    html: Annotated[str | None, typer.Option("--html", help="File for the page (default: report-ID.html).")] = None,
) -> None:
    """Show a release's latest examination here, and as one page to open or send around."""
    from langgraph_learnloop.evaluation.page import html as page
    from langgraph_learnloop.evaluation.report import summary

    with _opened(store) as loop:
        found = loop.report(release)
    console.print(summary(found))
    target = Path(html or f"report-{found.candidate.release_id}.html")
    try:
        with whole_file(target) as beside:
            beside.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(_unwritable("The page", target, error)) from error
    console.print(f"The page is in {target}.", markup=False, highlight=False)


@app.command()
def replay(
    run: RunId,
    app_name: App = None,
    release: Annotated[str | None, typer.Option("--release", help="Who answers (default: the champion).")] = None,
    step: Annotated[str | None, typer.Option("--step", help="The model call to begin at (default: the first).")] = None,
) -> None:
    """Run a recorded run again with a release; nothing acts, and nothing is written into the run's thread."""
    from langgraph_learnloop.show import replayed

    loop = _load(app_name)
    console.print(replayed(*loop.replay(run, release, step=step)))
    loop.close()


@app.command()
def suite(
    path: Annotated[str, typer.Argument(help="The file to write, JSON lines.")],
    store: Store = "learnloop.db",
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")] = None,
) -> None:
    """Write a dataset's held-out cases as a suite: a file to edit, to run with pytest, or to name in the settings."""
    from langgraph_learnloop.evaluation.suites import write_suite

    found = _dataset(store, dataset)
    with LearnLoop(store, config=load_config()) as loop:
        cases = loop.exams.cases(found)
    write_suite(cases, path)
    console.print(f"{len(cases)} cases are in {path}.", markup=False, highlight=False)


@app.command()
def search(
    store: Store = "learnloop.db",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Recipes to try, the configured one first.")] = 10,
    minutes: Annotated[float | None, typer.Option("--minutes", min=0.01, help="Begin no trial after that.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Its version, or the beginning (newest).")] = None,
) -> None:
    """Look for a better recipe on a tenth of the training examples; prints what to put into learnloop.toml."""
    found = _dataset(store, dataset)
    table = _table("rank", "rate", "steps", "replay", "loss: new", "old", "seconds")

    def add(trial: Trial) -> None:
        recipe = trial.recipe
        known = ("failed" if n is None else f"{n:.4f}" for n in (trial.new, trial.old))
        seconds = "-" if trial.seconds is None else f"{trial.seconds:.0f}"
        rate, replay = f"{recipe.learning_rate:.2g}", f"{recipe.replay:g}"
        table.add_row(*map(_cell, (recipe.rank, rate, recipe.steps, replay, *known, seconds)))
        console.print(f"trial {table.row_count} of {trials}: {trial.failed or 'done'}", markup=False, highlight=False)

    with LearnLoop(store, config=load_config()) as loop:
        best = loop.search(found, trials=trials, minutes=minutes, on_trial=add)[0].recipe
    console.print(table)
    console.print(
        f"The best of them, for learnloop.toml:\n\n[recipe]\nrank = {best.rank}\nalpha = {best.alpha}\n"
        f"learning_rate = {best.learning_rate:.6g}\nsteps = {best.steps}\nreplay = {best.replay:g}",
        markup=False,
        highlight=False,
    )


@app.command()
def releases(store: Store = "learnloop.db") -> None:
    """List releases, newest first: where each stands, what its gate said, and what its adapter takes on the disk."""
    from langgraph_learnloop.tidying import size_of

    with _opened(store) as loop:
        found, held = loop.store.releases.all(), loop.tidying.held()
        table = _table("release", "state", "made", "parent", "dataset", "gate", "adapter")
        for release, state in zip(found, loop.tidying.states(found), strict=True):
            card = loop.store.scorecards.of(release.release_id)
            verdict = "-" if card is None else "passed" if card.passed else "stopped"
            made, ids = f"{release.made_at:%m-%d %H:%M}", (release.parent, release.dataset)
            short_ids = ((one or "-")[:_SHORT] for one in ids)
            cells = (release.release_id, state, made, *short_ids, verdict, size_of(release, held))
            table.add_row(*map(_cell, cells))
        _show(table, "No release yet: loop.model(engine) makes the first.")


@app.command()
def diff(
    one: Annotated[str, typer.Argument(help="A release, or the beginning of its id.")],
    other: Annotated[
        str | None, typer.Argument(help="The one to hold against it; alone, ONE is held against the champion.")
    ] = None,
    store: Store = "learnloop.db",
) -> None:
    """Show how two releases differ: words, weights, lessons, gates, and when each served."""
    from langgraph_learnloop.show import release_diff

    with _opened(store) as loop:
        console.print(release_diff(loop.diff(None, one) if other is None else loop.diff(one, other)))


@app.command()
def tidy(
    store: Store = "learnloop.db",
    gb: Annotated[float | None, typer.Option("--gb", min=0, help="What may stay (default: adapters_gb).")] = None,
    days: Annotated[float, typer.Option("--days", min=0, help="Keep what threads of these days need.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove adapters that nobody needs any more, until the rest fits; what serves, or may soon, always stays."""
    from langgraph_learnloop.tidying import GB

    with _opened(store) as loop:
        done = loop.tidy(gb, dry_run, days=days, actor=_me())
        table = _table("folder", "release", "MB", "because")
        for one in done:
            named = ", ".join(one.releases) or "-"
            table.add_row(*map(_cell, (Path(one.folder).name, named, f"{one.size / 1_000_000:,.1f}", one.because)))
        _show(table, "Nothing was removed: what there is fits, or must stay.")
        left = sum(held.size for held in loop.tidying.held(days)) - (sum(one.size for one in done) if dry_run else 0)
        verb = "would take" if dry_run else "takes"
        console.print(f"What stays {verb} {left / GB:.3g} GB.", markup=False, highlight=False)


@app.command()
def merge(
    release: Release,
    folder: Annotated[str, typer.Argument(help="Where the model goes; it must not be there yet.")],
    store: Store = "learnloop.db",
    gguf: Annotated[
        str | None, typer.Option("--gguf", help="Write a GGUF file, quantised so (q4_k_m, ...), with Unsloth.")
    ] = None,
) -> None:
    """Write a release's base and adapter as one model into a new folder, to be served anywhere."""
    from langgraph_learnloop.improvement.lora.job import merged

    with _opened(store) as loop:
        found = loop.store.releases.resolve(release)
    if found.adapter is None:
        raise ConfigError(
            f"The release {release!r} has no adapter to merge: use {found.base_model!r} as it is, or name "
            "another release."
        )
    still_there(found)
    written = merged(found.base_model, found.adapter, folder, load_config().train_python, gguf)
    console.print(f"{written} holds the model.", markup=False, highlight=False)


@app.command()
def remembered(
    release: Annotated[str | None, typer.Argument(help="A release, or the beginning of its id.")] = None,
    store: Store = "learnloop.db",
) -> None:
    """Say how a release (default: the one that serves) still does on every lesson that was learned before it."""
    with _opened(store) as loop:
        table = _table("dataset", "learned by", "cases", "right then", "right now")
        for row in loop.remembered(release):
            shares = ("-" if share is None else f"{100 * share:.1f}%" for share in (row.then, row.now))
            table.add_row(*map(_cell, (row.dataset[:12], row.learned_by, row.cases, *shares)))
        _show(table, "No lesson has been shipped yet: `learnloop cycle` walks to the first.")


@app.command()
def serve(
    app_name: App = None,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; others than this machine need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    key: Annotated[str | None, typer.Option("--key", envvar="LEARNLOOP_KEY", help="What clients must send.")] = None,
) -> None:
    """Serve the live model by OpenAI's protocol, for agents in any process or language."""
    from langgraph_learnloop.serving import endpoint

    loop = _load(app_name)
    application = endpoint.application(loop.live, key=key, releases=loop.store.releases)

    def ready(address: str) -> None:
        console.print(f"The live model is served at {address}/v1; ctrl-C ends it.", markup=False, highlight=False)

    endpoint.serve(application, host, port, on_ready=ready)
    loop.close()


@app.command()
def mirror(
    store: Store = "learnloop.db",
    everything: Annotated[bool, typer.Option("--all", help="Tell what was stored before, too.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Tell what waits, and end.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Tell again what was not taken.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Tell it nothing any more, and forget what waits.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 1.0,
    holder: Annotated[str | None, typer.Option("--holder", hidden=True)] = None,
) -> None:
    """Tell the mirror of the settings, such as Langfuse, what is stored, until ctrl-C; any number of these may run."""
    with _opened(store) as loop:
        mirroring = loop.mirroring(everything=everything, holder=holder)
        if forget:
            loop.store.outbox.forget(mirroring.mirror.name)
            console.print(f"{mirroring.mirror.name} is told nothing any more; take it out of the settings, too.")
            return
        if holder is not None:  # it is beside a process that runs the agent, and ends with it
            mirroring.start()
            sys.stdin.read()
            mirroring.stop()
            return
        name = mirroring.mirror.name
        if retry:
            loop.store.outbox.retry(name)
        try:
            _tell(mirroring, once, every)
        finally:
            mirroring.let_go()


def _tell(mirroring: Mirroring, once: bool, every: float) -> None:
    """Tell a mirror what waits, and say how far it is when that changes."""
    told, said = 0, ""
    while True:
        told += mirroring.step()
        health = mirroring.health()
        line = f"{told} told, {health.waiting} waiting, {health.refused} not taken. {health.problem or ''}"
        if line != said:
            said = line
            console.print(f"{mirroring.mirror.name}: {line}", markup=False, highlight=False, soft_wrap=True)
        if once:
            raise typer.Exit(1 if health.waiting or health.refused else 0)
        time.sleep(every)


@app.command()
def rollout(
    move: Annotated[
        str, typer.Argument(help="show, step, watch, approve, pause, resume, back, or a share: 25")
    ] = "show",
    store: Store = "learnloop.db",
    because: Annotated[str, typer.Option("--because", help="Why; it is kept in the log.")] = "",
    every: Annotated[float, typer.Option("--every", min=1, help="Seconds between two looks of `watch`.")] = 60.0,
) -> None:
    """Look at the rollout under way, or move it: to the next stage, to a share of new threads, to a pause, or back."""
    from langgraph_learnloop.show import rollout_tree

    me = _me()
    with _opened(store) as loop:
        rolling = loop.rolling
        if move == "step":
            loop.roll_on()
        elif move == "watch":
            _watch(loop, every)
        elif move in ("approve", "resume"):
            getattr(rolling, move)(me)
        elif move == "pause":
            rolling.pause(me, because)
        elif move == "back":
            rolling.back(because or f"{me} took it back.", me)
        elif move.isdecimal():
            rolling.set_stage(int(move), me)
        elif move != "show":
            raise ConfigError(
                f"There is no such move as {move!r}: show, step, watch, approve, pause, resume, back, or a share of "
                "the new threads such as 25."
            )
        latest = loop.store.rollouts.all()[-1:]
        if not latest:
            raise NotFoundError("There was no rollout yet: loop.rollout(release_id) begins one.")
        evidence = rolling.evidence(latest[0]) if latest[0].open else None
        console.print(rollout_tree(latest[0], evidence, rolling.servers()))


def _watch(loop: LearnLoop, seconds: float) -> None:
    """Move the rollout under way as the settings allow until it has ended, and say where it went."""
    said = None
    while True:
        rollout, _ = loop.roll_on()
        if rollout.stage != said:
            console.print(f"{rollout.candidate}: {rollout.stage}. {rollout.because}", markup=False, highlight=False)
        if not rollout.open:
            return
        said = rollout.stage
        time.sleep(seconds)


@app.command()
def rollback(
    store: Store = "learnloop.db",
    because: Annotated[
        str, typer.Option("--because", help="Why; it is kept in the log.")
    ] = "Asked for on the command line.",
) -> None:
    """Give new conversations the release that served before this one."""
    with _opened(store) as loop:
        before = loop.champion.release_id
        now = loop.rollback(because, actor=_me()).release_id
        console.print(
            f"New conversations get {now}; {before} serves only conversations that began with it. "
            "Serving processes follow within a second.",
            highlight=False,
        )


@app.command()
def log(store: Store = "learnloop.db", limit: Limit = 50) -> None:
    """Show what was decided, by whom and why, oldest first; the chain of hashes is checked."""
    with _opened(store) as loop:
        table = _table("at", "actor", "action", "subject", "because")
        for entry in loop.store.decisions.all(limit):
            cells = (f"{entry.at:%m-%d %H:%M:%S}", entry.actor, entry.action, entry.subject[:12], entry.because)
            table.add_row(*map(_cell, cells))
        _show(table, "Nothing was decided yet.")
        loop.store.decisions.verify()


@app.command()
def demo(
    data: Annotated[
        str | None, typer.Option("--data", help="Your own requests, JSON lines, instead of the sample.")
    ] = None,
    hold_out: Annotated[
        list[str] | None, typer.Option("--hold-out", help="Tool the base must not see (repeatable).")
    ] = None,
    ask: Annotated[bool, typer.Option("--review", help="Ask me about each correction.")] = False,
    json_file: Annotated[str | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    home: Annotated[str, typer.Option("--home", help="Folder for everything the demo writes.")] = "learnloop-demo",
    rebuild_base: Annotated[bool, typer.Option("--rebuild-base", help="Train the shipped base model again.")] = False,
) -> None:
    """Show the whole circle on this machine: no key, no GPU, no download of weights."""
    try:
        from langgraph_learnloop.demo.play import play
    except ImportError as error:
        raise MissingExtraError(f'The demo needs {error.name!r}: pip install "langgraph-learnloop[demo]".') from error
    found = play(console, Path(home), data=data, hold_out=hold_out, ask=_me() if ask else None, rebuild=rebuild_base)
    if json_file is not None:
        Path(json_file).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if not found.get("promoted", True):
        raise typer.Exit(1)


def main() -> NoReturn:
    """Run the command line; refusals become one sentence and exit code 2."""
    try:
        code = app(standalone_mode=False)  # an exit code where typer ended it, else None
        if code == _INTERRUPTED:
            _stop("Stopped. Run the same command again to go on where it was.", _INTERRUPTED)
        sys.exit(code or 0)
    except LearnLoopError as error:
        _refuse(str(error))
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _refuse(f"The file system refused{where}: {error.strerror or error}. Mend that and run the command again.")
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):  # a usage error: both bring their own kinds
            say = getattr(error, "format_message", None)
            _refuse(say() if say else str(error))
        raise


def _unwritable(what: str, target: Path, error: OSError) -> str:
    why = error.strerror or error
    return f"{what} cannot be written to {str(target)!r}: {why}. Name a file in a folder that is there."


def _refuse(sentence: str) -> NoReturn:
    _stop(f"learnloop: {sentence}", 2)


def _stop(sentence: str, code: int) -> NoReturn:
    Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


@contextmanager
def _opened(store: str) -> Iterator[LearnLoop]:
    """Open a store that is there; a look must not make one."""
    if "://" not in store and not Path(store).exists():
        raise ConfigError(
            f"There is no store at {store!r}: name it with --store, or run your agent under LearnLoop first."
        )
    with LearnLoop(store) as loop:
        yield loop


def _dataset(store: str, beginning: str | None) -> Dataset:
    """Return the newest dataset with something to learn whose version begins so."""
    with _opened(store) as loop:
        return _chosen(loop, beginning)


def _chosen(loop: LearnLoop, beginning: str | None) -> Dataset:
    known = [one for one in loop.store.datasets.all() if one.counts.keys() - {"replay"}]
    found = [one for one in known if one.version.startswith(beginning or "")]
    if not found:
        what = f"no dataset whose version begins with {beginning!r}" if beginning else "no dataset"
        raise NotFoundError(f"There is {what} in the store: `learnloop cycle` makes one of the corrections.")
    return found[-1]


def _load(name: str | None) -> LearnLoop:
    name = name or load_config().app
    if not name or ":" not in name:
        raise ConfigError('Name your LearnLoop with --app "module:attribute", or as `app` in learnloop.toml.')
    loop = named(name, "The LearnLoop")
    if not isinstance(loop, LearnLoop):
        raise ConfigError(f"{name!r} is a {type(loop).__name__}, not a LearnLoop: name the variable that holds yours.")
    return loop


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in _FOLDED | _CUT)
    return table


def _cell(value: Any) -> Any:
    """Show captured text as it is: no markup, no control characters."""
    from rich.text import Text

    return Text("-" if value is None else short(visible(str(value).replace("\n", " ")), _LONGEST))


def _line(value: str | None) -> Any:
    """Show captured text on one line, cut where the column ends."""
    cell = _cell(value)
    cell.no_wrap, cell.overflow = True, "ellipsis"
    return cell


def _show(table: Table, nothing: str) -> None:
    console.print(table if table.row_count else nothing, highlight=False)


if __name__ == "__main__":
    main()
