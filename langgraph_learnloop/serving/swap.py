"""Put a release into a running engine: load it beside the others, prove it, then flip the pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from langgraph_learnloop.errors import ConfigError, EngineError, IllegalMoveError
from langgraph_learnloop.ports import Engine
from langgraph_learnloop.records import Message, Probe, Release

Flipped = TypeVar("Flipped")


def agree(release_id: str, pairs: Sequence[tuple[Message | None, Message | None]], least: float = 0.75) -> None:
    """Raise EngineError when fewer than `least` (0 to 1) of a release's answers are the ones it gave before.

    Each pair is what it answered when it was examined, and what it answers now.
    A few may differ: sums of floating point numbers depend on what else is in the batch, so near ties can flip.
    """
    differ = [then for then, now in pairs if not same(then, now)]
    if len(differ) > (1 - least) * len(pairs):
        raise EngineError(
            f"Release {release_id!r} answered {len(differ)} of {len(pairs)} probes otherwise than when it was examined:"
            " the adapter that was loaded is not the one that passed. The champion still serves; train it again."
        )


def prove(engine: Engine, release: Release, probes: Sequence[Probe]) -> None:
    """Load a release and ask it the probes; raise EngineError, and unload it, where it answers otherwise than then.

    A server may answer 200 for an adapter that is not there, and one that was read from a stale cache looks well: what
    tells is what it says. Half of the answers may differ: the probes are such that other releases answer hardly any of
    them so, and in another batch near ties flip.
    """
    engine.load(release)
    try:
        answers = [(probe.answer, engine.generate(probe.request).message) for probe in probes]
        agree(release.release_id, answers, least=0.5)
    except EngineError:
        engine.unload(release.release_id)
        raise


def swap(engine: Engine, release: Release, check: Callable[[], None], flip: Callable[[], Flipped]) -> Flipped:
    """Load a release, `check` it and return what `flip` does, which moves the pointer to it.

    On any failure unload it and raise EngineError.
    """
    engine.load(release)
    try:
        check()
        return flip()
    except Exception as error:
        engine.unload(release.release_id)
        if isinstance(error, EngineError | IllegalMoveError | ConfigError):  # they say all there is to say
            raise
        raise EngineError(
            f"Release {release.release_id!r} was loaded, but could not be put in service: {error}. "
            "The champion still serves; promote it again."
        ) from error


def same(then: Message | None, now: Message | None) -> bool:
    """Return whether two answers say the same; two that are missing do."""
    return then is now if then is None or now is None else then.alike(now)
