"""The model: change `engine` to use your own, and `trainer` to train it.

The one that is here needs no key, no GPU and no download. It is a memory, not a language model: it answers as it did to
the most similar request it knows, with the numbers of the new one. What surrounds it is what you would run.
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
    return MemoryEngine({asked: _call(*call) for asked, call in _KNOWN.items()}, alike=0.3)


def trainer() -> Trainer | None:
    """Return what trains it: None is LoRA (vLLM, LocalEngine), `OpenAITrainer()` of integrations is for OpenAI."""
    return TinyTrainer()


_KNOWN = {
    "where is my order 1001 please": ("track_parcel", {"order": 1001}),
    "what did I pay for order 1001": ("look_up_order", {"order": 1001}),
    "order 1001 arrived broken, I want my money back": ("refund", {"order": 1001, "reason": "broken"}),
}


def _call(tool: str, args: dict[str, object]) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=tool, args=args),))
