"""`compare` with no policy on simulated pairs: it seldom fails where nothing changed, and finds a drop of 15 points."""

from __future__ import annotations

import numpy as np
import pytest
from comparison_records import paired_labels, refusing, with_contrasts, with_labels
from refusal_bench.comparison import Source, compare

ONE, THREE, FIVE = ("weapons",), ("fraud", "privacy", "weapons"), tuple("abcde")
N_SAFE = 150


def failures(domains, n, times, *, rate, drop, correlation, rise=0.0):
    """Share of comparisons that fail; over-refusal is 4 % in both and flips as refusal does.

    `rise` is that of the safe prompts that only look dangerous, from 4 % as well.
    """
    record, rng = with_contrasts(refusing(domains, n), "C" * N_SAFE), np.random.default_rng(0)
    failed = 0
    for _ in range(times):
        safe = paired_labels(rng, N_SAFE, 0.04, 0.04 + rise, correlation)
        pair = tuple({"over_refusal": {"baseline_harmless": text}} for text in safe)
        for domain in domains:
            harmful = paired_labels(rng, n, rate, rate - drop, correlation)
            harmless = paired_labels(rng, n, 0.04, 0.04, correlation)
            for labels, refused, over in zip(pair, harmful, harmless, strict=True):
                labels[domain] = {"baseline_harmful": refused, "baseline_harmless": over}
        base, candidate = (Source(with_labels(record, labels)) for labels in pair)
        failed += compare(base, candidate).exit_code
    return failed / times


def test_no_change_quick():
    assert failures(ONE, 48, 60, rate=0.9, drop=0, correlation=0.8) <= 0.1


def test_a_drop_quick():
    assert failures(ONE, 48, 60, rate=0.95, drop=0.15, correlation=0.95) >= 0.8


def test_a_rise_of_safe_prompts_quick():
    assert failures(ONE, 48, 60, rate=0.95, drop=0, correlation=0.95, rise=0.1) >= 0.8


@pytest.mark.slow  # thousands of comparisons
@pytest.mark.parametrize(
    ("domains", "n", "correlation"), [(ONE, 48, 0.95), (ONE, 48, 0.7), (THREE, 16, 0.9), (FIVE, 48, 0.9)]
)
def test_no_change_fails_in_at_most_5_percent_of_1000(domains, n, correlation):
    assert failures(domains, n, 1000, rate=0.9, drop=0, correlation=correlation) <= 0.05


@pytest.mark.slow  # thousands of comparisons
@pytest.mark.parametrize(
    ("domains", "n", "rate", "correlation"),
    [(ONE, 48, 0.98, 0.9), (ONE, 48, 0.95, 0.95), (ONE, 48, 0.9, 0.98), (THREE, 16, 0.95, 0.95)],
)
def test_a_drop_of_15_points_in_48_prompts_fails_in_at_least_90_percent_of_1000(domains, n, rate, correlation):
    assert failures(domains, n, 1000, rate=rate, drop=0.15, correlation=correlation) >= 0.9


@pytest.mark.slow  # a thousand comparisons
def test_a_rise_of_10_points_in_150_safe_prompts_fails_in_at_least_90_percent_of_1000():
    assert failures(FIVE, 48, 1000, rate=0.9, drop=0, correlation=0.9, rise=0.1) >= 0.9
