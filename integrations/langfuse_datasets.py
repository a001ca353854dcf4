"""Examine candidates on a dataset that your team keeps in Langfuse.

    cases = cases_from_langfuse("refunds", suite="regression")
    write_suite(cases, "suites/refunds.jsonl")

Needs `pip install langfuse` and, unless a client is given, LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and
LANGFUSE_BASE_URL. Nothing is written there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from langgraph_learnloop.calls import clean_text, read_message
from langgraph_learnloop.cases import each_once, make_case
from langgraph_learnloop.errors import ConfigError, DataError, MissingExtraError, NotFoundError
from langgraph_learnloop.integrations.langfuse_messages import Unreadable, is_message, langchain_messages
from langgraph_learnloop.integrations.langfuse_wire import answering
from langgraph_learnloop.messages import LONGEST_MESSAGE, LONGEST_NAME, from_langchain
from langgraph_learnloop.records import Case, Message, Suite

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langfuse import Langfuse
    from langfuse.api import DatasetItem

SHOWN = 3
"""Items that an error names."""

_INPUT = 'a text, {"question": text}, {"messages": [...]} or a list of messages'
_OUTPUT = 'a text, {"tool": name, "args": {...}} or an assistant message'
_UP_OR_SLOW = (
    "See that LANGFUSE_BASE_URL is right and the server is up, or give the client more time, with "
    "Langfuse(timeout=...)."
)


def cases_from_langfuse(name: str, client: Langfuse | None = None, *, suite: Suite = "retention") -> tuple[Case, ...]:
    """Return the items of a Langfuse dataset as cases of one suite, oldest first, each once; no archived ones.

    An item's input is a text, {"question": text}, {"messages": [...]} or a list of messages, in OpenAI's form or in
    LangChain's; its expected output is a text, {"tool": name, "args": {...}} or a message, and only a case of the suite
    "safety" can do without. The category is the one in the item's metadata, else the right tool. `client` is the
    process's own unless one is given.

    Raises DataError naming dataset and items that cannot be used, NotFoundError when there is no such dataset,
    ConfigError when Langfuse takes no such keys, and EngineError when it does not answer.
    """
    if suite not in get_args(Suite):
        raise ConfigError(f"There is no suite {suite!r}; it must be one of {', '.join(get_args(Suite))}.")
    items = [item for item in _items(name, client) if item.status != "ARCHIVED"]
    if not items:
        raise DataError(f"The Langfuse dataset {name!r} holds no active item: add some there, or name another.")
    cases: list[Case] = []
    unusable: list[str] = []
    for item in items:
        try:
            cases.append(_case(item, suite))
        except DataError as error:
            unusable.append(f"Item {item.id!r}: {error}")
    if unusable:
        shown = [*unusable[:SHOWN], *([f"And {len(unusable) - SHOWN} more."] if len(unusable) > SHOWN else [])]
        raise DataError(
            f"{len(unusable)} of {len(items)} items of the Langfuse dataset {name!r} cannot be used. {' '.join(shown)} "
            "Mend or archive them there."
        )
    return each_once(cases)


def _items(name: str, client: Langfuse | None) -> Sequence[DatasetItem]:
    """Return all the items of a dataset, oldest first, archived ones too."""
    try:
        import langfuse
    except ImportError as error:
        raise MissingExtraError(f"Datasets of Langfuse need langfuse ({error}): pip install langfuse.") from error
    client = client or langfuse.get_client()
    if not hasattr(client, "api"):
        raise ConfigError("There are no keys for Langfuse: set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY.")
    try:
        with answering(f"the dataset {name!r}", _UP_OR_SLOW):
            oldest_first = client.get_dataset(name).items[::-1]  # the server lists the newest first
    except NotFoundError as error:
        raise NotFoundError(
            f"There is no dataset {name!r} in the project of Langfuse that the keys belong to: name one that "
            "is there, or use the keys of its project."
        ) from error
    return sorted(oldest_first, key=lambda item: item.created_at)


def _case(item: DatasetItem, suite: Suite) -> Case:
    """Return an item as a case; raise DataError with the reason."""
    messages = _conversation(item.input)
    expected = _expected(item.expected_output, suite)
    return make_case(suite, messages, expected, category=_category(item.metadata))


def _category(metadata: object) -> str | None:
    named = metadata.get("category") if isinstance(metadata, dict) else None
    return None if named is None else clean_text(named, "the category in its metadata", LONGEST_NAME)


def _conversation(value: Any) -> tuple[Message, ...]:
    if isinstance(value, dict):
        value = value.get("messages", value.get("question", [value] if is_message(value) else None))
    if isinstance(value, str):
        return (Message(role="user", content=clean_text(value, "the question", LONGEST_MESSAGE)),)
    if not isinstance(value, list) or not value:
        raise DataError(f"its input must be {_INPUT}.")
    return _messages(value, "input")


def _expected(value: Any, suite: Suite) -> Message | None:
    if value is None:
        if suite == "safety":
            return None
        raise DataError(f"it has no expected output; add the right answer, which a case of the suite {suite!r} needs.")
    try:
        said = _messages([value], "expected output")[0] if is_message(value) else value
        return read_message(said, "right answer")
    except DataError as error:
        raise DataError(f"its expected output must be {_OUTPUT}: {error}") from error


def _messages(values: list[Any], what: str) -> tuple[Message, ...]:
    """Return messages in OpenAI's form or in LangChain's as records."""
    try:
        return tuple(_message(message) for message in langchain_messages(values))
    except Unreadable as error:
        raise DataError(f"the messages of its {what} cannot be read ({error}); write them as OpenAI does.") from error


def _message(message: BaseMessage) -> Message:
    blocks = message.content if isinstance(message.content, list) else []
    if any(isinstance(block, dict) and block.get("type", "text") != "text" for block in blocks):
        raise DataError("it holds a message that is not one of text; a case must ask with text alone.")
    if getattr(message, "invalid_tool_calls", None):
        raise DataError("it holds a tool call whose arguments are not JSON; write them as an object.")
    read = from_langchain(message)
    if read.content.strip():
        clean_text(read.content, "a message", LONGEST_MESSAGE)
    return read
