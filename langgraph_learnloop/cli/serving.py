"""Serve, move what serves, take it back, and make room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langgraph_learnloop.cli.app import App, Release, Store, app
from langgraph_learnloop.cli.opened import loaded, opened, whoever
from langgraph_learnloop.cli.terminal import console, say, show_rows
from langgraph_learnloop.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from langgraph_learnloop.loop import LearnLoop
    from langgraph_learnloop.mirroring import Mirroring


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

    def ready(address: str) -> None:
        say(f"The live model is served at {address}/v1; ctrl-C ends it.")

    with loaded(app_name) as loop:
        application = endpoint.application(loop.live, key=key, releases=loop.store.releases)
        endpoint.serve(application, host, port, on_ready=ready)


@app.command()
def mirror(
    store: Store = "learnloop.db",
    everything: Annotated[bool, typer.Option("--all", help="Tell what was stored before, too.")] = False,
    once: Annotated[bool, typer.Option("--once", help="Tell what waits, and end.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Tell again what was not taken.")] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Tell it nothing any more, and forget what waits.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Tell the mirror of the settings, such as Langfuse, what is stored, until ctrl-C; any number of these may run."""
    with opened(store) as loop:
        mirroring = loop.mirroring(everything=everything)
        name = mirroring.mirror.name
        if forget:
            loop.store.outbox.forget(name)
            say(f"{name} is told nothing any more; take it out of the settings, too.")
            return
        if retry:
            loop.store.outbox.retry(name)
        try:
            _tell(mirroring, once, every)
        finally:
            mirroring.let_go()


def _tell(mirroring: Mirroring, once: bool, every: float) -> None:
    """Tell a mirror what waits, and say how far it is when that changes."""
    said = ""
    while True:
        mirroring.step()
        health = mirroring.health()
        line = f"{health.told} told, {health.waiting} waiting, {health.refused} not taken. {health.problem or ''}"
        if line != said:
            said = line
            say(f"{mirroring.mirror.name}: {line}")
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

    by = whoever()
    with opened(store) as loop:
        rolling = loop.rolling
        if move == "step":
            loop.roll_on()
        elif move == "watch":
            _watch(loop, every)
        elif move in ("approve", "resume"):
            getattr(rolling, move)(by)
        elif move == "pause":
            rolling.pause(by, because)
        elif move == "back":
            rolling.back(because or f"{by} took it back.", by)
        elif move.isdecimal():
            rolling.set_stage(int(move), by)
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
    rollout, said = loop.rolling.current(), None
    while rollout.open:
        rollout = loop.store.rollouts.get(rollout.rollout_id)
        if rollout.open:  # else somebody ended it elsewhere
            rollout, _ = loop.roll_on()
        if rollout.stage != said:
            said = rollout.stage
            say(f"{rollout.candidate}: {said}. {rollout.because}")
        if rollout.open:
            time.sleep(seconds)


@app.command()
def rollback(
    store: Store = "learnloop.db",
    because: Annotated[
        str, typer.Option("--because", help="Why; it is kept in the log.")
    ] = "Asked for on the command line.",
) -> None:
    """Give new conversations the release that served before this one."""
    with opened(store) as loop:
        before = loop.champion.release_id
        now = loop.rollback(because, actor=whoever()).release_id
        say(
            f"New conversations get {now}; {before} serves only conversations that began with it. "
            "Serving processes follow within a second."
        )


@app.command()
def tidy(
    store: Store = "learnloop.db",
    gb: Annotated[float | None, typer.Option("--gb", min=0, help="What may stay (default: adapters_gb).")] = None,
    days: Annotated[float, typer.Option("--days", min=0, help="Keep what threads of these days need.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove adapters that nobody needs any more, until the rest fits; what serves, or may soon, always stays."""
    from langgraph_learnloop.tidying import GB

    with opened(store) as loop:
        done = loop.tidy(gb, dry_run, days=days, actor=whoever())
        rows = (
            (Path(one.folder).name, ", ".join(one.releases) or None, f"{one.size / 1_000_000:,.1f}", one.because)
            for one in done
        )
        columns = ("folder", "release", "MB", "because")
        show_rows(columns, rows, "Nothing was removed: what there is fits, or must stay.")
        left = sum(held.size for held in loop.tidying.held(days)) - (sum(one.size for one in done) if dry_run else 0)
        verb = "would take" if dry_run else "takes"
        say(f"What stays {verb} {left / GB:.3g} GB.")


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
    from langgraph_learnloop.config import load_config
    from langgraph_learnloop.improvement.lora.job import merged
    from langgraph_learnloop.jobs import still_there

    with opened(store) as loop:
        found = loop.store.releases.resolve(release)
    if found.adapter is None:
        raise ConfigError(
            f"The release {release!r} has no adapter to merge: use {found.base_model!r} as it is, or name "
            "another release."
        )
    still_there(found)
    written = merged(found.base_model, found.adapter, folder, load_config().train_python, gguf)
    say(f"{written} holds the model.")
