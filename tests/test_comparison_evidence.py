"""What the data say about a difference, against likelihoods, exact enumeration and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from refusal_bench.comparison.evidence import (
    DimensionDifference,
    Dimensions,
    MeanDifference,
    PairedRates,
    pairs_needed,
    within,
)
from scipy import optimize, stats

COUNTS = [(48, 7, 1), (48, 4, 0), (16, 3, 5), (100, 0, 0), (30, 0, 6), (240, 12, 12)]


def constrained_z(n, lost, won, difference):
    """Score statistic with the nuisance parameter found by a numerical search of the likelihood."""

    def minus_log_likelihood(p_lost):
        p_won = p_lost + difference
        parts = ((lost, p_lost), (won, p_won), (n - lost - won, 1 - p_lost - p_won))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    p_lost = optimize.minimize_scalar(
        minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    return (won - lost - n * difference) / math.sqrt(n * (2 * p_lost + difference - difference**2))


@pytest.mark.parametrize(("n", "lost", "won"), COUNTS)
@pytest.mark.parametrize("threshold", [-0.2, -0.05, 0.03, 0.3])
def test_rates_follow_the_score_test_of_the_likelihood(n, lost, won, threshold):
    expected = stats.norm.cdf(constrained_z(n, lost, won, threshold))
    assert PairedRates(n, lost, won).p_below(threshold) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("n", "lost", "won"), [c for c in COUNTS if c[1] != c[2]])
def test_rates_at_zero_are_mcnemar_without_correction(n, lost, won):
    evidence = PairedRates(n, lost, won)
    chi2 = (lost - won) ** 2 / (lost + won)
    two_sided = 2 * min(evidence.p_below(0), evidence.p_above(0))
    assert two_sided == pytest.approx(stats.chi2.sf(chi2, 1), rel=1e-9)


EVIDENCE = [
    *(PairedRates(*counts) for counts in COUNTS),
    MeanDifference(-0.4, 0.3, 15, 16),
    MeanDifference(0.1, 0.02, math.inf, 30),
]


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.3])
def test_bounds_invert_the_tests(evidence, level):
    upper, lower = evidence.upper(level), evidence.lower(level)
    assert lower <= evidence.estimate <= upper
    assert evidence.p_below(upper) == pytest.approx(level, abs=1e-6)
    assert evidence.p_above(lower) == pytest.approx(level, abs=1e-6)


def test_no_change_at_all_proves_little_with_few_prompts():
    # With no discordant pair the score bound is z² / (n + z²).
    z2 = stats.norm.ppf(0.95) ** 2
    for n in (16, 51, 52):
        assert PairedRates(n, 0, 0).upper(0.05) == pytest.approx(z2 / (n + z2), abs=1e-8)
        assert within(PairedRates(n, 0, 0), 0.05) == (n >= 52)
    assert PairedRates(16, 0, 0).p_below(0) == 0.5


@pytest.mark.parametrize("n", [16, 48])
def test_size_stays_at_the_level_whatever_share_of_prompts_changes(n):
    """Every outcome enumerated: the chance to call a drop where prompts change both ways alike."""
    lost, won = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)]).T
    p = np.array([PairedRates(n, b, c).p_below(0) for b, c in zip(lost, won, strict=True)])
    for share in np.linspace(0.01, 0.6, 30):
        chance = stats.multinomial.pmf(
            np.stack([lost, won, n - lost - won], axis=1), n, [share / 2, share / 2, 1 - share]
        )
        for level in (0.05, 0.04, 0.0325, 0.03, 0.01, 0.001):
            assert chance[p <= level].sum() <= level * 1.25


def test_means_are_student_or_normal():
    rng = np.random.default_rng(0)
    changes = rng.normal(-0.3, 1, 20)
    evidence = MeanDifference(changes.mean(), stats.sem(changes), 19, 20)
    assert evidence.p_below(0.1) == pytest.approx(stats.ttest_1samp(changes, 0.1, alternative="less").pvalue)
    assert evidence.p_above(-1) == pytest.approx(stats.ttest_1samp(changes, -1, alternative="greater").pvalue)
    interval = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    assert (evidence.lower(0.025), evidence.upper(0.025)) == pytest.approx((interval.low, interval.high))
    normal = MeanDifference(0.2, 0.1, math.inf, 30)
    assert normal.upper(0.025) == pytest.approx(0.2 + 1.959964 * 0.1)
    identical = MeanDifference(0.0, 0.0, 7, 8)
    assert within(identical, 0.5)
    assert identical.p_below(0.0) == 1.0


@pytest.mark.parametrize(
    "evidence", [PairedRates(48, 3, 1), PairedRates(48, 0, 0), MeanDifference(0.3, 0.3, 15, 16), PairedRates(16, 3, 1)]
)
def test_pairs_needed_is_the_first_number_that_settles_it(evidence):
    needed = pairs_needed(evidence, int(evidence.n), 0.05, 0.025)
    settled = [
        within(evidence.at(n), 0.05) or min(evidence.at(n).p_below(0), evidence.at(n).p_above(0)) <= 0.025
        for n in (needed - 1, needed)
    ]
    assert settled == [False, True]
    assert needed > evidence.n


def test_a_difference_at_the_margin_is_never_settled_by_equivalence_alone():
    assert pairs_needed(MeanDifference(0.0, 50.0, math.inf, 2), 2, 1e-3, 0.0) is None


FIVE = Dimensions(5, (0.0005,) * 4, (1.0, 1.0, 1.0, 1.0, 0.0))
ONE = Dimensions(1, (0.4,), (0.001, 0.001, 0.001, 0.001, 0.0))


def test_dimensions_are_bounded_from_both_sides():
    collapsed = DimensionDifference(FIVE, ONE)
    assert collapsed.estimate == -4
    assert collapsed.p_below(-1) == pytest.approx(0.002)  # both sides at half the level
    assert collapsed.upper(0.05) == -4
    assert collapsed.p_above(0) == 1.0
    assert DimensionDifference(ONE, FIVE).lower(0.05) == 4


def test_dimensions_that_were_merely_not_found_are_no_loss():
    blurred = Dimensions(1, (0.2,), (1.0, 1.0, 0.3, 0.2, 0.0))
    assert DimensionDifference(FIVE, blurred).p_below(-1) > 0.05
    assert DimensionDifference(FIVE, blurred).upper(0.05) == 0


def test_a_lost_dimension_needs_the_base_to_have_had_it():
    doubtful = Dimensions(3, (0.0005, 0.04), (1.0, 1.0, 0.0))
    one = Dimensions(1, (0.4,), (0.001, 0.001, 0.0))
    assert DimensionDifference(doubtful, one).p_below(0) == pytest.approx(0.002)  # from two to one, surely
    assert DimensionDifference(doubtful, one).p_below(-1) == pytest.approx(0.08)
