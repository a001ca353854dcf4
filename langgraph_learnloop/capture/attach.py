"""Put the recorder where it sees runs: into one compiled graph, or into everything that a process runs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook

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


class Everywhere:
    """A recorder that is added to every run of this process, until `off` is called.

    LangChain takes a context variable as such a hook and only ever calls its `get`. A variable's value is seen in one
    context only, its default in all of them but for good: so this is an object that answers like one.
    """

    def __init__(self, recorder: Recorder) -> None:
        """Add a recorder to every run from now on, in all threads and event loops."""
        self._recorder = recorder
        self._is_on = True
        register_configure_hook(cast("ContextVar[Any]", self), inheritable=True)

    def get(self) -> BaseCallbackHandler:
        """Return the handler to add to a run that begins now; never None, for LangChain asks twice."""
        return self._recorder if self._is_on else _DEAF

    def on(self) -> None:
        """Add it again."""
        self._is_on = True

    def off(self) -> None:
        """Add it no longer; runs that have begun are recorded to their end."""
        self._is_on = False

    def __enter__(self) -> Self:
        """Return the switch."""
        return self

    def __exit__(self, *_: object) -> None:
        """Switch off."""
        self.off()


class _Deaf(BaseCallbackHandler):
    """Hears nothing."""

    ignore_agent = ignore_chain = ignore_chat_model = ignore_custom_event = ignore_llm = ignore_retriever = True
    ignore_retry = True
    run_inline = True


_DEAF = _Deaf()
