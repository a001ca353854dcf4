"""Look at what happened: runs, flags, releases, examinations, and the log."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_learnloop.cli.app import Agent, Limit, MaybeRelease, Release, RunId, Store, app, runs_app
from langgraph_learnloop.cli.opened import opened
from langgraph_learnloop.cli.terminal import ID, SHORT, console, say, show_rows, written
from langgraph_learnloop.errors import ConfigError, LearnLoopError, NotFoundError
from langgraph_learnloop.texts import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langgraph_learnloop.loop import LearnLoop
    from langgraph_learnloop.records import FlagState, Run, Weakness

_State = Annotated[str, typer.Option("--state", help="One of open, queued, curated, dismissed.")]


@runs_app.callback(invoke_without_command=True)
def runs(context: typer.Context, store: Store = "learnloop.db", limit: Limit = 20, agent: Agent = None) -> None:
    """List recorded runs, newest first; `show` and `export` look into them."""
    if context.invoked_subcommand is not None:
        return
    with opened(store) as loop:
        columns = ("run", "release", "outcome", "seconds", "thread", "question", "answer")
        rows = map(_row, loop.store.runs.recent(limit, agent))
        show_rows(columns, rows, "No run is recorded yet: pass callbacks=[loop.recorder], or use loop.watch(graph).")


def _row(run: Run) -> tuple[str | None, ...]:
    seconds = "" if run.seconds is None else f"{run.seconds:.2f}"
    known = (run.run_id[:ID], (run.release or "-")[:SHORT], run.outcome, seconds)
    return (*known, run.thread_id, run.question, run.answer)


@runs_app.command()
def show(run: RunId, store: Store = "learnloop.db") -> None:
    """Draw a run as a tree: reasoning, tool calls, results and errors. RUN is its id, or the beginning of it."""
    from langgraph_learnloop.capture.export import exported
    from langgraph_learnloop.show import tree

    with opened(store) as loop:
        found = loop.store.runs.resolve(run)
        console.print(tree(exported(found, loop.store.runs)))
        if loop.config.mirror is None:
            return
        try:
            say(f"It is shown at {loop.trace_url(found)}")
        except LearnLoopError as error:
            say(f"Where it is shown is not known: {error}")


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
    with opened(store) as loop:
        found = (exported(run, loop.store.runs) for run in loop.store.runs.every(agent))
        if jsonl == "-":
            write_jsonl(found, sys.stdout)
            return
        target = Path(str(jsonl or parquet))
        with written("The export", target) as beside:
            if parquet is not None:
                count = write_parquet(found, beside)
            else:
                with beside.open("w", encoding="utf-8") as out:
                    count = write_jsonl(found, out)
        say(f"{count} runs are in {target}.")


@app.command()
def schema() -> None:
    """Print the JSON Schema of an exported run."""
    from langgraph_learnloop.capture.export import ExportedRun

    sys.stdout.write(json.dumps(ExportedRun.model_json_schema(), indent=2) + "\n")


@app.command()
def flagged(store: Store = "learnloop.db", limit: Limit = 20, state: _State = "open", agent: Agent = None) -> None:
    """List runs that went wrong, worst first; `learnloop weaknesses` says what they have in common."""
    known = _known(state)
    with opened(store) as loop:
        found = loop.store.flags.list(known, agent)[:limit]
        rows = ((flag.run_id[:ID], f"{flag.severity:.2f}", flag.thread_id, " ".join(flag.reasons)) for flag in found)
        show_rows(("run", "severity", "thread", "reasons"), rows, f"No flag is {state}.")


def _known(state: str) -> FlagState:
    """Return a flag's state as it was given; raise ConfigError if there is no such state."""
    from langgraph_learnloop.records import FLAG_MOVES

    found = next((known for known in FLAG_MOVES if known == state), None)
    if found is None:
        raise ConfigError(f"There is no flag state {state!r}; the states are: {', '.join(FLAG_MOVES)}.")
    return found


@app.command()
def weaknesses(
    weakness: Annotated[
        str | None, typer.Argument(help="One of them, or the beginning of its id: its runs are listed.")
    ] = None,
    store: Store = "learnloop.db",
    limit: Limit = 20,
    state: _State = "open",
    agent: Agent = None,
) -> None:
    """Say what the runs that went wrong have in common, what spoiled most conversations first, and what helps."""
    known = _known(state)
    with opened(store) as loop:
        found = loop.lessons.weaknesses(known, loop.embedding, agent)
        if weakness is not None:
            _show_weakness(loop, found, weakness, limit)
            return
        rows = (
            (one.weakness_id[:SHORT], one.fix, one.threads, len(one.run_ids), one.corrected, one.label, one.example)
            for one in found[:limit]
        )
        columns = ("weakness", "what helps", "threads", "runs", "corrected", "in common", "question")
        show_rows(columns, rows, f"No flag is {state}.")
        if len(found) > limit:
            say(f"{len(found) - limit} more are left out: --limit shows them.")


