"""A first-order estimate of every candidate's bypass score at once, from one forward and one backward pass.

Ablating r̂ takes (r̂ᵀw) r̂ from every write w to the stream, which changes the refusal score s, to first order, by

    - Σ_w (∂s/∂w · r̂) (w · r̂)  =  - r̂ᵀ M r̂   with   M = Σ_w (∂s/∂w) wᵀ

summed over writes, tokens and prompts (attribution patching: Syed et al. 2023, with ablation in place of a patch). One
matrix [d_model, d_model] answers for every direction; each costs a product with it and no pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from refusal_bench.backends.batches import padded_ids
from refusal_bench.backends.hf import HookBackend
from refusal_bench.backends.passes import Prompt
from refusal_bench.metrics.refusal import refusal_score
from refusal_bench.models.structure import Structure, first_output, replace_first

ROWS = 16
"""Prompts in one forward and backward pass."""


def estimated_change(
    backend: HookBackend,
    prompts: Sequence[Prompt],
    refusal_tokens: Sequence[int],
    directions: Float[Tensor, "n d_model"],
) -> Float[Tensor, " n"]:
    """Estimate by how much ablating each direction (of any length) changes the mean refusal score of the prompts."""
    products = write_products(backend, prompts, refusal_tokens)
    unit = torch.nn.functional.normalize(directions.double(), dim=1)
    return -torch.einsum("nd,de,ne->n", unit, products, unit) / len(prompts)


def write_products(
    backend: HookBackend, prompts: Sequence[Prompt], refusal_tokens: Sequence[int]
) -> Float[Tensor, "d_model d_model"]:
    """Sum of the outer products of the score's gradient and the write, over writes, tokens and prompts, in float64."""
    model = backend.model
    total = torch.zeros(model.d_model, model.d_model, dtype=torch.float64)
    ordered = sorted(prompts, key=len)
    for first in range(0, len(ordered), ROWS):
        batch = ordered[first : first + ROWS]
        ids = padded_ids(batch, model.module.device)  # attention never sees the padding, so its gradient is zero
        last = torch.tensor([len(prompt) - 1 for prompt in batch], device=ids.device)
        kept, place = torch.unique(last, return_inverse=True)
        with torch.enable_grad(), _writes(model.structure) as writes:
            backend.counters.forward_passes += 1
            backend.counters.tokens += ids.numel()
            logits = model.module(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
            scores = refusal_score(logits[torch.arange(len(batch), device=ids.device), place], refusal_tokens)
            gradients = torch.autograd.grad(scores.sum(), writes)
        for gradient, write in zip(gradients, writes, strict=True):
            flat = gradient.flatten(0, 1).float().T @ write.detach().flatten(0, 1).float()
            total += flat.cpu().double()
    return total


@contextmanager
def _writes(structure: Structure) -> Iterator[list[Tensor]]:
    """Collect, with their graph, the embedding stream and every write to it during one forward pass."""
    writes: list[Tensor] = []

    def embedding(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        writes.append(stream)
        return ((stream, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": stream})

    def output(_: Any, _args: Any, out: Any) -> Any:
        writes.append(first_output(out))
        # The block gets a copy: some (Falcon) go on adding to it in place, which would change the write.
        return replace_first(out, writes[-1].clone())

    handles = [structure.blocks[0].register_forward_pre_hook(embedding, with_kwargs=True)]
    try:
        handles += [writer.register_forward_hook(output) for writer in structure.writers]
        yield writes
    finally:
        for handle in handles:
            handle.remove()
