"""Forward hooks that read and change the residual stream, always removed, and verified to have fired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from refusal_bench.interventions import Ablate, Add, Intervention
from refusal_bench.models.loading import ChatModel
from refusal_bench.models.structure import Structure, first_output, replace_first


class Rows:
    """Which variant of the intervention each row of the current batch uses; set before every forward pass."""

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
    `branching` a pass starts with one row, which stays unmodified: at each layer of an addition the variants that are
    added there become rows of their own, behind the others.
    """
    rows, fired, handles = Rows(), Counter[int](), []

    def on_input(index: int, change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            fired[index] += 1
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

        return hook

    def on_output(index: int, change: Callable[[Tensor], Tensor]) -> Any:
        def hook(_: Any, _args: Any, output: Any) -> Any:
            fired[index] += 1
            return replace_first(output, change(first_output(output)))

        return hook

    def applied(what: Intervention) -> Callable[[Tensor], Tensor]:
        table = what.table
        return lambda x: what.change(x, rows.take(table, x))

    def branched(add: Add, layer: int) -> Callable[[Tensor], Tensor]:
        def grown(x: Tensor) -> Tensor:
            chosen = [variant for variant in rows.variant.tolist() if add.layers[variant] == layer]
            return torch.cat([x, x[:1] + add.vectors[chosen].to(x)[:, None]])

        return grown

    passes = Counter[str]()

    def count(*_: Any) -> None:
        passes["forward"] += 1

    try:
        handles.append(structure.blocks[0].register_forward_pre_hook(count))
        points = 0
        if isinstance(intervention, Add):
            for layer in sorted(set(intervention.layers)):
                change = branched(intervention, layer) if branching else applied(intervention.entering(layer))
                hook = on_input(points, change)
                handles.append(structure.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True))
                points += 1
        elif isinstance(intervention, Ablate):
            change = applied(intervention)
            handles.append(structure.blocks[0].register_forward_pre_hook(on_input(0, change), with_kwargs=True))
            for index, writer in enumerate(structure.writers, 1):
                handles.append(writer.register_forward_hook(on_output(index, change)))
            points = 1 + len(structure.writers)
            if intervention.offsets is not None:
                for layer, block in enumerate(structure.blocks):
                    offset = applied(Add.at(intervention.offsets[:, layer], layer))
                    handles.append(block.register_forward_pre_hook(on_input(points, offset), with_kwargs=True))
                    points += 1
        yield rows
    finally:
        for handle in handles:
            handle.remove()
    if any(fired[index] != passes["forward"] for index in range(points)):
        raise RuntimeError("a hook point of the intervention was not reached in every forward pass")


@contextmanager
def reading(structure: Structure) -> Iterator[list[Tensor]]:
    """Collect the stream entering every block, and the last block's output, during one forward pass."""
    streams: list[Tensor] = []

    def on_input(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams.append(args[0] if args else kwargs["hidden_states"])

    def on_output(_: Any, _args: Any, output: Any) -> None:
        streams.append(first_output(output))

    handles = []
    try:
        for block in structure.blocks:
            handles.append(block.register_forward_pre_hook(on_input, with_kwargs=True))
        handles.append(structure.blocks[-1].register_forward_hook(on_output))
        yield streams
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def scoring_at(module: Any, places: Int[Tensor, " row"]) -> Iterator[None]:
    """Give the head of a model each row's stream at one place only; RuntimeError if the head was not reached.

    Rows of unequal length end at different places, and the logits of all of them at all these places fill a memory.
    """
    reached = []

    def pick(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        stream, at = args[0], places.to(args[0].device)
        reached.append(len(stream))
        return (stream[torch.arange(len(stream), device=stream.device), at][:, None], *args[1:])

    handle = module.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
    if not reached:
        raise RuntimeError("the model's head was not reached")


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
    shares = [(x.float().cpu() @ unit).abs() / x.float().cpu().norm(dim=-1) for x in streams]
    return max(float(share.max()) for share in shares)
