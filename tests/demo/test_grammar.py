"""The sample data: what a row promises, and how its two halves differ."""

import pytest

from langgraph_learnloop.demo import grammar, toolbox


def test_same_seed_same_rows():
    """The same seed gives the same rows."""
    assert grammar.traffic(200, 3) == grammar.traffic(200, 3)


@pytest.mark.parametrize("draw", [grammar.base_rows, grammar.traffic])
def test_other_seeds_share_few_texts(draw):
    """Rows of two seeds share fewer than one text in fifty."""
    one, other = ({row["text"] for row in draw(2000, seed)} for seed in (1, 2))
    assert len(one) == 2000
    assert len(one & other) < 40


def test_arguments_are_in_the_text():
    """Every argument stands in the text, word for word."""
    for row in grammar.base_rows(1000, 5) + grammar.target_rows(1000, 5):
        assert row["args"]
        assert all(str(value) in row["text"] for value in row["args"].values()), row


def test_base_rows_are_old_and_cover_nine_tools():
    """The base sees nine tools, never the new one."""
    rows = grammar.base_rows(1000, 0)
    assert {row["slice"] for row in rows} == {"old"}
    assert {row["tool"] for row in rows} == set(grammar.OLD_TEMPLATES)
    assert grammar.NEW_TOOL not in grammar.OLD_TEMPLATES


def test_traffic_is_half_target():
    """Half of the traffic is the target slice: the new tool, and four old tools asked for in a new way."""
    rows = grammar.traffic(2000, 0)
    target = [row for row in rows if row["slice"] == "target"]
    assert 900 < len(target) < 1100
    assert {row["tool"] for row in target} == {grammar.NEW_TOOL, *grammar.NEW_SPEECH_TEMPLATES}


def test_every_row_is_a_valid_call():
    """Every row's call fits its tool's schema and is answered with one short sentence."""
    home = toolbox.Home()
    tools = {tool.name: tool for tool in home.tools()}
    for row in grammar.traffic(400, 9):
        answer = tools[row["tool"]].invoke(row["args"])
        assert answer.endswith(".")
        assert len(answer.split()) < 25
    assert home.timers
    assert home.messages


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("set_timer", {"minutes": "soon"}),
        ("find_route", {"destination": "Oslo", "mode": "on foot"}),
        ("book_table", {"people": 3}),
    ],
)
def test_wrong_call_fails_its_schema(tool, args):
    """A call with a wrong type, a value outside an enumeration or a missing argument is refused."""
    tools = {tool.name: tool for tool in toolbox.Home().tools()}
    with pytest.raises(ValueError, match="validation error"):
        tools[tool].invoke(args)
