"""What commands work on: a store that is there, a dataset in it, your own LearnLoop, and who asks."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langgraph_learnloop.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from langgraph_learnloop.loop import LearnLoop
    from langgraph_learnloop.records import Dataset


@contextmanager
def opened(store: str, **settings: Any) -> Iterator[LearnLoop]:
    """Open a store that is there, with other settings than the file's if they are given; a look must not make one."""
    if "://" not in store and not Path(store).exists():
        raise ConfigError(
            f"There is no store at {store!r}: name it with --store, or run your agent under LearnLoop first."
        )
    from langgraph_learnloop.config import load_config
    from langgraph_learnloop.loop import LearnLoop

    with LearnLoop(store, config=load_config(**settings)) as loop:
        yield loop


def newest(loop: LearnLoop, beginning: str | None) -> Dataset:
    """Return the newest dataset with something to learn whose version begins so."""
    known = [one for one in loop.store.datasets.all() if one.counts.keys() - {"replay"}]
    found = [one for one in known if one.version.startswith(beginning or "")]
    if not found:
        what = f"no dataset whose version begins with {beginning!r}" if beginning else "no dataset"
        raise NotFoundError(f"There is {what} in the store: `learnloop cycle` makes one of the corrections.")
    return found[-1]


def loaded(name: str | None) -> LearnLoop:
    """Return your own LearnLoop, as it is named here or in the settings; raise ConfigError if there is none."""
    from langgraph_learnloop.config import load_config, named
    from langgraph_learnloop.loop import LearnLoop

    name = name or load_config().app
    if not name or ":" not in name:
        raise ConfigError('Name your LearnLoop with --app "module:attribute", or as `app` in learnloop.toml.')
    loop = named(name, "The LearnLoop")
    if not isinstance(loop, LearnLoop):
        raise ConfigError(f"{name!r} is a {type(loop).__name__}, not a LearnLoop: name the variable that holds yours.")
    return loop


def whoever() -> str:
    """Return the name of who runs the command on this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
