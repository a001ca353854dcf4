"""What the tests of Ray share, those of vLLM, and those of Langfuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from langgraph_learnloop.records import Release
from tests.integrations.loopback_langfuse import Langfuse
from tests.integrations.loopback_vllm import LAYERS, Server, release_of, write_weights


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Start a Ray of two processors and no GPU on this machine."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")  # sums come out in one order, in every worker
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100_000_000,
            _node_ip_address="127.0.0.1",
        )
        yield
        ray.shutdown()


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Langfuse]:
    """Yield a Langfuse with an empty project; it refuses lists of scores, as the real one does."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("LANGFUSE_TRACING_ENABLED", raising=False)
    with Langfuse() as made:
        yield made


@pytest.fixture
def make_servers(monkeypatch: pytest.MonkeyPatch, base: Path) -> Iterator[Callable[[int], list[Server]]]:
    monkeypatch.setenv("NO_PROXY", "*")
    with ExitStack() as stack:

        def make(number: int) -> list[Server]:
            servers = [stack.enter_context(Server(str(base))) for _ in range(number)]
            for server in servers:
                server.live()
                stack.callback(server.shutdown)
                stack.callback(server.over.set)
            return servers

        yield make


@pytest.fixture
def servers(make_servers: Callable[[int], list[Server]]) -> list[Server]:
    return make_servers(2)


@pytest.fixture
def server(make_servers: Callable[[int], list[Server]]) -> Server:
    return make_servers(1)[0]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    write_weights(folder / "model.safetensors", {f"{layer}.weight": (8, 16) for layer in LAYERS})
    return folder


@pytest.fixture
def release(base: Path) -> Release:
    return release_of(base, "one")
