"""The page holds all of a report, needs nothing from anywhere, and nothing that was captured can act in it."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from langgraph_learnloop.errors import MissingExtraError
from langgraph_learnloop.evaluation import page
from langgraph_learnloop.evaluation.findings import Report
from langgraph_learnloop.evaluation.page import html
from langgraph_learnloop.records import (
    Case,
    CaseResult,
    Message,
    Recipe,
    Release,
    Remembered,
    Scorecard,
    ToolCall,
    content_hash,
)
from tests.evaluation.scripted import case
from tests.evaluation.test_report import AT, CARD, NEW, OLD, answer, gate, report, scored

VOID = {"meta", "br"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "footer", "details", "summary"),
    *("h1", "h2", "h3", "h4", "p", "b", "br", "span", "div", "code", "pre"),
    *("table", "thead", "tbody", "tr", "th", "td", "svg", "desc", "line", "circle", "text"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "id", "dir", "scope", "colspan", "data-name"),
    *("open", "role", "aria-labelledby", "aria-hidden", "width", "height", "text-anchor"),
    *("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r"),
}
NASTY = {
    "script": "</p></td></pre></details></style></title><script>alert(1)</script><img src=x onerror=alert(1)>",
    "quotes": '" onmouseover="alert(1)" \' x=\'',
    "template": "{{ 7 * 7 }}{% for x in y %}{# gone #}",
    "control": "a\x00b\x1b[31mc\x07\x9b",
    "direction": "\u202eabc\u2066\u200f\u2028",
    "surrogate": "a\ud800b\udfff",
    "link": "https://example.com/ [x](javascript:alert(1)) url(https://example.com)",
    "long": "<b>" + "x" * 1_000_000,
}


class Read(HTMLParser):
    """Read a page, and hold that its elements are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        """Return what a reader sees, with single blanks."""
        return " ".join("".join(self.texts).split())


def everywhere(nasty: str) -> Report:
    """Return a report that has a text in every field that takes one."""
    call = ToolCall(name=nasty, args={nasty: [nasty, {nasty: None}]}, id=nasty)
    said = (
        Message(role="assistant", content=nasty, tool_calls=(call,), name=nasty),
        Message(role="tool", content=nasty, tool_call_id=nasty, name=nasty),
    )
    of = Case(
        case_id=nasty,
        suite="target",
        category=nasty,
        messages=(Message(role="user", content=nasty, name=nasty),),
        expected=said[0],
        run_id=nasty,
    )
    late = of.model_copy(update={"case_id": f"{nasty} late", "messages": ()})
    more: dict[str, Any] = {"got": said, "comment": nasty, "error": nasty, "diverged": nasty}
    old, new = (
        CaseResult(release_id=nasty, case_id=nasty, evaluator=nasty, scores={nasty: right}, **more)
        for right in (False, True)
    )
    gates = tuple(
        gate(name, nasty, because=nasty, test=nasty, champion=0.1, candidate=0.2, low=0.0, high=0.3)
        for name in ("target", f"target:{nasty}", f"latency:{nasty}", nasty)
    )
    release = Release(
        base_model=nasty,
        adapter=nasty,
        adapter_sha256=nasty,
        instructions=nasty,
        dataset=nasty,
        parent=nasty,
        made_at=AT,
    )
    return Report(
        scorecard=Scorecard(
            candidate=nasty,
            champion=nasty,
            gates=gates,
            dataset=nasty,
            evaluator=nasty,
            stopped_early=nasty,
            at=AT,
        ),
        champion=release,
        candidate=release.model_copy(update={"recipe": Recipe(targets=(nasty,))}),
        cases=[of, late],
        champion_results={nasty: old},
        candidate_results={nasty: new},
        remembered=[Remembered(dataset=nasty, learned_by=nasty, cases=1, then=0.5, now=0.4)],
        titles={nasty: nasty},
    )


@pytest.mark.parametrize("nasty", NASTY.values(), ids=list(NASTY))
def test_captured_text_comes_out_as_text(nasty: str) -> None:
    """In whatever field it stands, it opens no element, closes none, and becomes no attribute."""
    made = html(everywhere(nasty))
    read = Read(made)
    assert read.tags <= TAGS
    assert {name for _, name, _ in read.attributes} <= ATTRIBUTES
    assert made.encode("utf-8")
    assert all(c in "\n\t" or c.isprintable() or c == "\u00a0" for c in made)
    assert len(made) < 500_000


