"""Whatever servers and adapters do, a release is answered by itself or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langgraph_learnloop.errors import EngineError
from langgraph_learnloop.records import Generated, Release
from langgraph_learnloop.serving.toolcalls import parse_answer
from tests.integrations.loopback_vllm import (
    CHAT,
    LOAD,
    MODELS,
    NOW,
    UNLOAD,
    Fault,
    Server,
    Speaker,
    aborted,
    ask,
    broken,
    drop,
    empty,
    engine_at,
    failing,
    garbled,
    hang,
    mute,
    name_of,
    page,
    piece,
    refusal,
    refuse,
    release_of,
    silent,
    torn,
    unfinished,
    usurped,
    vanish,
)

pytest.importorskip("openai", reason="the openai extra is not installed")


FAULTS = [refuse(500), refuse(503), refuse(429), drop, vanish, hang, page, empty, aborted]
"""What another replica may do better."""
OF_STREAMS = [mute, failing, garbled]
"""What it may do better as long as nothing was said."""


@pytest.mark.parametrize(
    ("fault", "streamed"),
    [*((fault, streamed) for fault in FAULTS for streamed in (False, True)), *((fault, True) for fault in OF_STREAMS)],
)
def test_another_replica_answers(servers: list[Server], release: Release, fault: Fault, streamed: bool) -> None:
    """A replica that fails before it has said anything is not noticed, and spared for a while."""
    now = [0.0]
    seconds = 0.5 if fault is hang else 20.0
    engine = engine_at(*servers, seconds=seconds, rest_seconds=9.0, clock=lambda: now[0])
    engine.load(release)
    servers[0].spoil(CHAT, fault)

    def asked() -> str:
        answers = engine.stream(ask(release)) if streamed else [engine.generate(ask(release))]
        return list(answers)[-1].message.content

    assert asked() == f"I am {name_of(release)}."
    assert [server.times(CHAT) for server in servers] == [1, 1]
    assert {asked() for _ in range(3)} == {f"I am {name_of(release)}."}
    assert [server.times(CHAT) for server in servers] == [1, 4]
    now[0] = 10.0
    asked()
    assert servers[0].times(CHAT) == 2


def test_what_was_held_back_can_be_said_by_another(servers: list[Server], release: Release) -> None:
    """A replica that dies within what may be a tool call has shown nothing of it."""

    def within(speaker: Speaker) -> bool:
        speaker.begin()
        speaker.event(piece(speaker.server.said(name_of(release)), {"content": "<tool_call>"}))
        speaker.close_connection = True
        return False

    engine = engine_at(*servers, parse=parse_answer)
    engine.load(release)
    servers[0].spoil(CHAT, within)
    *texts, answer = engine.stream(ask(release))
    assert isinstance(answer, Generated)
    assert "".join(map(str, texts)) == answer.message.content == f"I am {name_of(release)}."


def test_a_dead_replica_is_not_noticed(servers: list[Server], release: Release) -> None:
    """Nobody listens any more, and connections that were kept are no use."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].die()
    assert {engine.generate(ask(release)).message.content for _ in range(4)} == {f"I am {name_of(release)}."}
    assert servers[1].times(CHAT) == 4
    engine.unload(release.release_id)
    assert servers[1].adapters == {}


def test_a_replica_that_dies_in_the_middle_of_many_answers(servers: list[Server], release: Release) -> None:
    """All of them are given elsewhere, none of them twice."""
    engine = engine_at(*servers)
    engine.load(release)
    asked, died = threading.Semaphore(0), threading.Event()

    def hold_back(speaker: Speaker) -> bool:
        asked.release()
        died.wait(30)
        speaker.send(200, speaker.server.said(name_of(release)))
        return False

    for server in servers:
        server.spoil(CHAT, *[hold_back] * 4)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(engine.generate, ask(release)) for _ in range(8)]
        for _ in range(8):
            asked.acquire()
        servers[0].die()
        died.set()
        assert {one.result().message.content for one in answers} == {f"I am {name_of(release)}."}
    assert servers[1].times(CHAT) == 8


def test_a_replica_is_born_again_at_its_address(server: Server, release: Release) -> None:
    """It is empty, and has the release again with the first answer."""
    engine = engine_at(server)
    engine.load(release)
    server.die()
    with pytest.raises(EngineError, match="cannot be reached, or hung up"):
        engine.generate(ask(release))
    assert engine.health().trouble is not None
    with Server(server.root, server.server_port) as born:
        born.live()
        assert engine.health().loaded == ()
        assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."
        assert engine.health().loaded == (release.release_id,)
        born.shutdown()


