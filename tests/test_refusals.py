"""What people get wrong most: the right class, two sentences at most, exit code 2, and nothing was changed."""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_learnloop import LearnLoop, Message, cli
from langgraph_learnloop.config import load_config
from langgraph_learnloop.errors import (
    ConfigError,
    DataError,
    EngineError,
    IllegalMoveError,
    LearnLoopError,
    MissingExtraError,
    NotFoundError,
    StoreError,
)
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Verdict
from langgraph_learnloop.testing import ScriptedModel
from tests.shop import Shop

ASK: Any = {"messages": [("user", "Where is my order 5?")]}


@tool
def find_order(order: int) -> str:
    """Find an order."""
    return f"Order {order} is on its way."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a store with runs, corrections, a dataset and a release that was never examined."""
    folder = tmp_path_factory.mktemp("refusals")
    with (shop := Shop(folder / "l.db")).loop:
        shop.bad_day()
        dataset = shop.loop.curate()
        assert dataset is not None
        shop.loop.train(dataset)
    return folder


@pytest.fixture
def desk(folder: Path) -> Iterator[LearnLoop]:
    """Return a loop whose agent has a tool, and was asked once in the thread "desk"."""
    with LearnLoop(folder / "l.db", agent="shop") as loop:
        agent = loop.watch(create_agent(ScriptedModel(script=["I do not know."]), [find_order]))
        agent.invoke(ASK, {"configurable": {"thread_id": "desk"}})
        loop.flush()
        yield loop


@pytest.fixture
def bare(folder: Path) -> Iterator[LearnLoop]:
    """Return a loop of the same store without an agent, a model or a mirror."""
    with LearnLoop(folder / "l.db", agent="shop") as loop:
        yield loop


def _contents(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "l.db") as connection:
        return list(connection.iterdump())


def _is_short(sentence: str) -> bool:
    return len(re.findall(r"[.!?](?= [A-Z`]|$)", sentence)) <= 2 and "Traceback" not in sentence


def _untrained(loop: LearnLoop) -> str:
    return next(one.release_id for one in loop.store.releases.all() if one.adapter is not None)


def _away(loop: LearnLoop) -> object:
    return VllmEngine(["http://127.0.0.1:9"], "memory").load(loop.champion)


Do = Callable[[LearnLoop], object]
ON_THE_DESK: list[tuple[Do, type[LearnLoopError], str]] = [
    (lambda loop: loop.feedback(run="x", thread="desk", score=1), ConfigError, "pass run= or thread="),
    (lambda loop: loop.feedback(score=1), ConfigError, "Feedback needs a run id or a thread id"),
    (lambda loop: loop.feedback(thread="desk", score=2), DataError, "must be a number from -1 (bad) to 1 (good)"),
    (lambda loop: loop.feedback(thread="desk"), DataError, "feedback must hold a score"),
    (
        lambda loop: loop.feedback(thread="desk", correction={"tool": "fly", "args": {}}),
        DataError,
        "the agent had find_order",
    ),
    (lambda loop: loop.feedback(thread="desk", correction={"tool": "find_order", "args": {"id": 5}}), DataError, "id"),
    (lambda loop: loop.feedback(thread="desk", correction={"name": "find_order"}), DataError, "use 'tool' and 'args'"),
    (lambda loop: loop.feedback(thread="lost", score=1), NotFoundError, "Pass the thread_id that the agent"),
    (lambda loop: loop.feedback(run="lost", score=1), NotFoundError, "`learnloop runs` lists those"),
    (
        lambda loop: loop.watch(StateGraph(MessagesState).add_edge(START, "x")),
        ConfigError,
        "Pass what builder.compile()",
    ),  # type: ignore[arg-type]
]
WITHOUT_AN_AGENT: list[tuple[Do, type[LearnLoopError], str]] = [
    (lambda loop: loop.cycle(), ConfigError, "call loop.model(engine) and loop.watch(graph) first"),
    (lambda loop: loop.promote("lost"), NotFoundError, "`learnloop releases` lists those"),
    (lambda loop: loop.promote(_untrained(loop)), IllegalMoveError, "Call loop.evaluate(release)"),
    (lambda loop: loop.rollout(_untrained(loop)), IllegalMoveError, "Call loop.evaluate(release)"),
    (lambda loop: loop.rolling.resume("me"), NotFoundError, "loop.rollout(release_id) begins one"),
    (lambda loop: loop.rollback(), NotFoundError, "There is nothing to roll back to"),
    (lambda loop: loop.draft(), DataError, "give other instructions, shots, knowledge"),
    (lambda loop: loop.draft(shots=[Message(role="assistant", content="Hi")]), DataError, "must begin with a user's"),
    (lambda loop: loop.draft(knowledge=[" "]), DataError, "leave it out"),
    (
        lambda loop: loop.review([Verdict(proposal_id="x", action="approve", by="me")]),
        NotFoundError,
        "`learnloop cycle`",
    ),
    (lambda loop: loop.tidy(gb=-1), ConfigError, "must be a number of gigabytes"),
    (lambda loop: loop.mirroring(), ConfigError, "call loop.mirror(...)"),
    (lambda loop: loop.store.runs.conversation("lost"), NotFoundError, "Take another run"),
    (_away, EngineError, "see that it runs there"),
]


def _refuses(loop: LearnLoop, folder: Path, do: Do, kind: type[LearnLoopError], says: str) -> None:
    before = _contents(folder)
    with pytest.raises(kind) as refused:
        do(loop)
    assert type(refused.value) is kind
    assert isinstance(refused.value, kind.__mro__[2])
    assert says in str(refused.value)
    assert _is_short(str(refused.value)), str(refused.value)
    assert _contents(folder) == before


@pytest.mark.parametrize(("do", "kind", "says"), ON_THE_DESK)
def test_an_agent_that_was_asked(desk: LearnLoop, folder: Path, do: Do, kind: type[LearnLoopError], says: str) -> None:
    """Feedback and corrections that cannot be meant are refused with what can be."""
    _refuses(desk, folder, do, kind, says)


@pytest.mark.parametrize(("do", "kind", "says"), WITHOUT_AN_AGENT)
def test_a_loop_without_an_agent(bare: LearnLoop, folder: Path, do: Do, kind: type[LearnLoopError], says: str) -> None:
    """What comes too early, or is not there, is refused with what comes first."""
    _refuses(bare, folder, do, kind, says)


COMMANDS: list[tuple[list[str], str]] = [
    (["cycle", "--app", "loop"], 'Name your LearnLoop with --app "module:attribute"'),
    (["cycle", "--app", ":"], 'must be named as "module:attribute"'),
    (["cycle", "--app", ".shop:loop"], 'must be named as "module:attribute"'),
    (["cycle", "--app", "json:nothing"], "Check both names"),
    (["cycle", "--app", "json:dumps"], "name the variable that holds yours"),
    (["cycle", "--app", "broken_app:loop"], "Check both names"),
    (["runs", "--store", "."], "is a folder. Name a file"),
    (["runs", "--store", "mongodb://x"], "Write a file name, or postgresql+psycopg://"),
    (["runs", "show", "lost"], "`learnloop runs` lists those"),
    (["report", "lost"], "`learnloop releases` lists those"),
    (["rollout", "fly"], "show, step, watch, approve, pause, resume, back, or a share"),
    (["rollout", "resume"], "loop.rollout(release_id) begins one"),
    (["log", "--limit", "many"], "valid integer"),
    (["merge", "BASE", "merged"], "has no adapter to merge"),
    (["mirror"], "call loop.mirror(...), or name one as `mirror` in learnloop.toml"),
    (["import", "langsmith"], 'name langfuse, or "module:attribute"'),
    (["import", "langfuse"], "set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"),
    (["import", "langfuse", "--since", "soon"], "write how long ago, such as 30d"),
    (["import", "langfuse", "--since", "1d", "--until", "2d"], "must be before --until '2d'"),
    (["import", "langfuse", "--every", "60", "--until", "1d"], "leave one of them out"),
]


def _command(words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    monkeypatch.setattr(sys, "argv", ["learnloop", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in the folder of the store, without keys of anybody."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LEARNLOOP_STORE", "l.db")
    for name in ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    (folder / "broken_app.py").write_text("import no_such_library\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(("words", "says"), COMMANDS, ids=[" ".join(words) for words, _ in COMMANDS])
def test_a_command_refuses_in_two_sentences_at_most(
    words: list[str], says: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2, no traceback, what to do, and a store in which nothing was changed."""
    with LearnLoop(here / "l.db") as loop:
        base = next(one.release_id for one in loop.store.releases.all() if one.adapter is None)
    before = _contents(here)
    code, err = _command([base if word == "BASE" else word for word in words], capsys, monkeypatch)
    assert (code, says in err) == (2, True), err
    assert _is_short(err.strip()), err
    assert _contents(here) == before


