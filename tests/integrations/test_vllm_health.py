"""How servers are is told within seconds, and what others left on them can be freed."""

from __future__ import annotations

from pathlib import Path

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import EngineHealth, Release
from tests.integrations.loopback_vllm import (
    MODELS,
    NOW,
    Server,
    ask,
    engine_at,
    hang,
    name_of,
    page,
    refuse,
    release_of,
)

pytest.importorskip("openai", reason="the openai extra is not installed")

WAITING = "vllm:num_requests_waiting"


def test_what_every_replica_holds_is_loaded(servers: list[Server], base: Path, release: Release) -> None:
    """Whichever process loaded it there, and the bare base, which all of them hold; what one of them lacks is not."""
    other = release_of(base, "two")
    bare = Release(base_model=str(base), made_at=NOW)
    engine_at(*servers).load(release)
    engine_at(servers[0]).load(other)
    servers[1].adapters["somebody-elses"] = "elsewhere"
    engine = engine_at(*servers)
    assert engine.health() == EngineHealth(loaded=(release.release_id,))
    engine.load(bare)
    assert set(engine.health().loaded) == {bare.release_id, release.release_id}


def test_a_replica_that_is_down_is_no_trouble(
    servers: list[Server], release: Release, caplog: pytest.LogCaptureFixture
) -> None:
    """Another one answers, and what that one holds is loaded; the log says once who is down, and who is back."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[1].adapters.clear()
    for _ in range(2):
        servers[1].spoil("GET /health", refuse(503, "dead"))
        assert engine.health() == EngineHealth(loaded=(release.release_id,))
    assert engine.health().loaded == ()  # it is back, and empty
    said = [record.getMessage() for record in caplog.records if record.name.endswith("vllm_engine")]
    who = f"The replica '{servers[1].url}/v1'"
    assert said == [f"vLLM: {who} answered 503: dead. See the server's log.", f"vLLM: {who} is ready again."]


def test_trouble_is_when_nobody_is_ready(servers: list[Server], release: Release) -> None:
    """Each replica's reason is told, and nothing is held to be loaded."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].spoil("GET /health", refuse(503, "dead"))
    servers[1].spoil(MODELS, page)
    health = engine.health()
    assert health.trouble is not None
    assert health.trouble.startswith(
        f"No replica is ready. The replica '{servers[0].url}/v1' answered 503: dead. See the server's log. The"
    )
    assert (health.loaded, health.waiting) == ((), None)


def test_health_does_not_wait_for_who_hangs(servers: list[Server], release: Release) -> None:
    """A replica that says nothing is down, long before a request or a load would give it up."""
    engine = engine_at(*servers, seconds=600.0, load_seconds=600.0, look_seconds=0.5)
    engine.load(release)
    for server, request in zip(servers, ("GET /health", MODELS), strict=True):
        server.spoil(request, hang)
    assert str(engine.health().trouble).count("did not answer in time") == 2


def test_an_engine_that_was_closed_is_in_trouble(server: Server, release: Release) -> None:
    """It says so, and raises nothing else."""
    engine = engine_at(server)
    engine.load(release)
    engine.close()
    assert "cannot be asked" in str(engine.health().trouble)
    with pytest.raises(EngineError, match=r"did not answer.*cannot be asked: .*closed"):
        engine.generate(ask(release))


@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        (("", ""), None),
        ((f'{WAITING}{{engine="0",model_name="base"}} 3.0\n', f"{WAITING} 0.0\n"), 3),
        ((f'# TYPE x gauge\n{WAITING}{{engine="0"}} 1.0\n{WAITING}{{engine="1"}} 2.0\n', f"{WAITING} 4.0\n"), 7),
        ((f"{WAITING} 3.0\n", None), None),
        ((f"{WAITING} many\n", f"{WAITING} 4.0\n"), None),
        ((f'{WAITING}_by_reason{{reason="capacity"}} 5.0\n', f"{WAITING} 4.0\n"), None),
    ],
)
def test_who_waits_is_counted(
    servers: list[Server], metrics: tuple[str | None, str | None], waiting: int | None
) -> None:
    """The servers' own count, of all their engines; nothing is made up where one of them does not tell it."""
    for server, said in zip(servers, metrics, strict=True):
        server.metrics = said
    assert engine_at(*servers).health().waiting == waiting


def test_what_a_killed_process_left_is_freed(servers: list[Server], base: Path, release: Release) -> None:
    """A process that never loaded it sees it and unloads it; what is not this package's stays."""
    left, live = release, release_of(base, "two")
    killed = engine_at(*servers)
    killed.load(left)
    killed.load(live)
    servers[0].adapters["somebody-elses"] = "elsewhere"
    engine = engine_at(*servers)
    engine.load(live)
    for release_id in {*engine.health().loaded} - {live.release_id}:
        engine.unload(release_id)
    assert [set(server.adapters) for server in servers] == [{name_of(live), "somebody-elses"}, {name_of(live)}]


def test_what_only_one_replica_has_left_is_freed(servers: list[Server], release: Release) -> None:
    """`replicas` shows it, and unloading asks all of them."""
    engine_at(servers[1]).load(release)
    engine = engine_at(*servers)
    assert [one.releases for one in engine.replicas()] == [(), (release.release_id,)]
    engine.unload(release.release_id)
    assert servers[1].adapters == {}


def test_who_still_needs_what_another_process_unloads_gets_it_again(server: Server, release: Release) -> None:
    """Freeing is safe: the next answer is the release's all the same."""
    needs = engine_at(server)
    needs.load(release)
    engine_at(server).unload(release.release_id)
    assert server.adapters == {}
    assert needs.generate(ask(release)).message.content == f"I am {name_of(release)}."


def test_replicas_say_how_they_are(servers: list[Server], release: Release) -> None:
    """One that is well says what it holds, also what others loaded; one that is not says why."""
    engine_at(servers[0]).load(release)
    engine = engine_at(*servers, look_seconds=0.5)
    servers[1].spoil("GET /health", refuse(503, "dead"))
    well, ill = engine.replicas()
    assert (well.url, well.ready, well.releases, well.error) == (
        f"{servers[0].url}/v1",
        True,
        (release.release_id,),
        None,
    )
    assert (ill.ready, ill.releases) == (False, ())
    assert ill.error == f"The replica '{servers[1].url}/v1' answered 503: dead. See the server's log."
    servers[1].spoil("GET /health", hang)
    assert "in time" in str(engine.replicas()[1].error)
