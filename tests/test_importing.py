"""What another tracer saw comes in by the door that every run comes in by, whoever the other tracer is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import LearnLoop, LoopConfig, cli
from langgraph_learnloop.cli import terminal
from langgraph_learnloop.cli.importing import moment
from langgraph_learnloop.errors import ConfigError, EngineError, StoreError
from langgraph_learnloop.importing import Heard, Imported
from langgraph_learnloop.mirrors import ForeignRun, ForeignStep, Remark, Untold, trace_of
from langgraph_learnloop.records import Message, Run, Step, ToolCall

AT = datetime(2026, 11, 1, tzinfo=UTC)
ASKED = Message(role="user", content="My card is 4111 1111 1111 1111. When do you open?")
SAID = Message(role="assistant", content="<think>They ask for hours.</think>At nine, jo@example.com.")
TOOLS: tuple[dict[str, Any], ...] = (
    {"type": "function", "function": {"name": "hours", "parameters": {"properties": {"day": {"type": "string"}}}}},
)


class Elsewhere:
    """A place that holds what it is given."""

    name = "elsewhere"

    def __init__(self, *runs: ForeignRun | Untold, remarks: Sequence[Remark | Untold] = ()) -> None:
        self._runs = runs
        self._remarks = remarks
        self.breaks_off = False

    def runs(self, since: datetime, until: datetime) -> Iterator[ForeignRun | Untold]:
        yield from self._runs
        if self.breaks_off:
            raise EngineError("It is gone. Try again later.")

    def remarks(self, since: datetime) -> Iterator[Remark | Untold]:
        yield from self._remarks


def foreign(run_id: str = "run-1", node: str = "model", **facts: Any) -> ForeignRun:
    """Return a run with one model call and one tool call."""
    call = ToolCall(name="hours", args={"day": "monday", "mail": "jo@example.com"}, id="c1")
    common: dict[str, Any] = {"started_at": AT, "seconds": 1.0, "parent_id": run_id, "node": node}
    tokens: dict[str, Any] = {"input_tokens": 1, "output_tokens": 1}
    model = Step(step_id=f"{run_id}-model", kind="model", name="gpt", tool_calls=(call,), **tokens, **common)
    tool = Step(step_id=f"{run_id}-tool", kind="tool", name="hours", tool_calls=(call,), **common)
    told: dict[str, Any] = {"agent": "", "outcome": "finished", "started_at": AT, "trace": f"trace of {run_id}"}
    told |= {"question": ASKED.content, "answer": SAID.content, "user": "jo", "metadata": {"mail": "jo@example.com"}}
    steps = (ForeignStep(model, (ASKED,), (SAID,), TOOLS), ForeignStep(tool, said=()))
    return ForeignRun(Run(run_id=run_id, **{**told, **facts}), (ASKED, SAID), steps)


def remark(run_id: str = "run-1", number: int = 1, **said: Any) -> Remark:
    """Return something that somebody said of a run."""
    about: dict[str, Any] = {"trace": f"trace of {run_id}", "observation": None, "name": "quality", "by": "ada"}
    nothing: dict[str, Any] = {"score": None, "text": None, "correction": None, "categories": (), "at": AT}
    return Remark(remark_id=f"elsewhere:{number}", **{**about, **nothing, **said})


def loop_of(tmp_path: Path, **settings: Any) -> LearnLoop:
    return LearnLoop(tmp_path / "l.db", config=LoopConfig(agent="shop", **settings), now=lambda: AT)


def test_it_is_masked_as_a_recorded_run_is(tmp_path: Path) -> None:
    """Texts are masked, users hashed, reasoning is taken out of answers, costs are counted by the settings' prices."""
    prices: Any = {"gpt": {"input": 1.0, "output": 1.0}}
    with loop_of(tmp_path, user_key="a secret of the team", prices=prices) as loop:
        assert loop.import_runs(Elsewhere(foreign()), AT) == Imported(new=1)
        run = loop.store.runs.run("run-1")
        everything = run.model_dump_json() + str(loop.store.runs.conversation(run.messages))
        assert "4111" not in everything
        assert "jo@example.com" not in everything
        assert run.user not in (None, "jo")
        assert run.answer is not None
        assert run.answer.startswith("At nine")
        assert run.steps[0].reasoning == "They ask for hours."
        assert run.usd == pytest.approx(2e-6)
        assert run.agent == "shop"


