"""Keys and values of the tokens that prompts begin with, kept while the same ablations are asked of more prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from refusal_bench.backends.cache import RoomyLayer, new_cache
from refusal_bench.interventions import Ablate, place_of

Row = tuple[list[tuple[Tensor, Tensor]], int]
"""Keys and values [row, head, token, width] of every layer, and which row of them is meant."""


@dataclass
class Prefix:
    """The tokens, and what an ablation that they ran under left behind, by its mark."""

    ids: tuple[int, ...]
    most: int
    """Rows that there is memory for."""
    marks: list[Tensor] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def find(self, what: Ablate) -> dict[int, Row]:
        """Return what is kept of the variants of an ablation."""
        places = {variant: place_of(mark, self.marks) for variant, mark in enumerate(what.marks())}
        return {variant: self.rows[place] for variant, place in places.items() if place is not None}

    def keep(self, what: Ablate, fresh: Mapping[int, Row]) -> None:
        """Keep rows of an ablation's variants: all of them or, where there is no room for all, none.

        A row holds the memory of all that ran beside it.
        """
        if len(self.rows) + len(fresh) > self.most:
            return
        marks = what.marks()
        for variant in sorted(fresh):
            self.marks.append(marks[variant])
            self.rows.append(fresh[variant])


def can_keep(config: Any) -> bool:
    """Whether a model's cache is keys and values of all tokens at every layer."""
    return all(type(layer) is RoomyLayer for layer in new_cache(config).layers)


def rows_of(cache: Any) -> list[Row]:
    """The rows of a cache, as they are before anything is appended to it."""
    held = [(layer.keys, layer.values) for layer in cache.layers]
    return [(held, row) for row in range(len(held[0][0]))]


def cache_of(rows: Sequence[Row], config: Any) -> Any:
    """A cache that begins with some rows."""
    cache = new_cache(config)
    for layer in range(len(rows[0][0])):
        keys, values = (torch.stack([held[layer][part][row] for held, row in rows]) for part in (0, 1))
        cache.update(keys, values, layer)
    return cache
