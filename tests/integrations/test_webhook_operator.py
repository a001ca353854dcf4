"""People are told what was decided; a hook that fails changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from langgraph_learnloop import LearnLoop
from langgraph_learnloop.config import LoopConfig
from langgraph_learnloop.errors import ConfigError, LearnLoopError
from langgraph_learnloop.integrations.webhook_operator import ADDRESS, WebhookOperator
from langgraph_learnloop.records import Decision
from langgraph_learnloop.testing import MemoryEngine


class Hook(ThreadingHTTPServer):
    """Takes what is posted, or refuses it."""

    daemon_threads = True
    got: list[dict[str, Any]]
    status = 200


@pytest.fixture
def hook() -> Iterator[Hook]:
    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            server.got.append(json.loads(body))
            self.send_response(server.status)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Stay silent."""

    server = Hook(("127.0.0.1", 0), Door)
    server.got = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(hook: Hook) -> str:
    return f"http://127.0.0.1:{hook.server_port}/secret"


def decision(action: str = "rollout:rolled_back", because: str = "It lies.\n\x1b[31mAnd blinks.") -> Decision:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Decision(at=at, actor="learnloop", action=action, subject="r1", because=because, previous="0", hash="1")


def test_a_rollback_is_told_in_a_sentence(hook: Hook) -> None:
    """One line for people, control characters made visible, and the whole entry for programs."""
    WebhookOperator(url(hook)).tell(decision())
    (body,) = hook.got
    assert body["text"].startswith("rollout:rolled_back r1 (by learnloop): It lies. ")
    assert "\x1b" not in body["text"]
    assert Decision.model_validate(body["decision"]) == decision()


def test_what_nobody_asked_for_is_not_told(hook: Hook) -> None:
    """By default training is not; everything can be."""
    WebhookOperator(url(hook)).tell(decision("train"))
    assert hook.got == []
    WebhookOperator(url(hook), told=("",)).tell(decision("train"))
    assert len(hook.got) == 1


def test_a_hook_that_refuses_is_a_sentence_without_its_address(hook: Hook) -> None:
    """The address is a secret."""
    hook.status = 500
    with pytest.raises(LearnLoopError, match="did not take the decision") as refused:
        WebhookOperator(url(hook)).tell(decision())
    assert "secret" not in str(refused.value)


def test_the_loop_tells_and_goes_on_without_it(hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named in the settings, the operator hears of the champion; a hook that is gone stops nothing."""
    monkeypatch.setenv(ADDRESS, url(hook))
    name = "langgraph_learnloop.integrations.webhook_operator:WebhookOperator"
    with LearnLoop(tmp_path / "l.db", config=LoopConfig(operator=name)) as loop:
        loop.model(MemoryEngine())
        loop._decide("rollout:live", loop.champion.release_id, "All is well.")
        hook.shutdown()
        hook.server_close()
        loop._decide("rollout:live", loop.champion.release_id, "Still well.")
        assert [entry.because for entry in loop.log()][-2:] == ["All is well.", "Still well."]
    assert [body["decision"]["because"] for body in hook.got] == ["All is well."]


@pytest.mark.parametrize("address", ["http://127.0.0.1/top secret", "http://127.0.0.1:secret/", "http://[secret/"])
def test_an_address_that_is_none_is_not_quoted(address: str) -> None:
    """What the library says of an address it cannot use holds the address."""
    with pytest.raises(LearnLoopError, match="did not take the decision") as refused:
        WebhookOperator(address).tell(decision())
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("address", ["", "file:///etc/passwd", "hooks.example.com"])
def test_what_is_no_address_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but http and https."""
    monkeypatch.delenv(ADDRESS, raising=False)
    with pytest.raises(ConfigError, match=r"https://\.\.\."):
        WebhookOperator(address)
