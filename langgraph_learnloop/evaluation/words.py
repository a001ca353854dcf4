"""Write figures the way people read them; shares become percent and points."""

from __future__ import annotations


def percent(share: float | None) -> str:
    """Return a share as "98.2%", None as "unknown"."""
    return "unknown" if share is None else f"{100 * share:.1f}%"


def points(change: float) -> str:
    """Return a change of a share with its sign, in points; what rounds to nothing has no sign."""
    rounded = round(round(100 * change, 6), 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def size(share: float) -> str:
    """Return a share without a sign, in points."""
    return f"{100 * share:.1f}"


def p(value: float) -> str:
    """Return a p-value with its relation, "= 0.012" or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def times(ratio: float | None) -> str:
    """Return a ratio as "1.05 times", None as "unknown"."""
    return "unknown" if ratio is None else f"{ratio:.2f} times"


def amount(metric: str, value: float) -> str:
    """Return seconds, dollars or tokens with their unit."""
    if metric == "usd":
        return f"${value:.4f}"
    return f"{value:,.0f} tokens" if metric == "tokens" else f"{value:.2f} s"


def metric(name: str) -> str:
    """Return a score's name as words."""
    return name.replace("_", " ")


def left_out(count: int) -> str:
    """Return how many cases were left out, as a sentence with a blank before it; nothing for none."""
    return f" Left out, because one side could not be judged: {count}." if count else ""