@pytest.mark.parametrize(
    ("text", "name", "value", "says"),
    [
        ("no_such_setting = 1", None, None, "Mend it in learnloop.toml"),
        ("heldout = 2", None, None, "The setting 'heldout' is not usable"),
        ("", "LEARNLOOP_POLL_SECONDS", "often", "or in LEARNLOOP_POLL_SECONDS"),
        ("heldout = ", None, None, "It must be TOML"),
    ],
)
def test_a_setting_that_is_not_usable(
    tmp_path: Path, text: str, name: str | None, value: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the file or the variable to mend."""
    monkeypatch.chdir(tmp_path)
    Path("learnloop.toml").write_text(text, encoding="utf-8")
    if name is not None:
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_config()
    assert says in str(refused.value)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    ("library", "words", "extra"),
    [("optuna", ["search"], "search"), ("fastapi", ["serve", "--app", "an_app:loop"], "serve")],
)
def test_a_missing_extra_names_the_pip_command(
    library: str, words: list[str], extra: str, here: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lacks a library copies the line."""
    (here / "an_app.py").write_text(
        "from langgraph_learnloop import LearnLoop\nfrom langgraph_learnloop.testing import MemoryEngine\n"
        "loop = LearnLoop('l.db', agent='shop')\nmodel = loop.model(MemoryEngine())\n",
        encoding="utf-8",
    )
    monkeypatch.delitem(sys.modules, "langgraph_learnloop.serving.endpoint", raising=False)
    monkeypatch.delattr("langgraph_learnloop.serving.endpoint", raising=False)  # as if nobody had imported it
    monkeypatch.setitem(sys.modules, library, None)
    code, err = _command(words, capsys, monkeypatch)
    assert (code, f'pip install "langgraph-learnloop[{extra}]"' in err) == (2, True), err
    assert issubclass(MissingExtraError, ImportError)


def test_a_row_of_a_dataset_that_was_changed_is_named(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line and the way out, and no job is begun."""
    with LearnLoop(here / "l.db") as loop:
        path = Path(loop.store.datasets.latest().path)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole + b'{"chosen": 5}\n')
        code, err = _command(["train", "--plan"], capsys, monkeypatch)
    finally:
        path.write_bytes(whole)
    assert (code, f"Line {whole.count(bytes([10])) + 1} of the dataset" in err) == (2, True), err
    assert "Build the dataset again" in err


def test_a_database_that_is_away_is_a_sentence() -> None:
    """No server at the address: which store, and that it is to be looked after."""
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="could not be used") as refused:
        LearnLoop("postgresql+psycopg://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(refused.value)
