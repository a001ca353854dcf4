"""Examine releases on a Ray cluster: batches of cases go to its workers, and only what was answered comes back.

    replay = RayReplay("my_agent:make_loop", evaluator=loop.evaluator, address="ray://head:10001", at_once=32)
    results = replay.run(release_id, cases, loop.store.scorecards)

Every worker imports the app, a LearnLoop or a function without arguments that returns one, and asks its `examine`. The
app's store must be one that the workers can open, such as a database URL. Texts travel, no objects of yours; what holds
for `ray_jobs` holds here as well: connect to no cluster that you would not run your own code on.
"""

from __future__ import annotations

import importlib
import json
import textwrap
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from langgraph_learnloop.cases import ask_once, why
from langgraph_learnloop.config import made
from langgraph_learnloop.errors import ConfigError, EngineError
from langgraph_learnloop.integrations.ray_connection import CONNECTION, first_line, last_line, library
from langgraph_learnloop.ports import Evaluator, OnProgress, ResultCache
from langgraph_learnloop.records import Case, CaseResult

_TRIES = 2
"""How often a batch is handed out before its cases are given up, where its worker dies."""
_LONGEST_REASON = 300
"""Characters of what Ray says of a worker that died."""
_CASES = TypeAdapter(list[Case])
_RESULTS = TypeAdapter(list[CaseResult])

Results = list[CaseResult]


class RayReplay:
    """Ask a release the cases of a suite in the processes of a Ray cluster, so many batches at a time."""

    def __init__(
        self,
        app: str,
        *,
        evaluator: Evaluator,
        address: str | None = None,
        at_once: int = 4,
        batch: int = 16,
        timeout_seconds: float = 600,
        num_cpus: float = 1,
        num_gpus: float = 0,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        """Say who is asked and where; raise ConfigError for what cannot be.

        `app` is "module:attribute" of a LearnLoop, or of a function that returns one: on a worker it is made once, and
        its `evaluator` must be the one that is given here. `address` is "auto", "host:port" or "ray://host:port"; None
        is a Ray on this machine, for the time of a run. A process that is connected to Ray already stays so. `batch`
        is how many cases a worker gets at once, `timeout_seconds` how long it may take from when Ray was asked: a wait
        for a free worker, and the start of the app, count. `num_cpus`, `num_gpus` and `runtime_env` are what a batch
        asks of Ray.
        """
        module, _, attribute = app.partition(":")
        if not module or not attribute:
            raise ConfigError(f'The app of a replay on Ray must be named as "module:attribute", not {app!r}.')
        if at_once < 1 or batch < 1 or timeout_seconds <= 0:
            raise ConfigError(
                f"A replay on Ray needs at least one batch of one case, and time, not {at_once} batches of {batch} "
                f"cases and {timeout_seconds} seconds."
            )
        self.evaluator = evaluator
        """Judges the answers, on the workers; results of another are refused."""
        self._app = app
        self._address = address
        self._at_once = at_once
        self._batch = batch
        self._timeout = timeout_seconds
        self._wanted = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        self._runtime_env = runtime_env

    def run(
        self,
        release_id: str,
        cases: Sequence[Case],
        cache: ResultCache | None = None,
        on_progress: OnProgress | None = None,
        enough: Callable[[CaseResult], object] | None = None,
    ) -> tuple[CaseResult, ...]:
        """Return one result for each case, in order; a case that is given twice is asked once.

        `enough` is shown every result and may say (with anything true) that the others need not be asked: these have
        no result then. What went wrong with a batch (its deadline, a worker that died twice, an exception) is a result
        that is not judged, with the reason; it is never cached. Raises ConfigError when the workers cannot load the
        app, and EngineError when there is no cluster or its nodes are not fit.
        """
        known = cache.results(release_id, self.evaluator.name) if cache is not None else {}
        return ask_once(cases, known, partial(self._ask, release_id), cache, on_progress, enough)

    def _ask(self, release_id: str, cases: Sequence[Case]) -> Generator[Sequence[CaseResult], None, None]:
        ray = library("Replaying")
        order = _Order(self._app, release_id, self.evaluator.name, self._at_once, self._batch, self._timeout)
        with (
            CONNECTION.open(ray, self._address, EngineError),
            closing(_Errand(ray, self._task(ray), order).run(cases)) as batches,
        ):
            yield from batches

    def _task(self, ray: Any) -> Any:
        """Say what a batch asks of Ray; raise ConfigError when Ray does not take that."""
        env = None if self._runtime_env is None else dict(self._runtime_env)
        try:
            # Processes are kept from batch to batch (max_calls), so that a model is loaded once; Ray itself would try
            # a batch again without a word.
            return ray.remote(max_calls=0, max_retries=0, runtime_env=env, **self._wanted)(_examine)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"Ray takes no such request: {error} Mend RayReplay's arguments.") from error


