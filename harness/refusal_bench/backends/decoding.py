"""Greedy decoding of a batch after its prompts, whatever is done to the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from refusal_bench.backends.hooks import Rows

STILL_WRITING = 0.75
"""Share of unfinished rows from which down the finished ones leave a batch."""


@dataclass
class State:
    """A batch after its prompts, or after as many tokens of its answers."""

    logits: Float[Tensor, "row vocab"]
    cache: Any
    mask: Tensor
    lengths: Tensor
    variant: Tensor
    rows: Rows

    def select(self, keep: Tensor) -> None:
        """Go on with some of the rows."""
        self.cache.reorder_cache(keep)  # selects rows in every kind of layer, recurrent ones too
        self.mask, self.lengths, self.variant = self.mask[keep], self.lengths[keep], self.variant[keep]


def decode(
    state: State,
    forward: Callable[..., Float[Tensor, "row kept vocab"]],
    ends: Set[int],
    max_new_tokens: int,
    decided: Callable[[Sequence[int]], bool],
) -> list[list[int]]:
    """Write every row on until an end-of-sequence token (left out), `max_new_tokens`, or `decided`.

    `forward` takes token ids, cache and positions. Finished rows leave the batch once they are a quarter of it: every
    leaving copies the cache, and on a CPU a new number of rows costs new kernels.
    """
    tokens: list[list[int]] = [[] for _ in range(state.logits.shape[0])]
    alive = torch.arange(len(tokens))
    following = _likeliest(state.logits)
    writing = [True] * len(tokens)
    for count in range(max_new_tokens):
        keep = []
        for place, (row, token) in enumerate(zip(alive.tolist(), following.tolist(), strict=True)):
            if writing[row] and token not in ends:
                tokens[row].append(token)
                writing[row] = count + 1 < max_new_tokens and not decided(tokens[row])
            else:
                writing[row] = False
            if writing[row]:
                keep.append(place)
        if not keep:
            break
        if len(keep) <= STILL_WRITING * len(alive):
            alive, following = alive[keep], following[keep]
            state.select(torch.tensor(keep))  # on the CPU: the cache of a model may be spread over several GPUs
        following = _likeliest(_step(state, forward, following))
    return tokens


def _likeliest(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """The first token of highest logit, as argmax says, which on a CPU takes six times as long in bfloat16."""
    return logits.max(dim=-1).indices.cpu()


def _step(state: State, forward: Callable[..., Tensor], following: Tensor) -> Float[Tensor, "row vocab"]:
    state.mask = torch.cat([state.mask, torch.ones_like(state.mask[:, :1])], dim=1)
    state.rows.variant = state.variant
    ids = following[:, None].to(state.mask.device)
    logits = forward(ids, state.cache, state.lengths[:, None], attention_mask=state.mask, logits_to_keep=1)
    state.lengths = state.lengths + 1
    return logits[:, -1]
