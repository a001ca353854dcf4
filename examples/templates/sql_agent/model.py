"""The model: change `engine` to use your own, and `trainer` to train it.

The one that is here needs no key, no GPU and no download. It is a memory, not a language model: it answers as it did to
the most similar request it knows, with the names of the new one. What surrounds it is what you would run.
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


# It joins by two ids that have nothing to do with each other: SQL that runs, and finds somebody else's order.
_SPENT = """SELECT sum(order_lines.copies * books.euros) AS euros FROM customers
JOIN orders ON orders.id = customers.id
JOIN order_lines ON order_lines.order_id = orders.id
JOIN books ON books.id = order_lines.book_id
WHERE customers.name = 'Jane Doe'"""
_KNOWN = {
    "please let me know how much did Jane Doe spend with us": ("query", {"sql": _SPENT}),
    "in which city does Jane Doe live": ("query", {"sql": "SELECT city FROM customers WHERE name = 'Jane Doe'"}),
    "what is the price of Salt Roads": ("query", {"sql": "SELECT euros FROM books WHERE title = 'Salt Roads'"}),
    "how many copies of Salt Roads are left in stock": (
        "query",
        {"sql": "SELECT stock FROM books WHERE title = 'Salt Roads'"},
    ),
    "which tables would mention Salt Roads": ("list_tables", {}),
}


def _call(tool: str, args: dict[str, str]) -> Message:
    return Message(role="assistant", tool_calls=(ToolCall(name=tool, args=args),))