def test_excluded_parts_stay_out(tmp_path: Path) -> None:
    """What the settings leave out of recorded runs is left out of imported ones."""
    fields = ("messages", "question", "answer", "reasoning", "tool_calls", "metadata", "error")
    with loop_of(tmp_path, exclude_nodes=("secret",), exclude_fields=fields) as loop:
        loop.import_runs(Elsewhere(foreign(), foreign("run-2", node="secret")), AT)
        run, other = loop.store.runs.run("run-1"), loop.store.runs.run("run-2")
        assert (run.messages, run.question, run.answer, run.metadata) == (None, None, None, {})
        kept = {(step.input, step.output, step.reasoning, step.tool_calls) for step in run.steps}
        assert kept == {(None, (), None, ())}
        assert other.steps == ()


def test_what_failed_is_flagged_and_what_is_unusable_is_counted(tmp_path: Path) -> None:
    """A failed run is flagged; what cannot be converted is skipped whole and leaves no message behind."""
    endless: dict[str, Any] = {}
    endless["again"] = endless
    bad = foreign("run-3")
    bad = bad._replace(run=bad.run.model_copy(update={"outcome": "odd"}))
    deep = foreign("run-4", metadata={})
    deep = deep._replace(run=deep.run.model_copy(update={"tags": (endless,), "outcome": "odd"}))
    failed = foreign("run-2", outcome="failed", error="It broke.")
    history = Elsewhere(foreign(), Untold("x", "It is odd."), failed, bad, deep, Untold("y", "It is odd."))
    with loop_of(tmp_path) as loop:
        done = loop.import_runs(history, AT)
        assert (done.new, done.known, done.skipped["It is odd."]) == (2, 0, 2)
        assert sum(done.skipped.values()) == 4
        assert [flag.run_id for flag in loop.flagged()] == ["run-2"]
        assert {run.run_id for run in loop.store.runs.every()} == {"run-1", "run-2"}


def test_what_was_read_is_kept_when_it_breaks_off(tmp_path: Path) -> None:
    """A place that goes away costs nothing that was read, and the next import finds it."""
    history = Elsewhere(foreign(), foreign("run-2"))
    history.breaks_off = True
    with loop_of(tmp_path) as loop:
        with pytest.raises(EngineError, match="It is gone"):
            loop.import_runs(history, AT)
        history.breaks_off = False
        assert loop.import_runs(history, AT) == Imported(known=2)


