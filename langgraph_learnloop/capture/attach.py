"""Watch a compiled graph without changing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from langgraph_learnloop.capture.recorder import Recorder
from langgraph_learnloop.errors import ConfigError

if TYPE_CHECKING:
    from langgraph.pregel import Pregel


Graph = TypeVar("Graph", bound="Pregel[Any, Any, Any, Any]")


def watch(graph: Graph, recorder: Recorder) -> Graph:
    """Return the graph with the recorder among its callbacks; the caller's own callbacks go on working.

    Watching a graph twice with one recorder records it once. Raise ConfigError for what is not a compiled graph.
    """
    if not hasattr(graph, "with_config"):
        raise ConfigError(
            f"Only a compiled graph can be watched, and this is a {type(graph).__name__!r}. "
            "Pass what builder.compile() or create_agent(...) returns."
        )
    there = (getattr(graph, "config", None) or {}).get("callbacks")
    handlers = there if isinstance(there, list) else getattr(there, "handlers", [])
    return graph if recorder in handlers else graph.with_config(callbacks=[recorder])
