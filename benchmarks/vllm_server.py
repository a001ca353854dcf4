"""Start a vLLM on this processor, from the environment that `make vllm` makes; benchmarks and tests use it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

PYTHON = Path(os.environ.get("VLLM_PYTHON", Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"))
KEY = "of-this-machine"
START_SECONDS = 400.0
SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_API_KEY": KEY,
}
SLOTS = 48
"""Adapters that the server takes side by side: more than are ever loaded. On processors vLLM 0.32 answers for the bare
base with the adapter of the last slot, if there is one and others are answered at the same time."""
FLAGS = (
    *("--served-model-name", "base", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "256"),
    *("--enforce-eager", "--enable-lora", "--max-loras", str(SLOTS), "--max-lora-rank", "8"),
)


@dataclass
class Vllm:
    """A vLLM server; inside `with` it runs."""

    model: str
    """The base's folder."""
    log: Path
    """Where it writes what it says."""
    at_once: int = 4
    """Requests that it answers at the same time."""
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when it answers; raise RuntimeError with its last words when it does not."""
        command = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port), "--max-num-seqs", str(self.at_once), *FLAGS],
                env={**os.environ, **SETTINGS},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.log.parent,
            )
        self._wait(self.process)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.ready():
            if process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)

    def ready(self) -> bool:
        """Return whether it answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End the server and the processes it started."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
