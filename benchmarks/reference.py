"""Candidate selection as the paper describes it, written as plainly as it can be: what the engine is compared with.

For every candidate (position, layer), on the selection split (Arditi et al. 2024, section 2.3 and appendix C):

1. bypass: mean refusal score of the harmful prompts with the direction projected out of every block's input, attention
   output and MLP output, at every token.
2. induce: mean refusal score of the harmless prompts with the difference in means added to the stream entering the
   candidate's layer, at every token.
3. KL: mean KL(unmodified ‖ projected out) of the first answer token on the harmless prompts.
4. Of the candidates that pass every filter, the one of lowest bypass is chosen.

Each pass takes 32 prompts, padded on the left, and computes the logits of all positions. Nothing is left out, reused or
shared with the engine. One departure from the published code: it adds 1e-6 to both probabilities inside the logarithm.
KL is exact here, as in the engine, whose early rejections rest on KL never being negative; with the 1e-6 it can be, and
the two could not be compared digit by digit.

Layer l is the residual stream entering block l. Models with the layout of Llama or Qwen2 only: no norm may stand
between an attention or MLP output and the stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from refusal_bench.config import DEPTH_LIMIT, INDUCE_THRESHOLD, KL_THRESHOLD
from torch import Tensor

Prompt = Sequence[int]
"""Token ids of one rendered prompt."""

Site = tuple[int, int]
"""A candidate: the place of its position among the positions, and its layer."""

BATCH = 32


@dataclass(frozen=True)
class Quantities:
    """What a candidate is judged by; NaN where it could not be, or was not for a KL that settles it."""

    bypass: float
    induce: float
    kl: float


@dataclass
class Textbook:
    """One model under plain forward passes; counts them, and the tokens that went through the blocks."""

    model: Any
    passes: int = 0
    tokens: int = 0

    @property
    def blocks(self) -> Sequence[Any]:
        """The decoder blocks."""
        return self.model.model.layers

    @torch.inference_mode()
    def logits(self, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt vocab"]:
        """Logits of the first answer token, in float64."""
        return torch.cat([self._batch(prompts[i : i + BATCH])[:, -1].double() for i in range(0, len(prompts), BATCH)])

    def quantities(
        self,
        vector: Float[Tensor, " d_model"],
        layer: int,
        harmful: Sequence[Prompt],
        harmless: Sequence[Prompt],
        refusal_tokens: Sequence[int],
        unmodified: Float[Tensor, "prompt vocab"],
        *,
        filtering: bool = False,
    ) -> Quantities:
        """Judge one candidate; `unmodified` are the harmless prompts' logits without intervention.

        `filtering` judges a candidate that fails the filter on KL by its KL alone.
        """
        with projecting_out(self.blocks, vector):
            kl = divergence(unmodified, self.logits(harmless)).mean()
            if filtering and kl >= KL_THRESHOLD:
                return Quantities(math.nan, math.nan, float(kl))
            bypass = refusal_score(self.logits(harmful), refusal_tokens).mean()
        with adding(self.blocks[layer], vector):
            induce = refusal_score(self.logits(harmless), refusal_tokens).mean()
        return Quantities(float(bypass), float(induce), float(kl))

    def difference_in_means(
        self, positions: Sequence[int], harmful: Sequence[Prompt], harmless: Sequence[Prompt]
    ) -> Float[Tensor, "position layer d_model"]:
        """Mean stream of harmful prompts minus that of harmless ones, at every candidate, in float64."""
        return self._mean_stream(positions, harmful) - self._mean_stream(positions, harmless)

    @torch.inference_mode()
    def _mean_stream(
        self, positions: Sequence[int], prompts: Sequence[Prompt]
    ) -> Float[Tensor, "position layer d_model"]:
        sums: dict[int, Tensor] = {}

        def collect(layer: int) -> Any:
            def hook(_: Any, args: tuple[Any, ...]) -> None:
                found = args[0][:, list(positions)].double().sum(dim=0)
                sums[layer] = sums[layer] + found if layer in sums else found

            return hook

        with removing([b.register_forward_pre_hook(collect(layer)) for layer, b in enumerate(self.blocks)]):
            self.logits(prompts)
        return torch.stack([sums[layer] for layer in range(len(self.blocks))], dim=1) / len(prompts)

    def _batch(self, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt token vocab"]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        self.passes += 1
        self.tokens += ids.numel()
        places = (mask.cumsum(dim=1) - 1).clamp(min=0)
        return self.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits


def refusal_score(logits: Float[Tensor, "prompt vocab"], refusal_tokens: Sequence[int]) -> Float[Tensor, " prompt"]:
    """Log-odds that the first answer token is a refusal token."""
    probability = torch.softmax(logits, dim=-1)[:, list(refusal_tokens)].sum(dim=-1)
    return torch.log(probability + 1e-8) - torch.log(1 - probability + 1e-8)


def divergence(
    unmodified: Float[Tensor, "prompt vocab"], changed: Float[Tensor, "prompt vocab"]
) -> Float[Tensor, " prompt"]:
    """KL(unmodified ‖ changed) of the first answer token, exact."""
    before, after = torch.log_softmax(unmodified, dim=-1), torch.log_softmax(changed, dim=-1)
    return (before.exp() * (before - after)).sum(dim=-1)


@contextmanager
def projecting_out(blocks: Sequence[Any], vector: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Remove a direction from every block's input, attention output and MLP output, at all tokens."""
    unit = vector / (vector.norm() + 1e-8)

    def without(x: Tensor) -> Tensor:
        direction = unit.to(x)
        return x - (x @ direction)[..., None] * direction

    def on_input(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (without(args[0]), *args[1:])

    def on_output(_: Any, _args: Any, output: Any) -> Any:
        return (without(output[0]), *output[1:]) if isinstance(output, tuple) else without(output)

    handles = []
    for block in blocks:
        handles.append(block.register_forward_pre_hook(on_input))
        handles.append(block.self_attn.register_forward_hook(on_output))
        handles.append(block.mlp.register_forward_hook(on_output))
    with removing(handles):
        yield


@contextmanager
def adding(block: Any, vector: Float[Tensor, " d_model"]) -> Iterator[None]:
    """Add a vector to the stream entering one block, at all tokens."""

    def on_input(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] + vector.to(args[0]), *args[1:])

    with removing([block.register_forward_pre_hook(on_input)]):
        yield


@contextmanager
def removing(handles: Sequence[Any]) -> Iterator[None]:
    """Remove hooks at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def choose(found: Mapping[Site, Quantities], vectors: Float[Tensor, "position layer d_model"]) -> Site | None:
    """Return the candidate of lowest bypass that passes every filter, the first of equals; None if none passes."""
    passing = [site for site, quantities in found.items() if passes(site, quantities, vectors)]
    return min(passing, key=lambda site: (found[site].bypass, *site), default=None)


def in_scope(layer: int, n_layers: int) -> bool:
    """Whether a layer passes the filter on depth."""
    return layer < int(DEPTH_LIMIT * n_layers)


def passes(site: Site, quantities: Quantities, vectors: Float[Tensor, "position layer d_model"]) -> bool:
    """Whether a candidate passes the filters on depth, KL and induce, and is a direction at all.

    A vector of rounding errors is none: the embeddings of the template's tokens are the same for every prompt.
    """
    largest = vectors.norm(dim=-1).nan_to_num().max()
    return bool(
        in_scope(site[1], vectors.shape[1])
        and vectors[site].norm() > 1e-6 * largest
        and math.isfinite(quantities.bypass)
        and quantities.kl < KL_THRESHOLD
        and quantities.induce > INDUCE_THRESHOLD
    )