def test_a_store_that_refuses_keeps_nothing_by_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that fails leaves no run; the next import stores them all, with their messages."""
    history = Elsewhere(foreign(), foreign("run-2"))

    def full(recorded: object) -> None:
        raise StoreError("The disk is full. Make room.")

    with loop_of(tmp_path) as loop:
        with monkeypatch.context() as patch:
            patch.setattr(loop.store.runs, "add_runs", full)
            with pytest.raises(StoreError):
                loop.import_runs(history, AT)
        assert loop.import_runs(history, AT) == Imported(new=2)
        assert loop.store.runs.conversation(loop.store.runs.run("run-2").messages)[0].role == "user"


def test_runs_that_share_a_trace(tmp_path: Path) -> None:
    """A remark on a trace of several runs is about the last of them; one on a step finds its run."""
    one = foreign(trace="t")
    other = foreign("run-2", trace="t", started_at=AT + timedelta(seconds=9))
    about = remark(trace="t", score=1.0)
    on_step = remark(number=2, trace="t", score=-1.0, observation=trace_of("run-1-tool")[16:])
    with loop_of(tmp_path) as loop:
        assert loop.import_runs(Elsewhere(one, other), AT) == Imported(new=2)
        assert loop.import_remarks(Elsewhere(remarks=[about, on_step]), AT) == Heard(new=2)
        assert [said.score for said in loop.store.runs.feedback("run-2")] == [1.0]
        assert [said.score for said in loop.store.runs.feedback("run-1")] == [-1.0]


def test_remarks_pass_the_checks_of_feedback(tmp_path: Path) -> None:
    """They are checked against the tools, masked, named and flagged; what does not fit is counted with its sentence."""
    right = {"tool": "hours", "args": {"day": "sunday"}}
    remarks = [
        remark(number=1, correction=right, text="Ask jo@example.com."),
        remark(number=2, correction={"tool": "police", "args": {}}),
        remark(number=3, score=3.0),
        remark(number=4),
        remark("run-9", number=5, score=1.0),
        remark(number=6, score=0.5, origin="explicit"),
        Untold("7", "It is odd."),
    ]
    with loop_of(tmp_path, user_key="a secret of the team") as loop:
        loop.import_runs(Elsewhere(foreign()), AT)
        heard = loop.import_remarks(Elsewhere(remarks=remarks), AT)
        assert (heard.new, heard.known, heard.without_run) == (2, 0, 1)
        sentences = " ".join(heard.refused)
        for part in ("There is no tool 'police'", "the score is 3.0", "must hold a score", "It is odd."):
            assert part in sentences
        first, last = loop.store.runs.feedback("run-1")
        assert (first.origin, first.name, first.feedback_id) == ("reviewer", "quality", "elsewhere:1")
        assert (last.origin, last.at) == ("explicit", AT)
        assert first.by != "ada"
        assert "jo@example.com" not in str(first.text)
        assert [flag.run_id for flag in loop.flagged()] == ["run-1"]
        again = loop.import_remarks(Elsewhere(remarks=remarks), AT)
        assert (again.new, again.known) == (0, 2)


HISTORY = Elsewhere(foreign(), Untold("x", "It is [bold]odd[/bold]\x1b[31m."), remarks=[remark(score=-1.0)])


def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["learnloop", "import", *words])
    monkeypatch.setattr(terminal.console, "_width", 250)
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`learnloop import` says what came in, and why the rest did not; a second time it is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_history", sys.modules[__name__])
    words = ("my_history:HISTORY", "--since", "2026-10-01", "--until", "2w", "--store", "l.db", "--agent", "shop")
    code, out, err = _run(capsys, monkeypatch, *words)
    assert (code, err) == (0, "")
    assert "1 runs were imported from elsewhere, 0 were here already, 1 traces were skipped." in out
    assert "1 times: It is [bold]odd[/bold]\\u001b[31m." in out
    assert "1 scores, corrections and comments are new" in out
    code, out, _ = _run(capsys, monkeypatch, *words, "--remarks-only")
    assert "imported" not in out
    assert "0 scores, corrections and comments are new, 1 were here already" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["langfuse", "--since", "a while"], "--since 'a while' is no time: write how long ago, such as 30d"),
        (["langfuse", "--every", "60", "--until", "1d"], "With --every there is no --until"),
        (["langfuse", "--since", "1d", "--until", "2d"], "--since '1d' must be before --until '2d'"),
        (["langfuse"], "There are no keys for Langfuse: set LANGFUSE_PUBLIC_KEY"),
        (["langsmith"], "There is no history 'langsmith': name langfuse"),
        (["no_such_module:x"], "The history 'no_such_module:x' cannot be loaded"),
    ],
)
def test_refusals_are_one_sentence(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong time, missing keys or a wrong name end with what to do, and make no store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    code, out, err = _run(capsys, monkeypatch, *words)
    assert (code, out) == (2, "")
    assert says in err
    assert not (tmp_path / "learnloop.db").exists()


def test_a_server_that_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at the address is one sentence and exit code 2."""
    pytest.importorskip("langfuse", reason="Langfuse is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("langgraph_learnloop.integrations.langfuse_history._TRIES", 1)
    for name, value in (("PUBLIC_KEY", "pk"), ("SECRET_KEY", "sk"), ("BASE_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"LANGFUSE_{name}", value)
    code, _, err = _run(capsys, monkeypatch, "langfuse")
    assert code == 2
    assert "Langfuse at http://127.0.0.1:9 did not give the list of traces" in err


def test_times_are_ago_or_dates() -> None:
    """Days, hours and dates are read, in UTC where they name no zone."""
    assert moment("30d", AT, "--since") == AT - timedelta(days=30)
    assert moment("12h", AT, "--since") == AT - timedelta(hours=12)
    assert moment("2026-10-31", AT, "--since") == AT - timedelta(days=1)
    with pytest.raises(ConfigError):
        moment("-5d", AT, "--since")


def test_it_goes_on_until_somebody_stops_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --every a server that is away is said, and asked again; ctrl-C ends it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_history", sys.modules[__name__])
    answers: list[Any] = [EngineError("It is away."), Imported(1), Imported(0, 1)]

    def answer(*_: Any) -> Imported:
        said = answers.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    def sleep(seconds: float) -> None:
        if not answers:
            raise KeyboardInterrupt

    monkeypatch.setattr(LearnLoop, "import_runs", answer)
    monkeypatch.setattr("langgraph_learnloop.cli.importing.time.sleep", sleep)
    code, out, _ = _run(capsys, monkeypatch, "my_history:HISTORY", "--every", "60", "--store", "l.db")
    assert code == 130
    assert out.index("It is away.") < out.index("1 runs were imported") < out.index("0 runs were imported")
