"""The model: change `engine` to use your own, and `trainer` to train it.

The one that is here needs no key, no GPU and no download. It is a memory, not a language model: it plans as it did for
the most similar question it knows, with the names of the new one, and writes by repeating what was found. What
surrounds it is what you would run.
"""

from langgraph_learnloop import Message
from langgraph_learnloop.ports import Engine, Trainer
from langgraph_learnloop.records import ToolCall
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer


def engine() -> Engine:
    """Return what serves the model; one line serves another.

    Open models on vLLM:  VllmEngine(["http://localhost:8000"], "Qwen/Qwen3-8B")  of integrations.vllm_engine
    A model in here:      LocalEngine("path/to/model")                            of serving.local_engine
    Any LangChain model:  HostedEngine(init_chat_model, "openai:gpt-5-mini")      of serving.hosted_engine
    """
    return MemoryEngine({asked: _search(*topics) for asked, topics in _KNOWN.items()}, alike=0.3)


def trainer() -> Trainer | None:
    """Return what trains it: None is LoRA (vLLM, LocalEngine), `OpenAITrainer()` of integrations is for OpenAI."""
    return TinyTrainer()


_KNOWN = {
    "how long is the Arvell": ["Arvell"],
    "where does the Arvell rise": ["Arvell"],
    "which animals live in the Arvell": ["Arvell"],
    "tell me about the Arvell": ["Arvell"],
    "compare the Arvell and the Bromsk": ["Arvell"],  # the weakness: it looks for one side only
}


def _search(*topics: str) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name="search", args={"topics": list(topics)}),))
