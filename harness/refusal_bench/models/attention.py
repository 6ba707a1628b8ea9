"""Attention in half precision on a CPU over many short texts.

torch's kernel there gives every row and head a task of its own, made for texts of hundreds of tokens: over tens of
them it takes up to twice as long as products of many rows at once. Scores and their softmax are float32 here as there.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softmax
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "short_texts"
"""What transformers knows this attention by."""

MOST = 2**20
"""Scores of one row up to which it is the faster."""

SCORES, KEYS = 2**17, 2**19
"""Scores, and numbers in the keys, that are float32 at once: with more they leave a core's caches."""


def use_for_short_texts(module: Any) -> None:
    """Let a model attend this way where it would by torch's kernel, on a CPU and in half precision."""
    if module.device.type == "cpu" and module.dtype.itemsize == 2 and module.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        module.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: Float[Tensor, "row head token width"],
    key: Float[Tensor, "row group past width"],
    value: Float[Tensor, "row group past value"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "row token head value"], None]:
    """Attend as transformers' `sdpa_attention_forward` does, to which everything else than short texts is left."""
    (rows, heads, n, width), (_, groups, past, _) = query.shape, key.shape
    scores = heads * n * past
    if scores > MOST or not _is_plain(module, attention_mask, n, past, options):
        theirs: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
        return theirs, None
    scale = width**-0.5 if options.get("scaling") is None else options["scaling"]
    hidden = _last.hidden(attention_mask, n, past, (rows, groups, heads // groups))
    at_once = max(1, min(SCORES // scores, KEYS // (groups * past * width)))
    mixed = value.new_empty(rows, n, heads, value.shape[-1])
    for first in range(0, rows, at_once):
        some = slice(first, first + at_once)
        of_some = hidden[first * groups : (first + at_once) * groups] if n == 1 else hidden
        mixed[some] = _mixed(query[some], key[some], value[some], of_some, scale)
    return mixed, None


def _mixed(
    query: Float[Tensor, "row head token width"],
    key: Float[Tensor, "row group past width"],
    value: Float[Tensor, "row group past value"],
    hidden: Float[Tensor, "rows n past"],
    scale: float,
) -> Float[Tensor, "row token head value"]:
    """Values of all rows, mixed by one product of all queries and keys."""
    (rows, heads, n, width), (_, groups, past, _) = query.shape, key.shape
    # Query heads that share keys and values are rows of one product.
    queries, keys = query.reshape(rows * groups, -1, width), key.reshape(rows * groups, past, width)
    scores = torch.baddbmm(hidden, queries.float(), keys.float().mT, alpha=scale)
    mixed = torch.bmm(softmax(scores, dim=-1).to(value.dtype), value.reshape(rows * groups, past, -1))
    return mixed.view(rows, heads, n, -1).transpose(1, 2)


def _is_plain(module: Any, mask: Tensor | None, n: int, past: int, options: dict[str, Any]) -> bool:
    """Whether nothing but a mask decides who sees what: one for all heads, and for all rows unless n is 1.

    Without a mask, causality over the whole text.
    """
    if any(options.get(other) for other in ("dropout", "softcap")) or options.get("position_bias") is not None:
        return False
    if mask is not None:
        return mask.shape[1] == 1 and (n == 1 or mask.shape[0] == 1 or mask.stride(0) == 0)
    causal = options.get("is_causal")
    return n == 1 or (n == past and bool(getattr(module, "is_causal", True) if causal is None else causal))


class _Last(threading.local):
    """What the last layer added to its scores, which all layers of a pass add to theirs."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] = ()

    def hidden(self, mask: Tensor | None, *layout: Any) -> Float[Tensor, "rows n past"]:
        """The same as `_hidden`."""
        if not self._asked or self._asked[0] is not mask or self._asked[1] != layout:
            self._asked, self._hidden = (mask, layout), _hidden(mask, *layout)
        return self._hidden


_last = _Last()


def _hidden(
    mask: Tensor | None, n: int, past: int, rows_of_products: tuple[int, int, int]
) -> Float[Tensor, "rows n past"]:
    """What is added to scores: nothing where a token sees, the lowest number where not; causal without a mask.

    Laid out as the scores are: of one token each row's for all its groups, else the one of all for each query head.
    """
    rows, groups, each = rows_of_products
    if mask is None:
        mask = torch.ones(n, past, dtype=torch.bool).tril(past - n)[None, None]
    if mask.dtype == torch.bool:
        hidden = torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
    else:
        hidden = mask.float()
    return hidden.expand(rows, groups, 1, past).reshape(-1, 1, past) if n == 1 else hidden[0].repeat(1, each, 1)
