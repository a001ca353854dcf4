"""A hosted job is made and paid once, and whatever the provider or the network does ends in a model or a sentence."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from langgraph_learnloop.errors import ConfigError, DataError, MissingExtraError, TrainingError
from langgraph_learnloop.examples import draw
from langgraph_learnloop.integrations.openai_finetuning import OpenAITrainer
from langgraph_learnloop.integrations.openai_rows import preference_row, supervised_row
from langgraph_learnloop.records import Example, Job, Message, Progress, Recipe, ToolCall, TrainingResult

openai = pytest.importorskip("openai", reason="the openai extra is not installed")

MODEL = "gpt-test"
KEY = "sk-good"
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
WAY = ("validating_files", "queued", "running", "running", "succeeded")
MESSAGES = {
    "validating_files": "Validating training file",
    "queued": "Files validated, moving job to queued state",
    "succeeded": "The job has successfully completed",
}
Fault = Callable[["Speaker"], bool]
"""Spoils an answer; returns whether the request is to be carried out all the same."""


class Provider(ThreadingHTTPServer):
    """Speak the protocol of files and fine-tuning jobs on loopback; a job goes one step on at each look."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Speaker)
        self.files: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.asked: list[tuple[float, str]] = []
        self.faults: list[tuple[str, Fault]] = []
        self.way: tuple[str, ...] = WAY
        self.error: dict[str, Any] | None = None
        self.filters = True
        self.lock = threading.RLock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def spoil(self, pattern: str, *faults: Fault) -> None:
        """Let the next requests that match "METHOD /path" go wrong, one fault each."""
        self.faults += [(pattern, fault) for fault in faults]

    def fault(self, request: str) -> Fault | None:
        with self.lock:
            self.asked.append((time.monotonic(), request))
            at = next((i for i, (pattern, _) in enumerate(self.faults) if re.fullmatch(pattern, request)), None)
            return None if at is None else self.faults.pop(at)[1]

    def times(self, pattern: str) -> list[float]:
        return [at for at, request in self.asked if re.fullmatch(pattern, request)]

    def upload(self, content_type: str, body: bytes) -> dict[str, Any]:
        form = message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        assert parts["purpose"].get_payload(decode=True) == b"fine-tune"
        name = f"file-{len(self.asked)}"
        self.files[name] = parts["file"].get_payload(decode=True)
        return {"id": name, "object": "file", "purpose": "fine-tune", "status": "processed", "bytes": len(body)}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["training_file"] in self.files
        self.bodies.append(body)
        name = f"ftjob-{len(self.jobs) + 1}"
        self.jobs[name] = {
            "id": name,
            "object": "fine_tuning.job",
            "created_at": int(time.time()),
            "finished_at": None,
            "fine_tuned_model": None,
            "organization_id": "org-1",
            "result_files": [],
            "hyperparameters": {"n_epochs": "auto"},
            "trained_tokens": None,
            "error": None,
            "validation_file": None,
            "at": 0,
            **{key: body.get(key) for key in ("model", "training_file", "seed", "metadata", "method")},
        }
        self.events[name] = []
        return self.enter(name, self.way[0])

    def enter(self, name: str, status: str) -> dict[str, Any]:
        job = self.jobs[name]
        job["status"] = status
        if status == "running":
            step = len([e for e in self.events[name] if e["type"] == "metrics"]) + 1
            figures = {"step": step, "total_steps": 2, "train_loss": 1.0 / step}
            self.say(name, f"Step {step}/2: training loss={1 / step:.2f}", "metrics", figures)
        elif status in MESSAGES:
            self.say(name, MESSAGES[status], "message", None)
        if status == "succeeded":
            job |= {"fine_tuned_model": f"ft:{MODEL}:org::1", "trained_tokens": 4321, "finished_at": int(time.time())}
        if status == "failed":
            job["error"] = self.error
        return job

    def say(self, name: str, message: str, kind: str, data: dict[str, Any] | None) -> None:
        events = self.events[name]
        about = {"id": f"ftevent-{len(events)}", "object": "fine_tuning.job.event", "created_at": int(time.time())}
        events.append({**about, "level": "info", "message": message, "type": kind, "data": data})

    def look(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        if job["status"] not in ("succeeded", "failed", "cancelled"):
            job["at"] = min(job["at"] + 1, len(self.way) - 1)
            self.enter(name, self.way[job["at"]])
        return job

    def answer(self, method: str, path: str, query: dict[str, list[str]], kind: str, body: bytes) -> tuple[int, Any]:
        _, _, *rest = path.split("/")
        match (method, *rest):
            case "POST", "files":
                return 200, self.upload(kind, body)
            case "DELETE", "files", name if name in self.files:
                del self.files[name]
                return 200, {"id": name, "object": "file", "deleted": True}
            case "POST", "fine_tuning", "jobs":
                return 200, self.create(json.loads(body))
            case "GET", "fine_tuning", "jobs":
                wanted = query.get("metadata[learnloop_job]", [None])[0]
                jobs = list(self.jobs.values())[::-1]
                found = [j for j in jobs if not self.filters or (j["metadata"] or {}).get("learnloop_job") == wanted]
                return 200, {"object": "list", "data": found, "has_more": False}
            case "GET", "fine_tuning", "jobs", name if name in self.jobs:
                return 200, self.look(name)
            case "GET", "fine_tuning", "jobs", name, "events" if name in self.jobs:
                return 200, {"object": "list", "data": self.events[name][::-1], "has_more": False}
            case "POST", "fine_tuning", "jobs", name, "cancel" if name in self.jobs:
                if self.jobs[name]["status"] == "succeeded":
                    return 400, refusal("Job has already completed", "invalid_request_error")
                return 200, self.enter(name, "cancelled")
        return 404, refusal(f"No such thing: {path}", "not_found")


class Speaker(BaseHTTPRequestHandler):
    """Carry requests to the provider, with the faults that a test ordered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart: it would hold the body back for 40 ms
    server: Provider

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        where = urlsplit(self.path)
        provider = self.server
        fault = provider.fault(f"{self.command} {where.path}")
        if fault is not None and not fault(self):
            return
        with provider.lock:
            kind = self.headers.get("content-type", "")
            if self.headers.get("authorization") != f"Bearer {KEY}":
                status, answer = 401, refusal("Incorrect API key provided: sk-bad.", "invalid_api_key")
            else:
                status, answer = provider.answer(self.command, where.path, parse_qs(where.query), kind, body)
        if fault is None:
            self.send(status, answer)

    do_GET = do_POST = do_DELETE = handle_one

    def send(self, status: int, answer: Any, cut: int | None = None, **headers: str) -> None:
        text = json.dumps(answer).encode() if not isinstance(answer, bytes) else answer
        self.send_response(status)
        for name, value in {"content_type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def refusal(message: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def refuse(status: int, code: str | None = None, message: str = "no", **headers: str) -> Fault:
    return lambda speaker: bool(speaker.send(status, refusal(message, code), **headers))


def drop(speaker: Speaker) -> bool:
    """Cut the connection in the middle of an answer, before anything was done."""
    speaker.send(200, {"id": "half an answer"}, cut=9)
    return False


def lose(speaker: Speaker) -> bool:
    """Do what was asked, and cut the connection before it can be answered."""
    speaker.close_connection = True
    return True


def page(speaker: Speaker) -> bool:
    """Answer as a proxy that has trouble does."""
    speaker.send(200, b"<html>Try again</html>", content_type="text/html")
    return False


def torn(speaker: Speaker) -> bool:
    """Answer with half a JSON document that claims to be whole."""
    speaker.send(200, b'{"id": "ftj')
    return False


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("NO_PROXY", "*")
    with Provider() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def trainer_at(provider: Provider, key: str = KEY, **settings: Any) -> OpenAITrainer:
    client = openai.OpenAI(base_url=provider.url, api_key=key)
    return OpenAITrainer(client, **{"poll_seconds": 0.005, "outage_seconds": 20.0, **settings})


def example(n: int, **changes: Any) -> Example:
    facts = {
        "messages": (Message(role="user", content=f"Weather in town {n}?"),),
        "tools": TOOLS,
        "chosen": Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": f"Örö {n}"}),)),
        "rejected": Message(role="assistant", content="I do not know."),
        "origin": "correction",
        "split": "train",
    }
    return Example(**facts | changes)


def job_in(folder: Path, examples: list[Example] | None = None, minutes: float | None = None, **recipe: Any) -> Job:
    examples = [example(n) for n in range(12)] if examples is None else examples
    dataset = folder / "data.jsonl"
    dataset.write_text("".join(e.model_dump_json() + "\n" for e in examples), encoding="utf-8")
    return Job(
        job_id="0123456789abcdef",
        base_model=MODEL,
        dataset=str(dataset),
        recipe=Recipe(**{"steps": 9, "batch": 4, "seed": 7, **recipe}),
        output=str(folder / "jobs" / "0123456789abcdef"),
        minutes=minutes,
    )


def silent(_: Progress) -> None:
    """Tell nobody."""


def test_a_plan_says_what_it_would_cost(provider: Provider, tmp_path: Path) -> None:
    """Examples, passes, tokens and dollars, before anything is sent; without a price the cost is not known."""
    plan = trainer_at(provider, usd_per_million_tokens=25).plan(job_in(tmp_path))
    assert (plan.examples, plan.passes, plan.left_out, plan.minutes) == ({"correction": 12}, 3.0, 0, None)
    assert plan.usd == pytest.approx(plan.tokens * 25e-6)
    assert trainer_at(provider).plan(job_in(tmp_path)).usd is None
    assert provider.files == {}


def test_a_hosted_model_is_trained_once(provider: Provider, tmp_path: Path) -> None:
    """The result names the model and what it was made of; the same job again asks nothing of the provider."""
    job = job_in(tmp_path)
    result = trainer_at(provider).train(job, silent)
    assert result == TrainingResult(
        adapter=None,
        adapter_sha256=None,
        model=f"ft:{MODEL}:org::1",
        engine=f"openai: {MODEL!r} is a hosted model; its provider trained it as 'ftjob-1'.",
        examples=12,
        steps=2,
        loss=0.5,
        tokens=4321,
        seconds=result.seconds,
        hashes={"dataset": hashlib.sha256(Path(job.dataset).read_bytes()).hexdigest()},
        recipe=job.recipe,
        libraries={"openai": openai.__version__},
    )
    before = len(provider.asked)
    assert trainer_at(provider).train(job, silent) == result
    assert len(provider.asked) == before
    assert [path.name for path in Path(job.output).iterdir()] == ["result.json"]


def test_a_dataset_that_goes_while_the_provider_trains(provider: Provider, tmp_path: Path) -> None:
    """What was read is hashed before it is sent: the model that was paid for is returned."""
    job = job_in(tmp_path)
    sha256 = hashlib.sha256(Path(job.dataset).read_bytes()).hexdigest()
    result = trainer_at(provider).train(job, lambda _: Path(job.dataset).unlink(missing_ok=True))
    assert result.hashes == {"dataset": sha256}


def test_what_is_asked_of_the_provider(provider: Provider, tmp_path: Path) -> None:
    """Epochs follow from the recipe's steps; seed, suffix and the job's id go along; the file goes when it is over."""
    seen: list[dict[str, bytes]] = []
    trainer = trainer_at(provider, learning_rate_multiplier=0.5)
    trainer.train(job_in(tmp_path), lambda p: seen.append(dict(provider.files)))
    assert provider.bodies == [
        {
            "model": MODEL,
            "training_file": provider.bodies[0]["training_file"],
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 0.5}},
            },
            "seed": 7,
            "suffix": "0123456789abcdef",
            "metadata": {"learnloop_job": "0123456789abcdef"},
        }
    ]
    (sent,) = seen[-1].values()
    rows = [json.loads(line) for line in sent.decode().splitlines()]
    assert sorted(rows, key=json.dumps) == sorted((supervised_row(example(n)) for n in range(12)), key=json.dumps)
    assert provider.files == {}


def test_preferences_are_learned_from_what_was_rejected(provider: Provider, tmp_path: Path) -> None:
    """With "dpo" only examples with a rejected answer are sent, and the recipe's beta with them."""
    examples = [example(n) for n in range(10)] + [example(n, rejected=None) for n in range(10, 20)]
    job = job_in(tmp_path, examples, method="dpo", beta=0.3)
    trainer = trainer_at(provider)
    assert {row["input"]["messages"][0]["content"] for row in trainer.rows(job)} == {
        f"Weather in town {n}?" for n in range(10)
    }
    assert trainer.train(job, silent).examples == 10
    assert provider.bodies[0]["method"] == {
        "type": "dpo",
        "dpo": {"hyperparameters": {"n_epochs": 4, "batch_size": 4, "beta": 0.3}},
    }


def conversation(*, answered: bool = True) -> Example:
    """Return an example with two calls in one turn, whose ids the model used twice."""
    calls = (ToolCall(name="weather", args={"city": "Oslo"}, id="a"), ToolCall(name="weather", args={}, id="b"))
    results = (
        Message(role="tool", content="rain", tool_call_id="b", name="weather"),
        Message(role="tool", content="sun", tool_call_id="a"),
    )
    return example(
        0,
        messages=(
            Message(role="system", content="Be kind."),
            Message(role="user", content="Oslo?", name="Ann Lee"),
            Message(role="assistant", tool_calls=calls),
            *(results if answered else results[:1]),
            Message(role="assistant", content="Sun.", name="bot"),
            Message(role="user", content="And Rome?"),
        ),
        chosen=Message(role="assistant", tool_calls=(ToolCall(name="weather", args={"city": "Rome"}, id="a"),)),
    )


def call(number: int, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}


READ = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Oslo?"},
    {"role": "assistant", "tool_calls": [call(0, '{"city": "Oslo"}'), call(1, "{}")]},
    {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
    {"role": "tool", "content": "sun", "tool_call_id": "call_0"},
    {"role": "assistant", "content": "Sun.", "name": "bot"},
    {"role": "user", "content": "And Rome?"},
]
RIGHT = {"role": "assistant", "tool_calls": [call(2, '{"city": "Rome"}')]}


def test_a_supervised_row() -> None:
    """Calls have ids of their own and arguments as text, and only the last message is learned."""
    unlearned = [message | {"weight": 0} if message["role"] == "assistant" else message for message in READ]
    assert supervised_row(conversation()) == {"messages": [*unlearned, RIGHT], "tools": list(TOOLS)}


def test_a_preference_row() -> None:
    """The conversation stands apart from both answers."""
    assert preference_row(conversation()) == {
        "input": {"messages": READ, "tools": list(TOOLS)},
        "preferred_output": [RIGHT],
        "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
    }


def test_messages_without_ids() -> None:
    """A result that names no call answers the first that waits."""
    messages = (
        Message(role="user", content="Oslo?"),
        Message(role="assistant", tool_calls=(ToolCall(name="weather"), ToolCall(name="weather"))),
        Message(role="tool", content="rain"),
        Message(role="tool", content="sun", tool_call_id="call_1"),
    )
    row = supervised_row(example(0, messages=messages, tools=(), chosen=Message(role="assistant", content="Rain.")))
    assert [m.get("tool_call_id") for m in row["messages"]] == [None, None, "call_0", "call_1", None]
    assert "tools" not in row


def test_a_row_that_cannot_be() -> None:
    """A call without a result, a result without a call and a missing rejected answer are sentences."""
    with pytest.raises(DataError, match="'a' has no result right after it"):
        supervised_row(conversation(answered=False))
    with pytest.raises(DataError, match="'x' comes after no call"):
        supervised_row(example(0, messages=(Message(role="tool", content="rain", tool_call_id="x"),)))
    with pytest.raises(DataError, match="has no rejected answer"):
        preference_row(example(0, rejected=None))


def test_what_cannot_be_read_is_left_out_and_counted(provider: Provider, tmp_path: Path) -> None:
    """An example that the provider would refuse, or that is too long, does not spoil the others."""
    long = example(98, messages=(Message(role="user", content="Well, " * 999),))
    job = job_in(tmp_path, [*(example(n) for n in range(10)), conversation(answered=False), long])
    seen: list[Progress] = []
    result = trainer_at(provider).train(job, seen.append)
    assert (result.examples, result.left_out) == (10, 2)
    assert str(seen[0].note).endswith("2 more are left out.")


def test_parallel_calls_are_said_where_there_are_tools(tmp_path: Path) -> None:
    """The setting stands in each row that has tools, beside them."""
    job = job_in(tmp_path, [example(n, tools=TOOLS if n else ()) for n in range(10)])
    rows = OpenAITrainer(parallel_tool_calls=False).rows(job)
    assert sorted(row.get("parallel_tool_calls", "tools" in row) for row in rows) == [False] * 10
    assert sum("parallel_tool_calls" in row for row in rows) == 9


@pytest.mark.parametrize("recipe", [{}, {"replay": 1.0}, {"variations": False, "seed": 3}, {"replay": 50.0}])
def test_a_hosted_job_learns_what_a_local_one_would(tmp_path: Path, recipe: dict[str, Any]) -> None:
    """A job's id says what it learns, so the draw is the local one: proportion, categories, variations and seed."""
    old = [
        example(n, origin="replay", chosen=Message(role="assistant", tool_calls=(ToolCall(name=tool),)))
        for n, tool in enumerate(["weather"] * 20 + ["timer"] * 3 + ["music"] * 9, 100)
    ]
    new = [example(n, origin="variation" if n % 2 else "correction") for n in range(20)]
    unseen = [example(n, split="heldout") for n in range(200, 205)]
    job = job_in(tmp_path, [*old, *new, *unseen], **recipe)
    expected = [supervised_row(e) for e in draw([*old, *new], job.recipe)]
    rows = OpenAITrainer().rows(job)
    assert sorted(rows, key=json.dumps) == sorted(expected, key=json.dumps)
    assert rows == OpenAITrainer().rows(job)


@pytest.mark.parametrize(
    ("changes", "recipe", "why"),
    [
        ({}, {"method": "kto"}, "'kto', which the provider does not know: take one of 'sft', 'dpo'"),
        ({}, {"ewc": 1.0, "strength": 0.9}, "'ewc' and 'strength', which a hosted model is not trained with"),
        ({"parent_adapter": "/adapters/1"}, {}, "'/adapters/1', which a hosted model cannot read"),
        ({"dataset": "/no/such/file"}, {}, "'/no/such/file' cannot be read"),
    ],
)
def test_what_a_hosted_model_cannot_do(
    provider: Provider, tmp_path: Path, changes: dict[str, Any], recipe: dict[str, Any], why: str
) -> None:
    """A job that asks for more than there is gets told so, and nothing is sent."""
    with pytest.raises(TrainingError, match=why):
        trainer_at(provider).train(job_in(tmp_path, **recipe).model_copy(update=changes), silent)
    assert provider.asked == []


def test_too_few_examples(provider: Provider, tmp_path: Path) -> None:
    """Fewer than the provider takes are refused before anything is uploaded."""
    with pytest.raises(TrainingError, match=r"has 9 examples \(1 more are too long.*wants 10 at least"):
        trainer_at(provider).train(
            job_in(tmp_path, [*(example(n) for n in range(9)), conversation(answered=False)]), silent
        )
    with pytest.raises(TrainingError, match="has 0 examples with a rejected answer"):
        trainer_at(provider).train(
            job_in(tmp_path, [example(n, rejected=None) for n in range(12)], method="dpo"), silent
        )
    assert provider.asked == []


@pytest.mark.parametrize("line", ['{"messages": []}', '{"mess', "\udcff"])
def test_a_malformed_row_is_named(tmp_path: Path, line: str) -> None:
    """What is no example is a sentence with the number of its line."""
    job = job_in(tmp_path)
    with Path(job.dataset).open("ab") as stream:
        stream.write(b"\n" + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"Line 14 of the dataset '.*data\.jsonl' is not an example: "):
        OpenAITrainer().rows(job)


def test_progress_is_what_the_provider_says(provider: Provider, tmp_path: Path) -> None:
    """Each event is told once and in order, with step, steps in all and loss where there are any."""
    seen: list[Progress] = []
    trainer_at(provider).train(job_in(tmp_path), seen.append)
    told = [(p.stage, p.done, p.total, p.loss, p.note) for p in seen[1:]]
    assert seen[0].stage == "upload"
    assert re.search(r"about [\d,]+ tokens \(12 examples, 3 times\)\.", seen[0].note or "")
    assert told == [
        ("validate", 0, 9, None, "Validating training file"),
        ("queue", 0, 9, None, "Files validated, moving job to queued state"),
        ("train", 1, 2, 1.0, None),
        ("train", 2, 2, 0.5, None),
        ("train", 2, 2, None, "The job has successfully completed"),
    ]


def test_a_server_that_says_its_figures_in_words(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data in the events, step and loss are read from their text."""
    say = provider.say
    monkeypatch.setattr(provider, "say", lambda name, message, kind, data: say(name, message, kind, None))
    result = trainer_at(provider).train(job_in(tmp_path), silent)
    assert (result.steps, result.loss) == (2, 0.5)


def test_a_server_without_events(provider: Provider, tmp_path: Path) -> None:
    """Where there are no events the job is done all the same, and its loss is not known."""
    provider.spoil("GET .*/events", *[refuse(404)] * 20)
    result = trainer_at(provider).train(job_in(tmp_path), silent)
    assert (result.model, result.steps, result.loss) == (f"ft:{MODEL}:org::1", 9, None)


def hollow(speaker: Speaker) -> bool:
    """Answer with JSON that says nothing."""
    speaker.send(200, {})
    return False


TROUBLE = [refuse(429, retry_after="0"), refuse(500), refuse(503, "overloaded"), drop, page, torn, hollow]


@pytest.mark.parametrize(
    "request_", ["GET .*/jobs", "POST .*/files", "POST .*/jobs", r"GET .*/ftjob-\d", "GET .*/events"]
)
def test_trouble_is_waited_out(provider: Provider, tmp_path: Path, request_: str) -> None:
    """Whatever breaks, at whichever request: the job is created once and ends with its model."""
    provider.spoil(request_, *TROUBLE)
    assert trainer_at(provider).train(job_in(tmp_path), silent).model == f"ft:{MODEL}:org::1"
    assert provider.faults == []
    assert len(provider.jobs) == 1


def test_the_provider_says_how_long_to_wait(provider: Provider, tmp_path: Path) -> None:
    """After a 429 with Retry-After nobody knocks before that time."""
    provider.spoil("GET .*/ftjob-1", refuse(429, "rate_limit_exceeded", retry_after="0.3"))
    trainer_at(provider).train(job_in(tmp_path), silent)
    first, second, *_ = provider.times("GET .*/ftjob-1")
    assert second - first >= 0.3


def test_a_lost_answer_is_not_paid_twice(provider: Provider, tmp_path: Path) -> None:
    """When the job was created and the answer got lost, it is found instead of created again."""
    provider.spoil("POST .*/fine_tuning/jobs", lose)
    assert trainer_at(provider).train(job_in(tmp_path), silent).model
    assert len(provider.times("POST .*/fine_tuning/jobs")) == len(provider.jobs) == 1


def test_other_peoples_jobs_are_left_alone(provider: Provider, tmp_path: Path) -> None:
    """A server that does not filter by tag lists the jobs of others as well; none of them is taken for ours."""
    provider.filters = False
    provider.files["file-0"] = b""
    for tag in (None, {"learnloop_job": "fedcba9876543210"}):
        provider.create({"model": MODEL, "training_file": "file-0", "metadata": tag})
    assert trainer_at(provider).train(job_in(tmp_path), silent).engine.endswith("'ftjob-3'.")
    assert list(provider.files) == ["file-0"]


@pytest.mark.parametrize("kept", [True, False])
def test_a_killed_process_finds_its_job_again(provider: Provider, tmp_path: Path, kept: bool) -> None:
    """The next process takes up the job at the provider, by the note on disk or, without it, by the job's own tag."""
    provider.way = ("validating_files", "running")
    job = job_in(tmp_path)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    script = f"""
        import pathlib, openai
        from langgraph_learnloop.integrations.openai_finetuning import OpenAITrainer
        from langgraph_learnloop.records import Job
        job = Job.model_validate_json(pathlib.Path({str(tmp_path / "job.json")!r}).read_text())
        client = openai.OpenAI(base_url={provider.url!r}, api_key={KEY!r})
        OpenAITrainer(client, poll_seconds=0.01).train(job, lambda p: print(p.stage, flush=True))
        """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert any(line == "train\n" for line in first.stdout)
        first.kill()
    note = Path(f"{job.output}.openai.json")
    assert json.loads(note.read_text())["job"] == "ftjob-1"
    if not kept:
        note.unlink()
    provider.way = WAY
    assert trainer_at(provider).train(job, silent).model == f"ft:{MODEL}:org::1"
    assert len(provider.times("POST .*/fine_tuning/jobs")) == len(provider.jobs) == 1


def test_a_note_of_a_job_that_is_not_there(provider: Provider, tmp_path: Path) -> None:
    """A note that leads nowhere, or is no note, is passed over."""
    job = job_in(tmp_path)
    note = Path(f"{job.output}.openai.json")
    note.parent.mkdir(parents=True)
    for text in ('{"job": "ftjob-99"}', "[]", "{"):
        note.write_text(text)
        assert trainer_at(provider).train(job, silent).model
        (Path(job.output) / "result.json").unlink()
    assert len(provider.jobs) == 1


def test_a_failed_job_has_the_providers_reason(provider: Provider, tmp_path: Path) -> None:
    """The error holds what the provider said; run again, a new job is created."""
    provider.way = ("validating_files", "failed")
    provider.error = {"code": "invalid_training_file", "message": "Line 3 is unsafe.", "param": "training_file"}
    with pytest.raises(TrainingError, match=r"'0123456789abcdef' failed .*\(ftjob-1\): Line 3 is unsafe\. Mend that"):
        trainer_at(provider).train(job_in(tmp_path), silent)
    assert provider.files == {}
    provider.way = WAY
    assert trainer_at(provider).train(job_in(tmp_path), silent).engine.endswith("'ftjob-2'.")


def test_a_job_cancelled_at_the_provider(provider: Provider, tmp_path: Path) -> None:
    """A job that somebody cancelled there is told apart from one that this process cancelled."""
    provider.way = ("running", "cancelled")
    with pytest.raises(TrainingError, match=r"cancelled at the provider \(ftjob-1\), and not by this process"):
        trainer_at(provider).train(job_in(tmp_path), silent)


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (refuse(403, None, "You may not."), "the API key may not fine-tune (You may not)"),
        (refuse(404, "model_not_found", "No such model."), "'gpt-test' cannot be fine-tuned (No such model)"),
        (refuse(404, None, "Not Found"), "check that the client's base_url"),
        (refuse(429, "insufficient_quota", "Pay first."), "the account's quota is used up (Pay first)"),
        (refuse(400, "bad", "Odd.\n\nVery odd."), "was refused by the provider (Odd. Very odd)."),
    ],
)
def test_a_refusal_is_one_sentence(provider: Provider, tmp_path: Path, fault: Fault, why: str) -> None:
    """What no waiting would mend is told at once, and the uploaded file does not stay behind."""
    provider.spoil("POST .*/jobs", fault)
    with pytest.raises(TrainingError, match=r"^Job '0123456789abcdef' was refused") as caught:
        trainer_at(provider).train(job_in(tmp_path), silent)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (provider.jobs, provider.files) == ({}, {})


