"""Where a decoder writes to its residual stream: found by structure, verified by a probe, never guessed from a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from refusal_bench.errors import InputError

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")


@dataclass(frozen=True)
class Structure:
    """The hook points of a decoder."""

    blocks: tuple[nn.Module, ...]
    """Decoder blocks; the residual stream of layer l is the input of block l."""
    writers: tuple[nn.Module, ...]
    """Modules whose output is added to the stream, in order: two a block."""
    description: str
    """In words, for the record."""


def find_structure(model: Any) -> Structure:
    """Find blocks and writers of a decoder-only model; InputError if the layout is unknown."""
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    for blocks in lists:
        writers = [writer for block in blocks for writer in _writers(block)]
        if len(writers) == 2 * n_layers:
            normed = hasattr(blocks[0], "post_feedforward_layernorm")
            return Structure(
                tuple(blocks),
                tuple(writers),
                "embedding, attention and MLP outputs" + (" after their norms" if normed else ""),
            )
    raise InputError(
        f"cannot find attention and MLP of every block in a {type(model).__name__}; this architecture is not supported."
    )


def _writers(block: nn.Module) -> list[nn.Module]:
    # Gemma-2 and OLMo-2 norm the outputs before adding them, so the norm is what writes to the stream.
    found: list[nn.Module] = []
    if hasattr(block, "post_feedforward_layernorm"):
        norms = ("post_attention_layernorm", "post_feedforward_layernorm")
        return [getattr(block, norm) for norm in norms if hasattr(block, norm)]
    for names in (_ATTENTION, _MLP):
        found += [getattr(block, name) for name in names if hasattr(block, name)][:1]
    return found


def first_output(output: Any) -> torch.Tensor:
    """The hidden state in a module's output, which may be a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def replace_first(output: Any, value: torch.Tensor) -> Any:
    """The same output with its hidden state replaced."""
    return (value, *output[1:]) if isinstance(output, tuple) else value
