"""Draw in the terminal: runs, replays, rollouts and releases as trees, plans as tables, long work as a bar."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from langgraph_learnloop.capture.export import ExportedRun, ExportedStep
from langgraph_learnloop.errors import needing
from langgraph_learnloop.ports import OnProgress
from langgraph_learnloop.records import Case, CaseResult, Gate, Message, Plan, Progress, Rollout, Server, ToolCall
from langgraph_learnloop.releases import ReleaseDiff, Served
from langgraph_learnloop.texts import cut, visible

with needing("Drawing in the terminal"):
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Table
    from rich.text import Text
    from rich.tree import Tree

if TYPE_CHECKING:
    from langgraph_learnloop.evaluation.planning import GatePlan
    from langgraph_learnloop.serving.rollouts import Evidence

_LONGEST = 600
"""Characters of a text that are shown."""
_STYLE = {"node": "dim", "model": "cyan", "tool": "green"}
"""The colours of steps."""


@contextmanager
def progress_bar(console: Console) -> Iterator[OnProgress]:
    """Show lines of progress as one bar, which disappears at the end; notes stay on the screen."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, more="")

        def show(line: Progress) -> None:
            if line.note:
                console.print(line.note, markup=False, highlight=False)
            bar.update(task, description=line.stage, completed=line.done, total=line.total or None, more=_pace(line))

        yield show


def _pace(line: Progress) -> str:
    parts = (
        None if line.loss is None else f"loss {line.loss:.3f}",
        None if line.tokens_per_second is None else f"{line.tokens_per_second:,.0f} tokens/s",
        None if line.seconds_left is None else f"{_time(line.seconds_left)} left",
    )
    return ", ".join(part for part in parts if part)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes}:{rest:02}"


def plan_table(plan: Plan) -> Table:
    """Return what a training job would learn from and take."""
    table = Table(box=None, show_header=False, pad_edge=False)
    left_out = f"; {plan.left_out} left out as too long" if plan.left_out else ""
    facts = {
        "trained with": plan.engine,
        "examples": ", ".join(f"{count} {origin}" for origin, count in sorted(plan.examples.items())) + left_out,
        "new ones by tool": ", ".join(f"{name} {count}" for name, count in sorted(plan.categories.items())),
        "steps": f"{plan.steps:,}; each example is read {plan.passes:.1f} times, {plan.tokens:,} tokens in all",
        "time": "not known" if plan.minutes is None else f"about {_time(60 * plan.minutes)}",
        "memory": "not known" if plan.memory_mb is None else f"about {plan.memory_mb:,.0f} MB",
        "cost": _cost(plan),
    }
    for name, fact in facts.items():
        table.add_row(name, Text(visible(fact)))
    return table


def _cost(plan: Plan) -> str:
    if plan.usd is not None:
        return f"about {plan.usd:.2f} US dollars"
    return "not known" if plan.memory_mb is None else "none: it runs on your machine"


def evaluation_plan(gates: Sequence[GatePlan]) -> Table:
    """Return what each gate could show on the cases there are."""
    table = Table("gate", "cases", "missing", "what they show", box=None, pad_edge=False)
    for gate in gates:
        missing = "" if gate.needed is None else str(gate.needed)
        cells = (gate.name, str(gate.cases), missing, gate.because.removeprefix(f"{gate.name}: "))
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def replayed(case: Case, result: CaseResult) -> Tree:
    """Return what happened in a recorded run, and what a replay of it did, one below the other."""
    same = result.scores.get("same")
    verdict = "the same again" if same else "something else" if same is False else "not to its end"
    facts = (verdict, f"from its {result.started}", *_costs(result.seconds, result.usd))
    drawn = Tree(_line(f"run {case.run_id} with release {result.release_id}", "bold", facts))
    for title, messages in (("then", case.reference), ("now", result.got)):
        branch = drawn.add(Text(title, "cyan"))
        for message in messages:
            for line in _message(message):
                branch.add(line)
    if result.comment is not None:
        drawn.add(_said("differs", result.comment, "yellow"))
    if result.error is not None:
        drawn.add(_said("stopped", result.error, "yellow"))
    return drawn


def rollout_tree(rollout: Rollout, evidence: Evidence | None, servers: Sequence[Server]) -> Tree:
    """Return where a rollout stands, what the threads say, and which processes follow it."""
    mode = {"stages": [], "ab": ["even test"], "blue_green": ["switch"]}[rollout.mode]
    shares = (rollout.state, f"{rollout.percent}% of new threads", f"since {rollout.stage_at:%Y-%m-%d %H:%M}")
    drawn = Tree(_line(f"{rollout.candidate} in place of {rollout.champion}", "bold", (*mode, *shares)))
    drawn.add(_said(rollout.by, rollout.because))
    if evidence is not None:
        drawn.add(_said(evidence.move, evidence.because))
    for server in servers:
        told = f"serves {server.champion}" + (f", {server.candidate} to some" if server.candidate else "")
        drawn.add(_said(server.server_id, server.trouble or told, "red" if server.trouble else ""))
    return drawn