def test_a_wrong_key(provider: Provider, tmp_path: Path) -> None:
    """A key that is not known uploads nothing."""
    with pytest.raises(TrainingError, match=r"the API key is not valid \(Incorrect API key.*set OPENAI_API_KEY"):
        trainer_at(provider, key="sk-bad").train(job_in(tmp_path), silent)
    assert provider.times("POST .*") == []


def test_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a client and without a key there is a sentence, and no request."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match=r"cannot be sent to the provider: .*OPENAI_API_KEY"):
        OpenAITrainer().train(job_in(tmp_path), silent)


def test_without_the_library_the_error_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has not got the extra is told what to install."""
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r'pip install "langgraph-learnloop\[openai\]"'):
        OpenAITrainer().train(job_in(tmp_path), silent)


def test_another_thread_cancels(provider: Provider, tmp_path: Path) -> None:
    """The provider is told, though its first answer is lost, and the job begins anew when it is run again."""
    provider.way = ("running",)
    trainer = trainer_at(provider, poll_seconds=0.01)
    provider.spoil("POST .*/cancel", drop)

    def cancel(progress: Progress) -> None:
        if progress.stage == "train":
            threading.Thread(target=trainer.cancel).start()

    with pytest.raises(TrainingError, match=r"cancelled at the provider \(ftjob-1\), for it was asked to stop"):
        trainer.train(job_in(tmp_path), cancel)
    assert provider.jobs["ftjob-1"]["status"] == "cancelled"
    assert provider.files == {}
    provider.way = WAY
    assert trainer.train(job_in(tmp_path), silent).model
    assert list(provider.jobs) == ["ftjob-1", "ftjob-2"]


def test_a_job_cancelled_before_it_began(provider: Provider, tmp_path: Path) -> None:
    """What is cancelled during the upload is not created, and the file goes."""
    trainer = trainer_at(provider)
    with pytest.raises(TrainingError, match="ended before the provider began it, for it was asked to stop"):
        trainer.train(job_in(tmp_path), lambda p: trainer.cancel())
    assert (provider.jobs, provider.files) == ({}, {})


def test_a_cancel_that_comes_too_late(provider: Provider, tmp_path: Path) -> None:
    """A job that has succeeded meanwhile is paid for, so its model is returned."""
    provider.way = ("running",)
    trainer = trainer_at(provider)

    def cancel(progress: Progress) -> None:
        if progress.stage == "train" and provider.jobs["ftjob-1"]["status"] == "running":
            provider.enter("ftjob-1", "succeeded")
            trainer.cancel()

    assert trainer.train(job_in(tmp_path), cancel).model == f"ft:{MODEL}:org::1"


def test_a_job_whose_answer_was_lost_is_cancelled_too(provider: Provider, tmp_path: Path) -> None:
    """A job that was created unseen, just before the stop, does not run on."""
    trainer = trainer_at(provider, poll_seconds=5.0)

    def lose_and_cancel(speaker: Speaker) -> bool:
        threading.Timer(0.05, trainer.cancel).start()
        return lose(speaker)

    provider.spoil("POST .*/fine_tuning/jobs", lose_and_cancel)
    with pytest.raises(TrainingError, match=r"cancelled at the provider \(ftjob-1\)"):
        trainer.train(job_in(tmp_path), silent)
    assert provider.jobs["ftjob-1"]["status"] == "cancelled"


def test_the_minutes_of_a_job_are_kept(provider: Provider, tmp_path: Path) -> None:
    """When they are over the provider's job is cancelled."""
    provider.way = ("running",)
    with pytest.raises(TrainingError, match=r"cancelled at the provider \(ftjob-1\), for its 0.001 minutes were over"):
        trainer_at(provider).train(job_in(tmp_path, minutes=0.001), silent)
    assert provider.jobs["ftjob-1"]["status"] == "cancelled"


