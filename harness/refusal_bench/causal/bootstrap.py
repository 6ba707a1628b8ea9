"""Resampled prompts: one draw a domain and label, the same for every row, so that pairs of rows stay paired."""

from __future__ import annotations

from functools import lru_cache

from jaxtyping import Float
from numpy import ndarray

from refusal_bench.metrics.statistics import resampled_means, resampling_counts
from refusal_bench.prompts import name_seed


def mean_replicates(
    scores: Float[ndarray, "... prompt"], prompts: str, n_bootstrap: int, seed: int
) -> Float[ndarray, "replicate ..."]:
    """Bootstrap replicates of mean scores; `prompts` names the set, and sets of one name are resampled alike."""
    return resampled_means(_counts(scores.shape[-1], prompts, n_bootstrap, seed), scores)


@lru_cache(maxsize=32)
def _counts(n: int, prompts: str, n_bootstrap: int, seed: int) -> Float[ndarray, "replicate prompt"]:
    return resampling_counts(n, n_bootstrap, name_seed(seed, f"bootstrap of {prompts}"))
