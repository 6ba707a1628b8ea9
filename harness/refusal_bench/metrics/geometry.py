"""How directions lie to each other: cosines with their noise, spectra in both conventions, clusters, a verdict.

Everything follows from the prompts' Gram matrix: a direction is a weighted mean of pair differences (harmful minus
harmless twin), so a resampled cosine is a product of weights and the one matrix of inner products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.comparisons import MIN_RELIABILITY, Comparisons
from refusal_bench.metrics.contrast import topic_control
from refusal_bench.metrics.cosines import clusters, cosines, dendrogram, spectrum
from refusal_bench.metrics.moments import Moments, moments
from refusal_bench.metrics.noise import (
    Disattenuated,
    component_p_values,
    disattenuated,
    draw_same,
    n_components,
    p_same,
)
from refusal_bench.metrics.statistics import half_weights, holm, percentile_interval, resampling_counts, spearman_brown
from refusal_bench.record import (
    Geometry,
    GeometrySite,
    Matrix,
    MatrixOfIntervals,
    Pca,
    Reliability,
    Spectrum,
    TopicControl,
)

HALF_WIDTH = 0.05
"""Half-width of a cosine's interval for which `pairs_needed` says how many pairs it takes."""

N_PERMUTATIONS = 1999
N_NULL = 2000
N_DRAWS = 1999


@dataclass(frozen=True)
class PairResiduals:
    """Residuals of one domain's pairs at one site; row i of both is one pair."""

    harmful: Float[ndarray, "pair d_model"]
    harmless: Float[ndarray, "pair d_model"]

    @property
    def differences(self) -> Float[ndarray, "pair d_model"]:
        """What the direction is the mean of."""
        difference: ndarray = self.harmful.astype(float) - self.harmless
        return difference


def reliability(differences: Float[ndarray, "pair d_model"], n_splits: int, seed: int) -> Reliability:
    """Spearman-Brown reliability of a difference in means from random halves of its pairs; null below 4 pairs."""
    if len(differences) < 4:
        return Reliability(split_half=None, split_half_ci95=None, n_splits=0)
    first, second = half_weights(len(differences), n_splits, np.random.default_rng(seed))
    gram = differences.astype(float) @ differences.T.astype(float)
    cross, one, two = (
        np.einsum("sp,pq,sq->s", a, gram, b) for a, b in ((first, second), (first, first), (second, second))
    )
    halves = cross / np.sqrt(one * two)
    low, high = spearman_brown(percentile_interval(halves))
    # The halves are averaged first: one split near -1 would send a mean of corrected values to minus infinity.
    whole = float(spearman_brown(halves.mean()))
    return Reliability(split_half=whole, split_half_ci95=(float(low), float(high)), n_splits=n_splits)


