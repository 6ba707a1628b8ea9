"""In which order components of the domains' directions are ablated together: four answers to "which k first?"."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.interventions import stacked_ablation
from refusal_bench.scan import scores


def mincos(directions: Float[ndarray, "n d_model"]) -> list[int]:
    """Greedy MINCOS: begin with the two directions of least |cosine|, then always add the one with the least sum.

    Of the first two, the one with the smaller sum over all comes first; k of them have little in common, so that
    nothing is ablated twice.
    """
    unit = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = np.abs(unit @ unit.T)
    n = len(cosine)
    if n < 2:
        return list(range(n))
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    order = sorted(min(pairs, key=lambda pair: cosine[pair]), key=lambda i: cosine[i].sum())
    while len(order) < n:
        left = [i for i in range(n) if i not in order]
        order.append(min(left, key=lambda i: cosine[i, order].sum()))
    return order


def greedy_by_effect(n: int, score: Callable[[list[list[int]]], Sequence[float]]) -> list[int]:
    """Always add the direction whose ablation, with those before it, leaves the least refusal.

    `score` returns the mean refusal score under the ablation of each given set of directions.
    """
    order: list[int] = []
    while len(order) < n:
        left = [i for i in range(n) if i not in order]
        found = score([[*order, i] for i in left]) if len(left) > 1 else [0.0]
        order.append(left[int(np.argmin(found))])
    return order


def greedy_order(
    backend: HookBackend,
    prompts: Sequence[Prompt],
    refusal_tokens: Sequence[int],
    directions: Float[Tensor, "n d_model"],
) -> list[int]:
    """`greedy_by_effect` on harmful prompts, which must not be held-out ones."""

    def score(sets: list[list[int]]) -> list[float]:
        what = stacked_ablation([directions[some] for some in sets])
        found: list[float] = scores(backend, prompts, refusal_tokens, what).mean(dim=1).tolist()
        return found

    return greedy_by_effect(len(directions), score)


def orthonormal(vectors: Float[ndarray, "k d_model"]) -> Float[ndarray, "k d_model"]:
    """Gram-Schmidt: the first j rows span what the first j vectors span."""
    rows: ndarray = np.linalg.qr(vectors.astype(float).T)[0].T
    return rows
