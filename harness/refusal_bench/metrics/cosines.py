"""What follows from the cosines of several directions: eigenvalues, principal components, clusters and their tree."""

from __future__ import annotations

from collections import Counter

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from refusal_bench.record import Merge

CLUSTER_COSINE = 0.5
"""Domains whose average cosine is above this are one cluster."""


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
