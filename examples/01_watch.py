"""Watch an agent you already have, and look at what was recorded.

Run it: python examples/01_watch.py   (offline, no key; a scripted model stands in for yours)
"""

import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.testing import ScriptedModel


def capital(country: str) -> str:
    """Tell the capital of a country."""
    return {"France": "Paris", "Australia": "Sydney"}.get(country, "unknown")  # one of them is wrong


def main() -> None:
    """Ask one question and print the run."""
    call = {"name": "capital", "args": {"country": "Australia"}, "id": "call_1"}
    model = ScriptedModel(script=[AIMessage("", tool_calls=[call]), "The capital of Australia is Sydney."])

    with tempfile.TemporaryDirectory() as folder, LearnLoop(Path(folder) / "learnloop.db", agent="support") as loop:
        agent = loop.watch(create_agent(model, [capital]))  # still a CompiledStateGraph
        agent.invoke(
            {"messages": [("user", "What is the capital of Australia?")]}, {"configurable": {"thread_id": "42"}}
        )

        run = loop.runs()[0]
        print(f"thread {run.thread_id}: {run.question} -> {run.answer} ({run.outcome})")
        for step in run.steps:
            calls = ", ".join(f"{c.name}{c.args}" for c in step.tool_calls)
            print(f"  {step.kind:5} {step.name:14} {calls}")
        print(f"recorded {loop.health().recorded} run, dropped {sum(loop.health().dropped.values())}")


if __name__ == "__main__":
    main()
