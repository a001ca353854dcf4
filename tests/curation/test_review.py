"""Reviewers decide, and captured text cannot steer the terminal they sit at."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pytest
from rich.console import Console

from langgraph_learnloop.curation.review import ApproveChecked, TerminalReviewer
from langgraph_learnloop.records import Proposal, Verdict
from tests.curation.builders import answer, call, proposal

PLAY = proposal("Play Abba", call("play_music", artist="Abba"))
BAD = proposal("Play Abba", call("play_music", artist="Queen")).model_copy(update={"problems": ("No Queen here.",)})


def answers(*lines: str) -> Callable[[str], str]:
    """Answer each question in turn, then end the input."""
    left = list(lines)

    def ask(_: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    return ask


def review(proposals: Sequence[Proposal], *lines: str) -> tuple[list[Verdict], str]:
    """Review with the given answers; return the verdicts and what was shown."""
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=False, color_system=None)
    return TerminalReviewer(console, "ann", ask=answers(*lines)).review(proposals), screen.getvalue()


def test_what_passed_is_approved_and_the_rest_rejected() -> None:
    """ApproveChecked gives every proposal a verdict, and the checks' sentences as the reason."""
    good, bad = ApproveChecked().review([PLAY, BAD])
    assert (good.action, good.proposal_id, good.by) == ("approve", PLAY.proposal_id, "checks")
    assert (bad.action, bad.because) == ("reject", "No Queen here.")


def test_a_person_sees_what_they_decide_on() -> None:
    """Request, answer, correction, rater and problems are on the card."""
    _, shown = review([BAD], "q")
    for text in ("Play Abba", "Sorry?", 'play_music {"artist": "Queen"}', "ann", "No Queen here.", "1 of 1"):
        assert text in shown


def test_keys_decide() -> None:
    """A approves, r rejects, s leaves one for later, q leaves the rest."""
    made = [proposal(f"Play {i}", call("play_music", artist=str(i))) for i in range(5)]
    verdicts, _ = review(made, "a", " R ", "s", "x", "a", "q")
    assert [(v.proposal_id, v.action, v.by) for v in verdicts] == [
        (made[0].proposal_id, "approve", "ann"),
        (made[1].proposal_id, "reject", "ann"),
        (made[3].proposal_id, "approve", "ann"),
    ]


def test_an_unknown_key_is_asked_again() -> None:
    """Another key, or none, decides nothing."""
    verdicts, shown = review([PLAY], "", "z", "a")
    assert [v.action for v in verdicts] == ["approve"]
    assert "one letter" in shown


def test_the_end_of_input_leaves_the_rest() -> None:
    """When input ends, what was decided stands and the rest stays open."""
    assert [v.action for v in review([PLAY, BAD], "a")[0]] == ["approve"]
    assert review([PLAY], "e")[0] == []


def test_an_edit_as_a_call() -> None:
    """An edit may be a tool call as JSON."""
    [verdict], _ = review([BAD], "e", '{"tool": "play_music", "args": {"artist": "Abba"}}')
    assert (verdict.action, verdict.chosen) == ("edit", call("play_music", artist="Abba"))


def test_an_edit_as_text() -> None:
    """An edit may be an answer in words; an empty line leaves the proposal for later."""
    [verdict], _ = review([BAD], "e", "Which Abba?")
    assert verdict.chosen == answer("Which Abba?")
    assert review([BAD], "e", "")[0] == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"tool": "play_music"', "no JSON"),
        ('{"tool": "play_musik", "args": {}}', "no tool 'play_musik'"),
        ('{"tool": "play_music", "args": {}}', "needs the argument 'artist'"),
        ('{"name": "x"}', "no key 'name'"),
        ("[]", "says nothing"),
        ("[" * 50_000, "no JSON"),
    ],
)
def test_an_edit_that_does_not_fit_is_asked_again(line: str, sentence: str) -> None:
    """What cannot be learned is answered with the reason, and the next line counts."""
    [verdict], shown = review([BAD], "e", line, "Which Abba?")
    assert sentence in " ".join(shown.split())
    assert verdict.chosen == answer("Which Abba?")


def test_markup_in_captured_text_stays_text() -> None:
    """Square brackets are letters: no colour, no link, no missing word, no crash."""
    text = "[bold red]Approve[/bold red] [link=https://evil.example]me[/link] [/]"
    _, shown = review([proposal(text, answer(text))], "q")
    assert shown.count("[bold red]Approve[/bold red]") == 2


def test_control_sequences_are_spelled_out() -> None:
    """Escape sequences, carriage returns and direction marks cannot hide what is decided."""
    text = "Play\x1b[2J\x1b]0;owned\x07 Abba\r\u202e\x9b31m"
    _, shown = review([proposal(text, answer(text))], "q")
    assert not {"\x1b", "\x07", "\r", "\u202e", "\x9b"} & set(shown)
    assert "\\u001b[2J" in shown
