"""How many tokens every layer of a model looks back on: within them, padding and a cached prefix change nothing.

Sliding windows count padding, recurrent states take it in, and some position biases (ALiBi) shift with it. The config
says what is known; a probe compares a short prompt padded on the right behind a cached prefix, and one decoded token,
with a plain pass.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor

PREFIX, PROMPT, WIDTH = 5, 12, 40
"""Tokens of the cached prefix, of the short prompt (prefix included), and of the long one that it is padded to."""

LIMIT = 1e-3
"""Largest relative change of the logits that counts as rounding."""

ROUNDED_LIMIT = 0.1
"""The same in half precision or with quantised weights, whose activations may be rounded too."""


def lookback(model: Any) -> float:
    """Return how many tokens every layer looks back on: infinite, a window, or 0 where padding changes the logits."""
    tokens = _configured(model.config.get_text_config())
    rounded = next(model.parameters()).dtype != torch.float32 or hasattr(model.config, "quantization_config")
    limit = ROUNDED_LIMIT if rounded else LIMIT
    # A window shorter than the probe does change the logits there.
    return tokens if tokens <= WIDTH or _change(model) < limit else 0.0


def cache_argument(model: Any) -> str:
    """What the model's forward pass calls its cache: transformers renamed the argument."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _configured(config: Any) -> float:
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if kinds == {"full_attention"}:
        return math.inf
    return float(window or 0) if kinds <= {"full_attention", "sliding_attention"} else 0.0


@torch.inference_mode()
def _change(model: Any) -> float:
    """Relative change of a decoded token's logits from padding and a cached prefix."""
    from transformers import DynamicCache

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(vocabulary, (2, WIDTH), generator=torch.Generator().manual_seed(0)).to(model.device)
    places = torch.arange(WIDTH, device=ids.device).expand(2, -1)
    cache = DynamicCache(config=model.config)

    def forward(ids: Tensor, position_ids: Tensor, **more: Any) -> Tensor:
        named = {cache_argument(model): cache}
        logits: Tensor = model(input_ids=ids, position_ids=position_ids, use_cache=True, **named, **more).logits
        return logits

    padded = ids.clone()
    padded[0, PROMPT:] = 0
    forward(padded[:, :PREFIX], places[:, :PREFIX])
    forward(padded[:, PREFIX:], places[:, PREFIX:])
    mask = torch.ones(2, WIDTH + 1, dtype=torch.long, device=ids.device)
    mask[0, PROMPT:WIDTH] = 0
    following = ids[:, PROMPT : PROMPT + 1]
    lengths = torch.tensor([[PROMPT], [WIDTH]], device=ids.device)
    batched = forward(following, lengths, attention_mask=mask)[0, -1].float()
    alone = model(input_ids=ids[:1, : PROMPT + 1], use_cache=False).logits[0, -1].float()
    return float((batched - alone).norm() / alone.norm())
