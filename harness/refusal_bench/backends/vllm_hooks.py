"""Interventions inside a vLLM worker: hooks on the same writes as in `hooks.py`, on vLLM's module tree.

vLLM packs the tokens of all requests into one axis, and its decoder blocks take the last write (`hidden_states`) and
the sum of the earlier ones (`residual`) apart. Their sum is the stream, so what is added to `hidden_states` is added to
the stream, and projecting the embedding and every write projects the stream. The functions run in the worker by
`LLM.apply_model`, and keep their state on the model there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from refusal_bench.errors import InputError
from refusal_bench.interventions import Ablate, Add
from refusal_bench.models.structure import first_output, replace_first

_STATE = "refusal_bench_hooks"


@dataclass
class _State:
    handles: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Tokens that went through each hook point."""


def install(model: nn.Module, intervention: Ablate | Add, names: Sequence[str]) -> None:
    """Apply a one-variant intervention to every forward pass from now on; InputError if the layout is unknown.

    `names` are those of the writers within a block, as found in the same model of transformers.
    """
    blocks, writers = _layout(model, names)
    device = next(model.parameters()).device
    state, variant = _State(), torch.zeros(1, dtype=torch.long, device=device)
    if isinstance(intervention, Ablate):
        what: Ablate | Add = Ablate(intervention.basis.to(device))
    else:
        what = Add(intervention.vectors.to(device), intervention.layers)

    def change(point: int) -> Callable[[Tensor], Tensor]:
        state.tokens.append(0)

        def changed(x: Tensor) -> Tensor:
            state.tokens[point] += x.shape[0]
            return what.apply(x[None], variant)[0]

        return changed

    entered = blocks[0 if isinstance(intervention, Ablate) else intervention.layers[0]]
    before, change_input = _input_hook(entered), change(0)
    state.handles.append(
        entered.register_forward_pre_hook(lambda _, *inputs: before(change_input, *inputs), with_kwargs=True)
    )
    if isinstance(intervention, Ablate):
        for point, writer in enumerate(writers, 1):
            state.handles.append(writer.register_forward_hook(_output_hook(change(point))))
    setattr(model, _STATE, state)


def remove(model: nn.Module) -> list[int]:
    """Undo `install`; return how many tokens went through each hook point."""
    state: _State = getattr(model, _STATE)
    delattr(model, _STATE)
    for handle in state.handles:
        handle.remove()
    return state.tokens


def _layout(model: Any, names: Sequence[str]) -> tuple[nn.ModuleList, list[nn.Module]]:
    """Blocks and writers, by the names that transformers gives them: vLLM keeps those, and parity is measured after."""
    n_layers = model.config.get_text_config().num_hidden_layers
    for blocks in model.modules():
        if isinstance(blocks, nn.ModuleList) and len(blocks) == n_layers:
            parts = [dict(block.named_modules()) for block in blocks]
            found = [[part[name] for name in names if name in part] for part in parts]
            if all(found):
                return blocks, [writer for block in found for writer in block]
    raise InputError(
        f"vLLM's {type(model).__name__} has no blocks with {' and '.join(names)}, which are to be changed."
    )


def _input_hook(block: nn.Module) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    names = list(inspect.signature(block.forward).parameters)
    if "hidden_states" not in names:
        raise InputError(f"vLLM's {type(block).__name__} has no hidden_states to change.")
    place = names.index("hidden_states")

    def before(
        change: Callable[[Tensor], Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if len(args) > place:
            return (*args[:place], change(args[place]), *args[place + 1 :]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return before


def _output_hook(change: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    return lambda _module, _args, output: replace_first(output, change(first_output(output)))
