"""How directions lie to each other: cosines with their noise, spectra in both conventions, clusters, a verdict.

Everything follows from the prompts' Gram matrix: a direction is a weighted mean of pair differences (harmful minus
harmless twin), so a resampled cosine is a product of weights and the one matrix of inner products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from refusal_bench.metrics.statistics import half_weights, percentile_interval, resampling_counts, spearman_brown
from refusal_bench.record import Geometry, GeometrySite, Pca, Reliability, Spectrum

MIN_RELIABILITY = 0.5
"""Below this reliability a cosine cannot be corrected for noise; it is null with a warning."""

CLUSTER_COSINE = 0.5
"""Domains whose average cosine is above this are one cluster."""

N_PERMUTATIONS = 1999
N_NULL = 2000


@dataclass(frozen=True)
class PairDifferences:
    """Residual differences of one domain's pairs at one site, and its harmless mean."""

    differences: Float[ndarray, "pair d_model"]
    harmless_mean: Float[ndarray, " d_model"]


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
    domains: Mapping[str, PairDifferences],
    site: GeometrySite,
    *,
    n_bootstrap: int,
    seed: int,
) -> tuple[Geometry, list[str]]:
    """Describe two or more domains' directions; returns the geometry and a warning for each null."""
    names = list(domains)
    stacked = np.concatenate([domains[name].differences for name in names]).astype(float)
    owner = np.repeat(np.arange(len(names)), [len(domains[name].differences) for name in names])
    gram = stacked @ stacked.T
    rng = np.random.default_rng(seed)
    means = np.stack([(owner == i) / (owner == i).sum() for i in range(len(names))])

    cosine = cosines(means @ gram @ means.T)
    replicates = _resampled_cosines(gram, means, owner, rng, n_bootstrap)
    interval = percentile_interval(replicates)
    corrected, ceiling, warnings = _disattenuated(gram, means, owner, names)
    topics = np.stack([domains[name].harmless_mean for name in names]).astype(float)
    topics -= topics.mean(axis=0)
    null = _random_cosines(len(names), stacked.shape[1], rng)
    spectra = {
        kind: _spectrum(cosine, replicates, null, centred=kind == "centred") for kind in ("centred", "uncentred")
    }
    if spectra["centred"].explained_variance_ratio is None:
        warnings.append("geometry: the centred spectrum is null, the directions of all domains are the same")
    eigenvalues = spectrum(cosine, centred=False)
    return Geometry(
        domains=names,
        site=site,
        contrast="matched",
        normalised=True,
        cosine=cosine.tolist(),
        cosine_ci95=[
            [None if i == j else _pair(interval[:, i, j]) for j in range(len(names))] for i in range(len(names))
        ],
        angle_deg=np.degrees(np.arccos(cosine)).tolist(),
        cosine_disattenuated=corrected,
        p_value=_sign_flip_p(gram, means, cosine, rng),
        topic_cosine=cosines(topics @ topics.T).tolist(),
        pca=Pca(**spectra),
        effective_rank=float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()),
        clusters=clusters(names, cosine),
        verdict=verdict(names, cosine, interval, ceiling),
    ), warnings


def cosines(gram: Float[ndarray, "... n n"]) -> Float[ndarray, "... n n"]:
    """Cosines from inner products, exactly 1 on the diagonal and within [-1, 1]; 0 where a vector is zero."""
    # Signs flipped within pairs can cancel to a zero vector, whose squared norm rounding may even make negative.
    norm = np.sqrt(np.clip(np.einsum("...ii->...i", gram), 0, None))
    norm[norm == 0] = np.inf
    cosine = np.clip(gram / norm[..., :, None] / norm[..., None, :], -1, 1)
    index = np.arange(gram.shape[-1])
    cosine[..., index, index] = 1.0
    symmetric: ndarray = (cosine + np.swapaxes(cosine, -1, -2)) / 2
    return symmetric


def spectrum(cosine: Float[ndarray, "... n n"], *, centred: bool) -> Float[ndarray, "... n"]:
    """Eigenvalues, descending, of the Gram matrix of unit vectors, with their mean subtracted if `centred`."""
    n = cosine.shape[-1]
    centring = np.eye(n) - 1 / n if centred else np.eye(n)
    eigenvalues: ndarray = np.clip(np.linalg.eigvalsh(centring @ cosine @ centring)[..., ::-1], 0, None)
    return eigenvalues


