"""Play a week of questions about the shop's sales, and learn from it: `python story.py`.

People ask what customers spent. The agent's SQL runs, and joins the wrong ids: it names the sum of a stranger's order.
Three analysts correct it, each in their own SQL; the loop learns, the gate decides by what the queries find.
"""

from itertools import product
from typing import Any

from agent import graph, loop
from bookshop import customers, titles

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
SPENT = "how much did {customer} spend with us"
DAILY = (
    "in which city does {customer} live",
    "what is the price of {title}",
    "how many copies of {title} are left in stock",
    "which tables would mention {title}",
)
RIGHT = {
    "mia": "SELECT sum(l.copies * b.euros) AS euros FROM customers c JOIN orders o ON o.customer_id = c.id"
    " JOIN order_lines l ON l.order_id = o.id JOIN books b ON b.id = l.book_id WHERE c.name = '{customer}'",
    "omar": "SELECT sum(copies * euros) AS euros FROM order_lines JOIN books ON books.id = book_id WHERE order_id IN"
    " (SELECT id FROM orders WHERE customer_id = (SELECT id FROM customers WHERE name = '{customer}'))",
    "jun": "SELECT sum(copies * euros) AS euros FROM customers, orders, order_lines, books WHERE"
    " customers.id = customer_id AND orders.id = order_id AND books.id = book_id AND name = '{customer}'",
}


def ask(thread: str, question: str) -> str:
    """Ask in a thread of its own, and return the answer."""
    config: Any = {"configurable": {"thread_id": thread}}
    return str(graph.invoke({"messages": [("user", question)]}, config)["messages"][-1].content)


def week() -> None:
    """Let people ask; they like what is right, and the analysts correct what is not."""
    for number, (day, opening) in enumerate(product(range(4), OPENINGS)):
        for kind, words in enumerate((*DAILY, SPENT)):
            asked = {"customer": customers[number], "title": titles[(number + 3 * day + 2 * kind) % len(titles)]}
            thread = f"{day}-{number}-{kind}"
            ask(thread, f"{opening} {words.format(**asked)}")
            if words in DAILY:
                loop.feedback(thread=thread, score=1, by=f"clerk-{number}")
                continue
            analyst = list(RIGHT)[(number + day) % len(RIGHT)]
            right = {"tool": "query", "args": {"sql": RIGHT[analyst].format(**asked)}}
            loop.feedback(thread=thread, score=-1, correction=right, by=analyst)


def main() -> None:
    """Play it, and print the ending."""
    question = "Hello, " + SPENT.format(customer=customers[-1])
    print("asked:   ", question)
    print("before:  ", ask("before", question))
    week()
    print(f"a week:   {len(loop.runs(1000))} runs, {len(loop.flagged())} of them flagged")
    report = loop.cycle()
    print(f"the gate: {report.outcome}; `learnloop report` shows why")
    print("after:   ", ask("after", question))
    print("as ever: ", ask("old", "Hello, in which city does Greta Marsh live"))
    print("The way back: `learnloop rollback`. What was decided, and why: `learnloop log`.")


if __name__ == "__main__":
    with loop:
        main()