def test_an_outage_has_an_end(provider: Provider, tmp_path: Path) -> None:
    """A provider that stays away is given up after a while, and the job is taken up when it is back."""
    provider.spoil("GET .*/ftjob-1", *[refuse(502)] * 10_000)
    with pytest.raises(TrainingError, match=r"not known to have ended: the provider gave no answer for 0.2 s .*later"):
        trainer_at(provider, outage_seconds=0.2).train(job_in(tmp_path), silent)
    assert provider.files != {}
    provider.faults.clear()
    assert trainer_at(provider).train(job_in(tmp_path), silent).model
    assert len(provider.jobs) == 1


def test_no_file_of_an_attempt_stays_behind(provider: Provider, tmp_path: Path) -> None:
    """What an attempt uploaded before it was cut off goes when the job of the next one has ended."""
    provider.spoil("POST .*/jobs", *[refuse(502)] * 10_000)
    with pytest.raises(TrainingError, match=r"no answer for 0\.1 s"):
        trainer_at(provider, outage_seconds=0.1).train(job_in(tmp_path), silent)
    assert len(provider.files) == 1
    provider.faults.clear()
    assert trainer_at(provider).train(job_in(tmp_path), silent).model
    assert len(provider.times("POST .*/files")) == 2
    assert provider.files == {}


