"""Where Unsloth is, for the tests that need it, and how what it trained is served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from langgraph_learnloop.records import Generation, Release, Sampling, ToolCall, TrainingResult
from langgraph_learnloop.serving.local_engine import LocalEngine
from tests.improvement.tiny_base import weather_examples

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("UNSLOTH_PYTHON", str(ROOT / ".venv-unsloth" / "bin" / "python"))
NEEDED = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with Unsloth: `make unsloth` makes it"),
    pytest.mark.usefixtures("this_package"),
]


@pytest.fixture(scope="module")
def this_package() -> Iterator[None]:
    """Let the worker run the package that is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


def answers(base: Path, result: TrainingResult) -> list[tuple[ToolCall, ...]]:
    """Serve an adapter by the agent's own engine; return what it calls for each of the cities."""
    release = Release(
        base_model=str(base),
        adapter=result.adapter,
        adapter_sha256=result.adapter_sha256,
        made_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    engine = LocalEngine(base)
    engine.load(release)
    asked = [
        Generation(release_id=release.release_id, messages=e.messages, sampling=Sampling(max_tokens=40))
        for e in weather_examples()
    ]
    calls = [engine.generate(one).message.tool_calls for one in asked]
    engine.close()
    return calls
