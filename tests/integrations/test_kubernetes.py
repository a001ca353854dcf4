"""The manifest for Kubernetes runs what there is, as it stands."""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop.improvement.lora.job import make_job
from langgraph_learnloop.jobs import WORKER
from langgraph_learnloop.records import Recipe
from tests.improvement.tiny_base import weather_examples, write_dataset

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

MANIFEST = Path(__file__).parents[2] / "integrations" / "kubernetes" / "training-job.yaml"


@pytest.fixture
def job() -> dict[str, Any]:
    """Read the manifest, which holds one Job."""
    (document,) = yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    return document


def container(job: dict[str, Any]) -> dict[str, Any]:
    """Return the one container."""
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


def command(job: dict[str, Any], described: Path) -> list[str]:
    """Return what the container runs, with another job and this interpreter in place of its own."""
    found = container(job)
    assert found["command"][0] == "python"
    return [sys.executable, *found["command"][1:], str(described), *found["args"][1:]]


def test_it_is_a_job_that_goes_on(job: dict[str, Any]) -> None:
    """Killed workers are started again, not for ever."""
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["activeDeadlineSeconds"] > 0


def test_it_names_only_what_exists(job: dict[str, Any]) -> None:
    """The module is the worker's, every mount has its volume, the job lies on the volume, variables are texts."""
    found = container(job)
    assert found["command"][1:] == ["-m", WORKER]
    assert importlib.util.find_spec(WORKER) is not None
    names = {volume["name"] for volume in job["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in found["volumeMounts"]} == names
    assert all(isinstance(one["value"], str) for one in found["env"])
    assert found["args"][0].startswith(next(m["mountPath"] for m in found["volumeMounts"] if m["name"] == "learnloop"))


def test_it_may_do_little(job: dict[str, Any]) -> None:
    """No root, no new rights, no writing but into its volumes, no token of the cluster."""
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    context = container(job)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_worker_lives_on_without_standard_input(job: dict[str, Any], tmp_path: Path) -> None:
    """As a container starts it, with nothing on standard input, the worker works, and ends when it is told to."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    write_dataset(tmp_path / "data.jsonl", weather_examples())
    made = make_job(base, tmp_path / "data.jsonl", Recipe(), tmp_path / "jobs", engine="peft")
    described = tmp_path / "job.json"
    described.write_text(made.model_dump_json())
    worker = subprocess.Popen(
        command(job, described), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with worker:
        assert worker.stdout is not None
        assert b'"stage":"start"' in worker.stdout.readline()
        ended, _, _ = select.select([os.pidfd_open(worker.pid)], [], [], 0.5)
        assert not ended
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(10) == -signal.SIGTERM


def test_the_exit_code_comes_through(job: dict[str, Any], tmp_path: Path) -> None:
    """A job that fails makes the container fail, with the reason in its log."""
    (tmp_path / "job.json").write_text("{}")
    done = subprocess.run(
        command(job, tmp_path / "job.json"), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "does not describe a job: Field required. Make it with make_job, of this version."
    )
