"""Do two square tables over the same items go together? Rank correlation with a permutation test of the items."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

ENUMERATED = 7
"""Up to so many items all relabellings are counted (5,040); beyond, N_RANDOM are drawn."""

N_RANDOM = 9999


def mantel(one: Float[ndarray, "n n"], other: Float[ndarray, "n n"], seed: int) -> tuple[float, float, int] | None:
    """Return Spearman's correlation over the cells off the diagonal, its one-sided p, and the relabellings behind it.

    One table's items are relabelled, rows and columns together (Mantel 1967), since cells of one item are not
    independent. None below three items and for a table without variation.
    """
    n = len(one)
    off = ~np.eye(n, dtype=bool)
    if n < 3 or np.ptp(one[off]) == 0 or np.ptp(other[off]) == 0:
        return None
    ranks = [np.zeros((n, n)), np.zeros((n, n))]
    for rank, table in zip(ranks, (one, other), strict=True):
        centred = rankdata(table[off]) - (off.sum() + 1) / 2
        rank[off] = centred / np.linalg.norm(centred)
    left, right = ranks
    observed = float((left * right).sum())
    orders: ndarray
    if n <= ENUMERATED:
        orders = np.array(list(permutations(range(n))))
        extra, total = 0, factorial(n)
    else:
        rng = np.random.default_rng(seed)
        orders = np.array([rng.permutation(n) for _ in range(N_RANDOM)])
        extra, total = 1, N_RANDOM + 1  # the observed labelling is one of them
    found = np.array([(left[np.ix_(order, order)] * right).sum() for order in orders])
    return observed, (extra + int((found >= observed - 1e-12).sum())) / total, total
