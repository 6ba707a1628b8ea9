"""What is left of directions and their cosines when the noise of finitely many prompt pairs is taken out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import special

from refusal_bench.metrics.moments import Moments
from refusal_bench.metrics.statistics import Z95

MAX_WIDTH = 100
"""Dimensions of drawn noise; with more, sums over them are normal for all that matters here."""

N_STEPS = 16
"""Of the search for an interval's end; each leaves at most half of the distance."""

SIGNIFICANT_COMPONENT = 0.05
"""Level at which a further dimension counts."""


@dataclass(frozen=True)
class Disattenuated:
    """Cosines of the true directions, with intervals; not clipped, so that their mean stays unbiased.

    Nan where a domain has no signal.
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


def disattenuated(found: Moments, d_model: int, confidence: float = 0.95) -> Disattenuated:
    """Correct cosines for noise: unbiased inner products over unbiased norms, less the ratio's second-order bias.

    The interval holds the cosines r for which the estimate less r is within its quantiles (`_quantile`), with the
    spread that it would have if r were true (`_Noise.spread`). How often it holds the truth: docs/calibration.md.
    """
    index = np.arange(len(found.n))
    signal = found.squared_norms > 0
    result = Disattenuated(*(np.zeros_like(found.products) for _ in range(5)))
    for matrix in (result.cosine, result.low, result.high):
        matrix[..., index, index] = np.where(signal, 1.0, np.nan)
    pairs = list(combinations(range(len(index)), 2))
    for matrix, values in zip(vars(result).values(), _ratios(found, pairs, d_model, confidence), strict=True):
        for (i, j), value in zip(pairs, values, strict=True):
            matrix[..., i, j] = matrix[..., j, i] = value
    return result


def _ratios(
    found: Moments, pairs: Sequence[tuple[int, int]], d_model: int, confidence: float
) -> tuple[Float[ndarray, "pair ..."], ...]:
    """Corrected cosines of pairs of domains, both ends of their intervals, and both parts of their variances."""
    each = [vars(found.of(pair)) for pair in pairs]
    all_pairs = Moments(**{name: np.stack([moment[name] for moment in each]) for name in each[0]})
    noise = _Noise.of(all_pairs, d_model)
    own_bias = np.maximum(noise.own + noise.square / 2 * noise.n / (noise.n - 1), 0)
    cosine = (noise.raw + noise.joint.sum(-1)) / (1 + 3 / 2 * own_bias).prod(-1)
    ends = []
    for p in ((1 + confidence) / 2, (1 - confidence) / 2):
        end = cosine
        for _ in range(N_STEPS):
            # Only cosines are tested; beyond 1 the spread stays what it is there.
            linear, quadratic, skewness, freedom = noise.spread(np.clip(end, -1, 1))
            deviations = _quantile(p, skewness, freedom) * np.sqrt(linear + quadratic)
            end = (end + cosine - deviations) / 2
        ends.append(end)
    linear, quadratic, _, _ = noise.spread(np.clip(cosine, -1, 1))
    return cosine, ends[0], ends[1], linear, quadratic


@dataclass(frozen=True)
class _Noise:
    """Noise Ω of two domains' means m, in units of their lengths: each m is a unit vector, Ω_i = Σ_i / (n_i ‖μ_i‖²)."""

    d_model: int
    n: Float[ndarray, "... 2"]
    raw: Float[ndarray, ...]
    """Unbiased product of the means over their unbiased lengths."""
    own: Float[ndarray, "... 2"]
    """Along a domain's own direction, m_iᵀ Ω_i m_i."""
    cross: Float[ndarray, "... 2"]
    """Along the other one, m_jᵀ Ω_i m_j."""
    joint: Float[ndarray, "... 2"]
    """m_iᵀ Ω_i m_j."""
    trace: Float[ndarray, "... 2"]
    square: Float[ndarray, "... 2"]
    """tr Ω_i²."""
    product: Float[ndarray, ...]
    """tr Ω_1 Ω_2."""
    cube: Float[ndarray, "... 2"]
    """tr Ω_i³."""
    mixed: Float[ndarray, ...]
    """tr Ω_1² Ω_2 + tr Ω_1 Ω_2²."""

    @classmethod
    def of(cls, pair: Moments, d_model: int) -> _Noise:
        """Of the moments of two domains, or of many such pairs; nan where one has no signal."""
        squared = np.where(pair.squared_norms > 0, pair.squared_norms, np.nan)
        lengths = np.sqrt(squared)
        n = pair.n.reshape(*pair.n.shape[:-1], *(1,) * (squared.ndim - pair.n.ndim), 2)
        scale = n * squared
        along = np.stack([pair.along[..., 0, :, :], pair.along[..., 1, ::-1, ::-1]], axis=-3)
        plane = np.stack([lengths, lengths[..., ::-1]], axis=-1)
        along = along / plane[..., :, None] / plane[..., None, :] / scale[..., None, None]
        # Unbiased estimates of the noise's skewness may come out negative.
        cubes = np.maximum(pair.trace_cubes, 0) / scale[..., :, None] ** 2 / scale[..., None, :]
        return cls(
            d_model,
            n,
            raw=pair.products[..., 0, 1] / lengths.prod(-1),
            own=along[..., 0, 0],
            cross=along[..., 1, 1],
            joint=along[..., 0, 1],
            trace=pair.trace / scale,
            square=np.einsum("...ii->...i", pair.trace_products) / scale**2,
            product=pair.trace_products[..., 0, 1] / scale.prod(-1),
            cube=np.einsum("...ii->...i", cubes),
            mixed=cubes[..., 0, 1] + cubes[..., 1, 0],
        )

    def spread(self, r: Float[ndarray, ...]) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Variance, linear and quadratic part, skewness and degrees of freedom of the estimate if the cosine is r.

        With e_i the noise of m_i, and to second order, the error is
        T = e_1·(m_2 - r m_1) + e_2·(m_1 - r m_2) + e_1·e_2 - r/2 (‖e_1‖² + ‖e_2‖² - their means): linear in the noise
        along two vectors of length √(1 - r²) that are orthogonal to the directions, and a quadratic form in all of it.
        The cumulants are those of such a form in normal noise (Mathai and Provost 1992, section 3.2). Degrees of
        freedom are Satterthwaite's (1946): noise along single axes is known from n pairs only.
        """
        linear = self._linear(r)
        quadratic = self.product + r**2 / 2 * self.square.sum(-1)
        variance = linear + quadratic
        # A sum of unequal squares has a longer short tail than Pearson III of its skewness; a tenth less is nearer.
        third = -0.9 * (r**3 * self.cube.sum(-1) + 3 * r * self.mixed)
        # The linear part's own share counts half: as far as its variance is measured, its error skews the other way.
        third -= 3 * r * (1 - r**2) * (self.product + self.square.sum(-1) / 2) / self.d_model
        least = self.n.min(-1) - 1
        # Of the quadratic part's, a quarter: in the tails of products of normal numbers a wrong spread matters less.
        uncertainty = ((1 + r**2) ** 2 * np.sqrt(self._fourth.prod(-1)) + linear**2) / least
        freedom = np.maximum(2 * variance**2 / np.maximum(uncertainty, 1e-300), least)
        return linear, quadratic, third / np.maximum(variance, 1e-100) ** 1.5, freedom

    @property
    def _fourth(self) -> Float[ndarray, "... 2"]:
        """tr Ω_i⁴, as the second and third powers' traces bound it from below; exact for noise along one axis."""
        bound: ndarray = self.cube**2 / np.maximum(self.square, 1e-300)
        return bound

    def _linear(self, r: Float[ndarray, ...]) -> ndarray:
        """Variance of the linear part: what is expected, and of what is measured as much as chance does not explain.

        The measured one is noisy, and wrong together with the estimate: too low where the cosine comes out too high.
        """
        cosine = r[..., None]
        along = self.trace / self.d_model  # noise along a unit vector that lies anywhere relative to the noise's axes
        error = 2 * self._fourth + 2 * (along + self.square) ** 2 / (self.n - 1)
        along = along + _beyond_chance(np.maximum(self.own, 0) - along, error)
        expected = (1 - cosine**2) * along
        error = 2 * np.sqrt(self._fourth.prod(-1)) * ((1 + r) ** 4 + (1 - r) ** 4)
        error += (2 * (expected + (1 + cosine**2) * self.square) ** 2 / (self.n - 1)).sum(-1)
        measured = (self.cross - 2 * cosine * self.joint + cosine**2 * self.own).sum(-1)
        expected = expected.sum(-1)
        variance: ndarray = expected + _beyond_chance(np.maximum(measured, 0) - expected, error)
        return variance


def _beyond_chance(deviation: ndarray, error: ndarray) -> ndarray:
    """Shrink a deviation by what estimation error of this variance explains: to half at two standard errors."""
    squared = deviation**2
    shrunk: ndarray = deviation * squared / (squared + 4 * error + 1e-300)
    return shrunk


def _quantile(p: float, skewness: ndarray, freedom: ndarray) -> ndarray:
    """Quantile of a standard distribution: Student's, and Pearson III's of this skewness in the tail that it shortens.

    The other tail is not lengthened: where the error is far out in it, the noise that is measured is too large already.
    """
    shortened = (skewness < 0) == (p > 1 / 2)
    size = np.where(shortened, np.clip(np.abs(skewness), 1e-3, 2 * np.sqrt(2)), 1e-3)  # at most that of a single axis
    shape = 4 / size**2
    side = np.where(skewness < 0, -1, 1)
    standard = side * (special.gammaincinv(shape, np.where(skewness < 0, 1 - p, p)) - shape) / np.sqrt(shape)
    quantile: ndarray = standard * special.stdtrit(freedom, p) / special.ndtri(p)
    return quantile


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
    wide = own / np.maximum(found.trace_cubes[index, index], 1e-300) ** (2 / 3)
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
