"""Phrases are found in what people and agents say, and what only sounds like them is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_learnloop.signals.phrases import gives_up, objects

CLINC = Path("../shared/data/clinc150.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        "No, that's wrong.",
        "nope",
        "that isn\u2019t what I asked for",
        "I meant the fifth",
        "you forgot the hotel",
        "Are you sure?",
        "Bonn? I said Berlin",
        "not the bonn one",
        "Das stimmt so nicht.",
        "Nein, ich meinte den Fünften.",
        "Non, ce n'est pas ça.",
        "eso no es lo que pedí",
        "Não era isso que eu queria",
    ],
)
def test_objections(text: str) -> None:
    """Five languages, polite or not."""
    assert objects(text, "The train to Bonn leaves at nine.")


@pytest.mark.parametrize(
    "text",
    [
        "no thanks",
        "That's right!",
        "Not bad at all",
        "what is wrong with my account",
        "Nein danke",
        "non merci",
        "No gracias",
        "no payments on my bank account, please",
        "no puedo entrar en mi cuenta",
        "não consigo entrar na minha conta",
        "",
    ],
)
def test_what_is_no_objection(text: str) -> None:
    """Thanks, praise and requests that hold the words are none."""
    assert not objects(text, "The train to Bonn leaves at nine.")


def test_no_answers_a_question() -> None:
    """After a question "no" is the answer to it; that something is wrong is an objection even then."""
    assert not objects("No, the blue one", "Shall I take the red one?")
    assert not objects("nein", "Soll ich buchen? **")
    assert objects("no, that's wrong", "Is there anything else?")


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I can't cancel orders.",
        "I don't have access to your calendar.",
        "Something went wrong on my end.",
        "Leider kann ich das nicht tun.",
        "Das weiß ich nicht, das kann ich nicht sehen.",
        "Je ne peux pas le faire.",
        "No puedo ayudarte con eso.",
        "Não consegui encontrar o pedido.",
    ],
)
def test_giving_up(text: str) -> None:
    """The agent says that it cannot, in five languages."""
    assert gives_up(text)


@pytest.mark.parametrize(
    "text",
    [
        "Sorry for the wait! It arrives on Monday.",
        "No flights leave after ten.",
        'Here is the mail: "I am unable to come on Friday."',
        "You can\u2019t return it after 30 days: yours ended in May.",
        "",
    ],
)
def test_what_is_no_giving_up(text: str) -> None:
    """A full answer may say sorry, and a draft may say that somebody cannot."""
    assert not gives_up(text)


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_any_text_is_read(text: str, answer: str) -> None:
    """No text is too strange."""
    assert objects(text, answer) in (True, False)
    assert gives_up(text) in (True, False)


@pytest.mark.skipif(not CLINC.exists(), reason="CLINC150 is not there: ../shared/data")
def test_what_people_ask_for_is_no_objection() -> None:
    """Of people's own requests hardly one in a thousand is taken for an objection."""
    rows = [json.loads(line) for line in CLINC.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in rows if row["tool"] not in ("yes", "no")]
    assert sum(objects(text, "Done.") for text in texts) < len(texts) / 1000
