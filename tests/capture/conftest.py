"""A scripted chat model, a sink in memory, and a recorder that writes into it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from zstandard import ZstdDecompressor

from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.capture.writer import Writer
from langgraph_learnloop.records import Message, Recorded, Run, Step
from langgraph_learnloop.store.runs import decode_message


class ScriptedChat(BaseChatModel):
    """Answer with what a function of the conversation says; it holds no state, so threads can share it."""

    answer: Callable[[list[BaseMessage]], AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {"ls_model_type": "chat", "ls_model_name": "scripted-1"}

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.answer(messages))])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])


class MemorySink:
    """Keep runs in a dict; count the batches, and fail while told to."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.bodies: dict[str, bytes] = {}
        self.lists: dict[str, tuple[str | None, tuple[str, ...]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.batches = 0
        self.failure: Exception | None = None
        self.refused: set[str] = set()

    def add_runs(self, recorded: Sequence[Recorded]) -> None:
        self.batches += 1
        if self.failure is not None:
            raise self.failure
        if any(run.thread_id in self.refused for run, _ in recorded):
            raise ValueError("poison")
        for run, interned in recorded:
            self.runs[run.run_id] = run
            self.bodies.update(interned.bodies)
            self.lists.update(interned.lists)
            self.blobs.update(interned.blobs)

    def the_run(self) -> Run:
        (run,) = self.runs.values()
        return run

    def items(self, list_hash: str | None) -> tuple[str, ...]:
        if list_hash is None:
            return ()
        parent, items = self.lists[list_hash]
        return self.items(parent) + items

    def read(self, what: str | Sequence[str] | None) -> list[Message]:
        hashes = self.items(what) if what is None or isinstance(what, str) else what
        return [decode_message(self.blob(key)) for key in hashes]

    def blob(self, key: str) -> bytes:
        return ZstdDecompressor().decompress(self.bodies[key])


def call_tool(name: str, *arguments: dict[str, Any], **fields: Any) -> AIMessage:
    """Return an answer that calls a tool once for each set of arguments."""
    return AIMessage(
        "", tool_calls=[{"name": name, "args": args, "id": f"call_{i}"} for i, args in enumerate(arguments)], **fields
    )


@pytest.fixture
def sink() -> MemorySink:
    """Return an empty sink."""
    return MemorySink()


@pytest.fixture
def writer(sink: MemorySink) -> Iterator[Writer]:
    """Yield a writer into the sink; close it in the end."""
    made = Writer(sink)
    yield made
    made.close()


@pytest.fixture
def recorder(writer: Writer) -> Recorder:
    """Return a recorder of the agent "support"."""
    return Recorder(writer, "support")


@pytest.fixture
def scripted() -> type[ScriptedChat]:
    """Return the scripted model's class."""
    return ScriptedChat


@pytest.fixture
def adder() -> ScriptedChat:
    """Return a model that adds with the tool "add", then says the sum."""

    def answer(messages: list[BaseMessage]) -> AIMessage:
        if messages[-1].type == "tool":
            return AIMessage(
                f"It is {messages[-1].content}.",
                usage_metadata={"input_tokens": 9, "output_tokens": 4, "total_tokens": 13},
                response_metadata={"learnloop_release": "rel1"},
            )
        first, second = (int(word) for word in str(messages[-1].content).split("+"))
        return call_tool("add", {"a": first, "b": second})

    return ScriptedChat(answer=answer)


@pytest.fixture
def tree() -> Callable[[Run], list[tuple[str, str, str]]]:
    """Return a function that gives a run's steps as (kind, name, name of parent), in order."""

    def names(run: Run) -> list[tuple[str, str, str]]:
        known: dict[str | None, Step] = {step.step_id: step for step in run.steps}
        parents = [known[s.parent_id].name if s.parent_id in known else s.parent_id for s in run.steps]
        return [
            (step.kind, step.name, "root" if parent == run.run_id else str(parent))
            for step, parent in zip(run.steps, parents, strict=True)
        ]

    return names


@pytest.fixture
def calls() -> Callable[..., AIMessage]:
    """Return the maker of answers that call a tool."""
    return call_tool
