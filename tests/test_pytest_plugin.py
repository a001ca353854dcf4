"""A team runs its suites in its own tests; what cannot be judged has not passed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.pytest_plugin import LearnLoopCase
from langgraph_learnloop.records import Case, Judged, Message, ToolCall
from langgraph_learnloop.testing import FixedJudge, ScriptedModel

pytest_plugins = "pytester"

MODULE = "langgraph_learnloop.pytest_plugin"
# An installation that has the entry point loads the plugin itself, and a second time is an error.
INSTALLED = any(point.value == MODULE for found in distributions() for point in found.entry_points)
PLUGIN = () if INSTALLED else ("-p", MODULE)
QUIET = ("-p", "no:cacheprovider", "-W", "ignore")

FIND = {"question": "Where is order 5, please? It is late.", "expected": {"tool": "find_order", "args": {"order": 5}}}
GREET = {"question": "Hello!", "expected": "Hi.", "category": "small talk"}
CALLED = AIMessage("", tool_calls=[{"name": "find_order", "args": {"order": 5}, "id": "c1"}])
CALL = Message(role="assistant", tool_calls=(ToolCall(name="find_order", args={"order": 5}),))
SUITE_OF_THE_MARK = """
    import pytest

    @pytest.mark.learnloop("suites/one.jsonl", "suites/two.jsonl")
    def test_agent(learnloop_case):
        assert learnloop_case.input["messages"][-1].content == learnloop_case.case.messages[-1].content
"""
SUITE_OF_THE_RUN = """
    def test_agent(learnloop_case):
        pass
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in its own folder."""
    return pytester.runpytest_inprocess(*PLUGIN, *QUIET, *args)


def suite(pytester: pytest.Pytester, name: str, *rows: Any) -> str:
    """Write a suite and return its name."""
    path = pytester.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return name


def asked(*messages: Message, **facts: Any) -> LearnLoopCase:
    """Return a case that expects a call unless told otherwise."""
    values: dict[str, Any] = {
        "case_id": "0123456789abcdef",
        "suite": "retention",
        "category": "find_order",
        "messages": messages or (Message(role="user", content="Where is order 5?"),),
        "expected": CALL,
        **facts,
    }
    return LearnLoopCase(Case(**values))


# -- collecting --------------------------------------------------------------------------------------------------------


def test_each_case_of_the_marks_suites_is_a_test(pytester: pytest.Pytester) -> None:
    """Each once, whichever file it is in, under a name that a person can read and choose by."""
    suite(pytester, "suites/one.jsonl", FIND, GREET)
    suite(pytester, "suites/two.jsonl", GREET)
    pytester.makepyfile(SUITE_OF_THE_MARK)
    result = run(pytester, "-v")
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines(
        [r".*\[find_order-where_is_order_5_please_it-\w{8}\] PASSED", r".*\[small_talk-hello-\w{8}\] PASSED"]
    )
    run(pytester, "-k", "small_talk").assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("mark", "options", "setting", "names"),
    [
        (True, ["--learnloop-suite", "b.jsonl"], "c.jsonl", "a"),
        (False, ["--learnloop-suite", "b.jsonl"], "c.jsonl", "b"),
        (False, ["--learnloop-suite", "b.jsonl", "--learnloop-suite", "a.jsonl"], "", "ab"),
        (False, [], "c.jsonl", "c"),
        (False, [], "c.jsonl a.jsonl", "ac"),
    ],
)
def test_a_suite_is_named_by_the_mark_the_command_line_or_the_settings(
    pytester: pytest.Pytester, mark: bool, options: list[str], setting: str, names: str
) -> None:
    """In that order: the first that names any is the one."""
    line = '@pytest.mark.learnloop("a.jsonl")' if mark else ""
    for name in "abc":
        suite(pytester, f"{name}.jsonl", GREET | {"category": f"only {name}", "expected": name})
    pytester.makeini(f"[pytest]\nlearnloop_suites = {setting}\n")
    pytester.makepyfile(f"import pytest\n\n{line}\ndef test_agent(learnloop_case):\n    pass\n")
    result = run(pytester, "-v", "--strict-markers", *options)
    result.assert_outcomes(passed=len(names))
    result.stdout.re_match_lines_random([rf".*\[only_{name}-.*" for name in names])


def test_a_mark_of_the_class_adds_to_that_of_the_test(pytester: pytest.Pytester) -> None:
    """The suites of all the marks are asked."""
    suite(pytester, "one.jsonl", FIND)
    suite(pytester, "two.jsonl", GREET)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.learnloop("one.jsonl")
        class TestAgent:
            @pytest.mark.learnloop("two.jsonl")
            def test_agent(self, learnloop_case):
                pass
    """)
    run(pytester).assert_outcomes(passed=2)


