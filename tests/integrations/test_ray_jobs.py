"""A job trains on a real Ray as it does here, and whatever goes wrong on a node is a sentence."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.errors import MissingExtraError, TrainingError
from langgraph_learnloop.files import file_sha256
from langgraph_learnloop.improvement.lora.job import LocalTrainer, finished, hashes, make_job
from langgraph_learnloop.integrations import ray_jobs
from langgraph_learnloop.integrations.ray_files import Read, plain, take_home
from langgraph_learnloop.integrations.ray_jobs import RayTrainer
from langgraph_learnloop.integrations.ray_node import Bench
from langgraph_learnloop.jobs import CONFIG, RESULT, WEIGHTS
from langgraph_learnloop.records import Job, Progress, Recipe, TrainingResult
from tests.improvement.tiny_base import make_base, weather_examples, write_dataset

ray = pytest.importorskip("ray", reason="Ray is not installed")

RECIPE = Recipe(rank=4, alpha=8, learning_rate=5e-3, steps=12, batch=4, replay=0, max_length=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an untrained model."""
    return make_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def here(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, TrainingResult]:
    """Train on this machine, without Ray."""
    job = job_of(base, tmp_path_factory.mktemp("here"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return job, LocalTrainer().train(job, lambda _: None)


def job_of(base: Path, folder: Path, recipe: Recipe = RECIPE, **more: Any) -> Job:
    """Return a job on plain PEFT, its dataset written into a folder."""
    dataset = write_dataset(folder / "data.jsonl", weather_examples())
    return make_job(base, dataset, recipe, folder / "jobs", engine="peft", **more)


def hollow_job(folder: Path) -> Job:
    """Describe a job on files that are no model, for workers that do not train."""
    base = folder / "base"
    base.mkdir(exist_ok=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"weights")
    return job_of(base, folder)


def fake_python(folder: Path, body: str) -> str:
    """Write an interpreter that runs `body` with the worker's arguments, `here` being its own folder."""
    script = folder / "python"
    head = f"""\
        #!{sys.executable}
        import json, os, pathlib, sys, time
        here = pathlib.Path({str(folder)!r})
        job = json.loads(pathlib.Path(sys.argv[3]).read_text())
        """
    script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


TRAINED = """
import hashlib
output = pathlib.Path(job["output"])
output.mkdir()
(output / "adapter_model.safetensors").write_bytes(b"adapter")
(output / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": job["base_model"], "r": 4}))
sha256 = hashlib.sha256(b"adapter").hexdigest()
result = dict(adapter=str(output), adapter_sha256=sha256, engine="peft: a test.", examples=8, steps=1, loss=1.0)
(output / "result.json").write_text(json.dumps(result | {"tokens": 9, "seconds": 0.5}))
"""


def nobody(_: Progress) -> None:
    """Listen to no progress."""


def gone(pid: int, seconds: float = 20) -> bool:
    """Wait until a process that is not our child has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended, _, _ = select.select([handle], [], [], seconds)
    os.close(handle)
    return bool(ended)


# -- it trains ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_node_trains_the_same_adapter(
    cluster: None, base: Path, here: tuple[Job, TrainingResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights as on this machine, progress on the way, and files that name this machine's folders."""
    job = job_of(base, tmp_path)
    monkeypatch.setattr(ray_jobs, "PART", 20_000)  # the base's weights need several parts
    seen: list[Progress] = []
    threads = set()

    def tell(progress: Progress) -> None:
        seen.append(progress)
        threads.add(threading.current_thread())

    result = RayTrainer().train(job, tell)
    assert result.adapter_sha256 == here[1].adapter_sha256
    assert result.hashes == hashes(job)
    assert result == finished(job)
    assert sorted(path.name for path in Path(job.output).iterdir()) == sorted([CONFIG, RESULT, WEIGHTS])
    assert json.loads((Path(job.output) / CONFIG).read_text())["base_model_name_or_path"] == job.base_model
    assert [p.stage for p in seen[:4]] == ["queue", "send", "start", "load"]
    assert [p.done for p in seen if p.loss is not None] == list(range(1, RECIPE.steps + 1))
    assert threads == {threading.current_thread()}


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint_when_its_node_is_lost(
    cluster: None, base: Path, here: tuple[Job, TrainingResult], tmp_path: Path
) -> None:
    """With a folder that all nodes see, the second attempt does the rest, and comes to the same weights."""
    job = job_of(base, tmp_path)
    shared = tmp_path / "shared"
    real = f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])"
    python = fake_python(tmp_path, f"(here / 'pids').write_text(f'{{os.getppid()}} {{os.getpid()}}')\n{real}")
    lost: list[int] = []

    def lose_the_node(progress: Progress) -> None:
        if progress.done >= 6 and not lost:
            lost.extend(int(pid) for pid in (tmp_path / "pids").read_text().split())
            os.kill(lost[0], signal.SIGKILL)
            assert gone(lost[1])

    result = RayTrainer(python=python, storage=str(shared)).train(job, lose_the_node)
    assert result.resumed_at is not None
    assert result.adapter_sha256 == here[1].adapter_sha256
    assert list(shared.iterdir()) == []


