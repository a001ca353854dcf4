"""Releases, the champion and the way back."""

from collections.abc import Callable
from datetime import datetime
from threading import Barrier, Thread

import pytest

from langgraph_learnloop.errors import IllegalMoveError, NotFoundError
from langgraph_learnloop.records import Generation, Message, Probe, Release, Run
from langgraph_learnloop.store import releases as module
from langgraph_learnloop.store.opened import Store
from tests.store.recorded import recorded


@pytest.fixture
def ids(store: Store, noon: datetime) -> list[str]:
    """Return the ids of three stored releases."""
    made = [Release(base_model=name, made_at=noon) for name in ("a", "b", "c")]
    for release in made:
        store.releases.add(release)
    return [release.release_id for release in made]


def test_a_release_is_stored_once(store: Store, ids: list[str], noon: datetime) -> None:
    """The same content is the same release, whenever it was made."""
    store.releases.add(Release(base_model="a", made_at=noon.replace(year=2030)))
    assert [release.release_id for release in store.releases.all()] == ids[::-1]
    assert store.releases.get(ids[0]).made_at == noon


def test_resolve_wants_a_prefix_of_one_release(store: Store, ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A unique prefix is enough; an unknown or ambiguous one is answered by a sentence."""
    assert store.releases.resolve(ids[1][:8]).release_id == ids[1]
    assert store.releases.resolve(ids[1]).release_id == ids[1]
    with pytest.raises(NotFoundError, match="'zzz' is not in the store"):
        store.releases.resolve("zzz")
    with pytest.raises(NotFoundError, match="'' is not in the store"):
        store.releases.resolve("")
    monkeypatch.setattr(module.Release, "release_id", "same")
    with pytest.raises(NotFoundError, match="'sa' is ambiguous: same, same, same"):
        store.releases.resolve("sa")


def test_there_is_no_champion_at_first(store: Store, ids: list[str]) -> None:
    """A store without a pointer says so, for the champion and for the way back."""
    with pytest.raises(NotFoundError, match="no champion yet"):
        store.releases.champion()
    with pytest.raises(NotFoundError, match="nothing to roll back to: no release was ever in service"):
        store.releases.previous()


def test_only_a_stored_release_can_be_champion(store: Store) -> None:
    """The pointer never names what cannot be loaded."""
    with pytest.raises(NotFoundError, match="'ghost'"):
        store.releases.point("ghost", "because", "ann")
    assert store.releases.history() == ()


def test_each_rollback_goes_further_back(store: Store, ids: list[str]) -> None:
    """From c to b, from b to a, and then there is nothing left."""
    for release_id in ids:
        store.releases.point(release_id, "better", "gate")
    for expected in (ids[1], ids[0]):
        assert store.releases.previous() == expected
        store.releases.point(store.releases.previous(), "worse after all", "ann")
        assert store.releases.champion() == expected
    with pytest.raises(NotFoundError, match=f"the champion '{ids[0]}' is the first"):
        store.releases.previous()
    assert [entry.release_id for entry in store.releases.history()] == [*ids, ids[1], ids[0]]


def test_a_promotion_after_a_rollback_leads_back_to_the_release_before_it(store: Store, ids: list[str]) -> None:
    """What was rolled back is forgotten: a, b, back to a, then c; back from c is a."""
    for release_id in (ids[0], ids[1], ids[0], ids[2]):
        store.releases.point(release_id, "x", "gate")
    assert store.releases.previous() == ids[0]


def test_pointing_at_the_champion_changes_nothing(store: Store, ids: list[str]) -> None:
    """A promotion that is made again, as after a crash, leaves one entry."""
    for _ in range(2):
        store.releases.point(ids[0], "better", "gate")
    (entry,) = store.releases.history()
    assert (entry.actor, entry.because) == ("gate", "better")


def test_a_thread_keeps_its_first_release(store: Store) -> None:
    """The first pin decides, also among threads that ask at the same moment."""
    start, answers = Barrier(8), []

    def ask(number: int) -> None:
        start.wait()
        answers.append([store.releases.pin(f"t{i}", str(number)) for i in range(20)])

    threads = [Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)


def test_a_promotion_that_came_too_late_changes_nothing(store: Store, ids: list[str]) -> None:
    """Who examined a candidate against a champion that no longer serves is told so."""
    store.releases.point(ids[0], "First.", "ann")
    with pytest.raises(IllegalMoveError, match=f"was to take the place of '{ids[1]}', and now '{ids[0]}' serves"):
        store.releases.point(ids[2], "Better.", "ann", instead_of=ids[1])
    assert store.releases.champion() == ids[0]
    assert store.releases.point(ids[2], "Better.", "ann", instead_of=ids[0]) is not None


def test_threads_of_a_refused_release_get_another(store: Store, ids: list[str]) -> None:
    """Those of other releases keep theirs, whichever way the release went."""
    old, bad, other = ids
    for thread, release in (("t1", bad), ("t2", other)):
        store.releases.pin(thread, release)
    store.releases.point(old, "Back.", "ann", refused=bad)
    assert [store.releases.pin(thread, bad) for thread in ("t1", "t2")] == [old, other]
    store.releases.unpin(old, other)
    assert store.releases.pin("t1", bad) == other
    assert store.releases.repin("t1", [old], bad) == other
    assert store.releases.repin("t1", [other], bad) == bad


def test_releases_in_use_and_their_probes(store: Store, ids: list[str], make_run: Callable[..., Run]) -> None:
    """A release is in use as long as a thread of it had a run lately; its first probes stay."""
    late = make_run("r2", 9, thread_id="t2")
    store.runs.add_runs(recorded(make_run("r1", 1, thread_id="t1"), late))
    store.releases.pin("t1", ids[0])
    store.releases.pin("t2", ids[1])
    assert store.releases.pinned_since(late.started_at) == {ids[1]}
    assert store.releases.probes(ids[0]) == ()
    asked = Generation(release_id=ids[0], messages=(Message(role="user", content="?"),))
    for text in ("first", "second"):
        store.releases.keep_probes(ids[0], [Probe(request=asked, answer=Message(role="assistant", content=text))])
    assert [probe.answer.content for probe in store.releases.probes(ids[0])] == ["first"]
