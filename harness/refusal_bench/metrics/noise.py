"""What is left of directions and their cosines when the noise of finitely many prompt pairs is taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import stats

from refusal_bench.metrics.moments import Moments
from refusal_bench.metrics.statistics import Z95

MAX_WIDTH = 100
"""Dimensions of drawn noise; with more, sums over them are normal for all that matters here."""

SIGNIFICANT_COMPONENT = 0.05
"""Level at which a further dimension counts."""


@dataclass(frozen=True)
class Disattenuated:
    """Cosines of the true directions, with intervals; not clipped, so that their mean stays unbiased.

    Nan where a domain has no signal, and at the ends of an interval where the data bound nothing.
    """

    cosine: Float[ndarray, "... k k"]
    low: Float[ndarray, "... k k"]
    high: Float[ndarray, "... k k"]
    linear: Float[ndarray, "... k k"]
    """Part of the variance that falls with the number of pairs."""
    quadratic: Float[ndarray, "... k k"]
    """Part of the variance that falls with its square: noise times noise."""

    def growth_for(self, half_width: float) -> Float[ndarray, "... k k"]:
        """How many times as many pairs in every domain would give intervals of that half-width.

        With g times as many it is expected to be Z95 sqrt(linear / g + quadratic / g²), here solved for g.
        """
        target = (half_width / Z95) ** 2
        growth: ndarray = (self.linear + np.sqrt(self.linear**2 + 4 * target * self.quadratic)) / (2 * target)
        return growth


def disattenuated(found: Moments, confidence: float = 0.95) -> Disattenuated:
    """Correct cosines for noise: unbiased inner products over unbiased norms, less the ratio's second-order bias.

    The interval is Fieller's (1954) for a ratio, with the variances of the moments and Satterthwaite's (1946) degrees
    of freedom.
    """
    index = np.arange(len(found.n))
    signal = found.squared_norms > 0
    result = Disattenuated(*(np.zeros_like(found.products) for _ in range(5)))
    for matrix in (result.cosine, result.low, result.high):
        matrix[..., index, index] = np.where(signal, 1.0, np.nan)
    for i, j in combinations(range(len(index)), 2):
        for matrix, value in zip(vars(result).values(), _ratio(found.of((i, j)), confidence), strict=True):
            matrix[..., i, j] = matrix[..., j, i] = value
    return result


def _ratio(pair: Moments, confidence: float) -> tuple[ndarray, ...]:
    """Corrected cosine of two domains, both ends of its interval, and both parts of its variance."""
    n = pair.n
    squared = np.where(pair.squared_norms > 0, pair.squared_norms, np.nan)
    norm = np.sqrt(squared)
    raw = pair.products[..., 0, 1] / norm.prod(-1)
    # Noise of each domain's mean along its own direction and along the other one, relative to their lengths.
    along = np.stack([pair.along[..., 0, :, :], pair.along[..., 1, ::-1, ::-1]], axis=-3)
    lengths = np.stack([norm, norm[..., ::-1]], axis=-1)
    relative = along / lengths[..., :, None] / lengths[..., None, :] / (n * squared)[..., None, None]
    own, cross, joint = relative[..., 0, 0], relative[..., 1, 1], relative[..., 0, 1]
    # Noise times noise: in each squared norm, and in the product.
    square = np.einsum("...ii->...i", pair.trace_products) / (n * (n - 1)) / squared**2 / 2
    product = pair.trace_products[..., 0, 1] / n.prod() / squared.prod(-1)
    cosine = (raw + joint.sum(-1)) / (1 + 3 / 2 * np.maximum(own + square, 0)).prod(-1)
    # The cosine is the product, in units of the norms, over a denominator of 1. The variance of their difference is a
    # quadratic form; its linear part is unbiased, so it may come out negative, and is then left out.
    share = cross - 2 * cosine[..., None] * joint + cosine[..., None] ** 2 * own
    real = share.sum(-1) > 0
    top = np.where(real, cross.sum(-1), 0) + product
    both = np.where(real, joint.sum(-1), 0)
    bottom = np.where(real, own.sum(-1), 0) + square.sum(-1)
    variance = top - 2 * cosine * both + cosine**2 * bottom
    quadratic = product + cosine**2 * square.sum(-1)
    freedom = variance**2 / np.maximum((share**2 / (n - 1)).sum(-1), 1e-12 * variance**2 + 1e-300)
    freedom = np.nan_to_num(np.maximum(freedom, n.min() - 1), nan=1)
    quantile = stats.t.ppf((1 + confidence) / 2, freedom) ** 2
    # (c - r)² <= quantile · (top - 2 r both + r² bottom), solved for r.
    a, b, c = 1 - quantile * bottom, cosine - quantile * both, cosine**2 - quantile * top
    half = np.sqrt(np.where(a > 0, np.maximum(b**2 - a * c, 0), np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        return cosine, (b - half) / a, (b + half) / a, variance - quadratic, quadratic


@dataclass(frozen=True)
class Drawn:
    """What estimation noise makes of directions that are known: one draw a sample of the same size."""

    raw: Float[ndarray, "draw k k"]
    """Cosines of estimated directions."""
    corrected: Float[ndarray, "draw k k"]
    """The same over unbiased norms; nan where a squared norm came out negative."""


def draw_with_rank(found: Moments, rank: int, n_draws: int, rng: np.random.Generator) -> Drawn:
    """Draw estimates as if the true directions lay in `rank` dimensions: those nearest to the corrected cosines."""
    norm = np.sqrt(found.squared_norms)
    values, vectors = np.linalg.eigh(found.products / norm[:, None] / norm)
    leading = vectors[:, len(values) - rank :]
    return _draw(found, leading @ leading.T, n_draws, rng)


def draw_same(found: Moments, n_draws: int, rng: np.random.Generator) -> Drawn:
    """Draw estimates as if all domains had one direction, the mean of their unit directions."""
    return _draw(found, np.ones((len(found.n),) * 2), n_draws, rng)


def _draw(found: Moments, mixing: Float[ndarray, "k k"], n_draws: int, rng: np.random.Generator) -> Drawn:
    """Draw estimates of directions that are mixtures of the unit directions; a parametric bootstrap of the moments.

    Every domain must have signal.
    """
    n, k = found.n, len(found.n)
    norm = np.sqrt(found.squared_norms)
    unit = found.products / norm[:, None] / norm
    lengths = np.sqrt(np.maximum(np.einsum("ij,jl,il->i", mixing, unit, mixing), 1e-12))
    change = norm[:, None] * mixing / lengths[:, None] / norm
    truth = change @ found.products @ change.T
    index = np.arange(k)
    # The norms are kept by construction; rounding, and a matrix that noise left indefinite, would change them.
    truth[index, index] = found.squared_norms
    linear = np.stack(
        [rng.standard_normal((n_draws, k)) @ _root(change @ found.along[i] @ change.T / n[i]).T for i in range(k)],
        axis=1,
    )
    # The true lengths are known no better than this; taking the estimates for them would make the draws too narrow.
    own_along = np.maximum(found.along[index, index, index], 0)
    error = np.sqrt(4 * own_along / n + 2 * found.trace_products[index, index] / (n * (n - 1)))
    stretch = np.sqrt(np.maximum(1 + error / found.squared_norms * rng.standard_normal((n_draws, k)), 1e-6))
    linear = linear * stretch[:, None, :]
    products = truth * stretch[:, :, None] * stretch[:, None, :]
    products += linear + np.swapaxes(linear, 1, 2)  # the diagonal gets its linear part twice, as it must
    # Noise times noise, of vectors in so many dimensions that its spread and its skewness are those of the sample's.
    own = np.maximum(found.trace_products[index, index], 1e-300)
    wide = own / np.maximum(found.trace_cubes, 1e-300) ** (2 / 3)
    width = int(np.exp(min(3 * np.log(wide).mean(), np.log(MAX_WIDTH))).clip(1))
    # Its spread too is known from n pairs only: Student's factor.
    student = (n - 1) / rng.chisquare(n - 1, (n_draws, k))
    noise = rng.standard_normal((n_draws, k, width)) * np.sqrt(student * np.sqrt(own / width) / n)[..., None]
    products += noise @ np.swapaxes(noise, 1, 2)
    length = student * np.sqrt(own * width) / n
    squared = products[:, index, index] - (noise**2).sum(-1)
    squared = squared + np.sqrt(n / (n - 1)) * ((noise**2).sum(-1) - length)
    products[:, index, index] = squared
    # An estimate's own length cannot be zero, but what is drawn for its square can fall below.
    plain = np.sqrt(np.maximum(squared + found.trace / n, 1e-9 * found.squared_norms))
    unbiased = np.sqrt(np.where(squared > 0, squared, np.nan))
    raw = products / plain[:, :, None] / plain[:, None, :]
    corrected = products / unbiased[:, :, None] / unbiased[:, None, :]
    raw[:, index, index] = 1.0
    return Drawn(np.clip(raw, -1, 1), corrected)


def _root(matrix: Float[ndarray, "n n"]) -> ndarray:
    """A square root of the nearest covariance: an unbiased estimate of one need not be positive."""
    values, vectors = np.linalg.eigh(matrix)
    root: ndarray = vectors * np.sqrt(np.maximum(values, 0))
    return root


def p_same(found: Moments, n_draws: int, rng: np.random.Generator) -> ndarray:
    """One-sided p-values that two domains' cosine is 1 up to noise, by parametric bootstrap; nan without signal."""
    k = len(found.n)
    p = np.full((k, k), np.nan)
    for i, j in combinations(range(k), 2):
        pair = found.of((i, j))
        if (pair.squared_norms <= 0).any():
            continue
        observed = pair.products[0, 1] / np.sqrt(pair.squared_norms.prod())
        drawn = draw_same(pair, n_draws, rng).corrected[:, 0, 1]
        drawn = drawn[~np.isnan(drawn)]  # a sample without signal would not have been compared
        p[i, j] = p[j, i] = (1 + (drawn <= observed).sum()) / (1 + len(drawn))
    return p


def component_p_values(
    found: Moments, eigenvalues: Float[ndarray, " k"], n_draws: int, rng: np.random.Generator
) -> list[float]:
    """p-values of the second, third, ... dimension beyond noise: parallel analysis (Horn 1965), one step at a time.

    The observed eigenvalue, of the raw cosines, against what directions in one dimension fewer would show with the
    noise of this many pairs; ends with the first that is not significant. Every domain must have signal.
    """
    p: list[float] = []
    for rank in range(1, len(found.n)):
        null = np.linalg.eigvalsh(draw_with_rank(found, rank, n_draws, rng).raw)[:, ::-1][:, rank]
        p.append(float(1 + (null >= eigenvalues[rank]).sum()) / (1 + n_draws))
        if p[-1] > SIGNIFICANT_COMPONENT:
            break
    return p


def n_components(p_values: Sequence[float]) -> int:
    """Dimensions that the directions need beyond noise: one, and each further one that is significant."""
    return 1 + sum(p <= SIGNIFICANT_COMPONENT for p in p_values)