def test_a_parent_and_a_base_of_the_node(cluster: None, tmp_path: Path) -> None:
    """The parent arrives with the base's name on the node; the adapter comes home with the one it has here."""
    job = hollow_job(tmp_path)
    parent, there = tmp_path / "parent", tmp_path / "there"
    for folder in (parent, there):
        folder.mkdir()
    (parent / WEIGHTS).write_bytes(b"parent")
    (parent / CONFIG).write_text(json.dumps({"base_model_name_or_path": "somewhere", "r": 4}))
    for file in Path(job.base_model).iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    job = make_job(job.base_model, job.dataset, RECIPE, tmp_path / "jobs", parent_adapter=parent)
    check = """
        config = json.loads((pathlib.Path(job["parent_adapter"]) / "adapter_config.json").read_text())
        assert config == {"base_model_name_or_path": job["base_model"], "r": 4}
        assert job["base_model"] == str(here / "there")
        assert sorted(os.listdir(os.path.dirname(job["dataset"]))) == ["data.jsonl", "job.json", "parent", "worker.log"]
        """
    python = fake_python(tmp_path, textwrap.dedent(check) + TRAINED)
    trainer = RayTrainer(python=python, base_on_node=str(there))
    assert trainer.train(job, nobody).adapter == job.output
    assert json.loads((Path(job.output) / CONFIG).read_text()) == {"base_model_name_or_path": job.base_model, "r": 4}
    (there / "model.safetensors").write_bytes(b"others")
    with pytest.raises(TrainingError, match=r"not the one of job .*there/model\.safetensors' is missing there, or dif"):
        trainer.train(job.model_copy(update={"output": f"{job.output}-2"}), nobody)


def test_a_finished_job_is_not_done_again(tmp_path: Path) -> None:
    """What lies there, with the right hash, is returned without a cluster."""
    job = hollow_job(tmp_path)
    result = leave_result(Path(job.output))
    assert RayTrainer("127.0.0.1:1").train(job, nobody) == result


@pytest.mark.slow
def test_a_ray_of_its_own_ends_with_the_job(tmp_path: Path) -> None:
    """Without an address, and in a process that is not connected, a Ray is there for the job and gone afterwards."""
    job = hollow_job(tmp_path)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    script = f"""
        import pathlib, ray
        from langgraph_learnloop.integrations.ray_jobs import RayTrainer
        from langgraph_learnloop.records import Job
        job = Job.model_validate_json(pathlib.Path({str(tmp_path / "job.json")!r}).read_text())
        print(RayTrainer(python={fake_python(tmp_path, TRAINED)!r}).train(job, lambda _: None).adapter)
        print(ray.is_initialized())
        """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [job.output, "False"]


# -- it fails in sentences ---------------------------------------------------------------------------------------------


def test_a_broken_dataset_has_its_reason(cluster: None, tmp_path: Path) -> None:
    """The real worker's last word comes back, with its exit code, and the log as a note; nothing is left here."""
    job = hollow_job(tmp_path)
    Path(job.dataset).write_text("not json\n")
    with pytest.raises(TrainingError, match=rf"{job.job_id}.*on node '.+' \(exit code 1\): .*line 1") as caught:
        RayTrainer().train(job, nobody)
    assert caught.value.__notes__[0].startswith("The end of its log:\n")
    assert not Path(job.output).parent.exists()


def test_a_worker_that_was_killed(cluster: None, tmp_path: Path) -> None:
    """A kill from outside is told apart from a failure, and is not tried again."""
    body = "with (here / 'runs').open('a') as runs: runs.write('.')\nos.kill(os.getpid(), 9)"
    with pytest.raises(TrainingError, match=r"killed from outside, often for lack of memory\): it said nothing"):
        RayTrainer(python=fake_python(tmp_path, body)).train(hollow_job(tmp_path), nobody)
    assert (tmp_path / "runs").read_text() == "."


