"""Tell a mirror what is stored, in the background: later, again after failures, and as good as once.

Nothing here is in the agent's way: runs wait in the store until a mirror takes them, however long it is away. One
process at a time tells a mirror. What is about to be told is marked; where nobody knows whether it arrived, it is told
again only when it could be seen if it had, and the mirror is asked to look first.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langgraph_learnloop.errors import LearnLoopError, NotFoundError
from langgraph_learnloop.examples import read_all
from langgraph_learnloop.mirrors import (
    DeliveryError,
    Kind,
    Label,
    Mirror,
    Texts,
    Told,
    ToldChampion,
    ToldDataset,
    ToldExamination,
    ToldFeedback,
    ToldLabel,
    ToldRun,
)
from langgraph_learnloop.records import Case, Run, Scorecard
from langgraph_learnloop.store.opened import Store
from langgraph_learnloop.store.outbox import Waiting, labelled

GOODBYE = 1.5
"""Seconds that a process which ends waits for a mirror to take what is left."""
_BATCH = 50
"""Things that are told at once."""
_LARGE = ("dataset", "examination")
"""Kinds of which one thing is told at a time."""
LEASE = 60.0
"""Seconds for which a process holds a mirror; longer than any answer takes."""
_ASK_AGAIN = 5.0
"""Seconds after which a process asks again whether a mirror that another one tells is free."""
_ELSEWHERE = "Another process tells it at the moment."
_LONGEST_PAUSE = 60.0
"""Seconds between two tries, at most, unless the mirror asks for more."""
_QUIET = 60.0
"""Seconds between two warnings: a server that is away for a night is one line a minute."""
_log = logging.getLogger(__name__)


class MirrorHealth(NamedTuple):
    """How a mirror is."""

    told: int
    """Things that this process told it."""
    waiting: int
    """Things that it is still to be told, by any process."""
    refused: int
    """Things that it will never take: `learnloop mirror --retry` tells them again."""
    problem: str | None
    """What went wrong last, while it does."""


@dataclass
class _Pause:
    """When a kind of things is told again after a failure."""

    failures: int = 0
    until: float = 0.0


class _Loaded(NamedTuple):
    """One thing to tell, and the places in the outbox that ask for it."""

    told: Told
    seqs: list[int]


class Mirroring:
    """Tell one mirror what the store of one agent holds."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        agent: str,
        cases: Callable[[Scorecard], Sequence[Case]] = lambda card: (),
        *,
        everything: bool = False,
        holder: str | None = None,
        seconds: float = 1.0,
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Have a mirror told of what comes from now on, and with `everything` of what is stored already.

        `cases` returns those that a scorecard is about, `holder` names who tells. It looks for news each `seconds`;
        nothing is told before `start` or `step`.
        """
        self.mirror = mirror
        self._store = store
        self._agent = agent
        self._cases = cases
        self._seconds = seconds
        self._now = now
        self._draw = draw
        self._holder = holder or holder_of()
        self._pauses: dict[Kind, _Pause] = {kind: _Pause() for kind in mirror.kinds}
        self._held = 0.0
        self._taken: float | None = None
        self._told = 0
        self._problem: str | None = None
        self._quiet = 0.0
        self._stopped = threading.Event()
        self._last_words = 0.0
        self._thread: threading.Thread | None = None
        store.outbox.register(mirror.name, mirror.kinds, everything)

    # -- in the background ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tell in a thread of its own from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="learnloop-mirror", daemon=True)
            self._thread.start()
            atexit.register(self.stop)

    def stop(self, timeout: float = GOODBYE) -> None:
        """End, after telling what is left as far as that takes no longer than `timeout` seconds."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.stop)
        self._last_words = time.monotonic() + timeout
        self._stopped.set()
        thread.join(timeout)

    def let_go(self) -> None:
        """Let another process tell the mirror at once; else it would wait until this one's lease has ended."""
        self._held = 0.0
        try:
            self._store.outbox.let_go(self.mirror.name, self._holder)
        except LearnLoopError:
            _log.debug("The mirror %s is let go of when its lease ends.", self.mirror.name, exc_info=True)

    def health(self) -> MirrorHealth:
        """Return how far the mirror is, and what is wrong with it."""
        backlog = self._store.outbox.backlog(self.mirror.name)
        problem = self._problem or (None if self._taken is None else _ELSEWHERE) or backlog.problem
        return MirrorHealth(self._told, backlog.waiting, backlog.refused, problem)

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._try()
            self._stopped.wait(self._seconds)
        while time.monotonic() < self._last_words and self._try():
            pass
        self.let_go()

    def _try(self) -> int:
        try:
            return self.step()
        except Exception as error:  # noqa: BLE001 - the store may be away for a while, and this thread must not end
            self._trouble(str(error))
            return 0

    # -- one look ------------------------------------------------------------------------------------------------------

    def step(self) -> int:
        """Tell all that waits and may be told now; return how many things are done with. 0 if another process tells."""
        done = 0
        while progress := sum(self._some(kind) for kind in self.mirror.kinds):
            done += progress
            if self._stopped.is_set() and time.monotonic() >= self._last_words:
                break
        return done

    def _some(self, kind: Kind) -> int:
        """Tell some things of a kind, the oldest; return how many are done with."""
        if self._now() < self._pauses[kind].until or not self._holds():
            return 0
        limit = 1 if kind in _LARGE else _BATCH
        waiting = self._store.outbox.waiting(self.mirror.name, kind, limit, self._now() - self.mirror.settles)
        return self._tell(kind, waiting) if waiting else 0

    def _holds(self) -> bool:
        """Return whether this process is the one that tells the mirror."""
        now = self._now()
        if now < self._held - LEASE / 2:
            return True
        if self._taken is not None and self._taken <= now < self._taken + _ASK_AGAIN:
            return False
        free = self._store.outbox.hold(self.mirror.name, self._holder, now, LEASE)
        self._held, self._taken = (now + LEASE, None) if free else (0.0, now)
        return free

    def _tell(self, kind: Kind, waiting: Sequence[Waiting]) -> int:
        try:
            loaded = self._loaded(kind, waiting)
        except (LearnLoopError, OSError) as error:
            if kind not in _LARGE:
                raise
            self._refuse([one.seq for one in waiting], f"The {kind} {waiting[0].subject!r} cannot be read: {error}")
            return len(waiting)
        if not loaded:
            return len(waiting)  # none of it is in the store any more
        self._store.outbox.telling([seq for one in loaded for seq in one.seqs], self._now())
        return self._send(kind, loaded)

    def _send(self, kind: Kind, loaded: Sequence[_Loaded]) -> int:
        try:
            self.mirror.send([one.told for one in loaded])
        except Exception as error:  # noqa: BLE001 - whatever a mirror raises, what it was to be told stays
            return self._failed(kind, loaded, error)
        self._store.outbox.told([seq for one in loaded for seq in one.seqs])
        self._pauses[kind] = _Pause()
        self._problem = None
        self._told += len(loaded)
        return len(loaded)

    def _failed(self, kind: Kind, loaded: Sequence[_Loaded], error: Exception) -> int:
        if not isinstance(error, DeliveryError):
            # It failed on one of them, but nobody knows when: they are looked for first, as after silence.
            sentence = f"The mirror {self.mirror.name!r} failed: {type(error).__name__}: {error}. Mend its send()."
            certain = all(one.told.doubtful for one in loaded)
            error = DeliveryError(sentence, arrived=False if certain else None, forever=certain)
        self._trouble(str(error))
        if not error.forever or error.arrived is None:
            if error.arrived is False:
                self._unmark(loaded)
            self._pause(kind, error.retry_after)
            return 0
        if len(loaded) == 1:
            self._refuse(loaded[0].seqs, str(error))
            return 1
        # One of them is what it does not take; the others must not wait for that.
        half = len(loaded) // 2
        return sum(self._send(kind, part) for part in (loaded[:half], loaded[half:]))

    def _unmark(self, loaded: Sequence[_Loaded]) -> None:
        """Have things told again that surely did not arrive now; what is doubtful since before is so still."""
        long_ago = self._now() - self.mirror.settles
        for doubtful, at in ((False, None), (True, long_ago)):
            if seqs := [seq for one in loaded if one.told.doubtful is doubtful for seq in one.seqs]:
                self._store.outbox.telling(seqs, at)

    def _refuse(self, seqs: Sequence[int], sentence: str) -> None:
        self._trouble(sentence)
        self._store.outbox.refuse(seqs, sentence)

    def _pause(self, kind: Kind, asked: float | None) -> None:
        pause = self._pauses[kind]
        pause.failures += 1
        patience = min(_LONGEST_PAUSE, 0.25 * 2.0 ** min(pause.failures, 10)) * (0.5 + self._draw() / 2)
        pause.until = self._now() + max(patience, asked or 0.0)

    def _trouble(self, sentence: str) -> None:
        self._problem = sentence
        if self._now() < self._quiet:
            _log.debug("%s", sentence)
            return
        self._quiet = self._now() + _QUIET
        _log.warning("%s What it is to be told waits in the store.", sentence)

    # -- what is told --------------------------------------------------------------------------------------------------

    def _loaded(self, kind: Kind, waiting: Sequence[Waiting]) -> list[_Loaded]:
        """Return what waits, each thing once; what is not in the store any more is forgotten."""
        latest = {one.subject: one for one in waiting}
        doubtful = {one.subject for one in waiting if one.told_at is not None}
        seqs: dict[str, list[int]] = {}
        for one in waiting:
            seqs.setdefault(one.subject, []).append(one.seq)
        loaded = [
            _Loaded(told._replace(doubtful=told.subject in doubtful), seqs.pop(told.subject))
            for told in self._read(kind, list(latest.values()))
        ]
        if seqs:
            self._store.outbox.told([seq for gone in seqs.values() for seq in gone])
        return loaded

    def _read(self, kind: Kind, waiting: Sequence[Waiting]) -> Iterator[Told]:
        read = {
            "run": self._runs,
            "feedback": self._feedback,
            "label": self._labels,
            "dataset": self._datasets,
            "examination": self._examinations,
            "champion": self._champions,
        }[kind]
        return read(waiting)

    def _runs(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        runs = self._store.runs.many([one.subject for one in waiting])
        flags = self._store.flags.of(list(runs))
        texts = self._texts(list(runs.values()))
        for run_id, run in runs.items():
            flag = labelled(flags[run_id]) if run_id in flags else None
            if run_id in texts:
                yield Told("run", run_id, ToldRun(run, texts[run_id], flag))

    def _texts(self, runs: Sequence[Run]) -> dict[str, Texts]:
        """Return the messages of runs; of runs together, unless one of them has lost some."""
        try:
            shared = self._store.runs.texts(runs)
        except NotFoundError:
            if len(runs) == 1:
                _log.warning("The run %s is not told: messages of it were erased.", runs[0].run_id)
                return {}
            return {key: texts for run in runs for key, texts in self._texts([run]).items()}
        return {run.run_id: shared for run in runs}

    def _feedback(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        said = self._store.feedback.many([one.subject for one in waiting])
        runs = self._store.runs.many(list({one.run_id for one in said}))
        for one in said:
            if one.run_id in runs:
                yield Told("feedback", one.feedback_id, ToldFeedback(runs[one.run_id], one))

    def _labels(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        labels = {one.subject: Label.model_validate_json(one.body or "") for one in waiting}
        runs = self._store.runs.many([label.run_id for label in labels.values()])
        for subject, label in labels.items():
            if label.run_id in runs:
                yield Told("label", subject, ToldLabel(runs[label.run_id], label))

    def _datasets(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        for one in waiting:
            dataset = self._store.datasets.get(one.subject)
            splits = read_all(dataset.path)
            examples = tuple(one for split, several in splits.items() if split != "validation" for one in several)
            run_ids = list({example.run_id for example in examples if example.run_id is not None})
            runs = self._store.runs.many(run_ids)
            traces = {run_id: run.trace for run_id, run in runs.items() if run.trace is not None}
            yield Told("dataset", one.subject, ToldDataset(dataset, examples, traces))

    def _examinations(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        for one in waiting:
            card = self._store.scorecards.numbered(one.subject)
            candidate, champion = (self._store.releases.get(side) for side in (card.candidate, card.champion))
            cases = {case.case_id: case for case in self._cases(card)}
            results = {}
            for side in (card.candidate, card.champion):
                known = self._store.scorecards.results(side, card.evaluator or "")
                results[side] = tuple(result for key, result in known.items() if key in cases)
            what = ToldExamination(card, candidate, champion, tuple(cases.values()), results)
            yield Told("examination", one.subject, what)

    def _champions(self, waiting: Sequence[Waiting]) -> Iterator[Told]:
        # Only the last of them serves; what served for a moment is history.
        last = waiting[-1]
        release = self._store.releases.get(last.subject)
        yield Told("champion", last.subject, ToldChampion(release, self._agent, last.body or ""))


def holder_of() -> str:
    """Return a name for whoever tells a mirror."""
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