def test_what_is_shown_of_a_text_is_all_of_it() -> None:
    """Escaping hides nothing: a reader sees the very characters that were captured."""
    read = Read(html(everywhere(NASTY["script"])))
    assert read.text.count("<script>alert(1)</script>") > 20
    assert "{{ 7 * 7 }}{% for x in y %}{# gone #}" in Read(html(everywhere(NASTY["template"]))).text


def test_what_steers_is_spelled_out() -> None:
    """A reader sees that there is a control or a direction character."""
    assert "\\u202eabc\\u2066\\u200f\\u2028" in Read(html(everywhere(NASTY["direction"]))).text
    assert "a\\u0000b\\u001b[31mc\\u0007\\u009b" in Read(html(everywhere(NASTY["control"]))).text


def test_a_long_text_is_cut_with_a_note() -> None:
    """The page says how much it leaves out."""
    assert f"[{1_000_003 - page.LONGEST:,} more characters]" in Read(html(everywhere(NASTY["long"]))).text


def test_the_page_asks_for_nothing() -> None:
    """A strict policy stands before everything that it rules, and no attribute or style names an address."""
    made = html(everywhere(NASTY["link"]))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in made
    assert made.index("Content-Security-Policy") < made.index("<title>") < made.index("<style>")
    assert all("//" not in (value or "") and "javascript" not in (value or "") for *_, value in Read(made).attributes)
    style = made[made.index("<style>") : made.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_tells_all_of_it() -> None:
    """Verdict, sides, gates, flips with both answers, lessons, cost and what could not be judged are there."""
    asked, late = case("Wake me in five minutes"), case("late one")
    call = ToolCall(name="set_timer", args={"minutes": 5})
    got = (
        Message(role="assistant", tool_calls=(call,)),
        Message(role="tool", content="It is set.", name="set_timer"),
        Message(role="assistant", content="I will wake you."),
    )
    old = answer(asked, fully_right=False, got=(Message(role="assistant", content="Why?"),), comment="It asked back.")
    new = answer(asked, release="new", fully_right=True, got=got, diverged="It wanted more.", usd=0.5)
    pairs = [(asked, old, new), (late, answer(late, error="No answer."), None)]
    lesson = Remembered(dataset="d" * 32, learned_by="e" * 12, cases=20, then=0.95, now=0.9)
    card = CARD.model_copy(update={"evaluator": "judge/1", "dataset": "d" * 32, "stopped_early": "It was hopeless."})
    text = Read(html(report(pairs, card, remembered=[lesson], titles={"d" * 32: "Timers"}))).text
    for said in (
        "Do not ship 'new' in place of 'old': 1 of 2 required gates passed.",
        "Examined 2026-01-01 00:00 with judge/1 on dataset Timers (dddddddddddd), 2 cases",
        "Stopped early: It was hopeless.",
        OLD.release_id,
        NEW.release_id,
        "adapters/1",
        "It forgot.",
        "-8.0 (-11.0 to -5.0)",
        "Won: 1 case",
        "fully right: no → yes",
        '{ "minutes": 5 }',
        "It is set.",
        "I will wake you.",
        "The evaluator says: It asked back.",
        "The replay stopped: It wanted more.",
        "95.0% 90.0% -5.0",
        "$0.5000",
        "No answer.",
        "It was not asked.",
    ):
        assert said in text


def test_a_whole_run_that_was_expected_is_shown() -> None:
    """Where a case has no next message to compare with, its reference stands in its place."""
    of = case("a").model_copy(
        update={"expected": None, "reference": (Message(role="assistant", content="So it goes."),)}
    )
    assert "expected assistant So it goes." in Read(html(report([scored(of, False, True)]))).text


def test_every_table_names_its_rows_and_columns() -> None:
    """A screen reader can tell what a cell is about, and what a drawing shows."""
    made = html(
        report(
            [scored(case("a"), False, True)],
            remembered=[Remembered(dataset="d", learned_by="e", cases=1, then=1.0, now=1.0)],
        )
    )
    read = Read(made)
    assert {value for tag, name, value in read.attributes if tag == "th" and name == "scope"} == {"row", "col"}
    assert made.count("<th ") == made.count("<th scope=")
    labels = [value or "" for tag, name, value in read.attributes if name == "aria-labelledby"]
    ids = [value for _, name, value in read.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(part in ids for label in labels for part in label.split())
    assert made.count("<svg") == made.count('role="img"') + made.count('aria-hidden="true"')


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (report(), "No case changed from one side to the other."),
        (report(card=CARD.model_copy(update={"gates": ()})), "No gate ran."),
        (report([scored(case("a"), True, True)]), "Every case was judged on both sides."),
        (report([scored(case("a"), None, None)]), "It has no fully right."),
        (report(card=CARD.model_copy(update={"gates": (gate(passed=False, needed=1),)})), "1 more case is needed."),
    ],
    ids=["nothing", "no gates", "no flips", "nothing judged", "more cases"],
)
def test_what_is_not_there_is_said(found: Report, said: str) -> None:
    """A page without figures is still a page."""
    assert said in Read(html(found)).text