def test_a_lost_node_is_tried_again_and_then_said(cluster: None, tmp_path: Path) -> None:
    """As often as `retries` says, no more; the worker ends with its node."""
    body = "with (here / 'runs').open('a') as runs: runs.write('.')\nos.kill(os.getppid(), 9)\nsys.stdin.read()"
    seen: list[Progress] = []
    with pytest.raises(TrainingError, match=r"lost its node or its process on the Ray cluster: .*has died"):
        RayTrainer(python=fake_python(tmp_path, body), retries=1).train(hollow_job(tmp_path), seen.append)
    assert (tmp_path / "runs").read_text() == ".."
    assert sum("begun again" in (p.note or "") for p in seen) == 1


def test_cancel_ends_the_worker_there(cluster: None, tmp_path: Path) -> None:
    """Another thread ends it: the real worker is gone, and so is its folder on the node."""
    job = hollow_job(tmp_path)
    real = f"os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])"
    python = fake_python(tmp_path, f"(here / 'pid').write_text(f'{{os.getpid()}} {{job[\"output\"]}}')\n{real}")
    trainer, started = RayTrainer(python=python), threading.Event()

    def cancel() -> None:
        started.wait(60)
        trainer.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(TrainingError, match=f"Job '{job.job_id}' was cancelled"):
        trainer.train(job, lambda progress: started.set() if progress.stage == "start" else None)
    thread.join()
    pid, output = (tmp_path / "pid").read_text().split()
    assert gone(int(pid))
    assert not Path(output).parent.exists()
    assert finished(job) is None


def test_cancel_without_a_job_is_nothing(cluster: None, tmp_path: Path) -> None:
    """It does not reach into the next job."""
    trainer, job = RayTrainer(python=fake_python(tmp_path, TRAINED)), hollow_job(tmp_path)
    trainer.cancel()
    assert trainer.train(job, nobody).adapter == job.output


def test_an_interrupted_caller_ends_the_worker(cluster: None, tmp_path: Path) -> None:
    """Ctrl-C (here: an exception in the callback) leaves no worker on the node."""
    body = """
        (here / "pid").write_text(str(os.getpid()))
        print(json.dumps({"stage": "train", "done": 1, "total": 2}), flush=True)
        time.sleep(600)
        """

    def interrupt(progress: Progress) -> None:
        if progress.stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RayTrainer(python=fake_python(tmp_path, body)).train(hollow_job(tmp_path), interrupt)
    assert gone(int((tmp_path / "pid").read_text()))


def test_no_node_with_a_gpu(cluster: None, tmp_path: Path) -> None:
    """A job that asks for a GPU asks Ray for one; the error says what there is."""
    job = hollow_job(tmp_path).model_copy(update={"gpu": True})
    with pytest.raises(
        TrainingError, match=r"No node of the Ray cluster has 1 CPU and 1 GPU free .* nodes have 2 CPU, no GPU\. Ask"
    ):
        RayTrainer(wait_seconds=0.5).train(job, nobody)


def test_an_interpreter_that_is_not_there(cluster: None, tmp_path: Path) -> None:
    """The error names the interpreter."""
    with pytest.raises(TrainingError, match=r"The node could not do its part .*'/no/such/python'"):
        RayTrainer(python="/no/such/python").train(hollow_job(tmp_path), nobody)


def test_what_arrives_is_compared_with_what_was_there(cluster: None, tmp_path: Path) -> None:
    """A file that changes on its way, here under the sender's hands, is not trained on."""
    job = hollow_job(tmp_path)

    def meddle(progress: Progress) -> None:
        if progress.stage == "send":
            Path(job.dataset).write_text("poison\n")

    with pytest.raises(TrainingError, match=r"data\.jsonl' did not reach node '.+' as it was: its SHA-256 differs"):
        RayTrainer().train(job, meddle)


def test_resources_that_ray_does_not_take(cluster: None, tmp_path: Path) -> None:
    """An argument that Ray refuses is a sentence, too."""
    with pytest.raises(TrainingError, match="Ray takes no such request"):
        RayTrainer(num_cpus=-1).train(hollow_job(tmp_path), nobody)


