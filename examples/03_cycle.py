"""Walk the whole circle: an agent fails, people correct it, it learns, it is swapped in, and taken back.

Run it: python examples/03_cycle.py   (offline, no key; `TinyTrainer` and `MemoryEngine` stand in for LoRA and a model,
everything else is what you would run: with a GPU or a CPU, leave `trainer=` out and use `LocalEngine`)
"""

import tempfile
from pathlib import Path

from langchain.agents import create_agent

from langgraph_learnloop import Example, LearnLoop, LoopConfig, Message
from langgraph_learnloop.testing import MemoryEngine, TinyTrainer

HOURS = "We are open from nine to five."
RETURNS = "You have thirty days to send it back."
OPENINGS = ("please tell me", "hello", "a question", "quick one", "sorry to ask", "my wife asks", "good morning", "say")
DAYS = ("monday", "tuesday", "friday", "sunday", "new year", "easter")
THINGS = ("shoes", "a lamp", "the blue coat", "two books", "my order", "a broken cup")


def ask_hours() -> list[str]:
    """Write what the base knows: questions about opening hours."""
    return [f"{opening}, what are the opening hours on {day}" for opening in OPENINGS for day in DAYS]


def ask_returns() -> list[str]:
    """Write what it does not know: questions about returns."""
    return [f"{opening}, how long can I return {thing} to you" for opening in OPENINGS for thing in THINGS]


def main() -> None:
    """Play it and print the ending."""
    engine = MemoryEngine({"what are the opening hours on": HOURS}, alike=0.4)
    # A small shop has few cases: they can only show that a loss is below a wide margin.
    config = LoopConfig(agent="shop", heldout=0.4, retention_margin=0.2, category_margin=0.2)

    with (
        tempfile.TemporaryDirectory() as folder,
        LearnLoop(Path(folder) / "learnloop.db", config=config, trainer=TinyTrainer()) as loop,
    ):
        agent = loop.watch(create_agent(loop.model(engine), []))
        loop.remember([_past(question) for question in ask_hours()])

        for number, question in enumerate(ask_returns()):
            agent.invoke({"messages": [("user", question)]}, {"configurable": {"thread_id": str(number)}})
            loop.feedback(thread=str(number), score=-1, correction=RETURNS, by=f"user-{number % 5}")
        print(f"flagged: {len(loop.flagged())} runs")

        report = loop.cycle()
        print(f"{report.outcome}: {report.because}")
        print("new thread:", _ask(agent, "new", "how long can I return a lamp to you"))
        print("old thread:", _ask(agent, "0", "how long can I return a lamp to you"))
        loop.rollback("To show it.")
        print("after rollback:", _ask(agent, "newer", "how long can I return a lamp to you"))
        print(f"{len(loop.log())} decisions are in the log; the last: {loop.log()[-1].action}")


def _past(question: str) -> Example:
    user, answer = Message(role="user", content=question), Message(role="assistant", content=HOURS)
    return Example(messages=(user,), chosen=answer, origin="replay", review="approved")


def _ask(agent: object, thread: str, question: str) -> str:
    state = agent.invoke({"messages": [("user", question)]}, {"configurable": {"thread_id": thread}})  # type: ignore[attr-defined]
    return str(state["messages"][-1].content)


if __name__ == "__main__":
    main()
