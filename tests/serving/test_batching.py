"""One worker's queue: batches hold one key, keys take turns, closing loses nobody."""

from __future__ import annotations

import threading

from langgraph_learnloop.serving.batching import FairQueue


def queue_of(*items: tuple[str, int]) -> FairQueue[tuple[str, int]]:
    queue: FairQueue[tuple[str, int]] = FairQueue(linger_seconds=0)
    for key, number in items:
        assert queue.put(key, (key, number))
    return queue


def test_a_batch_holds_one_key_in_order():
    """Items of another key never ride along."""
    queue = queue_of(("a", 1), ("b", 2), ("a", 3))
    assert queue.take(8) == [("a", 1), ("a", 3)]
    assert queue.take(8) == [("b", 2)]


def test_a_flood_of_one_key_does_not_hold_up_another():
    """A single item waits for one batch of the others, not for all of them."""
    queue = queue_of(*[("flood", i) for i in range(20)], ("single", 0))
    assert queue.take(4) == [("flood", i) for i in range(4)]
    assert queue.take(4) == [("single", 0)]
    assert queue.take(4) == [("flood", i) for i in range(4, 8)]


def test_tasks_go_first():
    """A piece of work overtakes items that wait."""
    queue = queue_of(("a", 1))
    done: list[str] = []
    assert queue.put_task(lambda: done.append("task"))
    task = queue.take(8)
    assert callable(task)
    task()
    assert (done, queue.take(8)) == (["task"], [("a", 1)])


def test_closing_hands_back_what_waits_and_refuses_more():
    """Nobody who waits is forgotten, and nobody can be added."""
    queue = queue_of(("a", 1), ("b", 2))
    assert sorted(queue.close()) == [("a", 1), ("b", 2)]
    assert queue.take(8) is None
    assert not queue.put("a", ("a", 3))
    assert not queue.put_task(lambda: None)


def test_callers_of_the_last_batch_are_waited_for():
    """Two callers who come back one after the other share the next batch."""
    queue: FairQueue[tuple[str, int]] = FairQueue(linger_seconds=30)
    for number in (1, 2):
        queue.put("a", ("a", number))
    assert queue.take(8) == [("a", 1), ("a", 2)]
    queue.put("a", ("a", 3))
    late = threading.Timer(0.01, queue.put, ("a", ("a", 4)))
    late.start()
    assert queue.take(8) == [("a", 3), ("a", 4)]


def test_a_lone_caller_never_waits():
    """With one caller at a time the queue hands out at once, whatever it may linger."""
    queue: FairQueue[tuple[str, int]] = FairQueue(linger_seconds=30)
    for number in range(3):
        queue.put("a", ("a", number))
        assert queue.take(8) == [("a", number)]


def test_owners_of_one_key_take_turns():
    """Who asks a lot does not hold up another with whom they may share a batch."""
    queue: FairQueue[int] = FairQueue(linger_seconds=0)
    for number in range(10):
        queue.put("a", number, whose="flood")
    queue.put("a", 10, whose="single")
    assert queue.take(4) == [0, 10, 1, 2]
    assert len(queue) == 7
    assert sorted(queue.close()) == [3, 4, 5, 6, 7, 8, 9]


def test_newcomers_and_tasks_are_handed_out_at_once():
    """More of a key joins its batch, other keys begin beside it, and work that waits is done between their turns."""
    queue = queue_of(("a", 1), ("a", 2), ("a", 3))
    assert queue.take(1) == [("a", 1)]
    assert queue.take_more("b", 8) == []
    assert queue.take_more("a", 0) == []
    assert queue.take_more("a", 1) == [("a", 2)]
    queue.put("b", ("b", 4))
    queue.put("c", ("c", 5))
    assert queue.take_others({"a"}, 8) == [[("b", 4)], [("c", 5)]]
    queue.put_task(lambda: None)
    queue.put("b", ("b", 6))
    assert (len(queue.take_tasks()), queue.take_tasks()) == (1, [])
    queue.close()
    assert (queue.take_more("a", 8), queue.take_others((), 8)) == ([], [])
