"""Every message is listed in messages.txt, and each says what to do."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from langgraph_learnloop import errors
from tests.messages import BRACES, COMMAND, GOLDEN, house, listed, written

# The words by which our messages say what to do; a new one is added here when it is used.
VERBS = (
    "add|answer|approve|archive|ask|build|call|change|check|choose|collect|compare|compile|copy|curate|"
    "describe|drop|end|evaluate|examine|export|flush|give|hand|have|hold|install|keep|leave|let|load|lower|"
    "make|mark|mend|merge|move|name|open|pass|point|promote|put|raise|read|remove|run|save|say|see|send|serve|set|"
    "shorten|show|split|start|take|train|try|upgrade|use|wait|wrap|write"
)
IMPERATIVE = re.compile(
    rf"(?:^|[.:;,] |\{{\}} (?=(?-i:[A-Z]))|\b(?:and|or|so|then) )(?:{VERBS})\b",
    re.IGNORECASE,
)
# Or it names what is allowed, what can be named instead, or a command or a call that helps.
ALLOWED = r"\b(?:must|has to|at most|at least|only an assistant's may|one of|from \d+ to)\b"
HELPS = r"(?:calls|states) are:|it may go:|`learnloop|loop\.\w+\(|pip install"
LEGAL = re.compile(f"{ALLOWED}|{HELPS}")
# A message that ends in braces and not with a full stop ends with another sentence of ours, which says it.
WRAPS = re.compile(r"(^|[.:] |because )\{\}$")
PARTS = {"ValueError": "reasons that other sentences put in, which say what to do", "log": "goes to the operator's log"}

ABOUT_ONE_TRACE = "says why an import passed over one trace or comment of many; it goes on without that one"
EXCEPT = {
    r"It .*": ABOUT_ONE_TRACE,
    r"Its .*": ABOUT_ONE_TRACE,
    r"A model's input or output was cut, so that it is no JSON\.": ABOUT_ONE_TRACE,
    r"The replica \{\} answered \{\}: .*": "a 404, to which whoever asked adds what to do; every other status has it",
    r".* cannot be used: \{\}\.": "pydantic's words on one field say what it should be",
    r"The field .* is not usable: \{\}\.": "pydantic's words on one field say what it should be",
    r"The feedback on run \{\} was refused: \{\}\.": "the words of a field of Feedback, or pydantic's on it",
    r"Job \{\} ended without an adapter: \{\}\.": "a fake says what the test gave it to say",
}
EVERY = [(name, message) for name, messages in listed().items() for message in messages]


def _says_what_to_do(message: str) -> bool:
    bare = BRACES.sub("{}", message)
    return any(rule.search(bare) for rule in (IMPERATIVE, LEGAL, WRAPS))


def _excepted(message: str) -> bool:
    return any(re.fullmatch(pattern, BRACES.sub("{}", message)) for pattern in EXCEPT)


def test_every_message_is_listed() -> None:
    """A message that is new or was changed shows in review, in one file."""
    there, now = GOLDEN.read_text(encoding="utf-8").splitlines(), written().splitlines()
    new, gone = [line for line in now if line not in there], [line for line in there if line not in now]
    assert (new, gone) == ([], []), f"The source says otherwise than tests/messages.txt: run `{COMMAND}`, and look."


def test_every_kind_of_error_is_used() -> None:
    """A class without a message is a class too many."""
    classes = house().classes
    leaves = set(classes) - {base for bases in classes.values() for base in bases}
    assert not leaves - set(listed())
    assert {"DeliveryError", "NewerStoreError", "ReplicaError"} <= leaves


def test_every_message_says_what_to_do() -> None:
    """What failed is half of a message: a verb of ours, what is allowed, or another sentence of ours follows."""
    silent = [
        f"{name}: {message}"
        for name, message in EVERY
        if name not in PARTS and not _says_what_to_do(message) and not _excepted(message)
    ]
    assert not silent, "These say only what failed:\n" + "\n".join(silent)


def test_exceptions_are_needed() -> None:
    """An exception that nothing needs any more is taken off the list."""
    silent = [BRACES.sub("{}", message) for name, message in EVERY if not _says_what_to_do(message)]
    assert not [pattern for pattern in EXCEPT if not any(re.fullmatch(pattern, one) for one in silent)]


@pytest.mark.parametrize(
    "message", ["The store {x} is broken.", "There is no run {x}.", "The job ended: {error}.", "It has {n} users."]
)
def test_the_rule_finds_what_says_only_what_failed(message: str) -> None:
    """The rule is not so wide that anything passes."""
    assert not _says_what_to_do(message)


@pytest.mark.parametrize("name", [name for name in errors.__dict__ if name.endswith("Error")])
def test_errors_travel_between_processes(name: str) -> None:
    """A worker's error arrives as what it was, and is caught by its kin of the standard library, too."""
    kind = getattr(errors, name)
    again = pickle.loads(pickle.dumps(kind("The store is closed: open it again.")))
    assert (type(again), str(again)) == (kind, "The store is closed: open it again.")
    assert name == "LearnLoopError" or len([base for base in kind.__mro__ if base.__module__ == "builtins"]) > 3


def test_a_library_that_is_not_there_is_named() -> None:
    """With what needs it, and the line that installs it."""
    said = r"The report needs 'scipy': pip install \"langgraph-learnloop\[loop\]\"\."
    with pytest.raises(errors.MissingExtraError, match=said), errors.needing("The report"):
        raise ImportError("No module named 'scipy'", name="scipy")


def test_the_faq_quotes_what_is_said() -> None:
    """A heading in the FAQ that quotes an error is word for word one of the messages, what is put in left out."""
    page = (Path(__file__).parent.parent / "docs" / "faq.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\*\*`` ?(.+?) ?``\*\*$", page, re.MULTILINE)
    assert len(quoted) >= 20
    assert set(quoted) <= {BRACES.sub("…", message) for _, message in EVERY}
