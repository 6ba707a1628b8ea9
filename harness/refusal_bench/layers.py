"""Every layer at the selected position: what its difference in means causes and how well it separates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import mannwhitneyu
from torch import Tensor

from refusal_bench.backends.hf import HookBackend
from refusal_bench.interventions import Ablate, Add
from refusal_bench.record import Layer
from refusal_bench.scan import SelectionData, scores


def layer_curves(
    backend: HookBackend,
    vectors: Float[Tensor, "layer d_model"],
    selected: int,
    data: SelectionData,
    separation: Sequence[float | None],
    on_progress: Callable[[int], None],
) -> list[Layer]:
    """Induce, bypass, norm and cosine of each layer's vector; null where the vector is zero, as on the embeddings."""
    norms = vectors.norm(dim=1)
    alive = [layer for layer in range(len(vectors)) if norms[layer] > 1e-6 * norms.max()]
    bypass = scores(backend, data.harmful, data.refusal_tokens, Ablate.each(vectors[alive])).mean(dim=1).tolist()
    on_progress(len(alive))
    add = Add(vectors[alive], tuple(alive))
    induce = scores(backend, data.harmless, data.refusal_tokens, add).mean(dim=1).tolist()
    on_progress(len(alive))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    curves = []
    for layer in range(len(vectors)):
        place = alive.index(layer) if layer in alive else None
        curves.append(
            Layer(
                layer=layer,
                induce=None if place is None else _finite(induce[place]),
                bypass=None if place is None else _finite(bypass[place]),
                norm=float(norms[layer]),
                cosine_to_selected=None if place is None else float(unit[layer] @ unit[selected]),
                separation=None if place is None else separation[layer],
            )
        )
    return curves


def auc(harmful: Float[ndarray, " n"], harmless: Float[ndarray, " m"]) -> float:
    """Probability that a harmful prompt's projection is above a harmless one's (Mann-Whitney U over n m)."""
    return float(mannwhitneyu(harmful, harmless).statistic / (len(harmful) * len(harmless)))


def separations(
    vectors: Float[ndarray, "layer d_model"],
    harmful: Float[ndarray, "n layer d_model"],
    harmless: Float[ndarray, "m layer d_model"],
) -> list[float | None]:
    """AUC of the projection on each layer's vector; null for a zero vector."""
    return [
        auc(harmful[:, layer] @ vector, harmless[:, layer] @ vector) if np.any(vector) else None
        for layer, vector in enumerate(vectors)
    ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
