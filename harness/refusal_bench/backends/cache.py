"""Keys and values of a batch, with room for the tokens that are written one by one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 16
"""Tokens that a layer makes room for when one comes that finds none."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer that copies what it holds once in ROOM tokens, not at each, as transformers' own does.

    `keys` and `values` are the filled part of the room, or tensors of their own.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [row, head, token, width]; return all of them."""
        n_new, n = key_states.shape[-2], self.get_seq_length()
        if n_new > 1 or not n:
            grown: tuple[Tensor, Tensor] = super().update(key_states, value_states, *args, **kwargs)
            return grown
        held: tuple[Tensor, Tensor] = (self.keys, self.values)
        # Rows that were selected or repeated since have left the room.
        if self._room is None or self._room[0].data_ptr() != held[0].data_ptr() or self._room[0].shape[-2] == n:
            self._room = _with_room(held[0]), _with_room(held[1])
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[..., n : n + 1, :] = states
        self.keys, self.values = (room[..., : n + 1, :] for room in self._room)
        return self.keys, self.values


def _with_room(held: Tensor) -> Tensor:
    *rows, n, width = held.shape
    room = held.new_empty(*rows, n + ROOM, width)
    room[..., :n, :] = held
    return room


def new_cache(config: Any) -> DynamicCache:
    """An empty cache for a model's config; layers that forget, or remember otherwise, are those of transformers."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
