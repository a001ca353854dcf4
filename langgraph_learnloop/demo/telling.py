"""Tell the story in a terminal: plain sentences, progress bars, and the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from langgraph_learnloop import records
from langgraph_learnloop.demo.worlds import World


class Step:
    """Move a bar."""

    def __init__(self, progress: Progress, task: TaskID, title: str) -> None:
        """Move `task` of `progress`."""
        self._progress = progress
        self._task = task
        self._title = title

    def __call__(self) -> None:
        """Move on by one."""
        self._progress.advance(self._task)

    def progress(self, line: records.Progress) -> None:
        """Show a line of progress from a long piece of work."""
        loss = f"{self._title}, loss {line.loss:.3f}" if line.loss is not None else self._title
        self._progress.update(self._task, completed=line.done, total=line.total or None, description=loss)


class Telling:
    """Say what happens, chapter by chapter."""

    def __init__(self, console: Console, world: World) -> None:
        """Write on `console`."""
        self._console = console
        self._world = world

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Step]:
        """Show a bar while a piece of work goes on; it disappears when that is done."""
        with self._progress() as progress:
            yield Step(progress, progress.add_task(title, total=total), title)

    @contextmanager
    def bars(self) -> Iterator[Callable[[str, int], Step]]:
        """Show several bars while pieces of work go on side by side; the value makes a bar of a title and a total."""
        with self._progress() as progress:
            yield lambda title, total: Step(progress, progress.add_task(title, total=total), title)

    def _progress(self) -> Progress:
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        return Progress(*columns, console=self._console, transient=True)

    def opening(self, manifest: Mapping[str, Any]) -> None:
        """Introduce the agent."""
        self.heading("The agent")
        self.say(
            f"A LangGraph agent with {len(self._world.tools)} tools runs on a model of "
            f"{manifest.get('parameters', 0) / 1e6:.1f} million parameters, trained from scratch on this kind of "
            "requests. It never saw " + self._world.new + "."
        )
        self.say("The users are simulated from the known right answers; everything else is real.")

    def day1(self, done: Mapping[str, Any]) -> None:
        """Tell the first day."""
        day, said = done["day1"], done["day1"]["said"]
        self.heading("Day 1")
        self.say(
            f"{day['asked']} requests in {day['conversations']} conversations, {day['at_a_time']} at a time, "
            f"{day['seconds']:.0f} s: of what the base knows {percent(day['old'])} were fully right, "
            f"of the new {percent(day['target'])}."
        )
        self.say(
            f"{day['flagged']} runs were flagged. People corrected {said.get('corrected', 0)}, liked "
            f"{said.get('liked', 0)}, and some were wrong on purpose {said.get('lied', 0)} times."
        )
        if worst := day.get("worst"):  # a story of before has none
            named = ", ".join(f'"{one["label"]}" ({one["runs"]} runs)' for one in worst)
            self.say(f"What they have in common, by the words that tell them apart: {named}.")

    def exam_before(self, done: Mapping[str, Any]) -> None:
        """Say nothing yet: the figures come in the table at the end."""

    def lesson(self, done: Mapping[str, Any]) -> None:
        """Tell what curation made of it."""
        lesson = done["lesson"]
        self.heading("The lesson")
        self.say(
            f"Curation looked at {lesson['proposals']} corrections and refused {lesson['refused']} of them."
            + (f' One reason: "{lesson["why"][0]}"' if lesson["why"] else "")
        )
        counts = {o: n for o, n in lesson["counts"].items() if o != "dropped"}
        parts = [f"{sum(n.values())} {origin}" for origin, n in sorted(counts.items())]
        self.say(
            f"Dataset {lesson['dataset'][:12]}: {', '.join(parts)} examples; near-duplicates never straddle a split."
        )

    def training(self, done: Mapping[str, Any]) -> None:
        """Tell how the two were stopped that are meant to be."""
        self.heading("Three candidates")
        self._verdict(done["training"]["no_replay"], "Trained without replay")
        self._verdict(done["training"]["hostile"], "Trained on the refused corrections")

    def good(self, done: Mapping[str, Any]) -> None:
        """Tell how the good candidate did."""
        self._verdict(done["good"], "Trained on the reviewed corrections, with replay")

    def swap(self, done: Mapping[str, Any]) -> None:
        """Tell the swap."""
        swap = done["swap"]
        self.heading("The swap, while people talk to the agent")
        self.say(
            f"{swap['asked']} requests in {swap['conversations']} conversations on 8 threads: {swap['errors']} errors, "
            f"{swap['mixed_threads']} conversations that changed model midway. The longest generation during the swap "
            f"took {swap['longest_generation_during'] * 1000:.0f} ms, the longest one else "
            f"{swap['longest_generation_else'] * 1000:.0f} ms."
        )

    def day2(self, done: Mapping[str, Any]) -> None:
        """Tell the second day."""
        day = done["day2"]
        self.heading("Day 2")
        self.say(
            f"{day['asked']} new requests of the same kind: of the old {percent(day['old'])} were fully right, "
            f"of the new {percent(day['target'])}."
        )

    def exam_after(self, done: Mapping[str, Any]) -> None:
        """Show the table."""
        before, after = done["exam_before"], done["exam_after"]
        table = Table(title="Held-out requests that nothing in the loop ever saw (95% intervals)", title_justify="left")
        for column in ("", "requests", "before", "after"):
            table.add_column(column, justify="left" if not column else "right")
        for metric, words in (("fully_right", "tool and arguments right"), ("right_tool", "right tool")):
            for part, name in (("target", "new"), ("old", "old")):
                was, now = before[metric][part], after[metric][part]
                table.add_row(f"{name}: {words}", str(was["cases"]), interval(was), interval(now))
        self._console.print()
        self._console.print(table)
        three = [done["good"]["seconds"], *(done["training"][name]["seconds"] for name in ("no_replay", "hostile"))]
        trained, gated = (sum(seconds[part] for seconds in three) for part in ("train", "gate"))
        self.say(
            f"Cost: {trained:.0f} s of training and {gated:.0f} s of examination for three candidates, on this CPU."
        )

    def back(self, done: Mapping[str, Any]) -> None:
        """Tell the rollback."""
        back = done["back"]
        self.heading("And back")
        self.say(
            f"Rollback moved new conversations from {back['from']} to {back['to']}; the next one was served by "
            f"{back['served']}. Then {back['again']} was put in service again."
        )

    def closing(self, store: str) -> None:
        """Say where to look next."""
        self.heading("Where to look next")
        for command, why in (
            ("runs", "every request, newest first"),
            ("weaknesses --state curated", "what went wrong, in groups, and was learned from"),
            ("releases", "what was trained, what serves"),
            ("log", "every decision, with its reason"),
            ("rollback", "take the new model back"),
        ):
            self._console.print(
                f"  learnloop {command} --store {store}   [dim]# {why}[/dim]", highlight=False, soft_wrap=True
            )

    def heading(self, text: str) -> None:
        """Begin a chapter."""
        self._console.print(f"\n[bold]{text}[/bold]", highlight=False)

    def say(self, sentence: str) -> None:
        """Say a sentence, as it is."""
        self._console.print(sentence, markup=False, highlight=False)

    def _verdict(self, candidate: Mapping[str, Any], how: str) -> None:
        mark = "[green]passed[/green]" if candidate["passed"] else "[red]stopped[/red]"
        seconds = candidate["seconds"]
        self._console.print(f"{how} ({seconds['train']:.0f} s): {mark} by the gate.", highlight=False)
        failed = [gate for gate in candidate["gates"] if gate["required"] and not gate["passed"]]
        decisive = [gate for gate in candidate["gates"] if gate["name"] in ("target", "retention")]
        for gate in failed[:2] or decisive:
            self.say(f"  {gate['because']}")


def percent(figure: Mapping[str, Any]) -> str:
    """Write a share as a whole percentage."""
    return "none" if figure["share"] is None else f"{figure['share']:.0%}"


def interval(figure: Mapping[str, Any]) -> str:
    """Write a share with its interval."""
    if figure["share"] is None:
        return "-"
    return f"{figure['share']:.1%} ({figure['low']:.0%} to {figure['high']:.0%})"
