"""Representational dependence: does ablating one direction change how the stream lies to another?

L(a, b) = mean over prompts and layers l < 0.9 L of (cos(x_l, a) - cos(x_l without b, a))² + the same with a and b
exchanged, at the last template token (Wollschläger et al. 2025, arXiv 2502.17420, section 6). Two directions at right
angles are dependent when one block reads the one and writes the other. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from torch.nn.functional import normalize

from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.hooks import reading
from refusal_bench.backends.passes import Prompt
from refusal_bench.interventions import Ablate, stacked_ablation
from refusal_bench.metrics.statistics import nullable, nullable_interval, resampled_means, resampling_counts
from refusal_bench.prompts import name_seed
from refusal_bench.record import Dependence

DEPTH_SHARE = 0.9
"""Share of layers, from the first, that the loss averages over."""


def n_layers_compared(n_layers: int) -> int:
    """Layers l < 0.9 L, at least one."""
    return max(1, int(np.ceil(DEPTH_SHARE * n_layers)))


def dependence(
    backend: HookBackend,
    prompts: Sequence[Prompt],
    directions: Float[Tensor, "domain d_model"],
    on_progress: Callable[[int], None] = lambda rows: None,
) -> Float[ndarray, "prompt domain domain"]:
    """Loss of every prompt and pair of directions, symmetric, zero on the diagonal."""
    # Unmodified, and without each direction.
    ablation = stacked_ablation([directions[:0], *directions[:, None]])
    plain, *changed = _cosines(_streams(backend, prompts, ablation, on_progress), directions)
    one_way = np.stack([((each - plain) ** 2).mean(axis=1) for each in changed], axis=2)
    for j in range(len(directions)):
        one_way[:, j, j] = 0  # its own ablation takes it away by definition
    loss: ndarray = one_way + np.swapaxes(one_way, 1, 2)
    return loss


def dependence_matrix(
    columns: Mapping[str, Mapping[str, object]], n_layers: int, n_bootstrap: int, seed: int
) -> Dependence:
    """Average the columns' losses over the prompts of all domains; null on the diagonal."""
    names = list(columns)
    loss = np.concatenate([np.array(column["dependence"], dtype=float) for column in columns.values()])
    counts = resampling_counts(len(loss), n_bootstrap, name_seed(seed, "dependence"))
    means = np.nanmean(loss, axis=0) if np.isfinite(loss).any() else np.full(loss.shape[1:], np.nan)
    pairs = range(len(names))
    draws = {(i, j): resampled_means(counts, loss[:, i, j]) for i in pairs for j in pairs if i < j}
    return Dependence(
        domains=names,
        loss=[[None if i == j else nullable(means[i, j]) for j in pairs] for i in pairs],
        loss_ci95=[[None if i == j else nullable_interval(draws[min(i, j), max(i, j)]) for j in pairs] for i in pairs],
        n_layers=n_layers_compared(n_layers),
        n_prompts=len(loss),
    )


def _streams(
    backend: HookBackend, prompts: Sequence[Prompt], ablation: Ablate, on_progress: Callable[[int], None]
) -> Float[Tensor, "variant prompt layer d_model"]:
    """The last token's stream entering the compared layers."""
    with reading(backend.model.structure) as streams:

        def keep(_: Tensor, rows: list[int]) -> Tensor:
            longest = max(len(prompts[prompt]) for prompt in rows)
            skipped = longest - streams.entering[0].shape[1]  # the shared prefix
            last = [len(prompts[prompt]) - skipped - 1 for prompt in rows]
            at = torch.arange(len(rows))
            compared = streams.entering[: n_layers_compared(backend.model.n_layers)]
            kept = [x[at.to(x.device), last].float().cpu() for x in compared]
            return torch.stack(kept, dim=1)

        found = backend.logits(prompts, keep, ablation, on_progress)
    # The hooks that read came first: they saw the embeddings before the ablation, and all later layers after it.
    embeddings = ablation.apply(found[:, :, 0], torch.arange(len(found)))
    return torch.cat([embeddings[:, :, None], found[:, :, 1:]], dim=2)


def _cosines(
    streams: Float[Tensor, "variant prompt layer d_model"], directions: Float[Tensor, "domain d_model"]
) -> Float[ndarray, "variant prompt layer domain"]:
    unit = normalize(directions.float().cpu(), dim=1)
    found: ndarray = (normalize(streams, dim=-1) @ unit.T).double().numpy()
    return found
