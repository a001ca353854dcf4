"""A real vLLM on this processor answers as transformers and PEFT do; `make vllm` makes its environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.local_engine import LocalEngine
from langgraph_learnloop.serving.toolcalls import parse_answer
from tests.improvement.tiny_base import make_base
from tests.serving.conftest import NOW, make_release

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("VLLM_PYTHON", str(ROOT / ".venv-vllm" / "bin" / "python"))
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
HEAD = 64
"""Width of a head; vLLM's attention on processors takes no smaller one."""
START_SECONDS = 400.0
COMPOSE = ROOT / "integrations" / "vllm" / "compose.yaml"
READ_FLAGS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

args = make_arg_parser(FlexibleArgumentParser()).parse_args()
print(json.dumps([*args.served_model_name, args.enable_lora, args.max_lora_rank, args.tool_call_parser]))
"""
SETTINGS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_API_KEY": "of-the-test",
}
SLOTS = "48"
"""Adapters that the server takes side by side: more than are loaded here. On processors vLLM 0.32 answers for the bare
base with the adapter of the last slot, if there is one and others are answered at the same time."""
FLAGS = (
    *("--served-model-name", "base", "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "256"),
    *("--max-num-seqs", "4", "--enforce-eager", "--enable-lora", "--max-loras", SLOTS, "--max-lora-rank", "8"),
)

pytest.importorskip("openai", reason="the openai extra is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no environment with vLLM: `make vllm` makes it"),
]


class Releases(NamedTuple):
    """A base and two adapters of it."""

    base: Release
    one: Release
    two: Release


@dataclass
class Vllm:
    """A vLLM server that can be started anew at the same address."""

    model: str
    log: Path
    port: int = field(default_factory=lambda: free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model, "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *FLAGS],
                env={**os.environ, **SETTINGS},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.log.parent,
            )
        self.wait()

    def wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.ready():
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                pytest.fail(f"vLLM did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.5)

    def ready(self) -> bool:
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


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    folder = tmp_path_factory.mktemp("vllm")
    base = make_base(folder / "base", hidden=4 * HEAD)
    settings = base / "generation_config.json"
    habits = {"repetition_penalty": 1.5, "top_k": 3, "temperature": 0.9}  # a server would take them for its own
    settings.write_text(json.dumps(json.loads(settings.read_text()) | habits))
    bare = Release(base_model=str(base), made_at=NOW)
    return Releases(bare, *(make_release(str(base), folder, seed) for seed in (1, 2)))


@pytest.fixture(scope="module")
def vllm(releases: Releases) -> Iterator[Vllm]:
    base = Path(releases.base.base_model)
    server = Vllm(str(base), base.parent / "vllm.log")
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def local(releases: Releases) -> Iterator[LocalEngine]:
    engine = LocalEngine(releases.base.base_model)
    for release in releases:
        engine.load(release)
    yield engine
    engine.close()


@pytest.fixture
def engine(vllm: Vllm, releases: Releases) -> Iterator[VllmEngine]:
    made = engine_at(vllm, releases)
    yield made
    for release in releases:
        made.unload(release.release_id)
    made.close()


def engine_at(vllm: Vllm, releases: Releases) -> VllmEngine:
    base, key = releases.base.base_model, SETTINGS["VLLM_API_KEY"]
    return VllmEngine([vllm.url], base, key=key, parse=parse_answer, seconds=300.0, load_seconds=300.0)


def asked(release: Release, text: str = "weather in oslo", tokens: int = 24) -> Generation:
    return Generation(
        release_id=release.release_id,
        messages=(Message(role="user", content=text),),
        tools=TOOLS,
        sampling=Sampling(max_tokens=tokens),
    )


def after_a_tool(release: Release) -> Generation:
    call = ToolCall(name="weather", args={"city": "Oslo", "days": 2}, id="call_1")
    said = (Message(role="assistant", tool_calls=(call,)), Message(role="tool", content="rain", tool_call_id="call_1"))
    request = asked(release)
    return request.model_copy(update={"messages": (*request.messages, *said)})


def text_of(answer: Generated) -> str:
    """Return what was said; the beginning of a character that never came is shown by one engine only."""
    return answer.message.content.rstrip("\ufffd").rstrip()


def test_base_and_adapters_answer_as_peft_does(engine: VllmEngine, local: LocalEngine, releases: Releases) -> None:
    """Greedily, word for word, with tools in the prompt and after a tool's result; each release in its own way."""
    texts = []
    for release in releases:
        engine.load(release)
        for request in (asked(release), asked(release, "hello", 8), after_a_tool(release)):
            theirs, ours = engine.generate(request), local.generate(request)
            assert text_of(theirs) == text_of(ours)
            assert (theirs.input_tokens, theirs.finish_reason) == (ours.input_tokens, ours.finish_reason)
            texts.append(text_of(theirs))
    assert len(set(texts)) == len(texts)


def test_a_stream_says_what_generate_says(engine: VllmEngine, releases: Releases) -> None:
    """Its last item is the whole answer, with its tokens counted."""
    engine.load(releases.one)
    *texts, answer = engine.stream(asked(releases.one))
    assert answer == engine.generate(asked(releases.one))
    assert "".join(str(text) for text in texts) == answer.message.content


