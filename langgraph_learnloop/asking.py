"""Ask a release the cases that nothing is known of yet: what every replayer does, wherever it asks them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

from langgraph_learnloop.ports import OnProgress, ResultCache
from langgraph_learnloop.records import Case, CaseResult, Progress

Ask = Callable[[Sequence[Case]], Generator[Sequence[CaseResult], None, None]]
"""Asks cases and yields their results as they come, some at a time; it is closed when no more are wanted."""


def ask_once(
    cases: Sequence[Case],
    known: dict[str, CaseResult],
    ask: Ask,
    cache: ResultCache | None = None,
    on_progress: OnProgress | None = None,
    enough: Callable[[CaseResult], object] | None = None,
) -> tuple[CaseResult, ...]:
    """Return one result for each case, in order; a case that is given twice, or known, is not asked again.

    `enough` is shown every result and may say (with anything true) that the others need not be asked: these have no
    result then. Results that were not judged are not cached, so that the next run tries again.
    """
    unique = {case.case_id: case for case in cases}
    done = {case_id: known[case_id] for case_id in unique if case_id in known}

    def take(results: Sequence[CaseResult], note: str | None) -> bool:
        """Count results, and return whether they are enough."""
        if on_progress is not None:
            on_progress(Progress(stage="evaluate", done=len(done), total=len(unique), note=note))
        told = [enough(result) for result in results] if enough is not None else []  # every one is shown
        return any(told)

    over = take(list(done.values()), f"{len(done)} of {len(unique)} results are known from before.")
    unknown = [case for case in unique.values() if case.case_id not in done]
    if unknown and not over:
        with closing(ask(unknown)) as batches:
            for results in batches:
                done.update({result.case_id: result for result in results})
                if cache is not None:
                    cache.add_results([result for result in results if result.error is None])
                if take(results, next((result.error for result in results if result.error), None)):
                    break
    return tuple(done[case_id] for case_id in unique if case_id in done)


def why(error: BaseException) -> str:
    """Return type and message of what went wrong."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
