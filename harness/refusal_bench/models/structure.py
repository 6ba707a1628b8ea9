"""Where a decoder writes to its residual stream: a table of layouts, else found by structure; always checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refusal_bench.errors import IncompleteRunError, InputError
from refusal_bench.models.lookback import lookback
from refusal_bench.models.writes import BlockPass, first_output, watch

__all__ = ["Structure", "find_structure", "first_output", "replace_first"]

_PLAIN = ("self_attn", "mlp")
_MLPS = ("mlp", "block_sparse_moe")
_POST_NORM = ("post_attention_layernorm", "post_feedforward_layernorm")

LAYOUTS: dict[str, tuple[str, ...]] = {
    "cohere": _PLAIN,
    "cohere2": _PLAIN,
    "falcon": ("self_attention", "mlp"),
    "gemma": _PLAIN,
    "gemma2": _POST_NORM,
    "gemma3_text": _POST_NORM,
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "gpt_neox": ("attention", "mlp"),
    "gpt_oss": _PLAIN,
    "granite": _PLAIN,
    "granitemoe": ("self_attn", "block_sparse_moe"),
    "llama": _PLAIN,
    "ministral": _PLAIN,
    "mistral": _PLAIN,
    "mixtral": _PLAIN,
    "olmo": _PLAIN,
    "olmo2": _POST_NORM,
    "olmo3": _POST_NORM,
    "olmoe": _PLAIN,
    "phi": _PLAIN,
    "phi3": _PLAIN,
    "phimoe": _PLAIN,
    "qwen2": _PLAIN,
    "qwen2_moe": _PLAIN,
    "qwen3": _PLAIN,
    "qwen3_moe": _PLAIN,
    "smollm3": _PLAIN,
    "stablelm": _PLAIN,
}
"""Submodules of a block whose outputs are added to the stream, by `model_type` of the text config.

Gemma 2 and 3, OLMo 2 and 3 and GLM 4 norm the outputs before adding them, so there the norm writes to the stream.
"""


@dataclass(frozen=True)
class Structure:
    """The hook points of a decoder."""

    blocks: tuple[nn.Module, ...]
    """Decoder blocks; the residual stream of layer l is the input of block l."""
    writers: tuple[nn.Module, ...]
    """Modules whose output, times a constant, is added to the stream, in order: all of them, and nothing else."""
    names: tuple[str, ...]
    """What the writers are called within their block."""
    description: str
    """In words, for the record."""
    lookback: float
    """Tokens that every layer looks back on: within them, padding and a cached prefix change nothing."""
    last_mlp: nn.Module | None
    """The last block's MLP, where it has one of the usual names."""


def find_structure(model: Any) -> Structure:
    """Find blocks and writers of a decoder-only model, with one short pass.

    Whether from the table or found by structure, the writers must explain how every block changes its stream.
    InputError where they cannot be found, IncompleteRunError if the model produces NaN.
    """
    config = model.config.get_text_config()
    known = LAYOUTS.get(config.model_type, ())
    for blocks in _stacks(model, config.num_hidden_layers):
        passes = watch(model, tuple(blocks))
        if not all(block.after.isfinite().all() for block in passes):
            raise IncompleteRunError(
                f"{type(model).__name__} produced NaN or infinity without any intervention; try --dtype float32."
            )
        if _explained(passes, known):
            normed = " after their norms" if known[0].endswith("norm") else ""
            return _structure(model, blocks, known, f"attention and MLP outputs{normed}")
        for depth in (1, 9):
            names = search(passes, depth)
            if _explained(passes, names):
                return _structure(model, blocks, names, f"outputs of {', '.join(names)} (found by structure)")
    raise InputError(
        f"cannot find which modules of a {type(model).__name__} ({config.model_type}) write to its residual stream; "
        "this architecture is not supported."
    )


def search(passes: Sequence[BlockPass], depth: int) -> tuple[str, ...]:
    """Names of the submodules, at most so deep in a block, that add to the stream in any of the blocks."""
    names: dict[str, None] = {}
    for block in passes:
        added, _ = block.contributions(name for name in block.outputs if name.count(".") < depth)
        names |= dict.fromkeys(name for name, amount in added.items() if amount > 1)
    # Of a module and a part of it the outer one is the write.
    return tuple(name for name in names if not any(name.startswith(f"{outer}.") for outer in names))


def _explained(passes: Sequence[BlockPass], names: Sequence[str]) -> bool:
    """Whether the named submodules are what every block adds to its stream, and each of them does add something."""
    if not passes or not names:
        return False
    idle = set(names)
    for block in passes:
        added, left = block.contributions(names)
        if left > 1:
            return False
        idle -= {name for name in names if added.get(name, 0) > 1}
    # A submodule that writes nothing to speak of (in planted models) may none the less be a writer.
    return all(block.is_negligible(name) for name in idle for block in passes)


def _structure(model: Any, blocks: nn.ModuleList, names: Sequence[str], outputs: str) -> Structure:
    parts = [dict(block.named_modules()) for block in blocks]
    writers = tuple(part[name] for part in parts for name in names if name in part)
    last_mlp = next((parts[-1][name] for name in _MLPS if name in parts[-1]), None)
    return Structure(tuple(blocks), writers, tuple(names), f"embedding, {outputs}", lookback(model), last_mlp)


def _stacks(model: Any, n_layers: int) -> list[nn.ModuleList]:
    """Lists of as many modules as there are layers, outer ones first; a vision tower's are not among them."""
    return [part for part in model.get_decoder().modules() if isinstance(part, nn.ModuleList) and len(part) == n_layers]


def replace_first(output: Any, value: torch.Tensor) -> Any:
    """The same output with its hidden state replaced."""
    return (value, *output[1:]) if isinstance(output, tuple) else value
