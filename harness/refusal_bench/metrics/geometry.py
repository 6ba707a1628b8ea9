"""How directions lie to each other: cosines with their noise, spectra in both conventions, clusters, a verdict.

Everything follows from the prompts' Gram matrix: a direction is a weighted mean of pair differences (harmful minus
harmless twin), so a resampled cosine is a product of weights and the one matrix of inner products.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from refusal_bench.metrics.contrast import shared_prompts, topic_agreement
from refusal_bench.metrics.noise import (
    Disattenuated,
    Moments,
    component_p_values,
    disattenuated,
    draw_same,
    moments,
    n_components,
    p_same,
)
from refusal_bench.metrics.statistics import half_weights, holm, percentile_interval, resampling_counts, spearman_brown
from refusal_bench.record import (
    Geometry,
    GeometrySite,
    Matrix,
    MatrixOfIntervals,
    Merge,
    Pca,
    Reliability,
    Spectrum,
    TopicControl,
)

MIN_RELIABILITY = 0.5
"""Below this reliability a cosine cannot be corrected for noise; it is null with a warning."""

CLUSTER_COSINE = 0.5
"""Domains whose average cosine is above this are one cluster."""

SIGNIFICANT = 0.03
"""Holm-corrected level of "different directions". With noise as skewed as residual streams have, the bootstrap's tails
are a little light: at this level one direction is called several in less than 5 % of samples (docs/calibration.md)."""

HALF_WIDTH = 0.05
"""Half-width of a cosine's interval for which `pairs_needed` says how many pairs it takes."""

SEVERAL = "More than one direction"
"""How a verdict begins that tells domains apart."""

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
    corrected = disattenuated(found)
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


def topic_control(harmful: Sequence[ndarray], harmless: Sequence[ndarray]) -> TopicControl:
    """Flag harmless prompts that make cosines mean something else than refusal; rows are prompts, items are domains."""
    flags = {}
    agreement = topic_agreement(harmful, harmless)
    if shared_prompts(harmless):
        flags["shared_negatives"] = (
            "domains share harmless prompts, so their directions share the prompts' noise and topic; "
            "their cosines are too high (use a contrast with harmless prompts of each domain's own)"
        )
    if agreement.unmatched:
        flags["topic_confound"] = (
            "the harmless prompts are of other topics than the harmful ones, so the directions hold topic as well as "
            "refusal; low cosines here are no evidence of several refusal directions (use topic-matched pairs)"
        )
    return TopicControl(agreement=agreement.value, ci95=agreement.ci95, has_topics=agreement.has_topics, flags=flags)


