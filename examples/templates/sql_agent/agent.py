"""The agent: an ordinary `create_agent`, and the loop that watches it.

Talk to it: python agent.py        Serve it: langgraph dev        Let it learn: python story.py
"""

from typing import Any

from bookshop import TOOLS
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.memory import InMemorySaver
from model import engine, trainer
from same_rows import SameRows

from langgraph_learnloop import LearnLoop

POLICY = """You answer questions about the sales of Third Shelf, a bookshop, from its database.
Look at the tables if you do not know them, then ask with one SELECT in SQLite's dialect.
Report what the database says; when it refuses, read why and ask again."""


def make_agent(model: BaseChatModel, **options: Any) -> Any:
    """Return the agent on any chat model; options such as a checkpointer go to `create_agent`."""
    return create_agent(model, TOOLS, system_prompt=POLICY, **options)


loop = LearnLoop("learnloop.db", trainer=trainer(), evaluator=SameRows())
model = loop.model(engine())
graph = loop.watch(make_agent(model))  # LangGraph's server brings a checkpointer of its own


def main() -> None:
    """Answer at the terminal until the input ends."""
    agent = loop.watch(make_agent(model, checkpointer=InMemorySaver()))
    config: Any = {"configurable": {"thread_id": "terminal"}}
    while True:
        try:
            asked = input("you: ")
        except (EOFError, KeyboardInterrupt):
            return
        print("agent:", agent.invoke({"messages": [("user", asked)]}, config)["messages"][-1].content)


if __name__ == "__main__":
    with loop:
        main()
