"""Unbiased moments of the domains' mean pair differences, from the inner products of all pairs' differences.

A domain's direction is the mean of n pair differences δ = μ + ε with noise covariance Σ. Everything here follows from
the Gram matrix of all pairs' differences, so that no size of model costs more than another, and leading axes of it may
hold many samples. Sums over distinct pairs (U-statistics) make every moment unbiased whatever the noise's shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MIN_PAIRS = 4
"""Fewest pairs of a domain: the fourth-order sums need four distinct ones."""


@dataclass(frozen=True)
class Moments:
    """Unbiased moments of k domains' mean differences; i, j and l are domains."""

    n: Float[ndarray, " k"]
    """Pairs of each domain."""
    products: Float[ndarray, "... k k"]
    """μ_i·μ_j; on the diagonal ‖μ_i‖², free of the noise's own norm."""
    trace: Float[ndarray, "... k"]
    """tr Σ_i."""
    trace_products: Float[ndarray, "... k k"]
    """tr(Σ_i Σ_j)."""
    trace_cubes: Float[ndarray, "... k"]
    """tr(Σ_i³); the one moment that is a little low at few pairs. It only shapes drawn noise."""
    along: Float[ndarray, "... k k k"]
    """μ_jᵀ Σ_i μ_l: noise of domain i in the plane of the directions j and l."""

    @property
    def squared_norms(self) -> Float[ndarray, "... k"]:
        """‖μ_i‖²; may be negative where there is no signal."""
        diagonal: ndarray = np.einsum("...ii->...i", self.products)
        return diagonal

    @property
    def reliability(self) -> Float[ndarray, "... k"]:
        """Share of an estimated direction's squared norm that is signal: ‖μ‖² / (‖μ‖² + tr Σ / n), within [0, 1]."""
        whole = np.maximum(self.squared_norms + self.trace / self.n, 1e-300)  # exactly 0 for no differences at all
        share: ndarray = np.clip(self.squared_norms / whole, 0, 1)
        return share

    def of(self, domains: Sequence[int]) -> Moments:
        """Return the moments of some of the domains."""
        some = np.asarray(domains)
        pair = (..., some[:, None], some)
        return Moments(
            self.n[some],
            self.products[pair],
            self.trace[..., some],
            self.trace_products[pair],
            self.trace_cubes[..., some],
            self.along[..., some[:, None, None], some[:, None], some],
        )


def moments(gram: Float[ndarray, "... pair pair"], owner: Sequence[int] | ndarray) -> Moments:
    """Estimate the moments from inner products of pair differences; `owner` is each pair's domain, ascending from 0.

    ValueError for a domain of fewer than MIN_PAIRS pairs.
    """
    owner = np.asarray(owner)
    n = np.bincount(owner)
    if n.min() < MIN_PAIRS:
        raise ValueError(f"a domain needs at least {MIN_PAIRS} pairs")
    k = len(n)
    means = np.equal.outer(np.arange(k), owner) / n[:, None]
    projected = gram @ means.T
    products = means @ projected
    plain = np.einsum("...ii->...i", products).copy()  # einsum's diagonal is a view, and products changes below
    diagonal = np.einsum("...ii->...i", gram)
    own = np.stack([diagonal[..., owner == i].mean(axis=-1) for i in range(k)], axis=-1)
    index = np.arange(k)
    products[..., index, index] = (n * plain - own) / (n - 1)
    # Centred within each domain, inner products are those of the noise alone.
    centre = np.eye(len(owner)) - means.T @ np.equal.outer(np.arange(k), owner)
    noise = centre @ gram @ centre.T
    trace_products = np.empty_like(products)
    trace_cubes = np.empty_like(plain)
    along = np.empty((*products.shape, k))
    for i in range(k):
        mine = owner == i
        for j in range(i, k):
            block = noise[..., mine, :][..., owner == j]
            value = _trace_of_square(block) if i == j else (block**2).sum((-2, -1)) / ((n[i] - 1) * (n[j] - 1))
            trace_products[..., i, j] = trace_products[..., j, i] = np.maximum(value, 0)
            if i == j:
                trace_cubes[..., i] = np.maximum(_trace_of_cube(block), 0)
    for i in range(k):
        mine = owner == i
        scores = projected[..., mine, :].copy()
        # A pair's own share of its domain's mean is left out: it would be noise times itself. The mean of the others
        # moves against it by 1/(n-1), which the second factor undoes.
        scores[..., i] = (n[i] * scores[..., i] - diagonal[..., mine]) / (n[i] - 2)
        scores -= scores.mean(axis=-2, keepdims=True)
        along[..., i, :, :] = np.swapaxes(scores, -1, -2) @ scores / (n[i] - 1)
        # The means that the pairs are projected on carry noise of their own into the diagonal.
        along[..., i, index, index] -= trace_products[..., i, :] / (n - 2 * (index == i))
    return Moments(n.astype(float), products, n * (own - plain) / (n - 1), trace_products, trace_cubes, along)


def _trace_of_square(centred: Float[ndarray, "... n n"]) -> ndarray:
    """tr(Σ²) from the noise's Gram matrix, by sums over distinct pairs (Chen and Qin 2010, section 3)."""
    n = centred.shape[-1]
    off = centred * (1 - np.eye(n))
    squares = (off**2).sum((-2, -1))
    rows = off.sum(-1)
    chains = (rows**2).sum(-1) - squares
    total = rows.sum(-1)
    two = squares / (n * (n - 1))
    three = chains / (n * (n - 1) * (n - 2))
    four = (total**2 - 2 * squares - 4 * chains) / (n * (n - 1) * (n - 2) * (n - 3))
    value: ndarray = two - 2 * three + four
    return value


def _trace_of_cube(centred: Float[ndarray, "... n n"]) -> ndarray:
    """tr(Σ³) from the noise's Gram matrix: closed walks over three distinct pairs; low by a quarter at 10 pairs."""
    n = centred.shape[-1]
    # Centring leaves -tr Σ / n between distinct pairs; in many dimensions its cube would outweigh tr(Σ³).
    trace = np.einsum("...ii->...", centred)[..., None, None] / (n - 1)
    off = (centred + trace / n) * (1 - np.eye(n))
    value: ndarray = np.einsum("...ij,...ji->...", off @ off, off) / (n * (n - 1) * (n - 2))
    return value