def test_other_tests_are_left_alone(pytester: pytest.Pytester) -> None:
    """A suite in the settings that is not there troubles nobody who does not ask for it."""
    pytester.makeini("[pytest]\nlearnloop_suites = nowhere.jsonl\n")
    pytester.makepyfile("def test_sum():\n    assert 1 + 1 == 2\n")
    run(pytester).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("rows", "body", "reason"),
    [
        ([{"question": "a"}], SUITE_OF_THE_RUN, "*test_agent: Line 1 of the suite '*one.jsonl' cannot be used:*"),
        ([], SUITE_OF_THE_RUN, "*test_agent: The suite '*one.jsonl' holds no case*"),
        ([GREET], SUITE_OF_THE_MARK, "*test_agent: The suite '*two.jsonl' cannot be read (No such file*"),
    ],
)
def test_a_bad_suite_is_an_error_of_usage(pytester: pytest.Pytester, rows: list[Any], body: str, reason: str) -> None:
    """One sentence and no traceback, and nothing runs."""
    suite(pytester, "suites/one.jsonl", *rows)
    pytester.makepyfile(body)
    result = run(pytester, "--learnloop-suite", "suites/one.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {reason}"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert "passed" not in result.stdout.str()


def test_a_bad_suite_is_a_sentence_in_several_processes(pytester: pytest.Pytester) -> None:
    """The workers of pytest-xdist collect each for itself; the run ends with the sentence as well."""
    pytest.importorskip("xdist")
    pytester.makepyfile(SUITE_OF_THE_RUN)
    result = run(pytester, "-n", "1", "--learnloop-suite", "nowhere.jsonl")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_agent: The suite '*nowhere.jsonl' cannot be read (No such file*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_no_suite_at_all_is_an_error_of_usage(pytester: pytest.Pytester) -> None:
    """Without a case the test would be skipped, and look well."""
    pytester.makepyfile(SUITE_OF_THE_RUN)
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *test_agent: No suite is named for learnloop_case: mark the test with *"])


def test_it_loads_nothing_before_it_is_asked() -> None:
    """It is part of every pytest run of whoever has the package."""
    code = (
        f"import sys, pytest; before = set(sys.modules); import {MODULE};"
        "print(*(m for m in set(sys.modules) - before if m.split('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == ["langgraph_learnloop", MODULE]


# -- checking ----------------------------------------------------------------------------------------------------------


def test_a_graph_is_asked_and_checked(pytester: pytest.Pytester) -> None:
    """What the agent does right passes, and what it does wrong says question, expected and got."""
    suite(pytester, "suite.jsonl", FIND, GREET)
    pytester.makepyfile("""
        import pytest
        from langchain.agents import create_agent
        from langgraph_learnloop.testing import ScriptedModel

        @pytest.mark.learnloop("suite.jsonl")
        def test_agent(learnloop_case):
            graph = create_agent(ScriptedModel(script=["hi."]), [])
            learnloop_case.check(graph.invoke(learnloop_case.input))
    """)
    result = run(pytester)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *AssertionError: Case * ('Where is order 5, please? It is late.'): the answer is not right, fully_*",
            "E *expected: find_order(order=5)",
            "E *got: 'hi.'",
        ]
    )


def test_the_answer_is_found_in_a_graphs_state() -> None:
    """The first message after the case's own counts, whatever came before it and whatever follows."""
    case = asked(
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Where is order 5?"),
    )
    answers = [CALLED, "It is on its way."]
    model = ScriptedModel(script=answers)

    def node(state: MessagesState) -> dict[str, Any]:
        result = ToolMessage("sent", tool_call_id="c1")
        return {"messages": [model.invoke(state["messages"]), result, model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node(node).add_edge(START, "node").compile()
    assert case.check(graph.invoke(case.input)).scores == {"right_tool": True, "fully_right": True}
    assert case.input["messages"][0].id != case.input["messages"][0].id


@pytest.mark.parametrize(
    "output",
    [
        CALLED,
        [CALLED],
        {"messages": [CALLED]},
        {"messages": [HumanMessage("Where is order 5?"), CALLED, ToolMessage("x", tool_call_id="c1"), AIMessage("y")]},
        {"messages": [SystemMessage("Be kind."), HumanMessage("Where is order 5?"), CALLED]},
        {"messages": [HumanMessage("A summary."), CALLED]},
        [HumanMessage("Where is order 5?"), CALLED],
        CALL,
        [CALL],
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "find_order", "arguments": '{"order": 5}'}}
            ],
        },
        type("State", (), {"messages": [CALLED]})(),
    ],
    ids=lambda output: type(output).__name__,
)
def test_answers_come_in_many_forms(output: Any) -> None:
    """A state, a message, a list of messages, in the forms of LangChain, OpenAI and our own."""
    assert asked().check(output).scores["fully_right"] is True


def test_a_text_is_an_answer() -> None:
    """A chain that ends in a parser returns a text."""
    case = asked(expected=Message(role="assistant", content="It was sent."))
    assert case.check(" it was SENT.").scores["fully_right"] is True


