"""Say what was wrong, or say nothing, and see the run flagged.

Run it: python examples/02_feedback.py   (offline, no key; a scripted model stands in for yours)
"""

import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.errors import DataError
from langgraph_learnloop.testing import ScriptedModel


def refund(order: int) -> str:
    """Pay an order back."""
    return f"Order {order} was paid back."


def track(order: int) -> str:
    """Tell where an order is."""
    return f"Order {order} is on its way."


def main() -> None:
    """Correct a tool call, try one that does not fit, ask another thing twice, and print what is flagged."""
    wrong = AIMessage("", tool_calls=[{"name": "refund", "args": {"order": 7}, "id": "call_1"}])
    model = ScriptedModel(script=[wrong, "Order 7 was paid back.", "It is with the carrier.", "Call the carrier."])

    with tempfile.TemporaryDirectory() as folder, LearnLoop(Path(folder) / "learnloop.db", agent="shop") as loop:
        agent = loop.watch(create_agent(model, [refund, track]))
        agent.invoke({"messages": [("user", "Where is order 7?")]}, {"configurable": {"thread_id": "7"}})

        try:
            loop.feedback(thread="7", score=-1, correction={"tool": "track", "args": {"order": "soon"}}, by="mia")
        except DataError as error:
            print(f"refused: {error}")
        loop.feedback(thread="7", score=-1, correction={"tool": "track", "args": {"order": 7}}, by="mia")

        for text in ("When does order 8 arrive?", "so when does order 8 arrive"):  # nobody presses a button here
            agent.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": "8"}})

        for flag in loop.flagged():
            print(f"flagged, severity {flag.severity:.2f}: {' '.join(flag.reasons)}")


if __name__ == "__main__":
    main()
