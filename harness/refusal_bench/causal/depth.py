"""The domains' directions at every layer: where they part, and where they meet again. From cached residuals alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.comparisons import MIN_RELIABILITY
from refusal_bench.metrics.cosines import cosines
from refusal_bench.metrics.moments import moments
from refusal_bench.metrics.noise import disattenuated
from refusal_bench.metrics.statistics import nullable
from refusal_bench.observation import Residuals
from refusal_bench.record import Depth, LayerGeometry, Site

APART_BELOW = 0.9
"""Two domains are apart where the data exclude this cosine and all above: a difference in kind, not in decimals."""

LEVEL = 0.05
"""Chance that any pair of domains with cosine APART_BELOW is called apart at a layer."""


def depth(residuals: Residuals, names: Sequence[str], position: int) -> Depth:
    """Describe every layer's directions at one position."""
    owner = np.repeat(
        np.arange(len(names)), [len(residuals.pairs_at(name, Site(layer=0, position=position))[0]) for name in names]
    )
    layers = []
    for layer in range(residuals.array.shape[2]):
        site = Site(layer=layer, position=position)
        differences = np.concatenate([np.subtract(*residuals.pairs_at(name, site)) for name in names])
        layers.append(layer_geometry(layer, differences, owner))
    parts_at, meets_at = parting(layers)
    return Depth(
        domains=list(names),
        position=position,
        apart_below=APART_BELOW,
        layers=layers,
        parts_at=parts_at,
        meets_at=meets_at,
        sentence=_sentence(layers, parts_at, meets_at),
    )


def layer_geometry(layer: int, differences: Float[ndarray, "pair d_model"], owner: ndarray) -> LayerGeometry:
    """Cosines of one layer, raw and corrected, and how many pairs of domains the data tell apart."""
    n = int(owner.max()) + 1
    means = np.equal.outer(np.arange(n), owner) / np.bincount(owner)[:, None]
    gram = differences @ differences.T
    raw, squared = cosines(means @ gram @ means.T), np.einsum("dp,pq,dq->d", means, gram, means)
    alive = squared > 1e-12 * max(float(np.abs(gram).max()), 1e-300)
    if not alive.any():  # the template's own embeddings: all prompts agree
        empty: list[list[float | None]] = [[None] * n for _ in range(n)]
        return LayerGeometry(
            layer=layer, cosine=empty, cosine_disattenuated=empty, mean_cosine=None, n_tested=0, n_apart=0
        )
    upper = np.triu_indices(n, 1)
    found = moments(gram, owner)
    # One-sided at LEVEL, shared by all pairs (Bonferroni); a two-sided interval has twice that outside.
    corrected = disattenuated(found, differences.shape[1], confidence=1 - 2 * LEVEL / len(upper[0]))
    good = (found.reliability >= MIN_RELIABILITY) & alive
    tested = (good[:, None] & good)[upper] & np.isfinite(corrected.cosine[upper])
    apart = tested & (np.nan_to_num(corrected.high[upper], nan=np.inf) < APART_BELOW)
    clipped = np.clip(corrected.cosine, -1, 1)
    return LayerGeometry(
        layer=layer,
        cosine=_table(raw, alive),
        cosine_disattenuated=_table(clipped, good),
        mean_cosine=float(clipped[upper][tested].mean()) if tested.any() else None,
        n_tested=int(tested.sum()),
        n_apart=int(apart.sum()),
    )


def parting(layers: Sequence[LayerGeometry]) -> tuple[int | None, int | None]:
    """First layer with a pair apart, and the first after the last such layer at which pairs are still tested."""
    apart = [layer.layer for layer in layers if layer.n_apart]
    if not apart:
        return None, None
    later = [layer.layer for layer in layers if layer.layer > apart[-1] and layer.n_tested]
    return apart[0], later[0] if later else None


def _sentence(layers: Sequence[LayerGeometry], parts_at: int | None, meets_at: int | None) -> str:
    tested = [layer for layer in layers if layer.n_tested]
    if not tested:
        return "At no layer are the domains' directions reliable enough to compare."
    if parts_at is None:
        return f"From layer {tested[0].layer} on, where directions can be compared, no two domains are ever apart."
    most = max(tested, key=lambda layer: layer.n_apart)
    after = "and stay apart to the last layer" if meets_at is None else f"and meet again at layer {meets_at}"
    return (
        f"Domains part at layer {parts_at} {after}; farthest apart at layer {most.layer} "
        f"({most.n_apart} of {most.n_tested} pairs below a cosine of {APART_BELOW})."
    )


def _table(matrix: Float[ndarray, "n n"], keep: ndarray) -> list[list[float | None]]:
    return [[nullable(v) if keep[i] and keep[j] else None for j, v in enumerate(row)] for i, row in enumerate(matrix)]
