"""LearnLoop: watch a LangGraph agent, learn what its users correct, prove it, swap it in, and take it back.

The public names are loaded at first use (PEP 562), so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langgraph_learnloop.config import LoopConfig as LoopConfig
    from langgraph_learnloop.config import load_config as load_config
    from langgraph_learnloop.errors import LearnLoopError as LearnLoopError
    from langgraph_learnloop.loop import LearnLoop as LearnLoop
    from langgraph_learnloop.records import CycleReport as CycleReport
    from langgraph_learnloop.records import Dataset as Dataset
    from langgraph_learnloop.records import Example as Example
    from langgraph_learnloop.records import Feedback as Feedback
    from langgraph_learnloop.records import Flag as Flag
    from langgraph_learnloop.records import Message as Message
    from langgraph_learnloop.records import Recipe as Recipe
    from langgraph_learnloop.records import Release as Release
    from langgraph_learnloop.records import Run as Run
    from langgraph_learnloop.records import Scorecard as Scorecard
    from langgraph_learnloop.records import Similar as Similar
    from langgraph_learnloop.records import ToolCall as ToolCall
    from langgraph_learnloop.records import Weakness as Weakness

__version__ = "0.1.0"

_HOME = {
    "CycleReport": "records",
    "Dataset": "records",
    "Example": "records",
    "Feedback": "records",
    "Flag": "records",
    "LearnLoop": "loop",
    "LearnLoopError": "errors",
    "LoopConfig": "config",
    "Message": "records",
    "Recipe": "records",
    "Release": "records",
    "Run": "records",
    "Scorecard": "records",
    "Similar": "records",
    "ToolCall": "records",
    "Weakness": "records",
    "load_config": "config",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return [*__all__, "__version__"]
