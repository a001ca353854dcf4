"""The research agent: its story, its own tests, and that its check and its branches do what they say."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_learnloop.records import Run
from langgraph_learnloop.testing import ScriptedModel
from tests.templates.conftest import Templates

README = Path(__file__).parents[2] / "examples" / "templates" / "research_agent" / "README.md"
RELEASE = re.compile(r"\b[0-9a-f]{12}\b")
GRAPH = (
    "import json; from importlib import import_module; from langgraph.pregel import Pregel;"
    "path = json.load(open('langgraph.json'))['graphs']['research'];"
    "module, name = path.removeprefix('./').split('.py:');"
    "assert isinstance(getattr(import_module(module), name), Pregel)"
)
FINE = "It is 412 kilometres long [arvell]."


def test_the_story_is_the_one_that_is_told(template: Templates) -> None:
    """The story prints what the README shows, but for the release's id."""
    printed = template.run(template.copied("research_agent"), "story.py")
    shown = re.search(r"```text\n(before:.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert RELEASE.sub("", printed) == RELEASE.sub("", shown[1])


def test_its_own_tests_pass_and_its_graph_is_found(template: Templates) -> None:
    """Whoever copies the template gets tests that pass and a graph where langgraph.json says."""
    folder = template.copied("research_agent")
    assert " passed" in template.run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    template.run(folder, "-c", GRAPH)


@pytest.fixture
def agent(template: Templates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Import the template's agent from a copy, and forget its modules afterwards."""
    folder = template.copied("research_agent")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    own = [file.stem for file in folder.glob("*.py")]
    for name in own:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = import_module("agent")
    yield module
    module.loop.close()
    for name in own:
        sys.modules.pop(name, None)


def plan(*calls: Sequence[str]) -> AIMessage:
    """Return a plan of several searches."""
    return AIMessage(
        "", tool_calls=[{"name": "search", "args": {"topics": c}, "id": str(i)} for i, c in enumerate(calls)]
    )


def scripted(agent: Any, *script: AIMessage | str) -> Any:
    """Return the watched graph on a model that says what it is told to."""
    return agent.loop.watch(agent.make_agent(ScriptedModel(script=script), checkpointer=InMemorySaver()))


def ask(graph: Any, question: str = "How long is the Arvell?") -> list[Any]:
    """Return the messages of a turn."""
    config = {"configurable": {"thread_id": "1"}}
    return list(graph.invoke({"messages": [("user", question)]}, config)["messages"])


def only_run(agent: Any) -> Run:
    """Return the run; fail if there are more."""
    agent.loop.flush()
    (run,) = agent.loop.runs()
    return agent.loop.store.runs.run(run.run_id)


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        ("It is 96 kilometres long [bromsk].", "It cites [bromsk], which was not found."),
        ("It is 421 kilometres long [arvell].", "The figure 421 does not stand in [arvell]."),
        ("It is long.", "Nothing is cited for 'It is long.'."),
    ],
)
def test_what_does_not_stand_is_flagged_and_owned_up_to(agent: Any, draft: str, reason: str) -> None:
    """A draft that fails twice is flagged, and the answer ends with what is wrong."""
    answer = ask(scripted(agent, plan(["Arvell"]), draft, draft))[-1].text
    assert answer == f"{draft}\nDo not rely on this. {reason}"
    assert [flag.reasons for flag in agent.loop.flagged()] == [(reason,)]
    assert sum(step.kind == "model" for step in only_run(agent).steps) == 3


def test_a_second_draft_can_mend_it(agent: Any) -> None:
    """The writer is told what was wrong; the run stays flagged, since it went wrong."""
    asked = ask(scripted(agent, plan(["Arvell"]), "It is 9 kilometres long [arvell].", FINE))
    assert asked[-1].text == FINE
    last = [step for step in only_run(agent).steps if step.kind == "model"][-1]
    read = agent.loop.store.runs.conversation(last.input)
    assert "Do not do this again: The figure 9 does not stand in [arvell]." in read[0].content
    assert len(agent.loop.flagged()) == 1


def test_a_good_answer_is_not_flagged(agent: Any) -> None:
    """A citation may stand before the full stop or after it, and what was not found may be said."""
    answer = "It is 412 kilometres long. [arvell] No document is about Danube."
    assert ask(scripted(agent, plan(["Arvell", "Danube"]), answer))[-1].text == answer
    assert agent.loop.flagged() == ()


def test_all_branches_arrive(agent: Any) -> None:
    """Each topic is searched in a branch of its own, at the same time; each call is answered once."""
    messages = ask(scripted(agent, plan(["Arvell", "Bromsk"], ["Caldry"]), "No document is about it."), "Hello?")
    answers = [message for message in messages if isinstance(message, ToolMessage)]
    assert [message.tool_call_id for message in answers] == ["0", "1"]
    assert re.findall(r"The \w+ is", "".join(message.text for message in answers)) == [
        "The Arvell is",
        "The Bromsk is",
        "The Caldry is",
    ]
    branches = [step for step in only_run(agent).steps if step.kind == "node" and step.name == "look"]
    assert len(branches) == 3
    assert len({step.superstep for step in branches}) == 1


def test_what_was_found_for_one_question_is_not_there_for_the_next(agent: Any) -> None:
    """A citation of the turn before does not stand."""
    graph = scripted(agent, plan(["Arvell"]), FINE, plan(["Bromsk"]), FINE, FINE)
    ask(graph)
    assert "It cites [arvell], which was not found." in ask(graph, "And the other?")[-1].text


async def test_it_can_be_awaited(agent: Any) -> None:
    """Awaited, it does the same, and is recorded the same."""
    graph = scripted(agent, plan(["Arvell", "Bromsk"]), FINE, FINE)
    config = {"configurable": {"thread_id": "1"}}
    state = await graph.ainvoke({"messages": [("user", "Compare the Arvell and the Bromsk.")]}, config)
    reason = "The question names Bromsk; nothing cites it."
    assert state["messages"][-1].text == f"{FINE}\nDo not rely on this. {reason}"
    assert only_run(agent).flagged == (reason,)


def test_the_whole_run_is_recorded(agent: Any) -> None:
    """One run holds the branches with their tools, and the subgraph's steps in its namespace."""
    ask(scripted(agent, plan(["Arvell", "Bromsk"]), FINE))
    steps = only_run(agent).steps
    assert [step.tool_calls[0].args for step in steps if step.kind == "tool"] == [
        {"topics": ["Arvell"]},
        {"topics": ["Bromsk"]},
    ]
    inside = [step.name for step in steps if step.kind == "node" and (step.namespace or "").startswith("write:")]
    assert set(inside) >= {"read", "write", "check", "flag", "answer"}
    looks = {step.namespace for step in steps if step.kind == "tool"}
    assert len(looks) == 2


def test_a_replay_does_the_same_again(agent: Any) -> None:
    """A run is replayed whole with the same outcome, and leaves no run behind."""
    graph = agent.graph
    graph.invoke({"messages": [("user", "compare the Arvell and the Bromsk")]}, {"configurable": {"thread_id": "1"}})
    run = only_run(agent)
    then, now = agent.loop.replay(run.run_id)
    assert now.scores == {"same": True}, now
    assert now.got[-1].content.endswith("The question names Bromsk; nothing cites it.")
    assert [m.role for m in then.reference] == [m.role for m in now.got]
    assert only_run(agent).run_id == run.run_id
