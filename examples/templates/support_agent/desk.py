"""What the help desk works with: orders, and tools that act on them.

A tool acts, or says in words why it does not: the model reads the reason and can go another way. In a replay none of
them runs: they answer what they answered when the run was recorded.
"""

from dataclasses import dataclass
from typing import Literal

from langchain_core.tools import tool

LIMIT = 100
"""Euros that may be refunded without a person."""
Reason = Literal["broken", "torn", "wrong size", "lost parcel", "above the limit", "something else"]
_THINGS = (("a rain jacket", 89), ("hiking boots", 149), ("a head torch", 35), ("a tent", 320), ("wool socks", 12))


@dataclass
class Order:
    """What somebody bought."""

    thing: str
    price: int
    refunded: bool = False


orders = {1000 + number: Order(*_THINGS[number % len(_THINGS)]) for number in range(400)}
"""Every order by its number; a real shop would ask its own system."""
tickets: list[str] = []
"""What waits for a person."""


@tool
def look_up_order(order: int) -> str:
    """Say what was bought, and for how much."""
    found = orders.get(order)
    return f"Order {order}: {found.thing}, {found.price} euros." if found else _unknown(order)


@tool
def track_parcel(order: int) -> str:
    """Say where the parcel of an order is."""
    return f"The parcel of order {order} left our house on Monday." if order in orders else _unknown(order)


@tool
def refund(order: int, reason: Reason) -> str:
    """Give the money back for an order, up to the limit."""
    found = orders.get(order)
    if found is None:
        return _unknown(order)
    if found.refunded:
        return f"Order {order} was refunded before."
    if found.price > LIMIT:
        return f"Not refunded: {found.price} euros are more than {LIMIT}. Hand it over to a person."
    found.refunded = True
    return f"Refunded: {found.price} euros for order {order} ({reason})."


@tool
def hand_over(order: int, reason: Reason) -> str:
    """Have a person look at it."""
    tickets.append(f"order {order}: {reason}")
    return f"A person looks at order {order} ({reason}) today."


TOOLS = [look_up_order, track_parcel, refund, hand_over]


def _unknown(order: int) -> str:
    return f"There is no order {order}; ask for the number on the invoice."