def principal_components(directions: Float[ndarray, "n d_model"]) -> Float[ndarray, "k d_model"]:
    """Orthonormal uncentred principal components of the unit directions, strongest first."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    _, singular, right = np.linalg.svd(unit, full_matrices=False)
    components: ndarray = right[singular > 1e-6 * singular[0]]
    return components


def clusters(names: list[str], cosine: Float[ndarray, "n n"]) -> list[list[str]]:
    """Domains grouped by average linkage at CLUSTER_COSINE, in the order of their first member."""
    tree = linkage(squareform(1 - cosine, checks=False), method="average")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, fcluster(tree, 1 - CLUSTER_COSINE, criterion="distance"), strict=True):
        groups.setdefault(int(label), []).append(name)
    return list(groups.values())


def verdict(
    names: list[str],
    cosine: Float[ndarray, "n n"],
    interval: Float[ndarray, "2 n n"],
    ceiling: Float[ndarray, "n n"],
) -> str:
    """Say which pairs the data tell apart: interval of the cosine below what noise alone would leave of 1."""
    pairs = list(combinations(range(len(names)), 2))
    apart = [(i, j) for i, j in pairs if interval[1, i, j] < ceiling[i, j]]
    closest, farthest = max(pairs, key=lambda p: cosine[p]), min(pairs, key=lambda p: cosine[p])

    def say(pair: tuple[int, int]) -> str:
        i, j = pair
        return (
            f"{names[i]} and {names[j]} cosine {cosine[i, j]:.2f} [{interval[0, i, j]:.2f}, {interval[1, i, j]:.2f}], "
            f"noise ceiling {ceiling[i, j]:.2f}"
        )

    return (
        f"{len(apart)} of {len(pairs)} pairs of domains have measurably different directions at this site. "
        f"Closest: {say(closest)}. Farthest: {say(farthest)}. "
        "Whether they act differently is for the cross-domain ablation matrix to say."
    )


def _pair(values: Float[ndarray, 2]) -> tuple[float, float]:
    return float(values[0]), float(values[1])


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


def _disattenuated(
    gram: ndarray, means: ndarray, owner: ndarray, names: list[str]
) -> tuple[list[list[float | None]], ndarray, list[str]]:
    """Noise-corrected cosines from unbiased norms, and the ceiling: the cosine that two estimates of one truth show.

    The inner product of two domains' means is unbiased because they share no prompt; the squared norm is corrected by
    the U-statistic over distinct pairs of prompts (the limit of cross-fitted halves over all splits).
    """
    plain = np.einsum("dp,pq,dq->d", means, gram, means)
    counts = (means > 0).sum(axis=1)
    noise = np.array([np.diag(gram)[owner == d].mean() for d in range(len(names))])
    unbiased = np.where(counts > 1, (counts * plain - noise) / np.maximum(counts - 1, 1), 0.0)
    # Share of an estimate's squared norm that is signal: the reliability of the direction.
    share = np.clip(unbiased / plain, 0, 1)
    ceiling = np.sqrt(np.outer(share, share))
    cosine = cosines(means @ gram @ means.T)
    good = share >= MIN_RELIABILITY
    corrected: list[list[float | None]] = [
        [
            1.0
            if i == j and good[i]
            else float(np.clip(cosine[i, j] / ceiling[i, j], -1, 1))
            if good[i] and good[j]
            else None
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    warnings = [
        f"geometry: too few prompts to correct the cosines of {name} for noise (reliability {share[i]:.2f}, "
        f"needs {MIN_RELIABILITY})"
        for i, name in enumerate(names)
        if not good[i]
    ]
    return corrected, ceiling, warnings


def _sign_flip_p(gram: ndarray, means: ndarray, cosine: ndarray, rng: np.random.Generator) -> list[list[float | None]]:
    """Two-sided permutation p-value of cosine 0: labels exchanged at random within pairs of both domains."""
    signs = rng.choice([-1.0, 1.0], size=(N_PERMUTATIONS, 1, gram.shape[0]))
    weights = signs * means
    permuted = np.abs(cosines(weights @ gram @ np.swapaxes(weights, 1, 2)))
    p = (1 + (permuted >= np.abs(cosine)).sum(axis=0)) / (1 + N_PERMUTATIONS)
    return [[None if i == j else float(value) for j, value in enumerate(row)] for i, row in enumerate(p)]


def _random_cosines(n: int, d_model: int, rng: np.random.Generator) -> ndarray:
    """Cosines of n random directions in d_model dimensions."""
    # One draw at a time: all at once they would fill memory for a wide model.
    draws = (rng.standard_normal((n, d_model)) for _ in range(N_NULL))
    return cosines(np.stack([vectors @ vectors.T for vectors in draws]))


def _spectrum(cosine: ndarray, replicates: ndarray, null: ndarray, *, centred: bool) -> Spectrum:
    eigenvalues = spectrum(cosine, centred=centred)
    if eigenvalues.sum() < 1e-9:
        # Identical directions: nothing is left after centring, and shares of rounding errors mean nothing.
        return Spectrum(explained_variance_ratio=None, n_for_90=None, ci95=None, null95=None)
    shares = _shares(eigenvalues)
    low, high = percentile_interval(_shares(spectrum(replicates, centred=centred)))
    null_low, null_high = percentile_interval(_shares(spectrum(null, centred=centred)))
    return Spectrum(
        explained_variance_ratio=shares.tolist(),
        # 1e-9: rounding must not turn exactly 90 % into one component more
        n_for_90=int(np.searchsorted(np.cumsum(shares), 0.9 - 1e-9)) + 1,
        ci95=list(zip(low.tolist(), high.tolist(), strict=True)),
        null95=list(zip(null_low.tolist(), null_high.tolist(), strict=True)),
    )


def _shares(eigenvalues: Float[ndarray, "... n"]) -> Float[ndarray, "... n"]:
    shares: ndarray = eigenvalues / np.maximum(eigenvalues.sum(axis=-1, keepdims=True), 1e-300)
    return shares
