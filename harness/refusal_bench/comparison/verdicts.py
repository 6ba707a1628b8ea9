"""What each measurement amounts to: better, worse, the same within a margin, or not enough data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refusal_bench.comparison.evidence import pairs_needed, within
from refusal_bench.comparison.gates import Check
from refusal_bench.comparison.pairing import Measurement
from refusal_bench.comparison.policy import Policy
from refusal_bench.metrics.statistics import holm
from refusal_bench.record import Interval

Word = Literal["better", "worse", "same", "not enough data"]
TAIL = 0.025


@dataclass(frozen=True)
class Verdict:
    """A measurement, judged."""

    measurement: Measurement
    """What was judged."""
    word: Word
    """`same` means shown to lie within the margin, `not enough data` that neither is shown."""
    ci95: Interval
    """Two-sided 95 % interval of the difference, not corrected for the number of measurements."""
    p: float
    """Two-sided p-value of no difference."""
    p_holm: float
    """The same, Holm-corrected over the domains (and all together) of this condition and quantity."""
    n_enough: int | None
    """For `not enough data`: prompts (or train pairs) that would give a verdict if the difference stays as it is."""


def judge(measurements: Sequence[Measurement], checks: Sequence[Check], policy: Policy) -> list[Verdict]:
    """Judge every measurement; what failed a check in the bad direction is worse, whatever its size."""
    groups: dict[str, list[str]] = defaultdict(list)
    p: dict[str, float] = {}
    for each in measurements:
        groups[each.group].append(each.name)
        p[each.name] = min(1.0, 2 * min(each.evidence.p_below(0.0), each.evidence.p_above(0.0)))
    adjusted: dict[str, float] = {}
    for names in groups.values():
        adjusted |= dict(zip(names, holm(np.array([p[name] for name in names])).tolist(), strict=True))
    failed = {check.measurement.name for check in checks if check.failed and _bad(check)}
    return [_judged(each, p[each.name], adjusted[each.name], each.name in failed, policy) for each in measurements]


def _bad(check: Check) -> bool:
    """The check shows a change for the worse, and not merely that an improvement stayed small."""
    if check.expression.side == "<":
        return check.measurement.worse == "lower" and check.expression.threshold <= 0
    return check.measurement.worse == "higher" and check.expression.threshold >= 0


def _judged(measurement: Measurement, p: float, p_holm: float, failed: bool, policy: Policy) -> Verdict:
    evidence, delta = measurement.evidence, getattr(policy.delta, measurement.unit)
    lower = evidence.estimate < 0
    word: Word = "not enough data"
    if failed:
        word = "worse"
    elif within(evidence, delta):
        word = "same"
    elif p_holm <= policy.alpha:
        word = "worse" if lower == (measurement.worse == "lower") else "better"
    needed = None
    if word == "not enough data":
        needed = pairs_needed(evidence, measurement.n, delta, policy.alpha / 2 * p / p_holm)
    return Verdict(measurement, word, (evidence.lower(TAIL), evidence.upper(TAIL)), p, p_holm, needed)
