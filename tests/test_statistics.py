"""Intervals and tests against published values, closed forms and scipy."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from refusal_bench.metrics.statistics import (
    bootstrap_mean,
    half_weights,
    holm,
    mcnemar_exact,
    percentile_interval,
    prediction_interval,
    resampling_counts,
    sign_test,
    spearman_brown,
    wilson_interval,
)
from scipy import stats


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 16, 0.0, 0.1936),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (16, 32, 0.3363, 0.6637),
    ],
)
def test_wilson_interval_gives_the_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("n", [1, 7, 50])
def test_wilson_interval_solves_its_equation_and_mirrors(n):
    z = stats.norm.ppf(0.95)
    for successes in range(n + 1):
        low, high = wilson_interval(successes, n, confidence=0.9)
        for bound in (low, high):
            assert (successes / n - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-9)
        assert (1 - high, 1 - low) == pytest.approx(wilson_interval(n - successes, n, confidence=0.9), abs=1e-12)


def test_percentile_interval_works_along_the_first_axis():
    replicates = np.stack([np.arange(101.0), 10 * np.arange(101.0)], axis=1)
    np.testing.assert_allclose(percentile_interval(replicates), [[2.5, 25], [97.5, 975]])
    np.testing.assert_allclose(percentile_interval(replicates, 0.5), [[25, 250], [75, 750]])


def test_prediction_intervals_hold_the_next_value_as_often_as_they_say():
    values = np.random.default_rng(0).normal(3, 2, (4000, 6))
    for n, confidence in ((2, 0.95), (5, 0.8)):
        found = np.array([prediction_interval(row[:n], confidence) for row in values])
        held = (found[:, 0] <= values[:, 5]) & (values[:, 5] <= found[:, 1])
        assert held.mean() == pytest.approx(confidence, abs=0.015)
    assert prediction_interval(values[0, :1]) == (-np.inf, np.inf)


def test_bootstrap_mean_agrees_with_scipy_and_ignores_row_order_in_law():
    values = np.random.default_rng(0).exponential(size=40)
    expected = stats.bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=1).confidence_interval
    spread = values.std() / np.sqrt(len(values))
    for order in (values, values[::-1]):
        assert bootstrap_mean(order, 20000, seed=0) == pytest.approx(tuple(expected), abs=0.05 * spread)


def test_bootstrap_mean_is_reproducible_and_exact_for_constants():
    values = np.array([1.0, 2.0, 7.0])
    assert bootstrap_mean(values, 300, seed=5) == bootstrap_mean(values, 300, seed=5)
    assert bootstrap_mean(np.full(9, 4.25), 100, seed=0) == pytest.approx((4.25, 4.25), abs=1e-12)
    assert bootstrap_mean(np.array([-18.4]), 100, seed=0) == pytest.approx((-18.4, -18.4))


def test_resampling_draws_n_units_with_multinomial_moments():
    counts = resampling_counts(10, 20000, np.random.default_rng(0))
    assert counts.shape == (20000, 10)
    assert (counts.sum(axis=1) == 10).all()
    assert counts.mean() == 1
    assert counts.var(axis=0) == pytest.approx(0.9, abs=0.04)
    assert np.cov(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-0.1, abs=0.03)


# before  after   prompts
# R       R       10
# R       C, D     9 lost
# C, P    R        2 gained
# C       C        4
BEFORE = "R" * 10 + "R" * 9 + "CP" + "C" * 4
AFTER = "R" * 10 + "CCCCCCCCD" + "RR" + "C" * 4


def test_mcnemar_on_a_hand_table():
    by_hand = 2 * sum(comb(11, k) for k in range(3)) / 2**11
    assert mcnemar_exact(BEFORE, AFTER) == pytest.approx(by_hand)
    assert mcnemar_exact(BEFORE, AFTER) == pytest.approx(stats.binomtest(2, 11, 0.5).pvalue)
    assert mcnemar_exact(AFTER, BEFORE) == pytest.approx(by_hand)


def test_mcnemar_ignores_prompt_order_unscored_prompts_and_other_labels():
    order = np.random.default_rng(0).permutation(len(BEFORE))
    shuffled = ("".join(text[i] for i in order) for text in (BEFORE, AFTER))
    expected = mcnemar_exact(BEFORE, AFTER)
    assert mcnemar_exact(*shuffled) == pytest.approx(expected)
    assert mcnemar_exact(BEFORE + "RURR?", AFTER + "?RU?R") == pytest.approx(expected)
    assert mcnemar_exact("CDGP", "PGDC") == 1.0
    assert mcnemar_exact("R" * 20, "?" * 20) == 1.0
    assert mcnemar_exact("C" * 6, "D" * 6, label="D") == pytest.approx(2 / 2**6)
    assert mcnemar_exact("", "") == 1.0


def test_mcnemar_refuses_unpaired_labels():
    with pytest.raises(ValueError, match="zip"):
        mcnemar_exact("RR", "R")


@pytest.mark.parametrize(("down", "up"), [(0, 0), (1, 0), (5, 5), (12, 3), (0, 20)])
def test_sign_test_is_the_doubled_binomial_tail(down, up):
    n = down + up
    tail = sum(comb(n, k) for k in range(min(down, up) + 1)) / 2**n
    assert sign_test(down, up) == pytest.approx(min(1.0, 2 * tail))


def test_spearman_brown_on_published_halves_and_below_its_pole():
    np.testing.assert_allclose(spearman_brown(np.array([0, 2 / 3, 0.889, 1])), [0, 0.8, 0.9412, 1], atol=5e-5)
    np.testing.assert_allclose(spearman_brown(np.array([-0.2, -1 / 3, -0.999, -1])), [-0.5, -1, -1, -1])


@pytest.mark.parametrize("n", [4, 7, 20])
def test_halves_are_disjoint_random_means(n):
    first, second = half_weights(n, 4000, np.random.default_rng(0))
    for half in (first, second):
        np.testing.assert_allclose(half.sum(axis=1), 1)
        assert set(np.unique(half)) == {0, 1 / (n // 2)}
        np.testing.assert_allclose(half.mean(axis=0), 1 / n, atol=0.2 / n)
    assert (first * second == 0).all()


def test_holm_on_a_table_worked_by_hand():
    # sorted: 0.005 x 4 = 0.02, 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 = 0.04, not below the one before
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9, 0.02])), [1, 1, 0.06])
    np.testing.assert_allclose(holm(np.array([0.2])), [0.2])
    assert holm(np.array([])).size == 0


def test_holm_rejects_what_the_step_down_procedure_rejects():
    """By its definition: go up the sorted p-values until one exceeds α / (number still to go)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = np.round(rng.uniform(size=rng.integers(1, 12)) ** 4, 3)  # rounded, so that there are ties
        for alpha in (0.01, 0.05, 0.2):
            rejected = np.zeros(len(p), bool)
            for passed, place in enumerate(np.argsort(p)):
                if p[place] * (len(p) - passed) > alpha:
                    break
                rejected[place] = True
            np.testing.assert_array_equal(holm(p) <= alpha, rejected)