def test_flips_beyond_the_most_are_counted() -> None:
    """A page of thousands of cases can still be opened."""
    pairs = [scored(case(f"question {i}"), True, False) for i in range(page.MOST_FLIPS + 7)]
    made = html(report(pairs))
    assert made.count("<details") == page.MOST_FLIPS
    assert "7 more cases lost are not shown." in Read(made).text


def test_long_conversations_are_cut_at_the_far_end() -> None:
    """Of what was asked the end is shown, of what was answered the beginning; the rest is counted."""
    of = case("a").model_copy(
        update={"messages": tuple(Message(role="user", content=f"asked {i}.") for i in range(20))}
    )
    _, old, new = scored(of, False, True)
    got = tuple(Message(role="assistant", content=f"said {i}.") for i in range(20))
    text = Read(html(report([(of, old, new.model_copy(update={"got": got}))]))).text
    assert "asked 19." in text
    assert "asked 7." not in text
    assert "8 messages before these are not shown." in text
    assert "said 0." in text
    assert "said 12." not in text
    assert "8 more messages are not shown." in text


def test_suites_are_drawn_before_their_parts() -> None:
    """Rows are in the order in which a reader looks for them, whatever the order of the gates."""
    names = ("retention:a", "target", "retention", "target:b", "retention:c")
    gates = tuple(gate(name, champion=0.5, candidate=0.6, low=0.0, high=0.2) for name in names)
    plot = page.changes(report(card=CARD.model_copy(update={"gates": gates})))
    assert plot is not None
    assert [bar.gate.name for bar in plot.bars] == ["retention", "retention:a", "retention:c", "target", "target:b"]


def test_places_on_the_axis_keep_their_order() -> None:
    """Low, seen and high stand from left to right inside the drawing, and the margin where it belongs."""
    gates = (gate("retention", champion=0.98, candidate=0.9, low=-0.11, high=-0.05),)
    found = report(card=CARD.model_copy(update={"gates": gates}), margins={"retention": -0.02})
    plot = page.changes(found)
    assert plot is not None
    (bar,) = plot.bars
    zero = next(tick.place for tick in plot.axis.ticks if tick.middle)
    assert bar.low is not None
    assert bar.point is not None
    assert bar.high is not None
    assert bar.margin is not None
    assert 0 < bar.low < bar.point < bar.high < bar.margin < zero < 100


def test_a_margin_may_be_for_all_required_parts_of_a_suite() -> None:
    """A part that only informs is asked for nothing."""
    drawn = {"champion": 0.9, "candidate": 0.9, "low": -0.1, "high": 0.1}
    gates = (gate("retention:a", **drawn), gate("retention:b", required=False, **drawn), gate("retention", **drawn))
    plot = page.changes(report(card=CARD.model_copy(update={"gates": gates}), margins={"retention:": -0.05}))
    assert plot is not None
    assert [bar.margin is not None for bar in plot.bars] == [False, True, False]


@pytest.mark.parametrize(
    ("champion", "candidate", "low", "high"),
    [
        (1.0, 1.2, 1.1, 1.3),
        (1.0, 1.2, None, 1.3),
        (1.0, 1.2, None, None),
        (0.0, 1.2, None, None),
        (1.0, 1000.0, 900.0, float("inf")),
        (1.0, 0.0, 0.0, 0.0),
        (float("nan"), 1.0, None, None),
    ],
)
def test_any_ratio_can_be_drawn(champion: float, candidate: float, low: float | None, high: float | None) -> None:
    """What is open, without end or unknown leaves the drawing whole."""
    odd = gate("latency", "seconds", champion=champion, candidate=candidate, low=low, high=high)
    found = report(card=CARD.model_copy(update={"gates": (odd,)}))
    Read(html(found))
    plot = page.ratios(found)
    for bar in plot.bars if plot is not None else ():
        assert all(place is None or 0 <= place <= 100 for place in (bar.low, bar.point, bar.high))


def test_the_same_report_makes_the_same_page() -> None:
    """Pages can be compared."""
    found = report([scored(case(content_hash(i)), i % 2 == 0, i % 3 == 0) for i in range(20)])
    assert html(found) == html(found)


def test_without_jinja2_a_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the command."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[loop\]"'):
        html(report())
