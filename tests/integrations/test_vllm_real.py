"""A real vLLM on this processor answers as transformers and PEFT do; `make vllm` makes its environment."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from benchmarks.vllm_server import KEY, PYTHON, SETTINGS, Vllm
from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.integrations.vllm_engine import VllmEngine
from langgraph_learnloop.records import Generated, Generation, Message, Release, Sampling, ToolCall
from langgraph_learnloop.serving.local_engine import LocalEngine
from langgraph_learnloop.serving.toolcalls import parse_answer
from tests.improvement.tiny_base import make_base
from tests.serving.conftest import NOW, make_release

ROOT = Path(__file__).parents[2]
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
HEAD = 64
"""Width of a head; vLLM's attention on processors takes no smaller one."""
COMPOSE = ROOT / "integrations" / "vllm" / "compose.yaml"
READ_FLAGS = """
import json
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

args = make_arg_parser(FlexibleArgumentParser()).parse_args()
print(json.dumps([*args.served_model_name, args.enable_lora, args.max_lora_rank, args.tool_call_parser]))
"""

pytest.importorskip("openai", reason="the openai extra is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not PYTHON.exists(), reason="no environment with vLLM: `make vllm` makes it"),
]


class Releases(NamedTuple):
    """A base and two adapters of it."""

    base: Release
    one: Release
    two: Release


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
    with Vllm(str(base), base.parent / "vllm.log") as server:
        yield server


@pytest.fixture(scope="module")
def local(releases: Releases) -> Iterator[LocalEngine]:
    engine = LocalEngine(releases.base.base_model)
    for release in releases:
        engine.load(release)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def swapping() -> Iterator[ModuleType]:
    """Give the part of the benchmark that needs a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("serving_vllm")


@pytest.fixture
def engine(vllm: Vllm, releases: Releases) -> Iterator[VllmEngine]:
    made = engine_at(vllm, releases)
    yield made
    for release in releases:
        made.unload(release.release_id)
    made.close()


def engine_at(vllm: Vllm, releases: Releases) -> VllmEngine:
    base = releases.base.base_model
    return VllmEngine(
        [vllm.url], base, key=KEY, parse=parse_answer, seconds=300.0, load_seconds=300.0, look_seconds=60.0
    )


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


def test_probabilities_are_those_of_the_model(engine: VllmEngine, releases: Releases) -> None:
    """As transformers and PEFT compute them, of each token, the likeliest first; the same in a stream."""
    engine.load(releases.one)
    request = asked(releases.one).model_copy(update={"tools": (), "logprobs": 3})
    answer = engine.generate(request)
    assert len(answer.logprobs) == answer.output_tokens
    assert [len(token.top) for token in answer.logprobs] == [3] * answer.output_tokens
    assert answer == list(engine.stream(request))[-1]
    right = first_logprobs(releases.one, request.messages[0].content)
    assert [value for _, value in answer.logprobs[0].top] == pytest.approx(right[:3], abs=1e-3)
    assert (answer.logprobs[0].token, answer.logprobs[0].logprob) == answer.logprobs[0].top[0]  # it was greedy
    drawn = request.model_copy(update={"sampling": Sampling(temperature=1.9, max_tokens=8)})
    (token, *_) = engine.generate(drawn).logprobs
    assert [value for _, value in token.top] == pytest.approx(right[:3], abs=1e-3)
    assert engine.generate(asked(releases.one)).logprobs == ()


def first_logprobs(release: Release, text: str) -> list[float]:
    """Return the log-probabilities of what can begin an answer, the likeliest first, without any server."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(release.base_model)
    base = AutoModelForCausalLM.from_pretrained(release.base_model, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(release.adapter))
    said = [{"role": "user", "content": text}]
    inputs = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        likely = model(**inputs).logits[0, -1].log_softmax(-1)
    return sorted(likely.tolist(), reverse=True)


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
    """Each comes and goes again and again under four threads: no request fails, each answer is of who was asked."""
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
            for turn in range(8):
                release = (releases.one, releases.two, releases.base)[turn % 3]
                engine.load(release)
                engine.unload(pointer.flip(release).release_id)
        finally:
            done.set()
        assert all(one.result() > 0 for one in working)
    assert engine.replicas()[0].releases == (releases.two.release_id,)


def test_the_benchmark_of_swaps_runs(swapping: ModuleType, vllm: Vllm, releases: Releases, tmp_path: Path) -> None:
    """Sixteen people, the pointer that flips, one adapter that is new and one that goes: nothing fails or is mixed."""
    some = [releases.one, releases.two, make_release(releases.base.base_model, tmp_path, 3)]
    brief = [one.model_copy(update={"sampling": Sampling(max_tokens=12)}) for one in some]
    figures = swapping.measure(vllm.url, tmp_path, brief, count=12, rounds=1, requests=2, every=8)
    assert figures["wrong"] == []
    assert (figures["swaps"], figures["fresh"]) == (12, 1)
    assert figures["requests"] > 0


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


def test_what_another_process_left_or_takes_away(
    engine: VllmEngine, vllm: Vllm, local: LocalEngine, releases: Releases
) -> None:
    """Whoever comes later sees it and can unload it; who needs it all the same has it again at the next request."""
    pair = (releases.one, releases.two)
    for release in pair:
        engine.load(release)
    later = engine_at(vllm, releases)
    health = later.health()
    assert (health.trouble, set(health.loaded)) == (None, {release.release_id for release in pair})
    assert health.waiting == 0
    for release in pair:
        later.unload(release.release_id)
    assert later.health().loaded == ()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda r: text_of(engine.generate(asked(r))), pair * 2))
    assert answers == [text_of(local.generate(asked(r))) for r in pair] * 2
    assert set(engine.health().loaded) == {release.release_id for release in pair}


def test_an_adapter_that_was_cut_off_before_it_was_registered(
    engine: VllmEngine, releases: Releases, tmp_path: Path
) -> None:
    """Its hash is right, and the server cannot read it: the reason is handed on, and nothing is left there."""
    whole = make_release(releases.base.base_model, tmp_path, 4)
    weights = Path(str(whole.adapter), "adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    release = whole.model_copy(update={"adapter_sha256": file_sha256(weights)})
    with pytest.raises(EngineError, match=r"is not loaded.*It does not hold"):
        engine.load(release)
    assert engine.health().loaded == ()


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
        [str(PYTHON), "-c", READ_FLAGS, *command], capture_output=True, text=True, env={**os.environ, **SETTINGS}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == ["base", True, 16, "hermes"]


def test_a_server_that_is_killed_in_the_middle_of_an_answer(engine: VllmEngine, vllm: Vllm, releases: Releases) -> None:
    """What it said was handed out, then comes the error; health tells, and so does every other request.

    More people ask than it answers at once, so that some are not done when it dies. The last test that has a server.
    """
    engine.load(releases.one)
    said, begun = list[object](), threading.Event()

    def listen() -> None:
        for part in engine.stream(asked(releases.one, tokens=200)):
            said.append(part)
            begun.set()

    with ThreadPoolExecutor(3 * vllm.at_once) as people:
        ends = [people.submit(listen) for _ in range(3 * vllm.at_once)]
        assert begun.wait(60)
        vllm.stop()
    errors = [str(end.exception()) for end in ends if isinstance(end.exception(), EngineError)]
    assert said
    assert any("hung up" in error for error in errors), errors
    with pytest.raises(EngineError, match="cannot be reached"):
        engine.generate(asked(releases.one))
    health = engine.health()
    assert str(health.trouble).startswith("No replica is ready. ")
    assert health.loaded == ()
