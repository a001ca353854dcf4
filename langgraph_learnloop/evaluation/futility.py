"""Stop an examination that the candidate can hardly pass any more, however often one looks."""

from __future__ import annotations

import math

from langgraph_learnloop.evaluation import words
from langgraph_learnloop.evaluation.limits import Limits
from langgraph_learnloop.evaluation.paired import score
from langgraph_learnloop.records import Case, CaseResult

ERROR_RATE = 0.05
"""The chance that a good candidate is ever stopped, by one of the two bets together."""
_BOLDEST = 0.75
"""Share of the wealth that a bet may lose at most."""
_PRIOR = 0.25
"""Mean square of a case supposed before the first one."""


class Bet:
    """Bet against "the mean of these differences is at least `floor`", case by case.

    The wealth is a supermartingale where that is true, so that it ever reaches 1 / error rate with that chance at most
    (Ville 1939): looking after each case costs nothing. The bets are the approximate GRAPA ones of Waudby-Smith and
    Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B 86, appendix B.3.
    """

    def __init__(self, floor: float) -> None:
        """Start with a wealth of 1."""
        self.floor = floor
        """The least mean that a good candidate has."""
        self.cases = 0
        """Cases seen."""
        self.log_wealth = 0.0
        """The logarithm of what the bets made of 1: the e-value against the floor."""
        self._sum = 0.0
        self._squares = 0.0

    def add(self, difference: float) -> None:
        """See one more case: candidate minus champion, from -1 to 1."""
        missing = self.floor - difference
        mean = self._sum / (self.cases + 1)
        square = (_PRIOR + self._squares) / (self.cases + 1)
        bet = min(max(mean / square, 0.0), _BOLDEST / (1 - self.floor))
        self.log_wealth += math.log1p(bet * missing)
        self.cases += 1
        self._sum += missing
        self._squares += missing * missing

    @property
    def mean(self) -> float:
        """Return the mean difference so far, 0.0 without cases."""
        return self.floor - self._sum / self.cases if self.cases else 0.0


class Futility:
    """See an examination's cases as they come in, and say when to stop it.

    It stops when "the true gain is at least the one asked for" is rejected on the target suite, or "the true loss is
    below the margin" on the old one. Cases must come in an order that has nothing to do with their difficulty, such as
    `paired.shuffled` gives. A stop turns what might have passed into a failure, never the other way.
    """

    def __init__(self, limits: Limits, target: str, guard: str, error_rate: float = ERROR_RATE) -> None:
        """Name the scores: `target` is looked at in the target suite, `guard` in the retention suite."""
        self._bets = {"target": Bet(limits.target_gain), "retention": Bet(-limits.retention_margin)}
        self._metrics = {"target": target, "retention": guard}
        self._enough = math.log(len(self._bets) / error_rate)
        self._seen: set[tuple[str, str]] = set()
        self._stopped: str | None = None

    def add(self, case: Case, champion_result: CaseResult, candidate_result: CaseResult) -> str | None:
        """See one more case; return why to stop, from the first time on that there is a reason, or None.

        Other suites, cases that were seen and cases that could not be judged change nothing.
        """
        if self._stopped is None and case.suite in self._bets and (case.suite, case.case_id) not in self._seen:
            self._seen.add((case.suite, case.case_id))
            self._look(case.suite, champion_result, candidate_result)
        return self._stopped

    def _look(self, suite: str, champion: CaseResult, candidate: CaseResult) -> None:
        old, new = (score(result, self._metrics[suite]) for result in (champion, candidate))
        if old is None or new is None:
            return
        bet = self._bets[suite]
        bet.add(float(new) - float(old))
        if bet.log_wealth >= self._enough:
            self._stopped = self._sentence(suite, bet)

    def _sentence(self, suite: str, bet: Bet) -> str:
        so_far = f"{words.metric(self._metrics[suite])} {words.points(bet.mean)} points on {bet.cases} cases"
        e_value = f"e-value {math.exp(bet.log_wealth):.0f} where {math.exp(self._enough):.0f} is asked for"
        if suite == "target":
            return f"A gain of {words.size(bet.floor)} points at the target is ruled out ({so_far}; {e_value})."
        return f"The old slice is worse by more than {words.size(-bet.floor)} points ({so_far}; {e_value})."