def geometry(
    domains: Mapping[str, PairResiduals],
    site: GeometrySite,
    *,
    n_bootstrap: int,
    seed: int,
    contrast: str = "matched",
) -> tuple[Geometry, list[str]]:
    """Describe two or more domains' directions; returns the geometry and a warning for each null and each flag."""
    names = list(domains)
    stacked = np.concatenate([domains[name].differences for name in names])
    owner = np.repeat(np.arange(len(names)), [len(domains[name].differences) for name in names])
    gram = stacked @ stacked.T
    rng = np.random.default_rng(seed)
    means = np.equal.outer(np.arange(len(names)), owner) / np.bincount(owner)[:, None]

    cosine = cosines(means @ gram @ means.T)
    replicates = _resampled_cosines(gram, means, owner, rng, n_bootstrap)
    found = moments(gram, owner)
    low, high = percentile_interval(replicates)
    corrected = disattenuated(found, stacked.shape[1])
    good = found.reliability >= MIN_RELIABILITY
    same = p_same(found, N_DRAWS, rng)
    comparisons = Comparisons(names, cosine, found, corrected, _over_pairs(holm, same, good), good)
    control = topic_control([domains[name].harmful for name in names], [domains[name].harmless for name in names])
    nulls = {"null95": _random_cosines(len(names), stacked.shape[1], rng)}
    dimensions, p_components = None, None
    if (found.squared_norms > 0).all():
        nulls["one_direction95"] = draw_same(found, N_NULL, rng).raw
        p_components = component_p_values(found, spectrum(cosine, centred=False), N_DRAWS, rng)
        dimensions = n_components(p_components)
    spectra = {
        kind: _spectrum(cosine, replicates, nulls, centred=kind == "centred") for kind in ("centred", "uncentred")
    }
    eigenvalues = spectrum(cosine, centred=False)
    topics = np.stack([domains[name].harmless.mean(axis=0, dtype=float) for name in names])
    topics -= topics.mean(axis=0)
    return Geometry(
        domains=names,
        site=site,
        contrast=contrast,
        normalised=True,
        cosine=cosine.tolist(),
        cosine_ci95=_intervals(low, high, np.ones(len(names), bool)),
        angle_deg=np.degrees(np.arccos(cosine)).tolist(),
        cosine_disattenuated=_nullable(np.clip(corrected.cosine, -1, 1), good),
        cosine_disattenuated_ci95=_intervals(np.clip(corrected.low, -1, 1), np.clip(corrected.high, -1, 1), good),
        ceiling=np.sqrt(np.outer(found.reliability, found.reliability)).tolist(),
        p_value=_off_diagonal(_sign_flip_p(gram, means, cosine, rng)),
        p_same=_off_diagonal(same),
        p_same_holm=_off_diagonal(comparisons.p_adjusted),
        comparisons=[comparisons.say(i, j) for i, j in combinations(range(len(names)), 2)],
        reliability=found.reliability.tolist(),
        pairs=np.bincount(owner).tolist(),
        pairs_needed=pairs_needed(found, corrected),
        topic_cosine=cosines(topics @ topics.T).tolist(),
        topic_control=control,
        pca=Pca(**spectra),
        n_components=dimensions,
        p_components=p_components,
        effective_rank=float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        clusters=clusters(names, cosine),
        dendrogram=dendrogram(names, cosine, replicates),
        verdict=comparisons.verdict(dimensions, control),
    ), [*comparisons.warnings(), *_warnings(control, spectra)]


def _warnings(control: TopicControl, spectra: Mapping[str, Spectrum]) -> list[str]:
    found = [f"geometry: {text}" for text in control.flags.values()]
    if spectra["centred"].explained_variance_ratio is None:
        found.append("geometry: the centred spectrum is null, the directions of all domains are the same")
    return found


def pairs_needed(found: Moments, corrected: Disattenuated) -> list[int | None]:
    """Pairs a domain needs for all its cosines to have half-width HALF_WIDTH, if the others have as many.

    Null for a domain without signal.
    """
    growth = corrected.growth_for(HALF_WIDTH)
    np.fill_diagonal(growth, 0)
    growth[:, found.squared_norms <= 0] = 0  # of another domain's making
    return [
        None if found.squared_norms[d] <= 0 or np.isnan(row).any() else max(1, math.ceil(found.n[d] * row.max()))
        for d, row in enumerate(growth)
    ]


def _nullable(matrix: Float[ndarray, "n n"], good: ndarray) -> Matrix:
    """Null in the rows and columns of domains that are not good, and where it is nan."""
    return [
        [float(v) if good[i] and good[j] and not np.isnan(v) else None for j, v in enumerate(row)]
        for i, row in enumerate(matrix)
    ]


def _off_diagonal(matrix: Float[ndarray, "n n"]) -> Matrix:
    return [[None if i == j or np.isnan(v) else float(v) for j, v in enumerate(row)] for i, row in enumerate(matrix)]


def _intervals(low: Float[ndarray, "n n"], high: Float[ndarray, "n n"], good: ndarray) -> MatrixOfIntervals:
    return [
        [
            (float(low[i, j]), float(high[i, j]))
            if i != j and good[i] and good[j] and not np.isnan(low[i, j] + high[i, j])
            else None
            for j in range(len(low))
        ]
        for i in range(len(low))
    ]


