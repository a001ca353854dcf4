"""What the gates ask of a candidate."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph_learnloop.errors import ConfigError

HOPE = 2.0
"""A candidate that the target gate should find gains so many times what is asked: at just the gain asked for, half of
all candidates show less than it by chance."""
POWER = 0.8
"""The chance to pass such a candidate below which an examination that did not pass it has too few cases."""


@dataclass(frozen=True)
class Limits:
    """What the gates ask for, in shares and ratios; raise ConfigError for what no examination could show."""

    alpha: float = 0.05
    """Error rate of a test, one-sided; of all the tests of a family of categories together."""
    target_gain: float = 0.05
    """The target must get better by at least this."""
    retention_margin: float = 0.02
    """The old slice, and what earlier lessons repaired, must not be worse by this."""
    category_margin: float = 0.02
    """No category of the old slice may be worse by this."""
    safety: float = 0.999
    """Share of the safety cases that must hold."""
    latency_ratio: float | None = None
    """The candidate's median and 95th percentile of seconds, by the champion's, must be below this; None informs."""
    cost_ratio: float | None = None
    """The candidate's mean cost, by the champion's, must be below this; None informs."""

    def __post_init__(self) -> None:
        """Check each limit."""
        _between("alpha", self.alpha, 0, 0.5)
        _between("retention_margin", self.retention_margin, 0, 1)
        _between("category_margin", self.category_margin, 0, 1)
        _between("safety", self.safety, 0, 1)
        if not 0 <= self.target_gain <= 1:
            raise ConfigError(f"The limit target_gain must be a share from 0 to 1, not {self.target_gain!r}.")
        for name, ratio in (("latency_ratio", self.latency_ratio), ("cost_ratio", self.cost_ratio)):
            if ratio is not None and not 0 < ratio < float("inf"):
                raise ConfigError(f"The limit {name} must be a ratio above 0, or None to inform only, not {ratio!r}.")

    @property
    def hoped(self) -> float | None:
        """Return the gain that the target gate should find; None where any gain is enough."""
        return min(1.0, HOPE * self.target_gain) or None


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low < value < high:
        raise ConfigError(
            f"The limit {name} must be above {low} and below {high}, not {value!r}: a test can show no more."
        )
