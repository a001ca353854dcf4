"""Play a week in the library, and learn from it: `python story.py`.

Readers ask about rivers. Asked to compare two, the agent looks for the first only; its own check notices, and says so.
Readers tell it what it should have searched, the loop learns, the gate decides, and the agent looks for both from then
on.
"""

from typing import Any

from agent import graph, loop
from library import documents

OPENINGS = (
    "Hello,",
    "Hi there,",
    "Good morning,",
    "Greetings,",
    "Dear library,",
    "Hey,",
    "One question:",
    "Again:",
    "Excuse me,",
    "Good evening,",
    "Quick one:",
    "Well,",
)
COMPARE = "compare the {} and the {}"
SINGLE = ("how long is the {}", "where does the {} rise", "which animals live in the {}", "tell me about the {}")
READERS = ("mia", "omar", "jun")
RIVERS = [document.title.removeprefix("The ") for document in documents.values()]


def ask(thread: str, question: str) -> str:
    """Ask in a thread of its own, and return the answer."""
    config: Any = {"configurable": {"thread_id": thread}}
    return str(graph.invoke({"messages": [("user", question)]}, config)["messages"][-1].content)


def week() -> None:
    """Let readers ask; they like what is right, and correct what is not."""
    for number, opening in enumerate(OPENINGS * 4):
        one, other = RIVERS[number % 12], RIVERS[(number + 1 + number // 12 * 3) % 12]
        for kind, words in enumerate(SINGLE):
            thread = f"{number}-{kind}"
            ask(thread, f"{opening} {words.format(RIVERS[(number + number // 12 + kind * 3) % 12])}")
            loop.feedback(thread=thread, score=1, by=f"reader-{number}")
        ask(f"{number}", f"{opening} {COMPARE.format(one, other)}")
        right = {"tool": "search", "args": {"topics": [one, other]}}
        loop.feedback(thread=f"{number}", score=-1, correction=right, by=READERS[number % len(READERS)])


def main() -> None:
    """Play it, and print the ending."""
    print("before:", ask("before", "Hello, compare the Elsker and the Istrel"), sep="\n")
    week()
    checked = [flag for flag in loop.flagged() if any("nothing cites it" in reason for reason in flag.reasons)]
    print(f"a week:   {len(loop.runs(1000))} runs, {len(checked)} of them flagged by the agent's own check")
    report = loop.cycle()
    print(f"the gate: {report.outcome}; `learnloop report` shows why")
    print("after:", ask("after", "Hello, compare the Lommet and the Istrel"), sep="\n")
    print("as ever:", ask("old", "Hello, where does the Jorune rise"), sep="\n")
    print("The way back: `learnloop rollback`. What was decided, and why: `learnloop log`.")


if __name__ == "__main__":
    with loop:
        main()
