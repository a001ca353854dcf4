"""Put a release into a running engine: load it beside the others, check it, then flip the pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Message, Release

Pair = tuple[Message | None, Message | None]
"""What a release answered when it was examined, and what it answers now."""


def agree(release_id: str, pairs: Sequence[Pair], least: float = 0.75) -> None:
    """Raise EngineError when fewer than `least` (0 to 1) of a release's answers are the ones it gave before.

    A few may differ: sums of floating point numbers depend on what else is in the batch, so near ties can flip.
    """
    differ = [then for then, now in pairs if not _same(then, now)]
    if len(differ) > (1 - least) * len(pairs):
        raise EngineError(
            f"Release {release_id!r} answered {len(differ)} of {len(pairs)} probes otherwise than when it was examined:"
            " the adapter that was loaded is not the one that passed. The champion still serves; train it again."
        )


def swap(engine: Engine, release: Release, check: Callable[[], None], flip: Callable[[], None]) -> None:
    """Load a release, `check` it and `flip` the pointer to it; on any failure unload it and raise EngineError."""
    engine.load(release)
    try:
        check()
        flip()
    except Exception as error:
        engine.unload(release.release_id)
        if isinstance(error, EngineError):
            raise
        raise EngineError(
            f"Release {release.release_id!r} was loaded, but could not be put in service: {error}. "
            "The champion still serves; promote it again."
        ) from error


def _same(then: Message | None, now: Message | None) -> bool:
    """Compare text and calls; ids of calls are made anew each time."""
    if then is None or now is None:
        return then is now
    return then.content.strip() == now.content.strip() and _calls(then) == _calls(now)


def _calls(message: Message) -> list[tuple[str, dict[str, object]]]:
    return [(call.name, call.args) for call in message.tool_calls]
