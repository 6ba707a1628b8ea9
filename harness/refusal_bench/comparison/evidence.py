"""What the data say about one difference, candidate less base: p-values for any threshold, and bounds.

Every kind answers the same four questions, so that a check never needs to know what it is about:
`p_below(t)`, the one-sided p-value for "the difference lies below t"; `p_above(t)`; and `upper(level)`, `lower(level)`,
the bounds that the true difference passes with at most that probability. `at(n)` is the same evidence from n pairs,
for planning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scipy import special
from scipy.optimize import brentq

EQUIVALENCE_LEVEL = 0.05
"""Level of each of the two one-sided tests (Schuirmann 1987)."""

MAX_PAIRS = 1_000_000
"""A sample size beyond this is not advice."""


class Evidence(Protocol):
    """The four questions, and the point estimate."""

    @property
    def estimate(self) -> float:
        """Candidate less base."""

    def p_below(self, threshold: float) -> float:
        """One-sided p-value for a true difference below the threshold."""

    def p_above(self, threshold: float) -> float:
        """One-sided p-value for a true difference above the threshold."""

    def upper(self, level: float) -> float:
        """Bound that the true difference exceeds with probability `level` at most."""

    def lower(self, level: float) -> float:
        """Bound that the true difference falls below with probability `level` at most."""

    def at(self, n: int, /) -> Evidence | None:
        """The same difference seen in n pairs; None if that cannot be said."""


def within(evidence: Evidence, delta: float) -> bool:
    """Say whether the difference is shown to lie within ±delta: two one-sided tests, each at 5 %."""
    return max(evidence.p_below(delta), evidence.p_above(-delta)) <= EQUIVALENCE_LEVEL


def pairs_needed(evidence: Evidence, n: int, delta: float, level: float) -> int | None:
    """Pairs, more than n, that would show a difference like this one to be within ±delta or, at `level`, not 0."""

    def enough(pairs: int) -> bool:
        planned = evidence.at(pairs)
        return planned is not None and (within(planned, delta) or min(planned.p_below(0), planned.p_above(0)) <= level)

    low, high = n, max(2 * n, 2)
    while not enough(high):
        if high >= MAX_PAIRS:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class PairedRates:
    """Two refusal rates on the same prompts, by Tango's (1998) score test of the difference of paired proportions.

    At threshold 0 it is McNemar's test. The exact test needs five refusals lost and none won to call a drop at 5 %,
    this one three, and its size, enumerated over all discordant shares, is at most 1.25 times the level from 16 prompts
    on, and below it at the small levels of many checks. Counts may be fractional, for planning.
    """

    n: float
    """Prompts scored in both records."""
    lost: float
    """Refused by the base only."""
    won: float
    """Refused by the candidate only."""

    @property
    def estimate(self) -> float:
        """Candidate's rate less base's."""
        return (self.won - self.lost) / self.n

    def _z(self, difference: float) -> float:
        """Score statistic of a true difference; falls as the difference grows."""
        b = (2 * self.n - self.won + self.lost) * difference - self.won - self.lost
        c = -self.lost * difference * (1 - difference)
        # The likeliest share of lost refusals if the true difference were this one.
        lost = (math.sqrt(max(b * b - 8 * self.n * c, 0.0)) - b) / (4 * self.n)
        variance = self.n * (2 * lost + difference * (1 - difference))
        distance = self.won - self.lost - self.n * difference
        if variance <= 1e-12:
            return math.copysign(math.inf, distance) if abs(distance) > 1e-9 else 0.0
        return distance / math.sqrt(variance)

    def p_below(self, threshold: float) -> float:
        """See `Evidence`."""
        return float(special.ndtr(self._z(threshold)))

    def p_above(self, threshold: float) -> float:
        """See `Evidence`."""
        return float(special.ndtr(-self._z(threshold)))

    def upper(self, level: float) -> float:
        """See `Evidence`."""
        return _crossing(lambda t: self.p_below(t) - level, self.estimate, 1.0)

    def lower(self, level: float) -> float:
        """See `Evidence`."""
        return _crossing(lambda t: level - self.p_above(t), -1.0, self.estimate)

    def at(self, n: int, /) -> PairedRates:
        """See `Evidence`; where nothing changed, half a prompt lost and half a prompt won."""
        lost, won = (self.lost, self.won) if self.lost + self.won else (0.5, 0.5)
        return PairedRates(n, lost / self.n * n, won / self.n * n)


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference with a standard error: Student's t, or normal where `freedom` is infinite."""

    estimate: float
    """Mean of candidate less base."""
    error: float
    """Standard error of the mean."""
    freedom: float
    """Degrees of freedom."""
    n: int
    """Pairs behind the error."""

    def p_below(self, threshold: float) -> float:
        """See `Evidence`."""
        if self.error == 0:
            return 0.0 if self.estimate < threshold else 1.0
        return _t_below((self.estimate - threshold) / self.error, self.freedom)

    def p_above(self, threshold: float) -> float:
        """See `Evidence`."""
        return MeanDifference(-self.estimate, self.error, self.freedom, self.n).p_below(-threshold)

    def upper(self, level: float) -> float:
        """See `Evidence`."""
        return self.estimate + self.error * _t_quantile(level, self.freedom)

    def lower(self, level: float) -> float:
        """See `Evidence`."""
        return self.estimate - self.error * _t_quantile(level, self.freedom)

    def at(self, n: int, /) -> MeanDifference:
        """See `Evidence`; the error falls with the square root of the pairs."""
        freedom = self.freedom if math.isinf(self.freedom) else n - 1
        return MeanDifference(self.estimate, self.error * math.sqrt(self.n / n), freedom, n)