def test_what_fails_everywhere_is_an_error(servers: list[Server], release: Release) -> None:
    """Two tries, and what came of both."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].spoil(CHAT, refuse(500, "out of memory"), refuse(500))
    servers[1].spoil(CHAT, drop, refuse(500))
    with pytest.raises(
        EngineError,
        match=r"did not answer. .* answered 500: out of memory. See the server's log. Tried again: .*hung up",
    ):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [1, 1]


@pytest.mark.parametrize("fault", [refuse(500), drop, vanish, page])
def test_a_single_replica_gets_a_second_chance(server: Server, release: Release, fault: Fault) -> None:
    """What may have been a moment's trouble is tried again."""
    engine = engine_at(server)
    engine.load(release)
    server.spoil(CHAT, fault)
    assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."


@pytest.mark.parametrize(("fault", "words"), [(refuse(429, "too many"), "429: too many"), (hang, "in time")])
def test_a_single_replica_that_is_busy_is_not_pressed(
    server: Server, release: Release, fault: Fault, words: str
) -> None:
    """Who has too much to do is not asked twice."""
    engine = engine_at(server, seconds=0.5 if fault is hang else 20.0)
    engine.load(release)
    server.spoil(CHAT, fault)
    with pytest.raises(EngineError, match=words):
        engine.generate(ask(release))
    assert server.times(CHAT) == 1


@pytest.mark.parametrize(
    ("status", "message", "words"),
    [
        (400, "This model's maximum context length is 256 tokens.", "maximum context length is 256 tokens"),
        (400, '"auto" tool choice requires --tool-call-parser to be set', "or give the engine `parse`"),
        (401, "Unauthorized", "Give the engine the server's key"),
    ],
)
def test_a_refused_request_is_not_tried_elsewhere(
    servers: list[Server], release: Release, status: int, message: str, words: str
) -> None:
    """Another replica would say the same."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].spoil(CHAT, refuse(status, message))
    with pytest.raises(EngineError, match=words):
        engine.generate(ask(release))
    assert [server.times(CHAT) for server in servers] == [1, 0]


def test_somebody_elses_answer_is_refused(servers: list[Server], release: Release) -> None:
    """A server that answers with another model than the one it was asked for is not believed, and not shown."""
    engine = engine_at(*servers)
    engine.load(release)
    for server in servers:
        server.name = "base"
    for answers in (engine.generate, lambda request: next(engine.stream(request))):
        with pytest.raises(EngineError, match=f"'base' answered in place of '{name_of(release)}'"):
            answers(ask(release))


def test_a_replica_that_was_started_anew_gets_its_adapters(server: Server, base: Path) -> None:
    """Many ask at once, and each release is loaded once."""
    releases = [release_of(base, name) for name in ("one", "two")]
    engine = engine_at(server)
    for one in releases:
        engine.load(one)
    server.adapters.clear()
    server.asked.clear()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: engine.generate(ask(one)).message.content, releases * 8))
    assert answers == [f"I am {name_of(one)}." for one in releases] * 8
    assert server.times(LOAD) == 2
    server.adapters.clear()
    assert [*engine.stream(ask(releases[0]))][-1].message.content == answers[0]


def test_a_replica_that_lost_its_adapter_for_good(servers: list[Server], base: Path, release: Release) -> None:
    """It is not asked any more, as long as another one has it."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].adapters.clear()
    servers[0].holds = False
    for _ in range(3):
        assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."
    servers[1].adapters.clear()
    servers[1].holds = False
    with pytest.raises(EngineError, match=f"does not hold '{name_of(release)}' now: see its log. Tried again"):
        engine.generate(ask(release))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file, _: file.write_bytes(file.read_bytes()[:-5]),
        lambda file, other: file.write_bytes(Path(other.adapter, file.name).read_bytes()),
        lambda file, _: file.unlink(),
    ],
    ids=["truncated", "swapped", "gone"],
)
def test_an_adapter_that_has_changed_is_not_given_again(
    servers: list[Server], base: Path, release: Release, spoil: Callable[[Path, Release], object]
) -> None:
    """A replica that was started anew would read what lies there now; who has read it before goes on answering."""
    engine = engine_at(*servers)
    engine.load(release)
    spoil(Path(str(release.adapter), "adapter_model.safetensors"), release_of(base, "two"))
    servers[0].adapters.clear()
    for _ in range(3):
        assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."
    servers[1].adapters.clear()
    with pytest.raises(EngineError, match=f"lost '{name_of(release)}'.*(the file was changed|cannot be read)"):
        engine.generate(ask(release))
    assert [server.adapters for server in servers] == [{}, {}]


def test_a_replica_that_was_started_anew_with_another_base(servers: list[Server], base: Path, release: Release) -> None:
    """It gets no adapter and answers nothing, as long as it has the wrong one."""
    engine = engine_at(*servers)
    engine.load(release)
    servers[0].adapters.clear()
    servers[0].root = str(base.parent)
    for _ in range(3):
        assert engine.generate(ask(release)).message.content == f"I am {name_of(release)}."
    assert (servers[0].adapters, servers[0].times(CHAT)) == ({}, 1)