def _over_pairs(adjust: Callable[[ndarray], ndarray], p: Float[ndarray, "n n"], good: ndarray) -> Float[ndarray, "n n"]:
    """Adjust the p-values of all pairs of good domains together; nan for the others."""
    rows, columns = np.triu_indices(len(p), 1)
    use = good[rows] & good[columns] & ~np.isnan(p[rows, columns])
    adjusted = np.full_like(p, np.nan)
    adjusted[rows[use], columns[use]] = adjust(p[rows[use], columns[use]])
    adjusted[columns, rows] = adjusted[rows, columns]
    return adjusted


def _resampled_cosines(
    gram: ndarray, means: ndarray, owner: ndarray, rng: np.random.Generator, replicates: int
) -> ndarray:
    """Cosines of bootstrap replicates, centred on the cosines of the sample.

    A resampled mean carries the noise of the sample and the resampling's own: its norm is inflated, its cosines shrunk.
    Scaling squared norms back to the sample's mean removes the second shrinkage; the first is what cosines report.
    """
    weights = np.zeros((replicates, *means.shape))
    for domain in range(len(means)):
        members = np.flatnonzero(owner == domain)
        weights[:, domain, members] = resampling_counts(len(members), replicates, rng) / len(members)
    products = weights @ gram @ np.swapaxes(weights, 1, 2)
    index = np.arange(len(means))
    squared_norms = np.einsum("dp,pq,dq->d", means, gram, means)
    inflation = np.sqrt(products[:, index, index].mean(axis=0) / squared_norms)
    centred: ndarray = np.clip(cosines(products) * inflation[:, None] * inflation, -1, 1)
    centred[:, index, index] = 1.0
    return centred


def _sign_flip_p(gram: ndarray, means: ndarray, cosine: ndarray, rng: np.random.Generator) -> ndarray:
    """Two-sided permutation p-value of cosine 0: labels exchanged at random within pairs of both domains."""
    signs = rng.choice([-1.0, 1.0], size=(N_PERMUTATIONS, 1, gram.shape[0]))
    weights = signs * means
    permuted = np.abs(cosines(weights @ gram @ np.swapaxes(weights, 1, 2)))
    p: ndarray = (1 + (permuted >= np.abs(cosine)).sum(axis=0)) / (1 + N_PERMUTATIONS)
    return p


def _random_cosines(n: int, d_model: int, rng: np.random.Generator) -> ndarray:
    """Cosines of n random directions in d_model dimensions."""
    # One draw at a time: all at once they would fill memory for a wide model.
    draws = (rng.standard_normal((n, d_model)) for _ in range(N_NULL))
    return cosines(np.stack([vectors @ vectors.T for vectors in draws]))


def _spectrum(cosine: ndarray, replicates: ndarray, nulls: Mapping[str, ndarray], *, centred: bool) -> Spectrum:
    eigenvalues = spectrum(cosine, centred=centred)
    if eigenvalues.sum() < 1e-9:
        # Identical directions: nothing is left after centring, and shares of rounding errors mean nothing.
        return Spectrum(explained_variance_ratio=None, n_for_90=None, ci95=None, null95=None)

    def interval(drawn: ndarray) -> list[tuple[float, float]]:
        low, high = percentile_interval(_shares(spectrum(drawn, centred=centred)))
        return list(zip(low.tolist(), high.tolist(), strict=True))

    shares = _shares(eigenvalues)
    return Spectrum(
        explained_variance_ratio=shares.tolist(),
        # 1e-9: rounding must not turn exactly 90 % into one component more
        n_for_90=int(np.searchsorted(np.cumsum(shares), 0.9 - 1e-9)) + 1,
        ci95=interval(replicates),
        **{name: interval(drawn) for name, drawn in nulls.items()},
    )


def _shares(eigenvalues: Float[ndarray, "... n"]) -> Float[ndarray, "... n"]:
    shares: ndarray = eigenvalues / np.maximum(eigenvalues.sum(axis=-1, keepdims=True), 1e-300)
    return shares
