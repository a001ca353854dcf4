"""Play a week at the help desk, and learn from it: `python story.py`.

Customers ask. The agent refunds parcels that never arrived, though the carrier has to pay for those: that takes a
person. The staff correct it, the loop learns, the gate decides, and the agent hands over from then on.
"""

from itertools import product
from typing import Any

import desk
from agent import graph, loop

OPENINGS = (
    "Hello,",
    "Hi there,",
    "Good morning,",
    "Greetings,",
    "Dear team,",
    "Hey,",
    "One question:",
    "Again:",
    "Excuse me,",
    "Good evening,",
    "Quick one:",
    "Well,",
)
LOST = "my parcel of order {} never came, I want my money back"
DAILY = (
    "where is my order {} please",
    "what did I pay for order {}",
    "order {} arrived broken, I want my money back",
    "order {} arrived torn, I want my money back",
)
STAFF = ("mia", "omar", "jun")


def ask(thread: str, question: str) -> str:
    """Ask in a thread of its own, and return the answer."""
    config: Any = {"configurable": {"thread_id": thread}}
    return str(graph.invoke({"messages": [("user", question)]}, config)["messages"][-1].content)


def week() -> None:
    """Let people ask; they like what is right, and the staff correct what is not."""
    number = 1000
    for day, opening, words in product(range(4), OPENINGS, (*DAILY, LOST)):
        number += 1
        thread = f"{day}-{number}"
        ask(thread, f"{opening} {words.format(number)}")
        if words in DAILY:
            loop.feedback(thread=thread, score=1, by=f"customer-{number}")
            continue
        right = {"tool": "hand_over", "args": {"order": number, "reason": "lost parcel"}}
        loop.feedback(thread=thread, score=-1, correction=right, by=STAFF[number % len(STAFF)])


def main() -> None:
    """Play it, and print the ending."""
    question = "Hello, my parcel of order 1392 never came, I want my money back"
    print("before:  ", ask("before", question), f"({len(desk.tickets)} tickets for people)")
    week()
    print(f"a week:   {len(loop.runs(1000))} runs, {len(loop.flagged())} of them flagged")
    report = loop.cycle()
    print(f"the gate: {report.outcome}; `learnloop report` shows why")
    print("after:   ", ask("after", question.replace("1392", "1397")), f"({len(desk.tickets)} ticket)")
    print("as ever: ", ask("old", "Hello, order 1395 arrived broken, I want my money back"))
    print("The way back: `learnloop rollback`. What was decided, and why: `learnloop log`.")


if __name__ == "__main__":
    with loop:
        main()