def test_who_is_found_not_to_be_ready_is_spared(servers: list[Server], base: Path) -> None:
    """A look at the replicas notices what a request for the bare base cannot: that it is another one now."""
    bare = Release(base_model=str(base), made_at=NOW)
    engine = engine_at(*servers)
    engine.load(bare)
    servers[0].root = str(base.parent)
    assert [one.ready for one in engine.replicas()] == [False, True]
    for _ in range(3):
        engine.generate(ask(bare))
    assert [server.times(CHAT) for server in servers] == [0, 3]


def test_a_replica_that_dies_between_a_load_and_its_proof(servers: list[Server], release: Release) -> None:
    """A load that cannot be seen to have worked has not, and what can be reached is taken back."""

    def last_words(speaker: Speaker) -> bool:
        speaker.server.spoil(MODELS, refuse(503, "shutting down"))
        speaker.send(200, b"Success")
        return False

    engine = engine_at(*servers)
    servers[1].spoil(LOAD, last_words)
    with pytest.raises(EngineError, match=r"is not loaded\. The replica .* answered 503: shutting down"):
        engine.load(release)
    assert [server.adapters for server in servers] == [{}, {}]


def test_unloading(servers: list[Server], base: Path, release: Release) -> None:
    """It goes everywhere, and nothing else does; ids that nobody knows are ignored."""
    other = release_of(base, "two")
    engine = engine_at(*servers)
    engine.load(release)
    engine.load(other)
    engine.unload("nobody")
    servers[0].spoil(UNLOAD, refuse(500))
    engine.unload(release.release_id)
    assert [set(server.adapters) for server in servers] == [{name_of(release), name_of(other)}, {name_of(other)}]
    with pytest.raises(EngineError, match=f"not loaded in this engine.*Loaded are: {other.release_id}"):
        engine.generate(ask(release))


def test_what_is_unloaded_while_it_is_asked_for_stays_away(server: Server, release: Release) -> None:
    """A request that finds its release gone does not bring it back."""
    engine = engine_at(server)
    engine.load(release)

    def unloaded(speaker: Speaker) -> bool:
        engine.unload(release.release_id)
        speaker.send(404, refusal("The model does not exist."))
        return False

    server.spoil(CHAT, unloaded)
    with pytest.raises(EngineError, match="is not loaded in this engine"):
        engine.generate(ask(release))
    assert (server.adapters, server.times(LOAD)) == ({}, 1)


def test_what_is_unloaded_while_it_is_brought_back_stays_away(server: Server, release: Release) -> None:
    """Whoever unloads has the last word, also against a request that is loading."""
    engine = engine_at(server)
    engine.load(release)
    server.adapters.clear()
    unloading = threading.Thread(target=engine.unload, args=(release.release_id,))

    def meanwhile(speaker: Speaker) -> bool:
        unloading.start()
        while release.release_id in engine._served:
            threading.Event().wait(0.001)
        name = name_of(release)
        speaker.server.adapters[name] = str(release.adapter)
        speaker.send(200, b"Success")
        return False

    server.spoil(LOAD, meanwhile)
    with pytest.raises(EngineError, match="is not loaded in this engine"):
        engine.generate(ask(release))
    unloading.join()
    assert server.adapters == {}


def test_releases_are_swapped_while_they_answer(servers: list[Server], base: Path) -> None:
    """Four threads ask without pause; each answer is of the release that was asked for, and none fails."""
    releases = [release_of(base, name) for name in ("one", "two")]
    engine = engine_at(*servers)
    current = [releases[0]]
    engine.load(current[0])
    done = threading.Event()

    def work() -> int:
        asked = 0
        while not done.is_set():
            one = current[0]
            assert engine.generate(ask(one)).message.content == f"I am {name_of(one)}."
            asked += 1
        return asked

    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work) for _ in range(4)]
        for turn in range(20):
            engine.load(releases[turn % 2])
            current[0] = releases[turn % 2]
        done.set()
        assert all(one.result() > 0 for one in working)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (torn, "hung up"),
        (silent, "did not answer in time"),
        (broken, "EngineCore died"),
        (unfinished, "the answer broke off"),
        (usurped, "'base' answered in place of"),
    ],
)
def test_a_stream_that_breaks_off_is_an_error(
    servers: list[Server], release: Release, fault: Fault, words: str
) -> None:
    """What was said cannot be taken back, so nobody else begins anew."""
    engine = engine_at(*servers, seconds=0.5 if fault is silent else 20.0)
    engine.load(release)
    servers[0].spoil(CHAT, fault)
    with pytest.raises(EngineError, match=words):
        list(engine.stream(ask(release)))
    assert [server.times(CHAT) for server in servers] == [1, 0]
    assert [one.answering for one in engine.replicas()] == [0, 0]


def test_the_words_before_a_break_were_handed_out(server: Server, release: Release) -> None:
    """A caller has what came, and then the error."""
    engine = engine_at(server)
    engine.load(release)
    server.spoil(CHAT, torn)
    stream = engine.stream(ask(release))
    assert next(stream) == "I am"
    with pytest.raises(EngineError, match="hung up"):
        next(stream)
