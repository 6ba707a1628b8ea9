"""Best layer against common layer: how much of the difference in cosines comes from comparing different layers.

For a pair of domains, with a and b their own sites and c the common one,

    cos(r_i@a, r_j@b) - cos(r_i@c, r_j@c) = [cos(r_i@a, r_j@b) - same] + [same - cos(r_i@c, r_j@c)]

where same = (cos(r_i@a, r_j@a) + cos(r_i@b, r_j@b)) / 2 compares at one site at a time. The first bracket is what
comparing across layers does, the second what looking at other layers does.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.statistics import resampling_counts
from refusal_bench.observation import Residuals
from refusal_bench.prompts import name_seed
from refusal_bench.record import Site, SiteEffect

EQUAL = 0.01
"""Difference of two mean cosines below which there is nothing to take shares of."""


def site_effect(residuals: Residuals, own: Mapping[str, Site], common: Site, n_bootstrap: int, seed: int) -> SiteEffect:
    """Decompose the mean difference of cosines between own sites and the common one, over all pairs of domains."""
    sites = {name: (site.layer, site.position) for name, site in own.items()}
    at = {(site.layer, site.position): site for site in (*own.values(), common)}
    differences = {
        (name, key): np.subtract(*residuals.pairs_at(name, site)) for name in own for key, site in at.items()
    }
    n_pairs_of = {name: len(differences[name, sites[name]]) for name in own}
    once = {name: np.ones((1, n)) for name, n in n_pairs_of.items()}
    drawn = {
        name: resampling_counts(n, n_bootstrap, name_seed(seed, f"site effect {name}"))
        for name, n in n_pairs_of.items()
    }
    shared = (common.layer, common.position)
    (across,), (choice,), (at_own,), (at_common,) = _decompose(differences, once, sites, shared)
    replicates = _decompose(differences, drawn, sites, shared)[0]
    # Resampled means are noisier than the sample's: reflecting the replicates takes their bias out (basic bootstrap).
    low, high = 2 * across - np.quantile(replicates, [0.975, 0.025])
    pairs = list(combinations(own, 2))
    total = across + choice
    share = None if abs(total) < EQUAL else float(across / total)
    n_across = sum(sites[i] != sites[j] for i, j in pairs)
    return SiteEffect(
        own_site=float(at_own),
        same_site=float(at_own - across),
        common_site=float(at_common),
        across_layers=float(across),
        across_layers_ci95=(float(low), float(high)),
        choice_of_layer=float(choice),
        share=share,
        n_pairs=len(pairs),
        n_pairs_across=n_across,
        sentence=_sentence(float(total), float(across), (float(low), float(high)), share, n_across, len(pairs)),
    )


def _decompose(
    differences: Mapping[tuple[str, tuple[int, int]], Float[ndarray, "pair d_model"]],
    weights: Mapping[str, Float[ndarray, "replicate pair"]],
    sites: Mapping[str, tuple[int, int]],
    common: tuple[int, int],
) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Both brackets, and the cosines at own sites and at the common one; means over pairs, one a replicate."""

    def product(i: str, at: tuple[int, int], j: str, other: tuple[int, int]) -> ndarray:
        gram = differences[i, at] @ differences[j, other].T
        value: ndarray = ((weights[i] @ gram) * weights[j]).sum(axis=1)
        return value

    squared = {(i, at): product(i, at, i, at) for i, at in differences}

    def cosine(i: str, at: tuple[int, int], j: str, other: tuple[int, int]) -> ndarray:
        length: ndarray = np.sqrt(np.maximum(squared[i, at] * squared[j, other], 1e-300))
        ratio: ndarray = product(i, at, j, other) / length
        return ratio

    at_own, same, at_common = [], [], []
    for i, j in combinations(sites, 2):
        at_own.append(cosine(i, sites[i], j, sites[j]))
        same.append((cosine(i, sites[i], j, sites[i]) + cosine(i, sites[j], j, sites[j])) / 2)
        at_common.append(cosine(i, common, j, common))
    own_mean, same_mean, common_mean = (np.mean(x, axis=0) for x in (at_own, same, at_common))
    return own_mean - same_mean, same_mean - common_mean, own_mean, common_mean


def _sentence(
    total: float, across: float, interval: tuple[float, float], share: float | None, n_across: int, n_pairs: int
) -> str:
    if n_across == 0:
        return "All domains select the same site, so no cosine compares different layers."
    measured = f"{across:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]"
    part = "" if share is None else f", {100 * share:.0f} % of the difference of {total:+.2f} to the common site"
    return f"Comparing different sites changes the mean cosine by {measured}{part} ({n_across} of {n_pairs} pairs)."
