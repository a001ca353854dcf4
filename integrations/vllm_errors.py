"""Make one sentence of the many ways in which a vLLM server fails to answer. A part of `vllm_engine`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.texts import one_line


class ReplicaError(EngineError):
    """Say what one replica did wrong, and whether that is worth another try."""

    def __init__(self, message: str, status: int | None = None, *, here: bool = False, elsewhere: bool = False) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status; None where there was none."""
        self.here = here
        """The same replica may do better at once."""
        self.elsewhere = elsewhere or here
        """Another replica may do better."""

    @property
    def rests(self) -> bool:
        """Return whether the replica had better be spared for a while."""
        return self.elsewhere and self.status != 404


@contextmanager
def heard(url: str) -> Iterator[None]:
    """Make one sentence of the many ways in which a server fails to answer."""
    import openai

    who = f"The replica {url!r}"
    try:
        yield
    except openai.APIStatusError as error:
        status, said = error.status_code, one_line(_message(error))
        worth = status in (404, 408, 429) or status >= 500
        raise ReplicaError(
            f"{who} answered {status}: {said}.{_way_out(status, said)}", status, here=status >= 500, elsewhere=worth
        ) from error
    except openai.APITimeoutError as error:
        raise ReplicaError(
            f"{who} did not answer in time: give the engine more seconds, or add a replica.", elsewhere=True
        ) from error
    except openai.APIConnectionError as error:
        cause = one_line(error.__cause__ or error)
        raise ReplicaError(
            f"{who} cannot be reached, or hung up ({cause}): see that it runs there.", here=True
        ) from error
    except RuntimeError as error:  # the client was closed
        raise ReplicaError(f"{who} cannot be asked: {one_line(error)}. Make a new engine.") from error
    except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:  # no JSON, or not of this form
        said = "it has another form" if isinstance(error, AttributeError | TypeError) else one_line(error)
        raise ReplicaError(
            f"{who} sent what is no answer: {said}. See that a vLLM server runs there.", here=True
        ) from error


def _message(error: Any) -> str:
    body = error.body
    return str((body.get("message") or body.get("detail") if isinstance(body, dict) else None) or error)


def _way_out(status: int, said: str) -> str:
    """Return what to do about a refusal, where that is not in the server's own words."""
    if status == 401:
        return " Give the engine the server's key."
    if "--tool-call-parser" in said:
        return " Do that, or give the engine `parse`."
    return "" if status == 404 else " See the server's log."