def _show_weakness(loop: LearnLoop, found: Sequence[Weakness], beginning: str, limit: int) -> None:
    """Say what helps against a weakness, and list its runs, the most typical first."""
    chosen = [one for one in found if one.weakness_id.startswith(beginning)]
    if len(chosen) != 1:
        many = "Several weaknesses begin" if chosen else "No weakness begins"
        raise NotFoundError(
            f"{many} with {beginning!r}; `learnloop weaknesses` lists them. One that a run joined or left has another "
            "id than before."
        )
    (one,) = chosen
    runs, flags = loop.store.runs.many(one.run_ids), loop.store.flags.of(one.run_ids)
    say(f"{visible(one.label)}: {len(one.run_ids)} runs in {one.threads} threads. {one.because}")
    rows = ((key[:ID], f"{flags[key].severity:.2f}", runs[key].thread_id, runs[key].question) for key in one.run_ids)
    show_rows(("run", "severity", "thread", "question"), islice(rows, limit))


@app.command()
def similar(run: RunId, store: Store = "learnloop.db", limit: Limit = 10) -> None:
    """List the runs that were asked what a run was asked, or nearly so, flagged or not, the nearest first."""
    with opened(store) as loop:
        with console.status("Looking ...") as status:
            found = loop.similar(run, limit, lambda left: status.update(f"{left:,} runs are still to be read ..."))
        rows = (
            (f"{cosine:.2f}", *_row(one)[:3], flag and flag.state, one.thread_id, one.question)
            for one, cosine, flag in found
        )
        columns = ("cosine", "run", "release", "outcome", "flag", "thread", "question")
        show_rows(columns, rows, "No other run of this agent has a question.")


@app.command()
def releases(store: Store = "learnloop.db") -> None:
    """List releases, newest first: where each stands, what its gate said, and what its adapter takes on the disk."""
    from langgraph_learnloop.tidying import size_of

    with opened(store) as loop:
        found, held = loop.store.releases.all(), loop.tidying.held()
        rows = []
        for release, state in zip(found, loop.tidying.states(found), strict=True):
            card = loop.store.scorecards.of(release.release_id)
            verdict = "-" if card is None else "passed" if card.passed else "stopped"
            short_ids = ((one or "-")[:SHORT] for one in (release.parent, release.dataset))
            size = size_of(release, held)
            rows.append((release.release_id, state, f"{release.made_at:%m-%d %H:%M}", *short_ids, verdict, size))
        columns = ("release", "state", "made", "parent", "dataset", "gate", "adapter")
        show_rows(columns, rows, "No release yet: loop.model(engine) makes the first.")


@app.command()
def diff(
    one: Release,
    other: Annotated[
        str | None, typer.Argument(help="The one to hold against it; alone, ONE is held against the champion.")
    ] = None,
    store: Store = "learnloop.db",
) -> None:
    """Show how two releases differ: words, weights, lessons, gates, and when each served."""
    from langgraph_learnloop.show import release_diff

    with opened(store) as loop:
        console.print(release_diff(loop.diff(None, one) if other is None else loop.diff(one, other)))


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

    with opened(store) as loop:
        found = loop.report(release)
    console.print(summary(found))
    target = Path(html or f"report-{found.candidate.release_id}.html")
    with written("The page", target) as beside:
        beside.write_text(page(found), encoding="utf-8")
    say(f"The page is in {target}.")


@app.command()
def remembered(release: MaybeRelease = None, store: Store = "learnloop.db") -> None:
    """Say how a release (default: the one that serves) still does on every lesson that was learned before it."""
    with opened(store) as loop:
        rows = []
        for row in loop.remembered(release):
            shares = (None if share is None else f"{100 * share:.1f}%" for share in (row.then, row.now))
            rows.append((row.dataset[:12], row.learned_by, row.cases, *shares))
        columns = ("dataset", "learned by", "cases", "right then", "right now")
        show_rows(columns, rows, "No lesson has been shipped yet: `learnloop cycle` walks to the first.")


@app.command()
def log(store: Store = "learnloop.db", limit: Limit = 50) -> None:
    """Show what was decided, by whom and why, oldest first; the chain of hashes is checked."""
    with opened(store) as loop:
        rows = (
            (f"{entry.at:%m-%d %H:%M:%S}", entry.actor, entry.action, entry.subject[:12], entry.because)
            for entry in loop.store.decisions.all(limit)
        )
        show_rows(("at", "actor", "action", "subject", "because"), rows, "Nothing was decided yet.")
        loop.store.decisions.verify()