def test_what_a_job_may_cost(provider: Provider, tmp_path: Path) -> None:
    """A job that is estimated to cost too much is refused before the upload; the estimate is told either way."""
    with pytest.raises(TrainingError, match=r"\d,\d{3} tokens \(12 examples, 3 times\), about \d+\.\d\d dollars"):
        trainer_at(provider, usd_per_million_tokens=25_000, most_usd=1).train(job_in(tmp_path), silent)
    assert provider.times("POST .*") == []
    seen: list[Progress] = []
    trainer_at(provider, usd_per_million_tokens=25_000, most_usd=1_000).train(job_in(tmp_path), seen.append)
    assert "dollars" in str(seen[0].note)


def test_a_limit_needs_a_price() -> None:
    """What a job costs cannot be limited without knowing what a token costs."""
    with pytest.raises(ConfigError, match="most_usd needs usd_per_million_tokens"):
        OpenAITrainer(most_usd=5)


def test_a_file_that_could_not_be_deleted_is_named(provider: Provider, tmp_path: Path) -> None:
    """The job counts, and what stays at the provider is told."""
    provider.spoil("DELETE .*", refuse(500, None, "Later."))
    seen: list[Progress] = []
    assert trainer_at(provider).train(job_in(tmp_path), seen.append).model
    (left,) = provider.files
    assert f"{left!r} could not be deleted (Later): delete it" in str(seen[-1].note)
