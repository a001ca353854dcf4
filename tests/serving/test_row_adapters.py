"""Several releases in one step: each row is answered by its own adapter alone, as PEFT answers it."""

from __future__ import annotations

import hashlib
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generation, Message, Release, Sampling
from langgraph_learnloop.serving.local_engine import LocalEngine
from langgraph_learnloop.serving.row_adapters import shell
from langgraph_learnloop.serving.weights import ReleaseModels, load_base
from tests.serving.conftest import NOW


def adapter(base: str, folder: Path, seed: int = 0, **settings: Any) -> Release:
    """Write an adapter with random weights and return its release."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    given = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    place = folder / f"adapter-{seed}-{len(list(folder.iterdir()))}"
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **given))
    model.save_pretrained(place)
    digest = hashlib.sha256((place / "adapter_model.safetensors").read_bytes()).hexdigest()
    return Release(base_model=base, adapter=str(place), adapter_sha256=digest, made_at=NOW)


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=ids, logits_to_keep=1).logits[:, -1]


def test_each_row_is_its_own_adapters(models, tmp_path: Path, adapters: str):
    """Adapters of unlike rank, scale and layers, and the bare base, in any order and number, as PEFT alone says it."""
    from peft import PeftModel

    base = models.base.base_model
    releases = [
        *models,
        adapter(base, tmp_path, 3, r=9, use_rslora=True),
        adapter(base, tmp_path, 4, r=2, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 7}),
        adapter(base, tmp_path, 5, target_modules=["v_proj", "lm_head"]),
    ]
    model: Any = load_base(base, torch.float32)[1]
    made = ReleaseModels(model, base)
    for release in releases:
        made.add(release)
    ids = torch.randint(0, 300, (1, 9))
    alone = {
        one.release_id: logits(PeftModel.from_pretrained(shell(model), one.adapter) if one.adapter else model, ids)[0]
        for one in releases
    }
    rng = random.Random(5)
    for count in (1, 2, 3, 8, 8, 8, 5):
        rows = tuple(rng.choice(releases).release_id for _ in range(count))
        if len({made.group(row) for row in rows}) > 1:
            continue
        got = logits(made.model(rows), ids.expand(count, -1))
        expected = torch.stack([alone[row] for row in rows])
        assert torch.allclose(got, expected, atol=2e-3)


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"target_modules": ["q_proj", "embed_tokens"]}, {"modules_to_save": ["norm"]}]
)
@pytest.mark.parametrize("small", [True, False])
def test_adapters_of_another_kind_speak_alone(
    models, tmp_path: Path, settings: dict[str, Any], small: bool, monkeypatch: pytest.MonkeyPatch
):
    """DoRA, embeddings and whole layers are no product beside a linear layer: they answer right, in their own turns."""
    from peft import PeftModel

    if not small:
        monkeypatch.setattr("langgraph_learnloop.serving.weights.SMALL", 0)
    base = models.base.base_model
    release = adapter(base, tmp_path, 6, **settings)
    model: Any = load_base(base, torch.float32)[1]
    made = ReleaseModels(model, base)
    for one in (models.base, models.one, release):
        made.add(one)
    assert made.group(release.release_id) == release.release_id
    assert made.group(models.one.release_id) == made.group(models.base.release_id)
    ids = torch.randint(0, 300, (1, 9))
    before = logits(model, ids)
    expected = logits(PeftModel.from_pretrained(load_base(base, torch.float32)[1], release.adapter), ids)
    assert torch.allclose(logits(made.model((release.release_id,)), ids), expected, atol=2e-3)
    assert torch.equal(logits(made.model((models.base.release_id,)), ids), before)


def test_a_model_whose_cache_is_of_another_kind_takes_turns(models, tmp_path: Path):
    """Where a window slides, rows cannot join: each release has batches of its own, and nothing is kept."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    AutoTokenizer.from_pretrained(models.base.base_model).save_pretrained(tmp_path)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "num_hidden_layers": 2}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=400, **sizes, **window)).save_pretrained(tmp_path)
    engine = LocalEngine(tmp_path)
    (tmp_path / "adapters").mkdir()
    releases = [
        Release(base_model=str(tmp_path), made_at=NOW),
        *(adapter(str(tmp_path), tmp_path / "adapters", seed) for seed in (1, 2)),
    ]
    for release in releases:
        engine.load(release)
    work = [(release, "weather in rome " * (1 + 6 * number)) for number in range(4) for release in releases]
    alone = [ask(engine, *one) for one in work]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda one: ask(engine, *one), work)) == alone
    assert len({engine._models.group(release.release_id) for release in releases}) == 3
    assert engine._generation.prefixes.held_bytes == 0
    engine.close()


def ask(engine: LocalEngine, release: Release, text: str, tokens: int = 8) -> str:
    asked = (Message(role="user", content=text),)
    sampling = Sampling(max_tokens=tokens)
    return engine.generate(Generation(release_id=release.release_id, messages=asked, sampling=sampling)).message.content


def test_releases_do_not_mix_while_others_come_and_go(models, tmp_path: Path, adapters: str):
    """Sixteen threads ask a base and three adapters while two of these are loaded and unloaded: no wrong answer."""
    base = models.base.base_model
    releases = [*models, adapter(base, tmp_path, 7, r=6)]
    engine = LocalEngine(base)
    for release in releases:
        engine.load(release)
    texts = [f"weather in {city}" for city in ("oslo", "rome", "lima")]
    alone = {(one.release_id, text): ask(engine, one, text) for one in releases for text in texts}
    assert len(set(alone.values())) > 8
    over = threading.Event()
    counts: dict[str, int] = dict.fromkeys((one.release_id for one in releases), 0)
    wrong: list[object] = []

    def person(number: int) -> None:
        rng = random.Random(number)
        while not over.is_set():
            release, text = rng.choice(releases), rng.choice(texts)
            try:
                said = ask(engine, release, text)
            except EngineError as error:
                if "not loaded" not in str(error) and "was unloaded" not in str(error):
                    wrong.append(error)
                continue
            counts[release.release_id] += 1
            if said != alone[release.release_id, text]:
                wrong.append((release.release_id, text, said))

    with ThreadPoolExecutor(16) as pool:
        people = [pool.submit(person, number) for number in range(16)]
        for number in range(12):
            leaving = releases[2 + number % 2]
            engine.unload(leaving.release_id)
            ask(engine, models.base, texts[0])
            engine.load(leaving)
            ask(engine, leaving, texts[0])
        over.set()
        for one in people:
            one.result()
    engine.close()
    assert wrong == []
    assert min(counts.values()) > 0


def test_a_worker_that_died_is_trouble(models):
    """Who waits is told why, nothing hangs, and the engine's health says so."""
    engine = LocalEngine(models.base.base_model)
    for release in models:
        engine.load(release)
    assert set(engine.health().loaded) == {release.release_id for release in models}
    assert engine.health().trouble is None

    def broken(*_: object) -> None:
        raise MemoryError("no more")

    engine._generation._let_go = broken
    with pytest.raises(EngineError, match="has died: MemoryError: no more"):
        ask(engine, models.one, "weather in oslo", 200)
    engine._worker.join(30)
    assert "has died: MemoryError" in str(engine.health().trouble)
    with pytest.raises(EngineError, match="has died"):
        ask(engine, models.one, "weather in oslo")
    with pytest.raises(EngineError, match="has died"):
        engine.unload(models.one.release_id)
    with pytest.raises(EngineError, match="has died"):
        engine.load(models.one)
    engine.close()
