"""Intervals, permutation and reliability, vectorised over replicates. Each function names its source."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

UNSCORED = frozenset("U?")
"""Labels that enter no rate and no test: unfinished and unscored."""

Z95 = 1.959964
"""Normal quantile of a 95 % interval."""


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion, without continuity correction (Wilson 1927). n must be positive."""
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def percentile_interval(
    replicates: Float[ndarray, "replicate ..."], confidence: float = 0.95
) -> Float[ndarray, "2 ..."]:
    """Percentile interval over the first axis (Efron 1979); axis 0 of the result is low, high."""
    tail = (1 - confidence) / 2
    interval: ndarray = np.quantile(replicates, [tail, 1 - tail], axis=0)
    return interval


def bootstrap_mean(values: Float[ndarray, " n"], n_bootstrap: int, seed: int) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, resampling prompts."""
    counts = resampling_counts(values.size, n_bootstrap, np.random.default_rng(seed))
    low, high = percentile_interval(counts @ values / values.size)
    return float(low), float(high)


def prediction_interval(values: Float[ndarray, " n"], confidence: float = 0.95) -> tuple[float, float]:
    """Where one more value of the same normal distribution falls; everywhere, if fewer than two are known.

    Source: Hahn and Meeker, Statistical Intervals, 1991.
    """
    n = len(values)
    if n < 2:
        return -np.inf, np.inf
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(values.mean() - half), float(values.mean() + half)


def drawn_mean_interval(seen: Float[ndarray, " m"], n: int, confidence: float = 0.99) -> tuple[float, float]:
    """Where the mean of n values lies of which some were drawn at random without replacement; a point once all were.

    Source: Cochran, Sampling Techniques, 1977, section 2.8 (Student's t, finite population correction).
    """
    m, mean = len(seen), float(seen.mean())
    if m >= n:
        return mean, mean
    if m < 2:
        return -np.inf, np.inf
    half = stats.t.ppf((1 + confidence) / 2, m - 1) * seen.std(ddof=1) * np.sqrt((1 - m / n) / m)
    return mean - float(half), mean + float(half)


def jackknife_error(values: Float[ndarray, " n"]) -> float:
    """Standard error from leave-one-out values (Tukey 1958)."""
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.square(values - values.mean()).sum()))


def resampling_counts(n: int, replicates: int, rng: np.random.Generator) -> Float[ndarray, "replicate n"]:
    """How often each of n units is drawn in each bootstrap replicate."""
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates).astype(float)


def mcnemar_exact(before: str, after: str, label: str = "R") -> float:
    """Exact two-sided McNemar p-value that the rate of `label` changed on the same prompts (McNemar 1947).

    A prompt that is unscored before or after says nothing about a change and is left out.
    """
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if not UNSCORED & {a, b}]
    return sign_test(sum(a == label != b for a, b in pairs), sum(b == label != a for a, b in pairs))


def sign_test(down: int, up: int) -> float:
    """Exact two-sided p-value that changes go up as often as down; 1 where nothing changed."""
    return 1.0 if down + up == 0 else float(stats.binomtest(down, down + up, 0.5).pvalue)


def spearman_brown(half: ndarray) -> ndarray:
    """Reliability of the whole from the correlation of its halves, 2r / (1 + r) (Spearman 1910, Brown 1910).

    Not below -1, which r = -1/3 gives: from there the formula runs to minus infinity.
    """
    half = np.maximum(half, -1 / 3)
    whole: ndarray = 2 * half / (1 + half)
    return whole


def half_weights(n: int, splits: int, rng: np.random.Generator) -> tuple[ndarray, ndarray]:
    """Averaging weights [split, n] of two random disjoint halves of n units; with odd n one unit is left out."""
    order = np.argsort(rng.random((splits, n)), axis=1)
    first, second = np.zeros((splits, n)), np.zeros((splits, n))
    np.put_along_axis(first, order[:, : n // 2], 1 / (n // 2), axis=1)
    np.put_along_axis(second, order[:, n // 2 : 2 * (n // 2)], 1 / (n // 2), axis=1)
    return first, second


def holm(p: Float[ndarray, " n"]) -> Float[ndarray, " n"]:
    """Adjusted p-values: calling those below α keeps the chance of any false claim below α (Holm 1979)."""
    order = np.argsort(p)
    factors = len(p) - np.arange(len(p))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def resampled_means(
    counts: Float[ndarray, "replicate n"], values: Float[ndarray, "... n"]
) -> Float[ndarray, "replicate ..."]:
    """Means of the values in every bootstrap replicate, units that are nan left out; nan where none is left."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        means: ndarray = (counts @ np.where(known, values, 0).T) / (counts @ known.T)
    return means


def nullable(value: float) -> float | None:
    """Null for nan and infinity, which JSON cannot hold."""
    return float(value) if np.isfinite(value) else None


def nullable_interval(replicates: Float[ndarray, " replicate"]) -> tuple[float, float] | None:
    """95 % percentile interval of one quantity; null where a replicate is not finite."""
    if not np.isfinite(replicates).all():
        return None
    low, high = percentile_interval(replicates)
    return float(low), float(high)