@dataclass(frozen=True)
class Comparisons:
    """Which pairs of domains the data tell apart, in words."""

    names: list[str]
    cosine: Float[ndarray, "n n"]
    found: Moments
    corrected: Disattenuated
    p_adjusted: Float[ndarray, "n n"]
    good: ndarray

    def differ(self, i: int, j: int) -> bool:
        """Whether two domains' directions differ by more than noise, all pairs considered."""
        return bool(self.p_adjusted[i, j] < SIGNIFICANT)

    def say(self, i: int, j: int) -> str:
        """One pair in a sentence, never a bare cosine."""
        pair = f"{self.names[i]} and {self.names[j]}"
        for d in (i, j):
            if not self.good[d]:
                return f"{pair}: too few prompts of {self.names[d]} ({self._too_few(d)})"
        ceiling = np.sqrt(self.found.reliability[i] * self.found.reliability[j])
        low, high = self.corrected.low[i, j], self.corrected.high[i, j]
        interval = "interval unbounded" if np.isnan(low) else f"[{max(low, -1):.2f}, {min(high, 1):.2f}]"
        return (
            f"{pair}: {'different directions' if self.differ(i, j) else 'not told apart'}, cosine "
            f"{np.clip(self.corrected.cosine[i, j], -1, 1):.2f} {interval} corrected for noise, "
            f"{self.cosine[i, j]:.2f} as measured where one direction would give {ceiling:.2f}"
        )

    def verdict(self, dimensions: int | None, control: TopicControl) -> str:
        """The finding in words; the first sentence says whether there is more than one direction."""
        pairs = list(combinations(range(len(self.names)), 2))
        tested = [pair for pair in pairs if not np.isnan(self.p_adjusted[pair])]
        apart = [pair for pair in tested if self.differ(*pair)]
        if not tested:
            return f"Too few prompts to say whether there is more than one direction. {self.say(*pairs[0])}."
        if apart:
            first = f"{SEVERAL}: {len(apart)} of {len(pairs)} pairs of domains differ by more than noise"
        else:
            first = f"No sign of more than one direction: none of {len(tested)} pairs of domains differs beyond noise"
        if len(tested) < len(pairs):
            first += f", {len(pairs) - len(tested)} could not be tested"
        closest, farthest = (choose(tested, key=lambda p: self.corrected.cosine[p]) for choose in (max, min))
        parts = [first, f"Closest: {self.say(*closest)}", f"Farthest: {self.say(*farthest)}"]
        if dimensions is not None:
            parts.append(f"Dimensions needed beyond noise: {dimensions}")
        parts += [text[0].upper() + text[1:] for text in control.flags.values()]
        parts.append("Whether they also act differently is for the cross-domain ablation matrix to say")
        return ". ".join(parts) + "."

    def warnings(self) -> list[str]:
        """Why corrected cosines are null."""
        return [
            f"geometry: too few prompts to correct the cosines of {name} for noise ({self._too_few(d)})"
            for d, name in enumerate(self.names)
            if not self.good[d]
        ]

    def _too_few(self, d: int) -> str:
        share, squared = self.found.reliability[d], self.found.squared_norms[d]
        text = f"reliability {share:.2f}, needs {MIN_RELIABILITY}"
        return f"{text}: about {math.ceil(self.found.trace[d] / squared)} pairs" if squared > 0 else text


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


def dendrogram(names: list[str], cosine: Float[ndarray, "n n"], replicates: Float[ndarray, "r n n"]) -> list[Merge]:
    """Average linkage on 1 - cosine, with the share of bootstrap trees that hold each group (Felsenstein 1985)."""
    counts: Counter[frozenset[int]] = Counter()
    for replicate in replicates:
        counts.update(group for group, _ in _merges(replicate))
    return [
        Merge(
            domains=[names[i] for i in sorted(group)],
            cosine=height,
            # The last merge holds every domain in any tree.
            support=None if len(group) == len(names) else counts[group] / len(replicates),
        )
        for group, height in _merges(cosine)
    ]


def _merges(cosine: Float[ndarray, "n n"]) -> list[tuple[frozenset[int], float]]:
    groups = [frozenset([i]) for i in range(len(cosine))]
    found = []
    for left, right, distance, _ in linkage(squareform(1 - cosine, checks=False), method="average"):
        groups.append(groups[int(left)] | groups[int(right)])
        found.append((groups[-1], float(np.clip(1 - distance, -1, 1))))
    return found


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


def principal_components(
    directions: Float[ndarray, "n d_model"], *, centred: bool = False
) -> Float[ndarray, "k d_model"]:
    """Orthonormal principal components of the unit directions, strongest first; `centred` subtracts their mean."""
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    _, singular, right = np.linalg.svd(unit - unit.mean(axis=0) if centred else unit, full_matrices=False)
    # Unit vectors: far below 1 is rounding, also where centring has taken everything away.
    components: ndarray = right[singular > 1e-6]
    return components


def clusters(names: list[str], cosine: Float[ndarray, "n n"]) -> list[list[str]]:
    """Domains grouped by average linkage at CLUSTER_COSINE, in the order of their first member."""
    tree = linkage(squareform(1 - cosine, checks=False), method="average")
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, fcluster(tree, 1 - CLUSTER_COSINE, criterion="distance"), strict=True):
        groups.setdefault(int(label), []).append(name)
    return list(groups.values())


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
