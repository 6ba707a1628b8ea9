"""Difference in means (Arditi et al. 2024, section 2.2; `dim`)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def difference_in_means(
    harmful: Float[ndarray, "n_harmful position layer d_model"],
    harmless: Float[ndarray, "n_harmless position layer d_model"],
) -> Float[ndarray, "position layer d_model"]:
    """Mean harmful minus mean harmless residual, streamed prompt by prompt in float64 (the inputs may be on disk)."""
    # Residuals hold a few coordinates a thousand times the rest; float32 sums would lose the difference.
    means = []
    for residuals in (harmful, harmless):
        total = np.zeros(residuals.shape[1:])
        for prompt in residuals:
            total += prompt
        means.append(total / len(residuals))
    return means[0] - means[1]
