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
    trace_cubes: Float[ndarray, "... k k"]
    """tr(Σ_i² Σ_j); on the diagonal tr(Σ_i³). Unbiased for normal noise only; they tell how skewed its norms are."""
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
            self.trace_cubes[pair],
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
    trace_cubes = np.empty_like(products)
    along = np.empty((*products.shape, k))
    for i in range(k):
        mine = owner == i
        block = noise[..., mine, :][..., mine]
        trace_products[..., i, i] = np.maximum(_trace_of_square(block), 0)
        trace_cubes[..., i, i] = _trace_of_cube(block)
        for j in set(range(k)) - {i}:
            across = noise[..., mine, :][..., owner == j]
            trace_products[..., i, j] = (across**2).sum((-2, -1)) / ((n[i] - 1) * (n[j] - 1))
            trace_cubes[..., i, j] = _trace_of_square_and(block, across)
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


def _trace_of_cube(own: Float[ndarray, "... n n"]) -> ndarray:
    """tr(Σ³) of normal noise from its Gram matrix (Srivastava and Yanagihara 2010, section 2)."""
    df = own.shape[-1] - 1
    first = np.einsum("...ii->...", own) / df
    square = own @ own
    second = np.einsum("...ii->...", square) / df**2
    third = np.einsum("...ij,...ji->...", square, own) / df**3
    biased = third - 3 / df * second * first + 2 / df**2 * first**3
    value: ndarray = biased * df**4 / ((df - 1) * (df - 2) * (df + 2) * (df + 4))
    return value


def _trace_of_square_and(own: Float[ndarray, "... n n"], across: Float[ndarray, "... n m"]) -> ndarray:
    """tr(Σ² Σ') of normal noise from its Gram matrix, and from the one between it and another domain's noise.

    E[S²] = (1 + 1/f) Σ² + Σ tr Σ / f for a sample covariance S of f degrees of freedom, solved for Σ².
    """
    df, other = own.shape[-1] - 1, across.shape[-1] - 1
    first = np.einsum("...ii->...", own) / df
    second = np.einsum("...ij,...ij->...", across, across) / (df * other)
    third = np.einsum("...ij,...ij->...", across, own @ across) / (df**2 * other)
    value: ndarray = (third - first * second / df) * df**2 / ((df - 1) * (df + 2))
    return value
