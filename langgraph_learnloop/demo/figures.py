"""Turn the chapters of the story into the figures that `--json` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph_learnloop.evaluation.stats import wilson
from langgraph_learnloop.records import Score

Figures = dict[str, Any]


def share(verdicts: Sequence[Score]) -> Figures:
    """Count the right ones: their share of all cases (0 to 1), its 95% Wilson interval, and the number of cases.

    A case that could not be judged is not right: a user would not have been served.
    """
    right, total = sum(v is True for v in verdicts), len(verdicts)
    low, high = wilson(right, total) if total else (None, None)
    return {"share": right / total if total else None, "low": low, "high": high, "right": right, "cases": total}


def figures(done: Mapping[str, Any]) -> Figures:
    """Return what was measured; what the story did not reach is None."""
    before, after, swap = (done.get(name) for name in ("exam_before", "exam_after", "swap"))
    trained, stopped = done.get("training", {}), {"no-replay": "no_replay", "hostile": "hostile"}
    return {
        **{part: _change(before, after, "fully_right", part) for part in ("target", "old")},
        "tool": {part: _change(before, after, "right_tool", part) for part in ("target", "old")},
        "old_tools": _per_tool(before, after),
        "stopped": [name for name, key in stopped.items() if key in trained and not trained[key]["passed"]],
        "promoted": bool(done.get("good", {}).get("passed")),
        "swap": None
        if swap is None
        else {
            name: swap[name]
            for name in ("errors", "mixed_threads", "longest_pause_seconds", "longest_generation_else", "asked")
        },
        "seconds": {"base": done.get("base_seconds", 0.0), "rest": done.get("seconds")},
        "intervals": {
            name: {
                part: [exam["fully_right"][part]["low"], exam["fully_right"][part]["high"]]
                for part in ("target", "old")
            }
            for name, exam in (("before", before), ("after", after))
            if exam is not None
        },
    }


def _change(before: Any, after: Any, metric: str, part: str) -> Figures:
    return {
        name: None if exam is None else exam[metric][part]["share"]
        for name, exam in (("before", before), ("after", after))
    }


def _per_tool(before: Any, after: Any) -> Figures:
    if before is None or after is None:
        return {}
    return {
        tool: {"before": was["share"], "after": after["old_tools"][tool]["share"]}
        for tool, was in before["old_tools"].items()
    }
