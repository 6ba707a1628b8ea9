"""Forward hooks that read and change the residual stream, always removed, and verified to have fired.

All threads that run passes share a model's hooks; what a pass is told, and what is read of it, is its own thread's.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from refusal_bench.interventions import Ablate, Add, Intervention, SideBySide
from refusal_bench.models.loading import ChatModel
from refusal_bench.models.structure import Structure, first_output, replace_first

LEAK_LIMIT = 1e-3
"""Largest share of the stream that may remain along an ablated direction."""

HALF_PRECISION_LEAK_LIMIT = 0.05
"""The same in half precision, which rounds every write to two or three digits."""


class Rows(threading.local):
    """Which variant of the intervention each row of a thread's batch uses; set before every forward pass."""

    unmodified: int
    """Rows that a branching pass starts with, one a prompt."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    @property
    def variant(self) -> Tensor:
        """Variant of each row."""
        return self._variant

    @variant.setter
    def variant(self, variant: Tensor) -> None:
        self._variant = variant
        self._taken.clear()

    def take(self, table: Tensor, like: Tensor) -> Tensor:
        """Each row's part of a table with one entry a variant: gathered once a pass, not at every hook."""
        key = (id(table), like.device, like.dtype)
        if key not in self._taken:
            self._taken[key] = table.to(like)[self.variant.to(like.device)]
        return self._taken[key]


@contextmanager
def intervening(structure: Structure, intervention: Intervention | None, *, branching: bool = False) -> Iterator[Rows]:
    """Apply an intervention to every forward pass in the context; RuntimeError if a hook point was skipped.

    Ablation projects the embedding stream and every write to the stream, which equals projecting every read. With
    `branching` a pass starts with the unmodified rows of its prompts, which stay so: at each layer of an addition the
    variants that are added there become rows of their own, behind the others.
    """
    rows, handles = Rows(), []
    reached, passes = list[int](), list[int]()  # appended to, which threads can do at the same time, and counted later

    def on_input(index: int, change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            reached.append(index)
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        return hook

    def on_output(index: int, change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: Any, _args: Any, output: Any) -> Any:
            reached.append(index)
            return replace_first(output, change(first_output(output)))

        return hook

    def applied(what: Ablate | Add) -> Callable[[Tensor], Tensor]:
        table = what.table
        return lambda x: what.change(x, rows.take(table, x))

    def branched(add: Add, layer: int) -> Callable[[Tensor], Tensor]:
        def grown(x: Tensor) -> Tensor:
            chosen = [variant for variant in rows.variant.tolist() if add.layers[variant] == layer]
            plain = x[: rows.unmodified]
            return torch.cat([x, *(plain + vector for vector in add.vectors[chosen].to(x))])

        return grown

    def count(*_: Any) -> None:
        passes.append(1)

    try:
        handles.append(structure.blocks[0].register_forward_pre_hook(count))
        points = 0
        for part in intervention.on_all() if isinstance(intervention, SideBySide) else (intervention,):
            if isinstance(part, Add):
                for layer in sorted(set(part.layers)):
                    change = branched(part, layer) if branching else applied(part.entering(layer))
                    hook = on_input(points, change)
                    handles.append(structure.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
                    points += 1
            elif isinstance(part, Ablate):
                change = applied(part)
                hook = on_input(points, change)
                handles.append(structure.blocks[0].register_forward_pre_hook(hook, with_kwargs=True))
                for index, writer in enumerate(structure.writers, points + 1):
                    handles.append(writer.register_forward_hook(on_output(index, change)))
                points += 1 + len(structure.writers)
                if part.offsets is not None:
                    for layer, block in enumerate(structure.blocks):
                        offset = applied(Add.at(part.offsets[:, layer], layer))
                        handles.append(block.register_forward_pre_hook(on_input(points, offset), with_kwargs=True))
                        points += 1
        yield rows
    finally:
        for handle in handles:
            handle.remove()
    fired = Counter(reached)
    if any(fired[index] != len(passes) for index in range(points)):
        raise RuntimeError("a hook point of the intervention was not reached in every forward pass")


class Streams(threading.local):
    """The residual stream in a thread's last forward pass."""

    def __init__(self) -> None:
        self.entering: list[Tensor] = []
        """Every block, as [row, token, d_model]."""
        self.leaving: Tensor | None = None
        """The last block."""


@contextmanager
def reading(structure: Structure) -> Iterator[Streams]:
    """Keep the stream entering every block, and leaving the last, of each forward pass until the next."""
    streams = Streams()

    def on_input(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if block is structure.blocks[0]:
            streams.entering = []
        streams.entering.append(args[0] if args else kwargs["hidden_states"])

    def on_output(_: Any, _args: Any, output: Any) -> None:
        streams.leaving = first_output(output)

    handles = []
    try:
        for block in structure.blocks:
            handles.append(block.register_forward_pre_hook(on_input, with_kwargs=True))
        handles.append(structure.blocks[-1].register_forward_hook(on_output))
        yield streams
    finally:
        for handle in handles:
            handle.remove()


class Scored(threading.local):
    """The one place of each row of a thread's batch that the head of a model is given."""

    places: Int[Tensor, " row"] | None = None
    """None for a pass that says itself what it keeps."""

    @contextmanager
    def at(self, places: Int[Tensor, " row"]) -> Iterator[None]:
        """Score these places in the context's one pass; RuntimeError if it did not reach the head."""
        self.places = places
        yield
        if self.places is not None:
            raise RuntimeError("the model's head was not reached")


@contextmanager
def scoring(module: Any, last_mlp: nn.Module | None) -> Iterator[Scored]:
    """Give the head of a model, and its last MLP, each row's stream at one place only, in the passes that name places.

    Rows of unequal length end at different places, and the logits of all of them at all these places fill a memory.
    What the last MLP adds at one place, the block adds at all: the stream that leaves it is right at that place alone.
    """
    scored = Scored()

    def picked(args: tuple[Tensor, ...], places: Tensor) -> tuple[Tensor, ...]:
        stream, at = args[0], places.to(args[0].device)
        return (stream[torch.arange(len(stream), device=stream.device), at][:, None], *args[1:])

    def on_mlp(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args if scored.places is None else picked(args, scored.places)

    def on_head(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        places, scored.places = scored.places, None
        return args if places is None else picked(args, places)

    handles = [module.get_output_embeddings().register_forward_pre_hook(on_head)]
    if last_mlp is not None:
        handles.append(last_mlp.register_forward_pre_hook(on_mlp))
    try:
        yield scored
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def ablation_leak(model: ChatModel, ids: list[int], seed: int = 0) -> float:
    """Largest share of the stream that is left along an ablated random direction, over all layers and tokens."""
    direction = torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(seed))
    intervention = Ablate.each(direction)
    device = model.module.device
    # The reading hooks are set after the ablating ones, so at block 0 they see the ablated stream.
    with intervening(model.structure, intervention) as rows, reading(model.structure) as streams:
        rows.variant = torch.zeros(1, dtype=torch.long, device=device)
        model.module(input_ids=torch.tensor([ids], device=device), use_cache=False)
    unit = intervention.basis[0, 0]
    read = [x.float().cpu() for x in (*streams.entering, streams.leaving) if x is not None]
    shares = [(x @ unit).abs() / x.norm(dim=-1) for x in read]
    return max(float(share.max()) for share in shares)


def leak_limit(model: ChatModel) -> float:
    """The limit in the model's precision."""
    return LEAK_LIMIT if model.dtype == "float32" else HALF_PRECISION_LEAK_LIMIT