def test_more_is_asked_than_it_can_write(engine: VllmEngine, local: LocalEngine, releases: Releases) -> None:
    """The most tokens of an answer may be more than the server reads and writes in all."""
    engine.load(releases.base)
    theirs, ours = (one.generate(asked(releases.base, tokens=5000)) for one in (engine, local))
    assert text_of(theirs)
    assert text_of(ours).startswith(text_of(theirs))


def test_what_is_too_long_is_refused_in_a_sentence(engine: VllmEngine, releases: Releases) -> None:
    """The server's reason is handed on."""
    engine.load(releases.base)
    with pytest.raises(EngineError, match=r"answered 400: .*maximum context length"):
        engine.generate(asked(releases.base, "oslo " * 400))


class Pointer:
    """Name the release to ask, and know who is asking."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.asking: Counter[str] = Counter()
        self.changed = threading.Condition()

    @contextmanager
    def read(self) -> Iterator[Release]:
        with self.changed:
            release = self.release
            self.asking[release.release_id] += 1
        try:
            yield release
        finally:
            with self.changed:
                self.asking[release.release_id] -= 1
                self.changed.notify_all()

    def flip(self, release: Release) -> Release:
        """Name another release; return the one before when nobody asks it any more."""
        with self.changed:
            before, self.release = self.release, release
            self.changed.wait_for(lambda: not self.asking[before.release_id])
        return before


def test_releases_are_swapped_while_they_answer(engine: VllmEngine, local: LocalEngine, releases: Releases) -> None:
    """Twenty loads and unloads under four threads: no request fails, and each answer is of the release it asked."""
    right = {r.release_id: text_of(local.generate(asked(r, tokens=12))) for r in releases}
    assert len(set(right.values())) == len(releases)
    pointer, done = Pointer(releases.base), threading.Event()
    engine.load(releases.base)

    def work() -> int:
        answered = 0
        while not done.is_set():
            with pointer.read() as release:
                assert text_of(engine.generate(asked(release, tokens=12))) == right[release.release_id]
            answered += 1
        return answered

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work) for _ in range(4)]
        try:
            for turn in range(20):
                release = (releases.one, releases.two, releases.base)[turn % 3]
                engine.load(release)
                engine.unload(pointer.flip(release).release_id)
        finally:
            done.set()
        assert all(one.result() > 0 for one in working)
    assert engine.replicas()[0].releases == (releases.two.release_id,)


def test_several_releases_answer_side_by_side(engine: VllmEngine, local: LocalEngine, releases: Releases) -> None:
    """More requests than the server takes at once, of all the releases, mixed."""
    right = {r.release_id: text_of(local.generate(asked(r, tokens=12))) for r in releases}
    for release in releases:
        engine.load(release)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda r: text_of(engine.generate(asked(r, tokens=12))), releases * 8))
    assert answers == [right[r.release_id] for r in releases] * 8


def test_unloading_and_loading_again(engine: VllmEngine, vllm: Vllm, releases: Releases) -> None:
    """What is unloaded is gone from the server, and can come back under its name."""
    for _ in range(2):
        engine.load(releases.one)
        assert engine.replicas()[0].releases == (releases.one.release_id,)
        engine_at(vllm, releases).load(releases.one)  # another process: it is there already
        engine.unload(releases.one.release_id)
        assert engine.replicas()[0].releases == ()
        with pytest.raises(EngineError, match="not loaded in this engine"):
            engine.generate(asked(releases.one))


def test_an_adapter_that_vllm_cannot_serve(engine: VllmEngine, releases: Releases, tmp_path: Path) -> None:
    """Its own reason is handed on, and it goes on serving."""
    release = make_release(releases.base.base_model, tmp_path, 3)
    settings = Path(str(release.adapter), "adapter_config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"use_dora": True}))
    with pytest.raises(EngineError, match=r"is not loaded.*vLLM does not yet support DoRA"):
        engine.load(release)
    engine.load(releases.one)
    assert engine.generate(asked(releases.one)).output_tokens > 0


def test_without_its_key_the_server_is_closed(vllm: Vllm, releases: Releases) -> None:
    """The error says what to give."""
    with pytest.raises(EngineError, match=r"answered 401.*Give the engine the server's key"):
        VllmEngine([vllm.url], releases.base.base_model).load(releases.one)


def test_a_server_that_is_started_anew_gets_its_adapters(
    engine: VllmEngine, vllm: Vllm, local: LocalEngine, releases: Releases
) -> None:
    """While it is away a request fails in a sentence; when it is back, releases answer as before."""
    for release in releases:
        engine.load(release)
    vllm.stop()
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.generate(asked(releases.one))
    assert not engine.replicas()[0].ready
    vllm.start()
    assert engine.replicas()[0].releases == ()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda r: text_of(engine.generate(asked(r))), [releases.one, releases.two] * 2))
    assert answers == [text_of(local.generate(asked(r))) for r in (releases.one, releases.two)] * 2
    assert len(engine.replicas()[0].releases) == 2


def test_the_compose_file_starts_what_there_is() -> None:
    """Its command is one that this vLLM understands, and its settings are those under which adapters can be loaded."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    services = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    assert len({service["ports"][0] for service in services.values()}) == len(services) == 2
    for service in services.values():
        assert service["entrypoint"] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
        assert set(SETTINGS) - set(service["environment"]) == {"VLLM_CPU_KVCACHE_SPACE"}
        command = service["command"]
    done = subprocess.run(
        [PYTHON, "-c", READ_FLAGS, *command], capture_output=True, text=True, env={**os.environ, **SETTINGS}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["base", True, 16, "hermes"]