def test_a_systems_message_may_be_left_out_of_the_state() -> None:
    """A graph that says its own keeps it out of its state; the case's messages are found all the same."""
    case = asked(
        Message(role="system", content="Be kind."),
        Message(role="user", content="Hi"),
        Message(role="assistant", content="Yes?"),
        Message(role="user", content="Where is order 5?"),
    )
    state = [HumanMessage("Hi"), AIMessage("Yes?"), HumanMessage("Where is order 5?"), CALLED]
    assert case.check({"messages": state}).scores["fully_right"] is True


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (5, "is a int; hand over a state with 'messages', a message"),
        ({"answer": "x"}, "is a dict with 'answer'; hand over"),
        ({}, "is a dict with nothing in it; hand over"),
        ({"messages": 5}, "is a int; hand over"),
        ([{"role": "boss", "content": "x"}], "is what LangChain cannot read as messages"),
        ([5], "is what LangChain cannot read as messages"),
        (None, "is a NoneType; hand over"),
    ],
)
def test_what_is_no_output_is_refused(output: Any, reason: str) -> None:
    """The error says what came and what is wanted."""
    with pytest.raises(DataError, match=f"The output to check {reason}"):
        asked().check(output)


def test_an_output_whose_beginning_is_not_known_is_refused() -> None:
    """After a tool's result the last user's message does not say where the answer begins."""
    case = asked(Message(role="user", content="Where?"), CALL, Message(role="tool", content="sent"))
    state = [HumanMessage("A summary."), AIMessage("So far."), ToolMessage("sent", tool_call_id="c1"), AIMessage("x")]
    with pytest.raises(DataError, match=r"does not begin with the case's: ask with learnloop_case\.input"):
        case.check(state)


@pytest.mark.parametrize("output", [[], {"messages": [HumanMessage("Where is order 5?")]}])
def test_no_answer_is_a_wrong_one(output: Any) -> None:
    """A graph that ends without a word has not answered."""
    with pytest.raises(AssertionError, match=r"Case 01234567 \('Where is order 5\?'\): the output holds no message"):
        asked().check(output)


def test_broken_arguments_are_a_wrong_answer() -> None:
    """A call that is no JSON is shown as it came."""
    broken = AIMessage("", invalid_tool_calls=[{"name": "find_order", "args": "{oops", "id": "c", "error": None}])
    with pytest.raises(AssertionError, match=r"got: find_order\(unreadable='\{oops'\)"):
        asked().check(broken)


class Judge:
    """Say what it is told to, and keep what it was given."""

    name = "judge/1"
    target = "helpful"
    guard = "polite"

    def __init__(self, said: Any, whole: bool = False) -> None:
        self.said = said
        self.whole = whole
        self.got: Sequence[Message] = ()

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        self.got = got
        if isinstance(self.said, Exception):
            raise self.said
        return Judged({"helpful": self.said, "polite": True}, "Rather short.")


def test_an_evaluator_that_wants_the_whole_run_gets_it() -> None:
    """Others get the assistant's next message alone."""
    output = [HumanMessage("Where is order 5?"), CALLED, ToolMessage("sent", tool_call_id="c1"), AIMessage("Sent.")]
    whole, one = Judge(True, whole=True), Judge(True)
    asked().check(output, whole)
    asked().check(output, one)
    assert [message.role for message in whole.got] == ["assistant", "tool", "assistant"]
    assert [message.role for message in one.got] == ["assistant"]


def test_a_score_must_reach_what_was_asked_for() -> None:
    """A number passes from `at_least` on; another figure can be the one that decides; the comment is shown."""
    assert asked().check(CALLED, Judge(0.8), at_least=0.8).comment == "Rather short."
    assert asked().check(CALLED, Judge(0.0), score="polite").scores["helpful"] == 0.0
    for said in (0.8, float("nan")):
        with pytest.raises(AssertionError, match=rf"(?s)helpful is {said:g} of at least 1\..*comment: Rather short\."):
            asked().check(CALLED, Judge(said))


@pytest.mark.parametrize(
    ("facts", "evaluator", "options", "reason"),
    [
        ({"suite": "safety", "expected": None}, None, {}, "could not be judged. The case expects nothing to compare"),
        ({}, FixedJudge(None, None), {}, "could not be judged. .* gives no score 'fully_right'"),
        ({}, Judge(True), {"score": "kind"}, "gives no score 'kind'; its scores are: helpful, polite"),
        ({}, Judge(ValueError("no key")), {}, "'judge/1' raised ValueError: no key"),
    ],
)
def test_an_unjudged_case_has_not_passed(facts: Any, evaluator: Any, options: Any, reason: str) -> None:
    """It fails the test with its reason, in a way that no `except AssertionError` takes for a wrong answer."""
    with pytest.raises(pytest.fail.Exception, match=rf"^Case 01234567 .*{reason}"):
        asked(**facts).check(CALLED, evaluator, **options)


def test_a_case_shows_itself_in_a_word() -> None:
    """A failed test prints its arguments."""
    assert repr(asked()) == "<Case 01234567 ('Where is order 5?')>"
