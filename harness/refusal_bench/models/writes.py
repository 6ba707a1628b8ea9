"""Which submodules' outputs a decoder block adds to its stream: read off one forward pass, by least squares.

A block turns its stream x into y = x + Σ c w, where each w is the output of one of its submodules (attention, MLP, or a
norm behind them) and each c a constant: 1, or a residual multiplier as in Granite. With the outputs of one short pass
as columns the system has far more equations (tokens x d_model) than unknowns, so its solution names the writes, and
what it leaves over says whether they are all. Dropout that returns its input, or a module that hands on the output of
an inner one, repeats a column and is dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

PROBE_TOKENS = 16
"""Tokens of the probing pass."""

TOLERANCE = 1e-3
"""Share of a block's change at a token that may be left over, beside rounding."""


@dataclass
class BlockPass:
    """What one block did in the probing pass, in float32 on the CPU."""

    before: Float[Tensor, "token d_model"]
    after: Float[Tensor, "token d_model"]
    outputs: dict[str, Float[Tensor, "token d_model"]]
    """Outputs of its submodules, outer ones first."""
    rounding: float
    """Machine epsilon of the stream's data type."""

    def contributions(self, names: Iterable[str]) -> tuple[dict[str, float], float]:
        """Return what each named submodule adds to the stream, and what they leave unexplained, in tolerances.

        Both are the largest over tokens: single tokens have writes hundreds of times larger than all others.
        """
        change, tolerance = (self.after - self.before).double(), self._tolerance()
        columns = self._distinct(names)
        if not columns:
            return {}, float((change.norm(dim=1) / tolerance).max())
        stacked = torch.stack([column.double() / tolerance[:, None] for column in columns.values()])
        scale = stacked.norm(dim=(1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
        scaled, target = stacked / scale[:, None, None], change / tolerance[:, None]
        solution = torch.linalg.lstsq(scaled.flatten(1).T, target.reshape(-1, 1), driver="gelsd").solution[:, 0]
        parts = solution[:, None, None] * scaled
        largest = parts.norm(dim=2).amax(dim=1).tolist()
        return dict(zip(columns, largest, strict=True)), float((target - parts.sum(0)).norm(dim=1).max())

    def is_negligible(self, name: str) -> bool:
        """Whether a submodule's output is within tolerance of nothing, so that it may be a writer or not."""
        output = self.outputs.get(name)
        return output is None or bool((output.double().norm(dim=1) <= self._tolerance()).all())

    def _tolerance(self) -> Float[Tensor, " token"]:
        """What may be left over of the change at each token."""
        change = (self.after - self.before).double().norm(dim=1)
        rounding = 2 * self.rounding * (self.before.norm(dim=1) + self.after.norm(dim=1)).double()
        tolerance: Tensor = TOLERANCE * change + rounding + torch.finfo(torch.float32).tiny
        return tolerance

    def _distinct(self, names: Iterable[str]) -> dict[str, Tensor]:
        columns: dict[str, Tensor] = {}
        for name in names:
            output = self.outputs.get(name)
            # What equals the stream itself is no write: some blocks (BLOOM) add the stream inside their submodules.
            if output is not None and not any(torch.equal(output, other) for other in (*columns.values(), self.after)):
                columns[name] = output
        return columns


@torch.inference_mode()
def watch(model: Any, blocks: Sequence[nn.Module]) -> list[BlockPass]:
    """Run a few random tokens and return what every block did; an empty list if a block was not reached."""
    before: dict[int, Tensor] = {}
    outputs: list[dict[str, Tensor]] = [{} for _ in blocks]
    handles = []

    def on_input(index: int) -> Any:
        def hook(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            # Copies here and below, since some blocks (Falcon) go on adding to an output in place.
            before[index] = (args[0] if args else kwargs["hidden_states"]).clone()

        return hook

    def on_output(index: int, name: str) -> Any:
        def hook(_: Any, _args: Any, output: Any) -> None:
            hidden = first_output(output)
            if isinstance(hidden, Tensor) and hidden.shape == before[index].shape:
                outputs[index][name] = hidden.to("cpu", torch.float32, copy=True).flatten(0, -2)

        return hook

    try:
        for index, block in enumerate(blocks):
            handles.append(block.register_forward_pre_hook(on_input(index), with_kwargs=True))
            for name, part in block.named_modules():
                handles.append(part.register_forward_hook(on_output(index, name)))
        vocabulary = model.get_input_embeddings().weight.shape[0]
        ids = torch.randint(vocabulary, (1, PROBE_TOKENS), generator=torch.Generator().manual_seed(0))
        model(input_ids=ids.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    if len(before) < len(blocks):
        return []
    return [
        BlockPass(
            before=before[index].to("cpu", torch.float32).flatten(0, -2),
            after=outputs[index].pop(""),
            outputs={name: outputs[index][name] for name, _ in block.named_modules() if name in outputs[index]},
            rounding=torch.finfo(before[index].dtype).eps,
        )
        for index, block in enumerate(blocks)
    ]


def first_output(output: Any) -> Tensor:
    """The hidden state in a module's output, which may be a tuple."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