def test_a_large_base_belongs_on_shared_storage(tmp_path: Path) -> None:
    """Beyond the limit nothing is sent, and the error says what to do."""
    with pytest.raises(
        TrainingError, match=r"has 9 bytes, more than the 8 .* storage that the nodes see.* base_on_node"
    ):
        RayTrainer(largest_base=8).train(hollow_job(tmp_path), nobody)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A dataset that is gone is a sentence with its path."""
    job = hollow_job(tmp_path)
    Path(job.dataset).unlink()
    with pytest.raises(TrainingError, match=r"cannot be sent to Ray: .*data\.jsonl' cannot be read"):
        RayTrainer().train(job, nobody)


def test_a_broken_parent_is_named(tmp_path: Path) -> None:
    """A parent whose configuration is no JSON is not sent."""
    job = hollow_job(tmp_path).model_copy(update={"parent_adapter": str(tmp_path)})
    (tmp_path / WEIGHTS).write_bytes(b"parent")
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(TrainingError, match=rf"cannot be sent to Ray: {CONFIG} of its parent .* is broken"):
        RayTrainer().train(job, nobody)


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An address where nobody listens is said at once."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(TrainingError, match=r"No Ray cluster can be used at '127\.0\.0\.1:1': .*refused"):
        RayTrainer("127.0.0.1:1").train(hollow_job(tmp_path), nobody)


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error holds the pip command."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[ray\]"'):
        RayTrainer().train(hollow_job(tmp_path), nobody)


# -- it believes nobody ------------------------------------------------------------------------------------------------


def leave_result(output: Path) -> TrainingResult:
    """Write what a finished job leaves behind."""
    output.mkdir(parents=True)
    (output / WEIGHTS).write_bytes(b"adapter")
    (output / CONFIG).write_text('{"base_model_name_or_path": "/on/the/node/base"}')
    result = TrainingResult(
        adapter=str(output),
        adapter_sha256=file_sha256(output / WEIGHTS),
        engine="peft: a test.",
        examples=8,
        steps=1,
        loss=1.0,
        tokens=9,
        seconds=0.5,
    )
    (output / RESULT).write_text(result.model_dump_json())
    return result


def reader(folder: Path, part: int = 5) -> Read:
    """Read a folder's files as a node does, a few bytes at a time."""
    return lambda name, offset: (folder / name).read_bytes()[offset : offset + part]


def test_an_adapter_comes_home_in_parts(tmp_path: Path) -> None:
    """The parts are put together, and the folders of this machine are named."""
    job = hollow_job(tmp_path)
    sent = leave_result(tmp_path / "there")
    result = take_home(job, reader(tmp_path / "there"), "n1")
    assert result == sent.model_copy(update={"adapter": job.output}) == finished(job)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (WEIGHTS, b"adaptex", "not the ones it trained"),
        (WEIGHTS, b"", "not the ones it trained"),
        (RESULT, b"{}", "no adapter"),
        (CONFIG, b"[]", "no adapter"),
        (CONFIG, b"\xff", "no adapter"),
    ],
)
def test_tampered_bytes_are_refused(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    """What is not what the node says it is, is not written."""
    job = hollow_job(tmp_path)
    leave_result(tmp_path / "there")
    (tmp_path / "there" / name).write_bytes(content)
    with pytest.raises(TrainingError, match=rf"'n1' sent for job '{job.job_id}' (is|are) {reason}"):
        take_home(job, reader(tmp_path / "there"), "n1")
    assert list(Path(job.output).parent.iterdir()) == []


def test_only_three_files_are_asked_for(tmp_path: Path) -> None:
    """A node cannot name a file here: what else it has stays there."""
    job = hollow_job(tmp_path)
    leave_result(tmp_path / "there")
    (tmp_path / "there" / "sitecustomize.py").write_text("boom")
    asked: set[str] = set()

    def read(name: str, offset: int) -> bytes:
        asked.add(name)
        return reader(tmp_path / "there")(name, offset)

    take_home(job, read, "n1")
    assert asked == {path.name for path in Path(job.output).iterdir()} == {WEIGHTS, CONFIG, RESULT}


def test_a_node_knows_what_it_holds(tmp_path: Path) -> None:
    """A node says that it holds a file only when every byte is right."""
    bench = Bench()
    _, folder = bench.open(str(tmp_path), "j1")
    bench.write("base/w", "wb", b"one ")
    bench.write("base/w", "ab", b"two")
    sent = tmp_path / "sent"
    sent.write_bytes(b"one two")
    assert bench.holds("base/w", file_sha256(sent))
    (Path(folder) / "base" / "w").write_bytes(b"one twO")
    assert not bench.holds("base/w", file_sha256(sent))
    assert not bench.holds("nowhere", file_sha256(sent))


@pytest.mark.parametrize("job_id", ["", "..", "a/b", "/etc"])
def test_a_job_id_that_is_a_path_is_refused(job_id: str) -> None:
    """It names a folder on shared storage."""
    with pytest.raises(TrainingError, match="cannot name a folder"):
        plain(job_id)