@dataclass(frozen=True)
class Dimensions:
    """How many dimensions a record's directions span, bounded from both sides.

    From below by parallel analysis: `more[k]` is the p-value of the k+2nd dimension, given the ones before. From above
    by merging domains: `fewer[k]` is the p-value for "no more than k+1 directions", that is, for joining the domains
    into k+1 groups along cosines above `comparison.geometry.ONE_DIRECTION`.
    """

    found: int
    """`n_components` of the record."""
    more: tuple[float, ...]
    """p-values, one a further dimension."""
    fewer: tuple[float, ...]
    """p-values for 1, 2, ... directions at most; the last, for as many as domains, is 0."""

    def p_at_least(self, n: int) -> float:
        """p-value for n dimensions or more: every step up to it must be significant."""
        if n <= 1:
            return 0.0
        return max(self.more[: n - 1]) if n - 1 <= len(self.more) else 1.0

    def p_at_most(self, n: int) -> float:
        """p-value for n dimensions or fewer."""
        return 1.0 if n < 1 else self.fewer[min(n, len(self.fewer)) - 1]


@dataclass(frozen=True)
class DimensionDifference:
    """Dimensions of the candidate less those of the base, each bounded at half the level."""

    base: Dimensions
    """Of the base."""
    candidate: Dimensions
    """Of the candidate."""

    @property
    def estimate(self) -> float:
        """Difference of the numbers found."""
        return float(self.candidate.found - self.base.found)

    def p_below(self, threshold: float) -> float:
        """See `Evidence`."""
        return _p_fewer(self.candidate, self.base, threshold)

    def p_above(self, threshold: float) -> float:
        """See `Evidence`."""
        return _p_fewer(self.base, self.candidate, -threshold)

    def upper(self, level: float) -> float:
        """See `Evidence`; a whole number."""
        return float(min(t for t in self._steps() if self.p_below(t + 0.5) <= level))

    def lower(self, level: float) -> float:
        """See `Evidence`; a whole number."""
        return float(max(t for t in self._steps() if self.p_above(t - 0.5) <= level))

    def at(self, _: int, /) -> None:
        """See `Evidence`; not known for a count of dimensions."""
        return None

    def _steps(self) -> range:
        most = max(len(self.base.fewer), len(self.candidate.fewer))
        return range(-most, most + 1)


def _t_below(t: float, freedom: float) -> float:
    """Distribution function of Student's t; the normal one where the degrees of freedom are infinite."""
    return float(special.ndtr(t) if math.isinf(freedom) else special.stdtr(freedom, t))


def _t_quantile(level: float, freedom: float) -> float:
    """Value that Student's t exceeds with probability `level`."""
    return -float(special.ndtri(level) if math.isinf(freedom) else special.stdtrit(freedom, level))


def _p_fewer(one: Dimensions, other: Dimensions, threshold: float) -> float:
    """p-value for "one's dimensions less the other's lie below the threshold": some m at most here, m + k there."""
    gap = math.floor(-threshold) + 1  # the smallest whole k with -k < threshold
    splits = [max(one.p_at_most(m), other.p_at_least(m + gap)) for m in range(1, len(one.fewer) + 1)]
    return min(1.0, 2 * min(splits))


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero; the end it does not reach zero at otherwise."""
    if function(high) >= 0:
        return high
    if function(low) <= 0:
        return low
    return float(brentq(function, low, high, xtol=1e-10))
