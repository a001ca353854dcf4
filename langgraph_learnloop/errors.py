"""Name every way the loop can refuse.

LearnLoopError
├── ConfigError (ValueError)           a setting, a file name or an argument is not usable
├── DataError (ValueError)             a row, a correction or a file does not have the promised form
├── NotFoundError (LookupError)        a run, thread, release or dataset id is not in the store
├── StoreError (RuntimeError)          the store cannot be opened, read or written
│   └── NewerStoreError                the store was written by a newer version of this package
├── IllegalMoveError (RuntimeError)    a state was asked to go where its table of moves does not lead
├── TrainingError (RuntimeError)       a training job ended without an adapter
├── EngineError (RuntimeError)         a model could not be loaded or did not answer
└── MissingExtraError (ImportError)    a library of an optional extra is not installed

Every message is a sentence that says what was tried, on which id, and what to do next.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LearnLoopError(Exception):
    """Say that the loop refused something; the parent of all the errors of this package."""


class ConfigError(LearnLoopError, ValueError):
    """Say that a setting, a file name or an argument is not usable."""


class DataError(LearnLoopError, ValueError):
    """Say that a row, a correction or a file does not have the promised form."""


class NotFoundError(LearnLoopError, LookupError):
    """Say that an id is not in the store."""


class StoreError(LearnLoopError, RuntimeError):
    """Say that the store cannot be opened, read or written."""


class NewerStoreError(StoreError):
    """Say that the store was written by a newer version of this package."""


class IllegalMoveError(LearnLoopError, RuntimeError):
    """Say that a state was asked to go where its table of moves does not lead."""


class TrainingError(LearnLoopError, RuntimeError):
    """Say that a training job ended without an adapter."""


class EngineError(LearnLoopError, RuntimeError):
    """Say that a model could not be loaded or did not answer."""


def not_loaded(release_id: str, loaded: Iterable[str]) -> EngineError:
    """Return what an engine says that is asked for a release which it does not hold."""
    return EngineError(
        f"Release {release_id!r} is not loaded in this engine; load it first. "
        f"Loaded are: {', '.join(sorted(loaded)) or 'none'}."
    )


class MissingExtraError(LearnLoopError, ImportError):
    """Say that a library of an optional extra is not installed."""


@contextmanager
def needing(what: str, install: str = "langgraph-learnloop[loop]") -> Iterator[None]:
    """Turn an ImportError of the block into a MissingExtraError that says what needs the library, and pip's line."""
    try:
        yield
    except ImportError as error:
        sentence = f'{what} needs {error.name!r}: pip install "{install}".'
        raise MissingExtraError(sentence, name=error.name) from error
