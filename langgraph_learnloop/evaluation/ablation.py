"""Find the node that a failure is due to: give one node at a time to the candidate, and see what that mends.

Every run starts where it started then. The champion answers in all nodes but one; what tools answered comes from the
recording. The share of what a node mends alone is its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from langgraph_learnloop.errors import DataError
from langgraph_learnloop.evaluation.evaluators import GOOD
from langgraph_learnloop.evaluation.fidelity import case_of
from langgraph_learnloop.evaluation.replay import GraphReplay
from langgraph_learnloop.ports import Evaluator, RunReader
from langgraph_learnloop.records import Case, CaseResult, Judged, Message, NodeCredit, Run


class Decisive:
    """Judge a whole run by the one message that the evaluator wants to see."""

    whole = True

    def __init__(self, evaluator: Evaluator) -> None:
        """Judge as the evaluator does."""
        self._evaluator = evaluator
        self.name = evaluator.name
        self.target = evaluator.target
        self.guard = evaluator.guard

    def judge(self, case: Case, got: Sequence[Message]) -> Judged:
        """Judge the first message that asks for a tool, where the case expects one; else the last that says something.

        An evaluator of whole runs gets all of it.
        """
        if self._evaluator.whole:
            return self._evaluator.judge(case, got)
        said = [message for message in got if message.role == "assistant"]
        calls = [message for message in said if message.tool_calls]
        wants_call = case.expected is not None and bool(case.expected.tool_calls)
        return self._evaluator.judge(case, (calls or said)[:1] if wants_call else said[-1:])


def credit(
    replay: Callable[[Evaluator], GraphReplay],
    evaluator: Evaluator,
    candidate: str,
    champion: str,
    cases: Sequence[Case],
    runs: RunReader,
) -> tuple[NodeCredit, ...]:
    """Return what each node mends, the most first; raise DataError when no case was made from a recorded run.

    Only cases that both the champion and the mixture ran, and that could be judged, are counted.
    """
    found = {case.run_id: (case, runs.run(case.run_id)) for case in cases if case.run_id is not None}
    if not found:
        raise DataError(
            "None of the cases was made from a recorded run, so there are no nodes to give credit to: "
            "examine cases of a dataset that was curated here."
        )
    whole = [(_from_the_start(case, case_of(run, runs)), run) for case, run in found.values()]
    replays = replay(Decisive(evaluator))
    alone = {result.case_id: result for result in replays.run(champion, [case for case, _ in whole])}
    rows = []
    for node in sorted({node for _, run in whole for node in _nodes(run)}):
        some = [case for case, run in whole if node in _nodes(run)]
        mixed = replays.run(champion, some, at={node: candidate})
        pairs = [(_right(alone[r.case_id], evaluator), _right(r, evaluator)) for r in mixed]
        both = [(old, new) for old, new in pairs if old is not None and new is not None]
        mended = sum(new and not old for old, new in both)
        rows.append((node, len(both), mended, sum(old and not new for old, new in both)))
    total = sum(mended for _, _, mended, _ in rows)
    credits = [
        NodeCredit(node=node, tried=tried, mended=mended, broken=broken, weight=mended / total if total else 0.0)
        for node, tried, mended, broken in rows
    ]
    return tuple(sorted(credits, key=lambda one: (-one.weight, one.node)))


def _from_the_start(case: Case, first: Case) -> Case:
    return case.model_copy(update={"messages": first.messages, "step_id": first.step_id})


def _nodes(run: Run) -> set[str]:
    return {step.node for step in run.steps if step.kind == "model" and step.node is not None}


def _right(result: CaseResult, evaluator: Evaluator) -> bool | None:
    score = result.scores.get(evaluator.target)
    return None if score is None else score >= GOOD
