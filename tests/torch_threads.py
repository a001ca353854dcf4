"""PyTorch on one thread, for tests that run a small model; a conftest that imports the fixture turns it on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_processor_thread() -> Iterator[None]:
    """Keep PyTorch from spinning on busy cores, here and in the workers."""
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)