class _Order(NamedTuple):
    """What is asked, and how."""

    app: str
    """The app, as "module:attribute"."""
    release_id: str
    """Who must answer."""
    evaluator: str
    """Name and version of the evaluator that must judge."""
    at_once: int
    """Batches under way at a time."""
    batch: int
    """Cases of a batch."""
    seconds: float
    """Time of a batch."""


class _Batch(NamedTuple):
    """Cases that go to one worker."""

    cases: Sequence[Case]
    """The cases."""
    tried: int
    """How often they were handed out, this time included."""
    until: float
    """When it is given up, on the monotonic clock."""


class _Errand:
    """Hand batches out and take their results, until all are there or nobody wants more."""

    def __init__(self, ray: Any, task: Any, order: _Order) -> None:
        self._ray = ray
        self._task = task
        self._order = order
        self._waiting: deque[tuple[Sequence[Case], int]] = deque()
        self._under_way: dict[Any, _Batch] = {}

    def run(self, cases: Sequence[Case]) -> Generator[Results, None, None]:
        """Yield the results of one batch after another, as they come; leave nothing running, however it ends."""
        size = self._order.batch
        self._waiting.extend((cases[start : start + size], 0) for start in range(0, len(cases), size))
        try:
            while self._waiting or self._under_way:
                with self._in_sentences():
                    self._hand_out()
                    results = self._next()
                if results:
                    yield results
        finally:
            for reference in self._under_way:
                self._cancel(reference)

    def _hand_out(self) -> None:
        while self._waiting and len(self._under_way) < self._order.at_once:
            cases, tried = self._waiting.popleft()
            text = _CASES.dump_json(list(cases)).decode()
            reference = self._task.remote(self._order.app, self._order.release_id, text)
            self._under_way[reference] = _Batch(cases, tried + 1, time.monotonic() + self._order.seconds)

    def _next(self) -> Results:
        """Return the results of the batch that ends next, or whose time is over; none where it is tried again."""
        first = min(self._under_way, key=lambda reference: self._under_way[reference].until)
        left = max(0.0, self._under_way[first].until - time.monotonic())
        ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=left)
        reference = ready[0] if ready else first
        batch = self._under_way.pop(reference)
        if not ready:
            self._cancel(reference)
            late = (
                f"No result of its batch within {self._order.seconds:g} seconds, the wait for a free worker included."
            )
            return self._unjudged(batch.cases, late)
        return self._results(reference, batch)

    def _results(self, reference: Any, batch: _Batch) -> Results:
        """Return what a worker said; a batch whose worker died is put back, or given up."""
        errors = self._ray.exceptions
        try:
            said = self._ray.get(reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError):
            raise
        except errors.RayError as error:
            if batch.tried < _TRIES:
                self._waiting.append((batch.cases, batch.tried))
                return []
            reason = textwrap.shorten(str(error), _LONGEST_REASON, placeholder=" ...")
            return self._unjudged(batch.cases, f"The worker on the Ray cluster died, {_TRIES} times: {reason}")
        return self._read(said, batch.cases)

    def _read(self, said: str, cases: Sequence[Case]) -> Results:
        """Return the results that a worker wrote; what is not what was asked for is no result."""
        answer: dict[str, Any] = json.loads(said)
        if "app" in answer:
            raise ConfigError(
                f"The workers of the Ray cluster cannot load the app {self._order.app!r}: {answer['app']} See that "
                "they find it, with a runtime_env for instance, and that it can be made there."
            )
        if "error" in answer:
            return self._unjudged(cases, answer["error"])
        try:
            results = _RESULTS.validate_python(answer["results"])
        except ValidationError as error:
            return self._unjudged(cases, f"The worker's results cannot be read: {error.errors()[0]['msg']}.")
        self._refuse_others(results)
        by_id = {result.case_id: result for result in results if result.release_id == self._order.release_id}
        missing = [case for case in cases if case.case_id not in by_id]
        asked = [by_id[case.case_id] for case in cases if case.case_id in by_id]
        return asked + self._unjudged(missing, "The worker gave no result for it.")

    def _refuse_others(self, results: Results) -> None:
        """Raise ConfigError when another evaluator judged: its scores say something else."""
        if others := {result.evaluator for result in results} - {self._order.evaluator}:
            raise ConfigError(
                f"The app {self._order.app!r} judges with {sorted(others)[0]!r}, and {self._order.evaluator!r} was "
                "asked for: give RayReplay the evaluator of the app."
            )

    def _unjudged(self, cases: Sequence[Case], reason: str) -> Results:
        release_id, evaluator = self._order.release_id, self._order.evaluator
        return [
            CaseResult(release_id=release_id, case_id=case.case_id, evaluator=evaluator, error=reason) for case in cases
        ]

    def _cancel(self, reference: Any) -> None:
        with suppress(Exception):  # on a node that is gone nothing runs
            self._ray.cancel(reference, force=True)

    @contextmanager
    def _in_sentences(self) -> Iterator[None]:
        """Turn Ray's errors into EngineError."""
        try:
            yield
        except ConfigError:
            raise
        except self._ray.exceptions.RuntimeEnvSetupError as error:
            raise EngineError(
                f"The runtime_env of a replay cannot be set up on a node: {last_line(error)} Mend it."
            ) from error
        except self._ray.exceptions.RayTaskError as error:
            raise EngineError(
                f"The workers of the Ray cluster cannot examine anything: {last_line(error)} See that this "
                "package is there, in the same version."
            ) from error
        except Exception as error:  # a client whose cluster is gone raises errors of no kind of its own
            raise EngineError(
                f"The connection to the Ray cluster was lost: {first_line(error)} See that the cluster is "
                "up, and run it again: results that were stored are not asked again."
            ) from error


_apps: dict[str, Any] = {}
"""Of a worker's process: the apps that it has made, LearnLoops or what can `examine` like one."""


def _examine(app: str, release_id: str, cases: str) -> str:
    """Return, on a worker, the results of a batch as JSON, or why there are none; no exception of the user's leaves."""
    try:
        loop = _loaded(app)
    except Exception as error:  # noqa: BLE001 - the boundary of the user's code
        return json.dumps({"app": why(error)})
    try:
        results = loop.examine(release_id, _CASES.validate_json(cases))
        return json.dumps({"results": [result.model_dump(mode="json") for result in results]})
    except Exception as error:  # noqa: BLE001 - the boundary of the user's code
        return json.dumps({"error": why(error)})


def _loaded(app: str) -> Any:
    """Return the app, made once a process."""
    if app not in _apps:
        module, _, attribute = app.partition(":")
        loop = made(getattr(importlib.import_module(module), attribute), "examine")
        if not hasattr(loop, "examine"):
            raise ConfigError(
                f"it is a {type(loop).__name__}, not a LearnLoop or a function that returns one: name one of these."
            )
        _apps[app] = loop
    return _apps[app]
