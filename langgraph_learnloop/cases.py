"""Make cases, and ask a release those that nothing is known of yet: what every replayer does, wherever it asks."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing

from langgraph_learnloop.ports import OnProgress, ResultCache
from langgraph_learnloop.records import Case, CaseResult, Message, Progress, Suite, content_hash

Ask = Callable[[Sequence[Case]], Generator[Sequence[CaseResult], None, None]]
"""Asks cases and yields their results as they come, some at a time; it is closed when no more are wanted."""


def make_case(
    suite: Suite,
    messages: Sequence[Message],
    expected: Message | None,
    *,
    category: str | None = None,
    reference: Sequence[Message] = (),
    run_id: str | None = None,
) -> Case:
    """Return a case whose id is the content hash of its conversation and its right answer, wherever they are from.

    The category, if none is given, is the right tool, "answer" for a text, or the suite where nothing is expected.
    """
    content = {
        "messages": [message.model_dump(mode="json") for message in messages],
        "expected": None if expected is None else expected.model_dump(mode="json"),
    }
    return Case(
        case_id=content_hash(content),
        suite=suite,
        category=category or _category(expected, suite),
        messages=tuple(messages),
        expected=expected,
        reference=tuple(reference),
        run_id=run_id,
    )


def each_once(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Return cases in order, each once in its suite, as it was first."""
    first: dict[tuple[Suite, str], Case] = {}
    for case in cases:
        first.setdefault((case.suite, case.case_id), case)
    return tuple(first.values())


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


def _category(expected: Message | None, suite: Suite) -> str:
    if expected is None:
        return suite
    return expected.tool_calls[0].name if expected.tool_calls else "answer"
