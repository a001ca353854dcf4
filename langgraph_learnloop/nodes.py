"""Nodes and edges for people who compose graphs rather than pass callbacks.

builder.add_node("record", record_node(loop))
builder.add_node("check", flag_node(loop, lambda state: "No answer." if not state["answer"] else None))
builder.add_conditional_edges("check", route_flagged(loop, "repair"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from langgraph.constants import END

from langgraph_learnloop.loop import LearnLoop


class Node(Protocol):
    """A node that changes nothing in the state; `add_node` wants the argument's name, so no `Callable` will do."""

    def __call__(self, state: Any) -> dict[str, Any]:
        """Return no change."""
        ...


def record_node(loop: LearnLoop) -> Node:
    """Return a node by which a graph that nobody watches is recorded, whole, whenever it comes by; put it anywhere."""
    want = loop.want()

    def record(state: Any) -> dict[str, Any]:
        want()
        return {}

    return record


def flag_node(loop: LearnLoop, reason: str | Callable[[Any], str | None]) -> Node:
    """Return a node that flags the run it is in, and records it if nobody watches the graph.

    `reason` is a sentence, or a function of the state that returns one, or None when nothing is wrong.
    """
    want = loop.want()

    def flag(state: Any) -> dict[str, Any]:
        why = reason(state) if callable(reason) else reason
        if why:
            want()
            loop.flag(why)
        return {}

    return flag


def route_flagged(loop: LearnLoop, flagged: str, otherwise: str = END) -> Callable[[Any], str]:
    """Return a conditional edge: to the node or subgraph `flagged` when a flag node spoke in this run, else on."""

    def route(state: Any) -> str:
        return flagged if loop.is_flagged() else otherwise

    return route