def release_diff(found: ReleaseDiff) -> Tree:
    """Return how one release differs from another; what is said in them is shown, not obeyed."""
    one, other = found.one.release_id, found.other.release_id
    drawn = Tree(_line(f"from {one} to {other}", "bold", ()))
    for change in found.changed:
        drawn.add(_said(change.field, f"{change.one} → {change.other}"))
    _branch(drawn, "instructions", [Text(visible(line), _sign(line)) for line in found.instructions.splitlines()[2:]])
    for name, gone, come in (
        ("shots", [_spoken(m) for m in found.shots_removed], [_spoken(m) for m in found.shots_added]),
        ("knowledge", found.knowledge_removed, found.knowledge_added),
    ):
        lines = [("-", text) for text in gone] + [("+", text) for text in come]
        _branch(drawn, name, [Text(visible(cut(f"{sign} {text}", _LONGEST)), _sign(sign)) for sign, text in lines])
    drawn.add(_said("examples", _examples(found)))
    _branch(drawn, "gates", [_said(name, f"{_gate(left)} → {_gate(right)}") for name, left, right in found.gates])
    for release_id, times in zip((one, other), found.served, strict=True):
        _branch(drawn, f"{release_id} served", [_time_served(served) for served in times] or [Text("never")])
    return drawn


def _branch(drawn: Tree, name: str, lines: Sequence[Text]) -> None:
    if lines:
        branch = drawn.add(Text(visible(name), "dim"))
        for line in lines:
            branch.add(line)


def _sign(line: str) -> str:
    return {"+": "green", "-": "red"}.get(line[:1], "dim")


def _spoken(message: Message) -> str:
    return " ".join([f"{message.role}: {message.content}", *map(_call, message.tool_calls)])


def _examples(found: ReleaseDiff) -> str:
    if found.examples_added is None or found.examples_removed is None:
        return "not known: a dataset is not there any more"
    counts = [f"+{count} {origin}" for origin, count in sorted(found.examples_added.items())]
    counts += [f"-{count} {origin}" for origin, count in sorted(found.examples_removed.items())]
    return ", ".join(counts) or "the same"


def _gate(gate: Gate | None) -> str:
    if gate is None:
        return "not asked"
    figure = "" if gate.candidate is None else f" ({gate.candidate:.3g})"
    return ("passed" if gate.passed else "failed") + figure


def _time_served(served: Served) -> Text:
    until = "now" if served.until is None else f"{served.until:%Y-%m-%d %H:%M}"
    share = "" if served.percent == 100 else f", up to {served.percent}% of the new threads"
    return _said(f"{served.at:%Y-%m-%d %H:%M} to {until}{share}", served.because)


def _message(message: Message) -> Iterator[Text]:
    if message.content:
        yield _said("returned" if message.role == "tool" else "said", message.content)
    yield from (_said("asks for", _call(call)) for call in message.tool_calls)


def tree(run: ExportedRun) -> Tree:
    """Return a run as a tree of its steps; nothing in it is read as markup."""
    drawn = Tree(_line(f"run {run.run_id}", "bold", _run_facts(run)))
    branches: dict[str | None, Tree] = {run.run_id: drawn}
    if run.question is not None:
        drawn.add(_said("asked", run.question))
    for step in run.steps:
        branch = branches.get(step.parent_id, drawn).add(
            _line(f"{step.kind} {step.name}", _STYLE[step.kind], _facts(step))
        )
        branches[step.step_id] = branch
        for line in _lines(step):
            branch.add(line)
    if run.answer is not None:
        drawn.add(_said("answered", run.answer))
    if run.error is not None:
        drawn.add(_said("failed", run.error, "red"))
    for reason in run.flagged:
        drawn.add(_said("flagged", reason, "yellow"))
    return drawn


def _run_facts(run: ExportedRun) -> Iterator[str]:
    yield run.outcome
    yield f"{run.started_at:%Y-%m-%d %H:%M:%S}"
    named = {"thread": run.thread_id, "user": run.user, "release": run.release, "goes on with": run.resumes}
    yield from (f"{name} {value}" for name, value in named.items() if value is not None)
    yield from _costs(run.seconds, run.usd)


def _facts(step: ExportedStep) -> Iterator[str]:
    if step.attempt > 1:
        yield f"attempt {step.attempt}"
    if step.input_tokens is not None or step.output_tokens is not None:
        yield f"{step.input_tokens or 0} + {step.output_tokens or 0} tokens"
    if step.first_token_seconds is not None:
        yield f"first after {step.first_token_seconds:.2f} s"
    if step.cached:
        yield "from the cache"
    yield from _costs(step.seconds, step.usd)


def _costs(seconds: float | None, usd: float | None) -> Iterator[str]:
    if seconds is not None:
        yield f"{seconds:.2f} s"
    if usd is not None:
        yield f"${usd:.4f}"


def _lines(step: ExportedStep) -> Iterator[Text]:
    if step.reasoning is not None:
        yield _said("thought", step.reasoning, "italic dim")
    if step.kind == "model":
        yield from (_said("said", message.content) for message in step.output if message.content)
        yield from (_said("asks for", _call(call)) for call in step.tool_calls)
    if step.kind == "tool":
        yield from (_said("called with", _args(call)) for call in step.tool_calls)
        yield from (_said("returned", message.content) for message in step.output)
    if step.error is not None:
        yield _said("failed", step.error, "red")


def _call(call: ToolCall) -> str:
    return f"{call.name} {_args(call)}"


def _args(call: ToolCall) -> str:
    return json.dumps(call.args, ensure_ascii=False)


def _line(title: str, style: str, facts: Iterable[str]) -> Text:
    return Text.assemble((visible(title), style), (visible("  " + ", ".join(facts)), "dim"))


def _said(word: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{word}: ", "dim"), (visible(cut(text, _LONGEST)), style))
